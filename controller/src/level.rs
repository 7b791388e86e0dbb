//! Work that looks at everything of a kind at once: there is little of it, and it changes seldom.

use std::{sync::Arc, time::Duration};

use common::{clone::facts::operator_of, lookup::Lookup};
use config::shutdown::Shutdown;
use tokio::sync::Notify;

use crate::run::Context;

/// Rung by watches. However often it was rung since the last look, there is one more look.
pub type Bell = Arc<Notify>;

/// The net under the watches: a look without a cause, at most this often.
pub const RESYNC: Duration = Duration::from_mins(10);

/// After a look that could not tell: the caches are being filled.
pub const SOON: Duration = Duration::from_secs(1);

/// After a write that failed.
pub const LATER: Duration = Duration::from_secs(15);

/// Looks once, then whenever the bell was rung, and after the time that the last look gave.
pub async fn whenever<F>(bell: Bell, shutdown: Shutdown, look: impl Fn() -> F)
where
    F: Future<Output = Duration>,
{
    loop {
        let again = tokio::select! {
            () = shutdown.draining() => return,
            again = look() => again,
        };
        tokio::select! {
            () = shutdown.draining() => return,
            () = bell.notified() => {}
            () = tokio::time::sleep(again.min(RESYNC)) => {}
        }
    }
}

/// Whether the objects are ours to keep: CDI's own operator isn't here. Unknown as long as nobody can tell.
pub fn ours(ctx: &Context) -> Lookup<bool> {
    match ctx.caches.cdis.all() {
        Lookup::Present(all) => Lookup::Present(!all.iter().any(|cdi| operator_of(cdi).is_some())),
        Lookup::Absent => Lookup::Present(true),
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}
