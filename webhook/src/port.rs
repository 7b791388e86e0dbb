//! The admission port: TLS, HTTP/1.1, and the limits of every client. Any pod may connect, so a request at an unknown path is very cheap,
//! and a request at a known one is limited in time and memory.

mod callers;
mod connections;
mod gate;
#[cfg(test)]
mod tests;

use std::{io, net::TcpListener, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Version, header},
    middleware::{self, Next},
    response::Response,
};
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use certs::SecretPath;
use config::shutdown::Shutdown;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;

use self::connections::Connections;
use crate::metrics::Metrics;

/// The time limit of answers after the shutdown began: no API server waits longer, as our configurations say.
const LONGEST_REVIEW: Duration = Duration::from_secs(5);

/// The limits of connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The maximum number of open connections. An API server has one for each review that it waits for, at most as many as it serves
    /// requests (its flag `--max-mutating-requests-inflight`, 200).
    connections: usize,
    /// The time limit of a TLS handshake.
    handshake_timeout: Duration,
    /// The time limit of a request's head, and of an idle connection: hyper also counts the time between two requests. API servers close
    /// connections that they have not used for 90 s. If we closed them first, a request on its way would be lost.
    head_timeout: Duration,
    /// The maximum number of bytes that are buffered from a connection, which limits the head of a request.
    read_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_mins(2),
            read_buffer: 32 << 10,
        }
    }
}

/// The admission port.
pub(crate) struct Port {
    /// The socket.
    pub(crate) listener: TcpListener,
    /// The certificate, and the clients that are accepted.
    pub(crate) tls: Arc<ServerConfig>,
    /// The accepted paths.
    pub(crate) path: SecretPath,
    /// Counters of refusals.
    pub(crate) metrics: Metrics,
    /// The limits of connections.
    pub(crate) limits: Limits,
}

impl Port {
    /// Serves until the shutdown drains, then finishes the requests in progress.
    pub(crate) async fn serve(self, routes: Router, shutdown: Shutdown) -> io::Result<()> {
        let Self { listener, tls, path, metrics, limits } = self;
        let handle = Handle::new();
        let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
            .handshake_timeout(limits.handshake_timeout)
            .acceptor(Connections::new(limits.connections, path, metrics));
        // API servers call webhooks by HTTP/1.1 only. Without HTTP/2, its concurrent streams need no limit.
        let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone()).http1_only();
        let mut http = server.http_builder().http1();
        http.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_buf_size(limits.read_buffer);
        let routes = routes.layer(middleware::from_fn_with_state(shutdown.clone(), last));
        let mut serving = pin!(server.serve(routes.into_make_service()));
        tokio::select! {
            ended = &mut serving => return ended,
            () = shutdown.draining() => handle.graceful_shutdown(Some(shutdown.limit().min(LONGEST_REVIEW))),
        }
        serving.await
    }
}

/// After the shutdown has begun, marks each answer as the last one on its connection. API servers speak HTTP/1.1 to webhooks: a request on
/// its way to a connection that is being closed is lost. So connections in use are first closed by agreement of both sides, and only then
/// we close the rest.
async fn last(State(shutdown): State<Shutdown>, request: Request, next: Next) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    if version == Version::HTTP_11 && shutdown.has_begun() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
