//! The admission port: TLS, HTTP/1.1, and the limits that hold for whoever connects. Anybody in the pod network may, so what is asked at
//! an unknown path costs next to nothing, and what is asked at a known one is limited in time and memory.

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

use crate::metrics::Metrics;
use connections::Connections;

/// No API server waits longer for an answer than our configurations say.
const LONGEST_REVIEW: Duration = Duration::from_secs(5);

/// What one connection may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Open connections. An API server has one for each review that it is waiting for, at most as many as it serves requests (its flag
    /// `--max-mutating-requests-inflight`, 200).
    connections: usize,
    /// A TLS handshake is complete within this time.
    handshake_timeout: Duration,
    /// The head of a request is complete within this time, and a connection may say nothing that long: hyper counts the time between two
    /// questions, too. API servers drop what they haven't used for 90 s; if it were us who did, a question that is on its way just then would
    /// be lost.
    head_timeout: Duration,
    /// Bytes that are read from a connection before they are looked at, and so in the head of a request.
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

/// The admission port, and what is asked there.
pub(crate) struct Port {
    /// Where it listens.
    pub(crate) listener: TcpListener,
    /// How connections are encrypted, and to whom.
    pub(crate) tls: Arc<ServerConfig>,
    /// The paths that are answered.
    pub(crate) path: SecretPath,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// What is allowed.
    pub(crate) limits: Limits,
}

impl Port {
    /// Serves until the shutdown drains, then finishes what it has.
    pub(crate) async fn serve(self, routes: Router, shutdown: Shutdown) -> io::Result<()> {
        let Self { listener, tls, path, metrics, limits } = self;
        let handle = Handle::new();
        let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls))
            .handshake_timeout(limits.handshake_timeout)
            .acceptor(Connections::new(limits.connections, path, metrics));
        // API servers ask webhooks by HTTP/1.1 only. What HTTP/2 would let a connection do at once needs no limit.
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

/// From the beginning of the end on, each answer is the last one on its connection, and says so. API servers speak HTTP/1.1 to webhooks: a
/// question that is on its way to a connection which is being closed is lost, so those in use have to be closed by both sides' agreement
/// before the rest is closed by ours.
async fn last(State(shutdown): State<Shutdown>, request: Request, next: Next) -> Response {
    let version = request.version();
    let mut response = next.run(request).await;
    if version == Version::HTTP_11 && shutdown.has_begun() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
