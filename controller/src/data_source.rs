//! The status of DataSources: what each stands for, and whether that can be cloned. Of a source in another namespace nothing is read, and
//! nothing that happens to it starts a pass.

use std::{sync::Arc, time::Duration};

use common::{
    api::{DataSource, Phase},
    clone::request::{ObjectName, SourceKind, SourceName},
    data_source::{Resolution, State, claim_state, observable, resolve_source, snapshot_state, status},
    lookup::Lookup,
};
use config::{api::Objects, cache::Cache, shutdown::Shutdown};
use futures::{Stream, StreamExt, channel::mpsc, future::ready};
use jiff::Timestamp;
use kube::{
    Resource, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use tracing::warn;

use crate::{
    Error,
    level::{self, LATER, RESYNC, SOON},
    run::{Context, name_of},
    write::{answered, post_params},
};

/// How many DataSources are worked on at the same moment.
const CONCURRENCY: u16 = 4;

/// Which DataSources are looked at again because of something else.
#[derive(Clone)]
pub struct Wakes {
    sources: Cache<DataSource>,
    wake: mpsc::UnboundedSender<ObjectRef<DataSource>>,
}

impl Wakes {
    /// What watches call, and the stream of those that they wake.
    pub fn new(sources: Cache<DataSource>) -> (Self, impl Stream<Item = ObjectRef<DataSource>> + Send) {
        let (wake, woken) = mpsc::unbounded();
        (Self { sources, wake }, woken)
    }

    /// A claim, a VolumeSnapshot or a DataVolume was touched: whoever of its namespace stands for one of its name.
    pub fn content<K: Resource>(&self, object: &K) {
        let sources = self.sources.known_objects();
        self.wake(sources.iter().filter(|source| depends_on(source, object, find(&self.sources))));
    }

    /// A DataSource was touched: whoever of its namespace names it.
    pub fn reference(&self, touched: &DataSource) {
        let sources = self.sources.known_objects();
        self.wake(sources.iter().filter(|source| names(source, touched)));
    }

    fn wake<'a>(&self, sources: impl Iterator<Item = &'a Arc<DataSource>>) {
        for source in sources {
            // It fails only when nobody works any more.
            let _ = self.wake.unbounded_send(ObjectRef::from_obj(&**source));
        }
    }
}

/// Whether the status of `source` depends on `object`, which is of a kind that it may stand for.
fn depends_on<K: Resource>(source: &DataSource, object: &K, find: impl Fn(&str, &str) -> Lookup<DataSource>) -> bool {
    if source.metadata.namespace != object.meta().namespace {
        return false;
    }
    let name = name_of(source);
    let resolution = resolve_source(&name, &source.spec.source, find);
    observable(&name, &resolution).is_some_and(|found| is(&found.object, object))
}

/// Whether `source` names `other`.
fn names(source: &DataSource, other: &DataSource) -> bool {
    let named = source.spec.source.data_source.as_ref();
    source.metadata.namespace == other.metadata.namespace
        && named.is_some_and(|named| Some(&named.name) == other.metadata.name.as_ref())
}

fn is<K: Resource>(name: &ObjectName, object: &K) -> bool {
    let meta = object.meta();
    meta.namespace.as_deref() == Some(&name.namespace) && meta.name.as_deref() == Some(&name.name)
}

fn find(sources: &Cache<DataSource>) -> impl Fn(&str, &str) -> Lookup<DataSource> {
    |namespace, name| sources.get(Some(namespace), name).map(|source| (*source).clone())
}

/// Keeps the statuses. `touched` are the DataSources themselves, `woken` those that something else has woken.
pub async fn run(
    ctx: Arc<Context>,
    touched: impl Stream<Item = DataSource> + Send + 'static,
    woken: impl Stream<Item = ObjectRef<DataSource>> + Send + 'static,
    shutdown: Shutdown,
) {
    Controller::for_stream(touched.map(Ok), ctx.caches.data_sources.store())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(woken)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            reconcile,
            |source, error, _| {
                let (namespace, name) = (source.namespace(), source.name_any());
                warn!(namespace, name, error = %config::Chain(error), "the status of a DataSource could not be written");
                Action::requeue(LATER)
            },
            ctx,
        )
        .for_each(|_| ready(()))
        .await;
}

