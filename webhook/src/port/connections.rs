//! Connections to the admission port: accepted while [`Callers`] has room, closed when another caller needs the room.

use std::{
    future::{Future, Ready, ready},
    io,
    pin::Pin,
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

use super::{
    callers::{Caller, Callers},
    gate::Gate,
};
use crate::metrics::Metrics;

/// The acceptor of connections. Clones share the callers.
#[derive(Clone)]
pub(super) struct Connections {
    callers: Callers,
    path: SecretPath,
    metrics: Metrics,
}

impl Connections {
    pub(super) fn new(limit: usize, path: SecretPath, metrics: Metrics) -> Self {
        Self { callers: Callers::new(limit, metrics.clone()), path, metrics }
    }
}

impl Accept<TcpStream, Router> for Connections {
    type Stream = Connection;
    type Service = Gate;
    type Future = Ready<io::Result<(Connection, Gate)>>;

    fn accept(&self, stream: TcpStream, routes: Router) -> Self::Future {
        // Answers are sent at once: an API server waits for them, and larger packets would gain nothing.
        let accepted = stream.set_nodelay(true).and_then(|()| {
            let (caller, closed) = self.callers.register().ok_or(io::ErrorKind::ConnectionRefused)?;
            let gate = Gate::new(routes, self.path.clone(), caller.clone(), self.metrics.clone());
            Ok((Connection { stream, caller, closed }, gate))
        });
        ready(accepted)
    }
}

/// A connection that is closed to make room for another one.
pub(super) struct Connection {
    stream: TcpStream,
    caller: Caller,
    closed: oneshot::Receiver<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.caller.leave();
    }
}

impl AsyncRead for Connection {
    /// Closes the connection here: a caller without an accepted path is only read from.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.caller.is_proven() && Pin::new(&mut self.closed).poll(context).is_ready() {
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
