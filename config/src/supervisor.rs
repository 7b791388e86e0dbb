//! The supervisor of the long-lived services of a process: none of them can end unnoticed.

use std::{any::Any, collections::HashMap, error::Error as StdError, io, pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use thiserror::Error;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};
use tracing::{debug, error, info, warn};

use crate::{
    error::Chain,
    shutdown::{self, Shutdown},
};

/// The time after which a service that has not stopped is named in the log.
const SLOW: Duration = Duration::from_secs(3);

/// The reasons why a process ended irregularly.
#[derive(Debug, Error)]
pub enum Error {
    /// A service returned although no shutdown had begun.
    #[error("service {0} ended although no shutdown had begun")]
    EndedEarly(&'static str),
    /// A service returned an error.
    #[error("service {0} failed")]
    Failed(&'static str, #[source] BoxError),
    /// A service panicked, with this message.
    #[error("service {0} panicked: {1}")]
    Panicked(&'static str, String),
    /// Services that had not ended within the time limit of the shutdown, and were dropped.
    #[error("dropped after the shutdown limit of {limit:?}: {}", names.join(", "))]
    TooSlow {
        /// The limit.
        limit: Duration,
        /// The services that were still running.
        names: Vec<&'static str>,
    },
    /// A second signal arrived.
    #[error("aborted by a second signal ({0})")]
    Aborted(&'static str),
    /// Termination signals cannot be received.
    #[error("failed to listen for signals")]
    Signals(#[source] io::Error),
}

/// The error of a service.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// The return value of a service.
pub trait Outcome: Send + 'static {
    /// The failure, if it is one.
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// Runs named services to the end of the process.
///
/// The first service that ends without a shutdown, for whatever reason, begins the shutdown of all: a process without one of its services
/// looks healthy and does nothing.
pub struct Supervisor {
    shutdown: Shutdown,
    services: Tasks,
    companions: Tasks,
}

impl Supervisor {
    /// A supervisor that drives `shutdown` and follows it.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, services: Tasks::default(), companions: Tasks::default() }
    }

    /// Starts a service, which has to end soon after [`Shutdown::draining`].
    #[must_use = "a supervisor supervises nothing until it runs"]
    pub fn service<F>(mut self, name: &'static str, service: F) -> Self
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.services.spawn(name, service);
        self
    }

    /// Starts a service that serves the others, such as the admin endpoint: it is dropped when all others have ended.
    #[must_use = "a supervisor supervises nothing until it runs"]
    pub fn companion<F>(mut self, name: &'static str, service: F) -> Self
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        self.companions.spawn(name, service);
        self
    }

    /// Runs until SIGTERM, SIGINT or [`Shutdown::begin`], then lets the services end in order.
    ///
    /// Returns the first failure. A second signal makes it return at once.
    pub async fn run(self) -> Result<(), Error> {
        let signals = shutdown::signals().map_err(Error::Signals)?;
        self.run_with(signals).await
    }

    async fn run_with(mut self, signals: impl Stream<Item = &'static str>) -> Result<(), Error> {
        let mut signals = pin!(signals.fuse());
        let mut patience = 1;
        let first = tokio::select! {
            // A failure is reported even if a signal arrived at the same moment.
            biased;
            Some(ended) = self.services.next(&self.shutdown) => ended,
            Some(ended) = self.companions.next(&self.shutdown) => ended,
            Some(signal) = signals.next() => {
                info!(signal, "shutdown begins");
                patience = 0;
                Ok(())
            }
            () = self.shutdown.begun() => Ok(()),
        };
        self.shutdown.begin();
        let mut insistence = pin!(signals.skip(patience));
        let rest = tokio::select! {
            rest = wind_down(&self.shutdown, &mut self.services) => rest,
            Some(signal) = insistence.next() => Err(Error::Aborted(signal)),
        };
        first.and(rest)
    }
}

/// The two steps of a shutdown. Returns the first failure.
async fn wind_down(shutdown: &Shutdown, services: &mut Tasks) -> Result<(), Error> {
    let paused = services.join(shutdown, shutdown.pause).await;
    shutdown.drain();
    let quick = services.join(shutdown, SLOW.min(shutdown.limit)).await;
    if !services.is_empty() {
        warn!(services = ?services.names(), "slow to stop");
    }
    let slow = services.join(shutdown, shutdown.limit.saturating_sub(SLOW)).await;
    let dropped = if services.is_empty() {
        Ok(())
    } else {
        Err(Error::TooSlow { limit: shutdown.limit, names: services.names() })
    };
    paused.and(quick).and(slow).and(dropped)
}

/// Named tasks; all are aborted when this is dropped.
#[derive(Default)]
struct Tasks {
    set: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    fn spawn<F>(&mut self, name: &'static str, service: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let handle = self.set.spawn(async { service.await.into_result() });
        self.names.insert(handle.id(), name);
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.names.values().copied().collect();
        names.sort_unstable();
        names
    }

    /// Waits for the end of the next task; `None` when there is none left.
    async fn next(&mut self, shutdown: &Shutdown) -> Option<Result<(), Error>> {
        let ended = self.set.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or("unnamed");
        let verdict = match ended {
            Ok((_, Ok(()))) if shutdown.has_begun() => Ok(()),
            Ok((_, Ok(()))) => Err(Error::EndedEarly(name)),
            Ok((_, Err(source))) => Err(Error::Failed(name, source)),
            Err(error) => Err(Error::Panicked(name, panic_message(error))),
        };
        match &verdict {
            Ok(()) => debug!(service = name, "stopped"),
            Err(error) => error!(service = name, error = %Chain(error), "service ended"),
        }
        Some(verdict)
    }

    /// Waits for all tasks, at most for `time`. Returns the first failure among those that ended.
    async fn join(&mut self, shutdown: &Shutdown, time: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + time;
        let mut first = Ok(());
        while let Ok(Some(ended)) = timeout_at(deadline, self.next(shutdown)).await {
            first = first.and(ended);
        }
        first
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload): Result<Box<dyn Any + Send>, _> = error.try_into_panic() else { return "aborted".to_owned() };
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures::{channel::mpsc, stream};
    use tokio::time::sleep;

    use super::*;
    use crate::args::ShutdownArgs;

    const PAUSE: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(15);

    fn shutdown() -> Shutdown {
        Shutdown::new(&ShutdownArgs { shutdown_pause: PAUSE, shutdown_limit: LIMIT })
    }

    fn unlucky() {
        panic!("no {}", "luck")
    }

    fn obedient(shutdown: &Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let shutdown = shutdown.clone();
        async move { shutdown.draining().await }
    }

    #[tokio::test(start_paused = true)]
    async fn a_signal_turns_unready_then_drains_after_the_pause() {
        let shutdown = shutdown();
        let start = Instant::now();
        let watched = shutdown.clone();
        let service = async move {
            watched.begun().await;
            assert_eq!(start.elapsed(), Duration::ZERO);
            watched.draining().await;
            assert_eq!(start.elapsed(), PAUSE);
        };
        let supervisor = Supervisor::new(shutdown).service("one", service).companion("admin", pending::<()>());
        supervisor.run_with(stream::iter(["SIGTERM"]).chain(stream::pending())).await.unwrap();
        assert_eq!(start.elapsed(), PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_stop_ends_everybody() {
        let shutdown = shutdown();
        let supervisor = Supervisor::new(shutdown.clone()).service("one", obedient(&shutdown)).service("two", async {});
        let error = supervisor.run_with(stream::pending()).await.unwrap_err();
        assert!(matches!(error, Error::EndedEarly("two")), "{error}");
        assert!(shutdown.has_begun());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_everybody() {
        let shutdown = shutdown();
        let supervisor =
            Supervisor::new(shutdown.clone()).service("one", obedient(&shutdown)).service("two", async { unlucky() });
        let error = supervisor.run_with(stream::pending()).await.unwrap_err();
        assert!(matches!(&error, Error::Panicked("two", message) if message == "no luck"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_companion_that_fails_ends_everybody() {
        let shutdown = shutdown();
        let supervisor = Supervisor::new(shutdown.clone())
            .service("one", obedient(&shutdown))
            .companion("admin", async { Err::<(), _>(io::Error::other("port taken")) });
        let error = supervisor.run_with(stream::pending()).await.unwrap_err();
        assert_eq!(Chain(&error).to_string(), "service admin failed: port taken");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_is_the_one_reported() {
        let shutdown = shutdown();
        let late = shutdown.clone();
        let supervisor =
            Supervisor::new(shutdown).service("first", async { Err::<(), _>("broken") }).service("late", async move {
                late.draining().await;
                Err::<(), _>("broken too")
            });
        let error = supervisor.run_with(stream::pending()).await.unwrap_err();
        assert!(matches!(error, Error::Failed("first", _)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_stop_is_named_and_dropped_at_the_limit() {
        let shutdown = shutdown();
        shutdown.begin();
        let start = Instant::now();
        let supervisor =
            Supervisor::new(shutdown.clone()).service("deaf", pending::<()>()).service("one", obedient(&shutdown));
        let error = supervisor.run_with(stream::pending()).await.unwrap_err();
        assert!(matches!(&error, Error::TooSlow { names, .. } if names == &["deaf"]), "{error}");
        assert_eq!(start.elapsed(), PAUSE + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_second_signal_aborts() {
        let (send, signals) = mpsc::unbounded();
        let start = Instant::now();
        let supervisor = Supervisor::new(shutdown()).service("fails", async { Err::<(), _>("broken") }).service(
            "deaf",
            async move {
                send.unbounded_send("SIGTERM").unwrap();
                sleep(Duration::from_secs(1)).await;
                send.unbounded_send("SIGTERM").unwrap();
                pending::<()>().await;
            },
        );
        let error = supervisor.run_with(signals).await.unwrap_err();
        assert!(matches!(error, Error::Failed("fails", _)), "{error}");
        assert_eq!(start.elapsed(), Duration::from_secs(1), "the pause and the limit are skipped");
    }
}
