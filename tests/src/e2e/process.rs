//! What becomes of clones when smartclone's own processes come and go.

use std::pin::pin;

use anyhow::{Context as _, Result, ensure};
use common::{manifest::NAMESPACE, meta};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::watcher::Config,
};
use reference_csi::behaviour::Behaviour;
use serde_json::{Value, json};

use crate::harness::{
    CloneHandle, Space, clone_of, mi,
    wait::{self, Look},
};

tests![
    alone:
    a_controller_that_is_killed_in_the_middle_of_a_clone_loses_nothing,
    a_webhook_is_replaced_without_a_request_going_astray,
    a_second_look_is_silent,
];

/// Deletes one of the pods of a component, with this many seconds to end in, or with the ones that it wants; returns when it is gone and as
/// many as before serve.
async fn replace(t: &Space, component: &str, grace: Option<u32>) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(t.client().clone(), NAMESPACE);
    let selection = format!("{}={component}", meta::COMPONENT_LABEL);
    let pods = api.list(&ListParams::default().labels(&selection)).await?;
    let victim = pods.items.first().with_context(|| format!("there is no pod of the {component}"))?;
    let count = pods.items.len();
    let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
    api.delete(&victim.name_any(), &params).await?;
    wait::all(&api, Config::default().labels(&selection), &format!("a new pod of the {component}"), |pods| {
        let ready = |pod: &&&Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
        };
        let found = pods.iter().filter(ready).count();
        let gone = pods.iter().all(|pod| pod.uid() != victim.uid());
        if gone && found == count {
            Look::Break(())
        } else {
            Look::Continue(format!("{found} of {count} are ready, the old one is gone: {gone}"))
        }
    })
    .await
}

/// As a node's crash would.
pub(super) async fn kill(t: &Space, component: &str) -> Result<()> {
    replace(t, component, Some(0)).await
}

async fn a_controller_that_is_killed_in_the_middle_of_a_clone_loses_nothing(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    let by_snapshot = t.create(clone_of(&disk).class(&class).named("by-snapshot")).await?;
    let by_copy = t
        .create(clone_of(&disk).class(&class).named("by-copy").annotate(meta::CLONE_TYPE, "copy").with_owners())
        .await?;
    by_snapshot.until("its snapshot", |volume| volume.status.as_ref()?.clone.as_ref()?.snapshot_name.clone()).await?;
    kill(t, meta::CONTROLLER).await?;
    by_snapshot.succeeds().await?.has_bytes_of(&disk).await?;
    by_copy.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &by_snapshot, &by_copy]).await
}

/// A drained node, an update: requests go on meanwhile, and each is answered.
async fn a_webhook_is_replaced_without_a_request_going_astray(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let mut replaced = pin!(replace(t, meta::WEBHOOK, None));
    let mut admitted = 0_usize;
    loop {
        tokio::select! {
            result = &mut replaced => break result?,
            answer = t.dry_run(clone_of(&disk)) => {
                answer.with_context(|| format!("after {admitted} that were admitted"))?;
                admitted += 1;
            }
        }
    }
    ensure!(admitted >= 20, "only {admitted} requests were made meanwhile, which proves little");
    Ok(())
}

/// However often it is looked at, a finished clone is not written to.
async fn a_second_look_is_silent(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.succeeds().await?;
    t.nothing_left_but(&[&disk, &clone]).await?;
    // A new controller sees everything for the first time; a label makes it look once more.
    kill(t, meta::CONTROLLER).await?;
    let api = t.api::<common::api::DataVolume>();
    let label = Patch::Merge(json!({"metadata": {"labels": {"look": "again"}}}));
    let touched = api.patch("clone", &PatchParams::default(), &label).await?;
    // By the time that a clone which was asked for later is done, the first one has been looked at.
    t.create(clone_of(&disk).named("later")).await?.succeeds().await?;
    let now = api.get("clone").await?;
    ensure!(now.resource_version() == touched.resource_version(), "written to again: {now:?}");
    let writes = writes_about(t, &clone)?;
    let last = writes.last().context("the audit log has no write at all, so it proves nothing")?;
    let done =
        clone.status().conditions.iter().filter_map(|it| it.last_heartbeat_time.as_ref().map(|time| time.0)).max();
    // The snapshot's deletion and the events follow the last status within the same pass.
    let limit = done.context("no heartbeat")? + jiff::SignedDuration::from_secs(2);
    ensure!(last.0 <= limit, "written to at {} though complete since {done:?}: {}", last.0, last.1);
    Ok(())
}

/// When the controller wrote something that has to do with a clone, and the line of the audit log about it.
fn writes_about(t: &Space, clone: &CloneHandle) -> Result<Vec<(jiff::Timestamp, String)>> {
    let log = std::fs::read_to_string(t.lab().audit_log())?;
    let mut writes = Vec::new();
    for line in log.lines().filter(|line| line.contains(t.name())) {
        let entry: Value = serde_json::from_str(line)?;
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let by_controller = text("/userAgent").starts_with(meta::CONTROLLER_MANAGER);
        let writes_something = matches!(text("/verb"), "create" | "update" | "patch" | "delete");
        let name = text("/objectRef/name");
        let about = name == "clone" || name.starts_with("clone.") || name.contains(clone.uid());
        if by_controller && writes_something && about && text("/objectRef/namespace") == t.name() {
            writes.push((text("/requestReceivedTimestamp").parse()?, line.to_owned()));
        }
    }
    Ok(writes)
}
