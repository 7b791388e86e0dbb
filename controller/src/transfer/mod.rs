//! One ObjectTransfer, one pass: the same five steps as for a DataVolume. What can't be undone is concluded twice, from the caches and
//! from the API server's own answers.

mod apply;
mod observe;
mod wake;

use std::{sync::Arc, time::Duration};

use common::{
    api::ObjectTransfer,
    transfer::object::{self, Action as Write, Observed, Phase, Plan, Subject},
};
use config::{admin::Readiness, api::Objects, cache::Cache, shutdown::Shutdown};
use futures::{StreamExt, future::ready, stream::BoxStream};
use jiff::Timestamp;
use kube::{
    Client, Resource,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Event, EventType},
        watcher,
    },
};
use tokio::time::timeout;
use tracing::{info, warn};

pub use self::wake::Bell;
use self::{apply::Done, observe::From};
use crate::{
    Error,
    retry::Attempts,
    run::{Context, name_of},
    write::{answered, post_params},
};

/// Transfers are few, and each makes a handful of writes.
const CONCURRENCY: u16 = 4;

/// A pass takes longer than this only when the API server is in trouble.
const LIMIT: Duration = Duration::from_mins(1);

/// The net under the watches: a pass without a cause, at most this often.
const RESYNC: Duration = Duration::from_mins(10);

/// What the API server refused needn't change with anything that we watch.
const AGAIN: Duration = Duration::from_secs(15);

/// The API server cuts a note at this many bytes, by refusing it.
const NOTE_BYTES: usize = 1024;

/// What passes over ObjectTransfers share.
pub struct Transfers {
    shared: Arc<Context>,
    since: Timestamp,
    attempts: Attempts,
}

/// The ObjectTransfers, and whoever wants a pass over one of them.
pub struct Watched {
    cache: Cache<ObjectTransfer>,
    own: BoxStream<'static, ObjectTransfer>,
    wakes: wake::Wakes,
}

#[cfg(test)]
impl Watched {
    /// Has to be polled for the watch to go on.
    pub fn touched(self) -> impl futures::Stream<Item = ()> + Send {
        self.own.map(drop)
    }
}

/// Watches the ObjectTransfers. The bell is for those who watch the other kinds.
pub fn watch(client: &Client, readiness: &Readiness) -> (Watched, Bell) {
    let ready = readiness.register("objecttransfers");
    let strip = |transfer: &mut ObjectTransfer| transfer.meta_mut().managed_fields = None;
    let (cache, stream) = Cache::watch(client.clone(), watcher::Config::default(), ready, strip);
    let (bell, wakes) = Bell::new(cache.clone());
    (Watched { cache, own: stream.boxed(), wakes }, bell)
}

/// The passes: started by the ObjectTransfers themselves and by the bell, one at a time for each of them.
pub async fn run(shared: Arc<Context>, watched: Watched, shutdown: Shutdown) {
    let transfers = Arc::new(Transfers { shared, since: Timestamp::now(), attempts: Attempts::default() });
    Controller::for_stream(watched.own.map(Ok), watched.cache.store())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(watched.wakes)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            reconcile,
            |transfer, error, transfers| transfers.attempts.next("ObjectTransfer", &name_of(&*transfer), error),
            transfers,
        )
        .for_each(|_| ready(()))
        .await;
}

/// Brings one ObjectTransfer one step nearer to its end.
async fn reconcile(transfer: Arc<ObjectTransfer>, transfers: Arc<Transfers>) -> Result<Action, Error> {
    let outcome = timeout(LIMIT, Box::pin(pass(&transfer, &transfers))).await.unwrap_or(Err(Error::Late(LIMIT)));
    if outcome.is_ok() {
        transfers.attempts.forget(&name_of(&*transfer));
    }
    outcome
}

