//! The callers that are connected to the admission port. Their number is limited. At the limit, the oldest connection without a request at
//! an accepted path is closed for a new one, so that idle connections do not lock out an API server.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// The register of callers. Clones share it.
#[derive(Clone)]
pub(super) struct Callers {
    limit: usize,
    open: Arc<Mutex<Open>>,
    metrics: Metrics,
}

/// Connections by number, in the order of their arrival.
#[derive(Default)]
struct Open {
    next: u64,
    /// Connections without a request at an accepted path. Dropping the sender closes the connection.
    unproven: BTreeMap<u64, oneshot::Sender<()>>,
    proven: BTreeSet<u64>,
}

impl Callers {
    pub(super) fn new(limit: usize, metrics: Metrics) -> Self {
        Self { limit, open: Arc::default(), metrics }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection. `None` if there is no room, because all others belong to API servers.
    pub(super) fn register(&self) -> Option<(Caller, oneshot::Receiver<()>)> {
        let mut open = self.open();
        if open.unproven.len() + open.proven.len() >= self.limit {
            self.metrics.refused("many connections");
            open.unproven.pop_first()?;
        }
        let number = open.next;
        open.next += 1;
        let (sender, closed) = oneshot::channel();
        open.unproven.insert(number, sender);
        drop(open);
        let caller = Caller { number, is_proven: Arc::default(), callers: self.clone() };
        Some((caller, closed))
    }
}

/// The caller on a connection.
#[derive(Clone)]
pub(super) struct Caller {
    number: u64,
    is_proven: Arc<AtomicBool>,
    callers: Callers,
}

impl Caller {
    /// Records that the caller knows an accepted path, so that its connection is not closed for others.
    pub(super) fn prove(&self) {
        if self.is_proven.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut open = self.callers.open();
        // Unless the connection has just been closed.
        if open.unproven.remove(&self.number).is_some() {
            open.proven.insert(self.number);
        }
    }

    /// True once the caller has used an accepted path.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    /// Removes the connection, which is closed.
    pub(super) fn leave(&self) {
        let mut open = self.callers.open();
        open.unproven.remove(&self.number);
        open.proven.remove(&self.number);
    }
}
