//! One DataVolume, one pass.

pub mod haste;
pub mod observe;
mod report;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{DataVolume, Phase},
    clone::{Plan, Waiting, check, step},
};
use jiff::Timestamp;
use kube::runtime::controller::Action;
use tokio::time::timeout;

use crate::{Error, run::Context, write};

/// A pass makes a handful of writes; longer than this and the API server is in trouble.
const LIMIT: Duration = Duration::from_mins(1);

/// The net under the watches: a pass without a cause, at most this often.
const RESYNC: Duration = Duration::from_mins(10);

/// Brings one DataVolume one step nearer to what its annotation promises.
pub async fn reconcile(volume: Arc<DataVolume>, ctx: Arc<Context>) -> Result<Action, Error> {
    let timer = ctx.metrics.pass();
    let outcome = timeout(LIMIT, pass(&volume, &ctx)).await.unwrap_or(Err(Error::Late(LIMIT)));
    timer.done(&outcome);
    outcome
}

async fn pass(volume: &DataVolume, ctx: &Context) -> Result<Action, Error> {
    let now = Timestamp::now();
    let seen = observe::everything(volume, ctx, now); // reads; no opinions
    let Some(mut plan) = step(&seen) else { return Ok(Action::await_change()) }; // opinions; no reads, no clock
    let violations = check::violations(&seen, &plan); // the invariants, once more, on real data
    if !violations.is_empty() {
        return Err(Error::Refused(violations));
    }
    let writes = write::each(volume, &plan.actions, ctx); // each carries its precondition
    let stale = if plan.phase == Phase::Succeeded {
        // What is left to write can wait; what the user waits for can't. Neither needs the other to have happened.
        let (done, stale) = tokio::join!(writes, report::changes(volume, None, &seen, &plan, ctx));
        done?.stale | stale?
    } else {
        let done = writes.await?;
        if let Some(refused) = done.refused {
            plan.refused(refused, &seen);
        }
        if let (false, Some(rest)) = (done.stale, ctx.haste.withhold(&seen, &plan, Instant::now())) {
            return Ok(Action::requeue(rest));
        }
        done.stale | report::changes(volume, done.resource_version, &seen, &plan, ctx).await? // only what changed
    };
    ctx.progress.follow(&seen);
    Ok(next(&plan, stale, now))
}

/// When to look again although nothing is heard: at a deadline, soon after a write that met a newer object (its event is on the way), after a
/// while when the API server refused something (what it refused for need not be a kind that we watch), else in the slow resync.
fn next(plan: &Plan, stale: bool, now: Timestamp) -> Action {
    let after = match plan.look_again_at {
        _ if stale => Duration::from_secs(1),
        _ if matches!(plan.waiting, Some(Waiting::Refused { .. })) => Duration::from_secs(15),
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10),
        None if plan.waiting.is_none() && plan.actions.is_empty() => return Action::await_change(),
        None => RESYNC,
    };
    Action::requeue(after.min(RESYNC))
}