async fn pass(transfer: &ObjectTransfer, transfers: &Transfers) -> Result<Action, Error> {
    let ctx = &*transfers.shared;
    let mut seen = observe::everything(transfer, From::Caches, ctx, transfers.since).await;
    let Some(mut plan) = object::step(&seen) else { return Ok(Action::await_change()) };
    if plan.is_irreversible() {
        seen = observe::everything(transfer, From::ApiServer, ctx, transfers.since).await;
        let Some(again) = object::step(&seen) else { return Ok(Action::await_change()) };
        plan = again;
    }
    let violations = object::violations(&seen, &plan);
    if !violations.is_empty() {
        return Err(Error::refused(&violations));
    }
    let mut done = apply::one(transfer, plan.action.as_ref(), ctx).await?;
    let refused = done.refused.take();
    if let Some(why) = &refused {
        plan = object::refused(&seen, &plan, why.clone());
        if plan.action.is_some() {
            done = apply::one(transfer, plan.action.as_ref(), ctx).await?;
        }
    }
    if done.stale || report(transfer, &seen, &plan, &done, ctx).await? {
        return Ok(Action::requeue(Duration::from_secs(1)));
    }
    Ok(next(&plan, refused.is_some(), seen.now))
}

/// When to look again although nothing is heard. After a write something is heard.
fn next(plan: &Plan, refused: bool, now: Timestamp) -> Action {
    let after = match plan.look_again_at {
        _ if refused => AGAIN,
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10),
        None if plan.phase.is_final() && plan.action.is_none() => return Action::await_change(),
        None => RESYNC,
    };
    Action::requeue(after.min(RESYNC))
}

/// Writes the status that follows from the pass, and an event when it says something new. True when the ObjectTransfer is newer than the
/// one that was looked at.
async fn report(
    transfer: &ObjectTransfer,
    seen: &Observed,
    plan: &Plan,
    done: &Done,
    ctx: &Context,
) -> Result<bool, Error> {
    let next = object::status(seen, plan);
    // Without its last finalizer, a deleted one is gone.
    let gone = seen.transfer.deleting.is_some() && plan.action == Some(Write::Release);
    if seen.transfer.status == next || gone {
        return Ok(false);
    }
    let mut updated = transfer.clone();
    if done.resource_version.is_some() {
        updated.metadata.resource_version.clone_from(&done.resource_version);
    }
    updated.metadata.managed_fields = None;
    updated.status = Some(next);
    let api = Objects::<ObjectTransfer>::all(ctx.client.clone());
    match api.replace_status(&seen.transfer.name, &post_params(), &updated).await {
        Ok(_) => {}
        Err(error) if answered(&error, &[404, 409]) => return Ok(true),
        Err(error) => return Err(Error::Report(error)),
    }
    let (old, new) = (&seen.transfer, plan.phase.as_str());
    let reason = old.status.conditions.first().and_then(|condition| condition.reason.as_deref());
    if old.status.phase != new {
        info!(name = old.name, phase = new, reason = plan.why.reason, "phase");
    }
    if old.status.phase != new || reason != Some(plan.why.reason) && plan.why.needs_somebody() {
        publish(transfer, plan, ctx).await;
    }
    Ok(false)
}

/// An event that can't be published is a line in the log: nothing depends on it.
async fn publish(transfer: &ObjectTransfer, plan: &Plan, ctx: &Context) {
    let warning = plan.why.needs_somebody();
    let mut note = plan.why.message.clone();
    note.truncate((0..=NOTE_BYTES).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default());
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: plan.why.reason.to_owned(),
        note: Some(note),
        action: "Transfer".to_owned(),
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &transfer.object_ref(&())).await {
        warn!(error = %config::Chain(&error), "an event could not be published");
    }
}

/// Over, and let go: nothing wakes it any more.
fn is_over(transfer: &ObjectTransfer) -> bool {
    let over = |phase: Phase| transfer.status.as_ref().is_some_and(|status| status.phase == phase.as_str());
    (over(Phase::Complete) || over(Phase::Error)) && !Subject::of(transfer).guarded
}
