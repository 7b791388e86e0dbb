//! The connections to the admission port. Their number is limited; when it is reached, the oldest one on which nobody has asked at an
//! accepted path makes room for a new one. So whoever opens connections and says nothing keeps no API server out.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, Ready, ready},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::Router;
use axum_server::accept::Accept;
use certs::SecretPath;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};

use super::gate::Gate;
use crate::metrics::Metrics;

/// Accepts connections, and knows all that are open. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    limit: usize,
    open: Arc<Mutex<Open>>,
    path: SecretPath,
    metrics: Metrics,
}

/// Connections by number, in the order in which they came.
#[derive(Default)]
struct Open {
    next: u64,
    /// Nobody has asked on them at an accepted path. Dropping the sender closes the connection.
    unproven: BTreeMap<u64, oneshot::Sender<()>>,
    proven: BTreeSet<u64>,
}

impl Connections {
    pub(super) fn new(limit: usize, path: SecretPath, metrics: Metrics) -> Self {
        Self { limit, open: Arc::default(), path, metrics }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection, or tells that all others are API servers'.
    fn register(&self) -> Option<(Caller, oneshot::Receiver<()>)> {
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
        let caller = Caller { number, is_proven: Arc::default(), connections: self.clone() };
        Some((caller, closed))
    }
}

impl Accept<TcpStream, Router> for Connections {
    type Stream = Connection;
    type Service = Gate;
    type Future = Ready<io::Result<(Connection, Gate)>>;

    fn accept(&self, stream: TcpStream, routes: Router) -> Self::Future {
        // An answer is sent at once: an API server waits for it, and nothing is to be gained by larger packets.
        let accepted = stream.set_nodelay(true).and_then(|()| {
            let (caller, closed) = self.register().ok_or(io::ErrorKind::ConnectionRefused)?;
            let gate = Gate::new(routes, self.path.clone(), caller.clone(), self.metrics.clone());
            Ok((Connection { stream, caller, closed }, gate))
        });
        ready(accepted)
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(super) struct Caller {
    number: u64,
    is_proven: Arc<AtomicBool>,
    connections: Connections,
}

impl Caller {
    /// Records that it knows an accepted path: its connection makes no room for others.
    pub(super) fn prove(&self) {
        if self.is_proven.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut open = self.connections.open();
        // Unless it has just been closed.
        if open.unproven.remove(&self.number).is_some() {
            open.proven.insert(self.number);
        }
    }
}

/// A connection that is closed when it has to make room.
pub(super) struct Connection {
    stream: TcpStream,
    caller: Caller,
    closed: oneshot::Receiver<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.caller.connections.open();
        open.unproven.remove(&self.caller.number);
        open.proven.remove(&self.caller.number);
    }
}

impl AsyncRead for Connection {
    /// Whoever has not asked yet is read from, so this is where it learns that it is closed.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.caller.is_proven.load(Ordering::Relaxed) && Pin::new(&mut self.closed).poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
