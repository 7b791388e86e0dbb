//! The status of DataSources: what each stands for, and whether that can be cloned.

use std::{sync::Arc, time::Duration};

use common::{
    api::{DataSource, Phase},
    clone::request::{ObjectName, SourceKind, SourceName},
    data_source::{Resolution, State, claim_state, resolve_source, snapshot_state, status},
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

    /// A claim, a VolumeSnapshot or a DataVolume was touched: whoever stands for one of its name.
    pub fn content<K: Resource>(&self, object: &K) {
        let sources = self.sources.known_objects();
        self.wake(sources.iter().filter(|source| {
            let found = resolve_source(&name_of(&***source), &source.spec.source, find(&self.sources));
            matches!(found, Resolution::Found(found) if is(&found.object, object))
        }));
    }

    /// A DataSource was touched: whoever names it.
    pub fn reference(&self, touched: &DataSource) {
        let sources = self.sources.known_objects();
        self.wake(sources.iter().filter(|source| {
            let other = source.spec.source.data_source.as_ref();
            other.is_some_and(|other| Some(&other.name) == touched.metadata.name.as_ref())
        }));
    }

    fn wake<'a>(&self, sources: impl Iterator<Item = &'a Arc<DataSource>>) {
        for source in sources {
            // It fails only when nobody works any more.
            let _ = self.wake.unbounded_send(ObjectRef::from_obj(&**source));
        }
    }
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
    let state = match &resolution {
        Resolution::Found(found) => state(found, &ctx),
        Resolution::Not(_) | Resolution::Unknown(_) => Lookup::Absent,
    };
    let next = status(source.status.as_ref(), &resolution, &state, Timestamp::now());
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