async fn reconcile(source: Arc<DataSource>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = name_of(&*source);
    match level::ours(&ctx) {
        Lookup::Present(true) => {}
        Lookup::Present(false) | Lookup::Absent => return Ok(Action::requeue(RESYNC)),
        Lookup::Unknown(_) => return Ok(Action::requeue(SOON)),
    }
    let resolution = resolve_source(&name, &source.spec.source, find(&ctx.caches.data_sources));
    let state = observable(&name, &resolution).map_or(Lookup::Absent, |found| state(found, &ctx));
    let next = status(&name, source.status.as_ref(), &resolution, &state, Timestamp::now());
    if source.metadata.deletion_timestamp.is_none() && source.status.clone().unwrap_or_default() != next {
        let mut updated = DataSource { status: Some(next), ..(*source).clone() };
        updated.metadata.managed_fields = None;
        let api = Objects::<DataSource>::namespaced(ctx.client.clone(), &name.namespace);
        match api.replace_status(&name.name, &post_params(), &updated).await {
            Ok(_) => {}
            // Newer than what was looked at, or gone: its event is on the way.
            Err(error) if answered(&error, &[404, 409]) => {}
            Err(error) => return Err(Error::Report(error)),
        }
    }
    Ok(next_look(&resolution, &state))
}

/// Caches that haven't been filled yet say nothing when they are and there is nothing in them.
fn next_look(resolution: &Resolution, state: &Lookup<State>) -> Action {
    let unknown = matches!(resolution, Resolution::Unknown(_)) || matches!(state, Lookup::Unknown(_));
    let after: Duration = if unknown { SOON } else { RESYNC };
    Action::requeue(after)
}

/// How that is which a DataSource stands for.
fn state(source: &SourceName, ctx: &Context) -> Lookup<State> {
    let caches = &ctx.caches;
    let ObjectName { namespace, name } = &source.object;
    match source.kind {
        SourceKind::Claim => {
            let there = caches.claims.get(Some(namespace), name).map(|_| ());
            let volume = caches.data_volumes.get(Some(namespace), name);
            let phase = volume.map(|volume| volume.status.as_ref().map_or(Phase::Unset, |status| status.phase));
            claim_state(&there, &phase)
        }
        SourceKind::Snapshot => {
            let snapshot = caches.snapshots.get(Some(namespace), name);
            let ready = |s: &common::api::snapshot::VolumeSnapshot| s.status.as_ref().and_then(|s| s.ready_to_use);
            snapshot_state(&snapshot.map(|snapshot| ready(&snapshot).unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;

    fn data_source(namespace: &str, name: &str, kind: &str, of: [&str; 2]) -> DataSource {
        let source = json!({(kind): {"namespace": of[0], "name": of[1]}});
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"source": source}}))
            .unwrap()
    }

    fn claim(namespace: &str, name: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}})).unwrap()
    }

    /// A tenant's DataSource is woken by what is in the tenant's namespace, and by nothing else.
    #[test]
    fn nobody_is_woken_by_another_namespace() {
        let own = data_source("mine", "own", "pvc", ["mine", "disk"]);
        let foreign = data_source("mine", "foreign", "pvc", ["gold", "disk"]);
        let find = |namespace: &str, name: &str| match (namespace, name) {
            ("mine", "own") => Lookup::Present(own.clone()),
            ("mine", "foreign") => Lookup::Present(foreign.clone()),
            _ => Lookup::Absent,
        };
        let to_own = data_source("mine", "to-own", "dataSource", ["mine", "own"]);
        let to_foreign = data_source("mine", "to-foreign", "dataSource", ["mine", "foreign"]);
        for (source, by_own) in [(&own, true), (&to_own, true), (&foreign, false), (&to_foreign, false)] {
            assert_eq!(depends_on(source, &claim("mine", "disk"), find), by_own, "{source:?}");
            assert!(!depends_on(source, &claim("gold", "disk"), find), "{source:?}");
            assert!(!depends_on(source, &claim("mine", "other"), find), "{source:?}");
        }
        assert!(names(&to_own, &own) && !names(&to_own, &foreign));
        assert!(!names(&to_own, &data_source("gold", "own", "pvc", ["gold", "disk"])));
    }
}
