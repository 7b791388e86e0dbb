//! The process: caches, certificate, server.

use std::{io, net::TcpListener, pin::pin, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Version, header},
    middleware::{self, Next},
    response::Response,
};
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use config::{
    admin::{Admin, Readiness},
    client::{self, Purpose},
    metrics::{CertificateMetrics, register_build, register_unreadable_objects},
    shutdown::Shutdown,
    supervisor::Supervisor,
    telemetry,
    tls::certificates,
};
use hyper_util::rt::TokioTimer;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tracing::info;

use crate::{
    cluster::Cluster,
    metrics::Metrics,
    server::{Admission, router},
    settings::Args,
};

/// No API server waits longer for an answer than our configurations say.
const LONGEST_REVIEW: Duration = Duration::from_secs(5);
/// How long a connection may say nothing: hyper counts the time between two questions, too. API servers drop what they haven't used for 90 s;
/// if it were us who did, a question that is on its way just then would be lost.
const HEADERS_WITHIN: Duration = Duration::from_mins(2);

/// Runs the webhook to its end.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let log = telemetry::install(&args.log)?;
    let shutdown = Shutdown::new(&args.shutdown);
    let readiness = Readiness::new(shutdown.clone());
    let mut registry = Registry::with_prefix("smartclone");
    register_build(&mut registry, "webhook");
    register_unreadable_objects(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let certificate_metrics = CertificateMetrics::register(&mut registry);

    let watches = client::connect("webhook", Purpose::Control).await?;
    let asks = client::connect("webhook", Purpose::Admission).await?;
    let namespace = args.certificate.service_namespace.as_deref().unwrap_or(watches.default_namespace());
    let controller = format!("system:serviceaccount:{namespace}:{}", args.controller_service_account);
    let (cluster, kept) = Cluster::new(asks, &watches, &readiness);
    let certificate =
        certificates(&args.certificate, &watches, &readiness, certificate_metrics, shutdown.clone()).await?;
    let routes = router(Arc::new(Admission { cluster, controller, metrics }));

    let listener = config::listen(args.listen).with_context(|| format!("failed to listen on {}", args.listen))?;
    let admin = Admin::bind(&args.admin, readiness, Arc::new(registry), log)?;
    info!(address = %listener.local_addr()?, "starting");
    let mut supervisor = Supervisor::new(shutdown.clone())
        .companion("admin", admin.serve())
        .service("certificate", certificate.service)
        .service("reviews", serve(listener, certificate.config, routes, shutdown));
    for (kind, watch) in kept {
        // Needed as long as there is a review to answer.
        supervisor = supervisor.companion(kind, watch);
    }
    supervisor.run().await?;
    Ok(())
}

/// Serves until the shutdown drains, then finishes what it has.
async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, routes: Router, shutdown: Shutdown) -> io::Result<()> {
    let handle = Handle::new();
    // An answer is sent at once: an API server waits for it, and nothing is to be gained by larger packets.
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls)).acceptor(NoDelayAcceptor::new());
    let mut server = axum_server::from_tcp(listener)?.acceptor(acceptor).handle(handle.clone());
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    let routes = routes.layer(middleware::from_fn_with_state(shutdown.clone(), last));
    let mut serving = pin!(server.serve(routes.into_make_service()));
    tokio::select! {
        ended = &mut serving => return ended,
        () = shutdown.draining() => handle.graceful_shutdown(Some(shutdown.limit().min(LONGEST_REVIEW))),
    }
    serving.await
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use config::args::ShutdownArgs;
    use rustls::{ClientConfig, RootCertStore, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Notify,
        time::timeout,
    };
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;

    fn certificate() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        config::tls::install_provider();
        let own = rcgen::generate_simple_self_signed(["webhook.test".to_owned()]).unwrap();
        let mut trusted = RootCertStore::empty();
        trusted.add(own.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key);
        (server.unwrap().into(), ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth().into())
    }

    async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(tls).connect("webhook.test".try_into().unwrap(), stream).await.unwrap()
    }

    /// Until `text` has come.
    async fn read_until(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// An API server keeps a connection so long, which it takes from Go's default transport.
    const KEPT: Duration = Duration::from_secs(90);

    #[tokio::test]
    async fn a_connection_is_the_askers_to_drop() {
        let (server, client) = certificate();
        let listener = config::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", get(async || "decided"));
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let asking = async {
            let mut stream = connect(address, client).await;
            for _ in 0..2 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: webhook.test\r\n\r\n").await.unwrap();
                read_until(&mut stream, "decided").await;
                tokio::time::pause();
                tokio::time::advance(KEPT).await;
                tokio::time::resume();
            }
        };
        tokio::select! {
            ended = serve(listener, server, routes, Shutdown::new(&args)) => panic!("{ended:?}"),
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn what_was_asked_before_the_end_is_answered_and_nothing_after() {
        let (server, client) = certificate();
        let listener = config::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (heard, may) = (Arc::clone(&asked), Arc::clone(&answer));
        let handler = async move || {
            heard.notify_one();
            may.notified().await;
            "decided"
        };
        let routes = Router::new().route("/", get(handler));
        let limit = Duration::from_secs(30);
        let shutdown = Shutdown::new(&ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: limit });
        let serving = serve(listener, server, routes, shutdown.clone());
        let process = Supervisor::new(shutdown.clone()).service("reviews", serving).run();

        let asking = async {
            let mut stream = connect(address, client).await;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: webhook.test\r\n\r\n").await.unwrap();
            asked.notified().await;
            shutdown.begin();
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            answer.notify_one();
            let said = read_until(&mut stream, "decided").await;
            assert!(said.contains("connection: close"), "nothing more is to be asked here: {said}");
        };
        let (ended, ()) = timeout(limit, async { tokio::join!(process, asking) }).await.unwrap();
        ended.unwrap();
    }
}
