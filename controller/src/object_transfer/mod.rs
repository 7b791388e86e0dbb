//! The reconciler of ObjectTransfers: a pass has the same five steps as one over a DataVolume. Irreversible writes are decided twice, from
//! the caches and from the API server's own answers, because caches lag behind.

mod apply;
mod observe;

use std::{sync::Arc, time::Duration};

use common::{
    api::ObjectTransfer,
    object_transfer::{self, Observed, Plan, Write},
};
use config::{api::Objects, cache::Cache, shutdown::Shutdown};
use futures::{Stream, StreamExt, future::ready};
use jiff::Timestamp;
use kube::{
    Resource,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use tokio::time::timeout;
use tracing::info;

use self::{apply::Done, observe::ReadFrom};
use crate::{
    Error,
    backoff::Backoff,
    context::Context,
    events,
    periodic::RESYNC,
    write::{StatusReplacement, replace_status},
};

/// The number of ObjectTransfers that are reconciled at the same time. They are few, and each makes a handful of writes.
const CONCURRENCY: u16 = 4;

/// The timeout of a pass. A pass makes a few writes, so only an API server that does not answer exceeds it.
const PASS_TIMEOUT: Duration = Duration::from_mins(1);

/// The time until the next attempt after a refused write. No watch may report that its cause is gone.
const REFUSED_RETRY: Duration = Duration::from_secs(15);

/// The reconciler of ObjectTransfers.
struct Reconciler {
    context: Arc<Context>,
    since: Timestamp,
    backoff: Backoff,
}

/// Reconciles ObjectTransfers, one pass at a time for each. `touched` are the objects as they change, `triggered` those that depend on
/// another object that has changed.
pub async fn run(
    context: Arc<Context>,
    cache: Cache<ObjectTransfer>,
    touched: impl Stream<Item = ObjectTransfer> + Send + 'static,
    triggered: impl Stream<Item = ObjectRef<ObjectTransfer>> + Send + 'static,
    shutdown: Shutdown,
) {
    let reconciler = Arc::new(Reconciler { context, since: Timestamp::now(), backoff: Backoff::default() });
    Controller::for_stream(touched.map(Ok), cache.store())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(reconcile, |transfer, error, reconciler| reconciler.backoff.next(&*transfer, error), reconciler)
        .for_each(|_| ready(()))
        .await;
}

/// Reconciles one ObjectTransfer: brings it one step nearer to its end.
async fn reconcile(transfer: Arc<ObjectTransfer>, reconciler: Arc<Reconciler>) -> Result<Action, Error> {
    let outcome =
        timeout(PASS_TIMEOUT, Box::pin(pass(&transfer, &reconciler))).await.unwrap_or(Err(Error::Late(PASS_TIMEOUT)));
    if outcome.is_ok() {
        reconciler.backoff.forget(&*transfer);
    }
    outcome
}

async fn pass(transfer: &ObjectTransfer, reconciler: &Reconciler) -> Result<Action, Error> {
    let ctx = &*reconciler.context;
    let mut seen = observe::observe(transfer, ReadFrom::Caches, ctx, reconciler.since).await;
    let Some(mut plan) = object_transfer::step(&seen) else { return Ok(Action::await_change()) };
    if plan.is_irreversible() {
        seen = observe::observe(transfer, ReadFrom::ApiServer, ctx, reconciler.since).await;
        let Some(again) = object_transfer::step(&seen) else { return Ok(Action::await_change()) };
        plan = again;
    }
    let violations = object_transfer::violations(&seen, &plan);
    if !violations.is_empty() {
        return Err(Error::refused(&violations));
    }
    let mut done = apply::apply(transfer, plan.action.as_ref(), ctx).await?;
    let refused = done.refused.take();
    if let Some(why) = &refused {
        plan = object_transfer::refused(&seen, &plan, why.clone());
        if plan.action.is_some() {
            done = apply::apply(transfer, plan.action.as_ref(), ctx).await?;
        }
    }
    if done.stale || report(transfer, &seen, &plan, &done, ctx).await? {
        return Ok(Action::requeue(Duration::from_secs(1)));
    }
    Ok(next(&plan, refused.is_some(), seen.now))
}

/// The next pass if no event starts one earlier. A write is followed by its own event.
fn next(plan: &Plan, refused: bool, now: Timestamp) -> Action {
    let after = match plan.look_again_at {
        _ if refused => REFUSED_RETRY,
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10),
        None if plan.phase.is_final() && plan.action.is_none() => return Action::await_change(),
        None => RESYNC,
    };
    Action::requeue(after.min(RESYNC))
}

/// Writes the status that follows from the pass, and an event if the status has changed. Returns true if the ObjectTransfer is newer than
/// the one that was read.
async fn report(
    transfer: &ObjectTransfer,
    seen: &Observed,
    plan: &Plan,
    done: &Done,
    ctx: &Context,
) -> Result<bool, Error> {
    let next = object_transfer::status(seen, plan);
    // A deleted object is gone without its last finalizer.
    let gone = seen.transfer.deleting.is_some() && plan.action == Some(Write::Release);
    if seen.transfer.status == next || gone {
        return Ok(false);
    }
    let mut updated = transfer.clone();
    if done.resource_version.is_some() {
        updated.metadata.resource_version.clone_from(&done.resource_version);
    }
    updated.status = Some(next);
    let api = Objects::<ObjectTransfer>::all(ctx.client.clone());
    match replace_status(&api, updated).await.map_err(Error::Report)? {
        StatusReplacement::Written => {}
        StatusReplacement::Conflict(_) | StatusReplacement::Gone => return Ok(true),
    }
    let (old, new) = (&seen.transfer, plan.phase.as_str());
    let reason = old.status.conditions.first().and_then(|condition| condition.reason.as_deref());
    if old.status.phase != new {
        info!(name = old.name, phase = new, reason = plan.why.reason, "phase");
    }
    if old.status.phase != new || reason != Some(plan.why.reason) && plan.why.needs_attention() {
        let event = events::event(plan.why.needs_attention(), plan.why.reason, &plan.why.message, "Transfer");
        events::publish(&[event], &transfer.object_ref(&()), &ctx.recorder).await;
    }
    Ok(false)
}
