//! Writes events: a new one is created, a repeated one is counted.

use std::collections::BTreeMap;

use common::api::DataVolume;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event as ApiEvent, EventSource},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::Mutex;
use tracing::warn;

use crate::event::Event;

/// The component that reports.
const COMPONENT: &str = "datavolume-controller";

/// The recorder, with the events that it has created.
pub struct Recorder {
    client: Client,
    /// Name and count by UID of the object and event.
    known: Mutex<BTreeMap<(String, Event), (String, i32)>>,
}

impl Recorder {
    /// A recorder.
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// Writes an event. A failure is only logged.
    pub async fn record(&self, about: &DataVolume, event: &Event) {
        if let Err(error) = self.write(about, event).await {
            warn!(%error, reason = event.reason, "event not written");
        }
    }

    async fn write(&self, about: &DataVolume, event: &Event) -> kube::Result<()> {
        let namespace = about.namespace().unwrap_or_default();
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), &namespace);
        let now = Time(Timestamp::now());
        let key = (about.uid().unwrap_or_default(), event.clone());
        let mut known = self.known.lock().await;
        if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": count, "lastTimestamp": now});
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            return Ok(());
        }
        let name = format!("{}.{:x}", about.name_any(), now.0.as_nanosecond());
        let object = ApiEvent {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: about.object_ref(&()),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(event.reason.clone()),
            message: Some(event.message.clone()),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
            reporting_component: Some(COMPONENT.to_owned()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            ..ApiEvent::default()
        };
        api.create(&PostParams::default(), &object).await?;
        known.insert(key, (name, 1));
        Ok(())
    }
}
