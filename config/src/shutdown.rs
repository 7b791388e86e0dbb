//! The shutdown of a process, in two steps that every service can await.
//!
//! An endpoint's removal races the termination of its pod: for a moment clients still send work to a process that was told to stop. So the
//! process first becomes unready ([`Shutdown::begun`]). Only after a pause does it refuse new work and finish the work in progress
//! ([`Shutdown::draining`]). The [`Supervisor`](crate::supervisor::Supervisor) drives both.

use std::{io, time::Duration};

use futures::{Stream, stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::ShutdownArgs;

/// The state of the shutdown, shared by all clones. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    begun: CancellationToken,
    draining: CancellationToken,
    pub(crate) pause: Duration,
    pub(crate) limit: Duration,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new(args: &ShutdownArgs) -> Self {
        Self {
            begun: CancellationToken::new(),
            draining: CancellationToken::new(),
            pause: args.shutdown_pause,
            limit: args.shutdown_limit,
        }
    }

    /// Requests the shutdown; the supervisor does the rest. Idempotent.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// True once the shutdown has been requested.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Returns once the shutdown has been requested. Work must still be accepted.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Returns once a service has to refuse new work, finish its work, and end.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    pub(crate) fn drain(&self) {
        self.begin();
        self.draining.cancel();
    }

    /// The time that a service has to finish its work, from [`draining`](Self::draining) on.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

/// The names of the termination signals sent to this process, as they arrive.
pub(crate) fn signals() -> io::Result<impl Stream<Item = &'static str>> {
    let both = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(stream::unfold(both, async |(mut terminate, mut interrupt)| {
        let name = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            else => return None,
        };
        Some((name, (terminate, interrupt)))
    }))
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, process};

    use futures::StreamExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn signals_are_told_by_name() {
        let mut signals = pin!(signals().unwrap());
        for name in ["SIGTERM", "SIGINT", "SIGTERM"] {
            let kill = format!("kill -{} {}", name.trim_start_matches("SIG"), process::id());
            assert!(process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            assert_eq!(timeout(Duration::from_secs(10), signals.next()).await, Ok(Some(name)));
        }
    }
}
