//! Periodic reconcilers of cluster-wide objects: they run when triggered, and at least every [`RESYNC`] in case an event was missed.

use std::{sync::Arc, time::Duration};

use common::{lookup::Lookup, mode::Mode};
use config::shutdown::Shutdown;
use tokio::sync::Notify;
use tracing::warn;

use crate::context::Context;

/// A trigger of a periodic reconciler. Triggers between two runs lead to one run.
pub type Trigger = Arc<Notify>;

/// The resync interval: a full pass in case an event was missed.
pub const RESYNC: Duration = Duration::from_mins(10);

/// The time until the next run while the caches are not synced yet.
pub const RETRY_NOT_SYNCED: Duration = Duration::from_secs(1);

/// The time until the next run after a failed write.
pub const RETRY_FAILED: Duration = Duration::from_secs(15);

/// Runs `reconcile` once, then whenever it is triggered, and after the time that the last run returned.
pub async fn run<F>(trigger: Trigger, shutdown: Shutdown, reconcile: impl Fn() -> F)
where
    F: Future<Output = Duration>,
{
    loop {
        let again = tokio::select! {
            () = shutdown.draining() => return,
            again = reconcile() => again,
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = trigger.notified() => {}
            () = tokio::time::sleep(again.min(RESYNC)) => {}
        }
    }
}

/// The time until the next run that `result` has, or [`RETRY_FAILED`] after an error, which is logged after `failure`.
pub fn again(result: kube::Result<Duration>, failure: &str) -> Duration {
    result.unwrap_or_else(|error| {
        warn!(error = %config::Chain(&error), "{failure}");
        RETRY_FAILED
    })
}

/// True unless CDI's own operator runs in the cluster, whose controllers serve the cluster-wide objects. Unknown until the caches are
/// synced.
pub fn is_alone(ctx: &Context) -> Lookup<bool> {
    mode(ctx).map(|mode| mode == Mode::Alone)
}

/// The mode of this cluster. Unknown until the caches are synced.
pub fn mode(ctx: &Context) -> Lookup<Mode> {
    Mode::known(&ctx.caches.cdis.all())
}
