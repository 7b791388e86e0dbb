//! The status of DataSources (the source that each refers to, and its readiness) and the labels that they inherit from it. A source in
//! another namespace is neither read nor a trigger, because the status would disclose it to everybody who may read the DataSource.

use std::{sync::Arc, time::Duration};

use common::{
    api::{DataSource, Phase},
    data_source::{Resolution, State, claim_state, observable, resolve_source, snapshot_state, status},
    lookup::Lookup,
    machine_defaults,
    object::{ObjectName, SourceKind, SourceName, exact},
};
use config::{api::Objects, cache::Cache, shutdown::Shutdown};
use futures::{Stream, StreamExt, future::ready};
use jiff::Timestamp;
use kube::{
    ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    Error,
    context::{Context, name_of},
    periodic::{self, RESYNC, RETRY_FAILED, RETRY_NOT_SYNCED},
    write::{is_conflict, merge_patch, replace_status},
};

/// The number of DataSources that are reconciled at the same time.
const CONCURRENCY: u16 = 4;

/// Reconciles DataSources, one pass at a time for each. `touched` are the DataSources as they change, `triggered` those that depend on
/// another object that has changed.
pub async fn run(
    ctx: Arc<Context>,
    touched: impl Stream<Item = DataSource> + Send + 'static,
    triggered: impl Stream<Item = ObjectRef<DataSource>> + Send + 'static,
    shutdown: Shutdown,
) {
    Controller::for_stream(touched.map(Ok), ctx.caches.data_sources.store())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            reconcile,
            |source, error, _| {
                let (namespace, name) = (source.namespace(), source.name_any());
                warn!(namespace, name, error = %config::Chain(error), "the status of a DataSource could not be written");
                Action::requeue(RETRY_FAILED)
            },
            ctx,
        )
        .for_each(|_| ready(()))
        .await;
}

/// Writes the status of a DataSource if it has changed.
async fn reconcile(source: Arc<DataSource>, ctx: Arc<Context>) -> Result<Action, Error> {
    let name = name_of(&*source);
    match periodic::is_alone(&ctx) {
        Lookup::Present(true) => {}
        // CDI's own controller serves it.
        Lookup::Present(false) | Lookup::Absent => return Ok(Action::requeue(RESYNC)),
        Lookup::Unknown(_) => return Ok(Action::requeue(RETRY_NOT_SYNCED)),
    }
    let resolution = resolve_source(&name, &source.spec.source, find(&ctx.caches.data_sources));
    let state = observable(&name, &resolution).map_or(Lookup::Absent, |found| state(found, &ctx));
    let next = status(&name, source.status.as_ref(), &resolution, &state, Timestamp::now());
    if source.metadata.deletion_timestamp.is_none()
        && let Some(change) = observable(&name, &resolution).and_then(|found| inherited(&source, found, &ctx))
    {
        let api = Objects::<DataSource>::namespaced(ctx.client.clone(), &name.namespace);
        let patched = merge_patch(&api, &exact(&source.metadata), json!({ "metadata": change })).await;
        return match patched {
            Err(error) if !is_conflict(&error) => Err(Error::Report(error)),
            // The event of the patched DataSource, or of a newer one, starts the next pass, which writes the status.
            Ok(_) | Err(_) => Ok(next_pass(&resolution, &state)),
        };
    }
    if source.metadata.deletion_timestamp.is_none() && source.status.clone().unwrap_or_default() != next {
        let api = Objects::<DataSource>::namespaced(ctx.client.clone(), &name.namespace);
        // A DataSource that is newer, or gone, triggers the next pass by its event.
        let updated = DataSource { status: Some(next), ..(*source).clone() };
        let _ = replace_status(&api, updated).await.map_err(Error::Report)?;
    }
    Ok(next_pass(&resolution, &state))
}

/// Looks up DataSources in a cache.
pub(crate) fn find(sources: &Cache<DataSource>) -> impl Fn(&str, &str) -> Lookup<DataSource> {
    |namespace, name| sources.get(Some(namespace), name).map(|source| (*source).clone())
}

/// The next pass. A cache that is synced and empty triggers nothing, so one that is not synced yet is read again soon.
fn next_pass(resolution: &Resolution, state: &Lookup<State>) -> Action {
    let unknown = matches!(resolution, Resolution::Unknown(_)) || matches!(state, Lookup::Unknown(_));
    let after: Duration = if unknown { RETRY_NOT_SYNCED } else { RESYNC };
    Action::requeue(after)
}

/// The patch of the labels that are inherited from the source; `None` while the source is unknown.
fn inherited(data_source: &DataSource, source: &SourceName, ctx: &Context) -> Option<Value> {
    let ObjectName { namespace, name } = &source.object;
    let labels = match source.kind {
        SourceKind::Claim => {
            ctx.caches.claims.get(Some(namespace), name).map(|claim| machine_defaults::of(&claim.metadata))
        }
        SourceKind::Snapshot => {
            ctx.caches.snapshots.get(Some(namespace), name).map(|snapshot| machine_defaults::of(&snapshot.metadata))
        }
    };
    machine_defaults::follow(&data_source.metadata, labels.present()?)
}

/// The state of the source.
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
mod tests;
