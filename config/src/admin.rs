//! The admin endpoint: liveness, readiness, metrics and the log filter of a process.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    args::AdminArgs,
    listen::listen,
    shutdown::Shutdown,
    telemetry::{LogFilter, LogHandle},
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The conditions under which this process is ready. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
    shutdown: Shutdown,
}

#[derive(Debug, Clone)]
struct Condition {
    name: &'static str,
    met: Arc<AtomicBool>,
}

impl Readiness {
    /// Ready until `shutdown` begins, while no conditions are registered.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { conditions: Arc::default(), shutdown }
    }

    /// Adds a condition, which is not met yet. Register all conditions before the admin endpoint is served, or a probe may succeed too
    /// early.
    pub fn register(&self, name: &'static str) -> ReadyHandle {
        let condition = Condition { name, met: Arc::default() };
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).push(condition.clone());
        ReadyHandle(condition)
    }

    /// The names of the conditions that are not met; empty when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let conditions = self.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        let unmet = conditions.iter().filter(|condition| !condition.met.load(Ordering::Relaxed));
        let ending = self.shutdown.has_begun().then_some("shutting down");
        ending.into_iter().chain(unmet.map(|condition| condition.name)).collect()
    }
}

/// The handle of one condition. The condition keeps its last state when the handle is dropped.
#[derive(Debug, Clone)]
#[must_use = "the condition is not met until the handle says so"]
pub struct ReadyHandle(Condition);

impl ReadyHandle {
    /// Marks the condition as met. Idempotent.
    pub fn ready(&self) {
        self.set(true);
    }

    /// Marks the condition as not met any more. Idempotent.
    pub fn not_ready(&self) {
        self.set(false);
    }

    fn set(&self, met: bool) {
        if self.0.met.swap(met, Ordering::Relaxed) != met {
            info!(condition = self.0.name, met, "readiness changed");
        }
    }
}

/// The admin endpoint, bound but not serving yet.
pub struct Admin {
    listener: TcpListener,
    router: Router,
}

#[derive(Clone)]
struct Sources {
    readiness: Readiness,
    registry: Arc<Registry>,
    log: LogHandle,
}

impl Admin {
    /// Binds the port, so that a port in use fails the start of the process.
    pub fn bind(args: &AdminArgs, readiness: Readiness, registry: Arc<Registry>, log: LogHandle) -> io::Result<Self> {
        let listener = TcpListener::from_std(listen(args.admin_address)?)?;
        Ok(Self { listener, router: router(Sources { readiness, registry, log }) })
    }

    /// The address on which it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped. Probes have to be answered until the very end, so this belongs to
    /// [`Supervisor::companion`](crate::supervisor::Supervisor::companion).
    pub async fn serve(self) -> io::Result<()> {
        axum::serve(self.listener, self.router.into_make_service_with_connect_info::<SocketAddr>()).await
    }
}

fn router(sources: Sources) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/log-level", get(log_level).put(set_log_level))
        .with_state(sources)
}

async fn ready(State(sources): State<Sources>) -> Response {
    let missing = sources.readiness.missing();
    if missing.is_empty() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", missing.join(", "))).into_response()
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &sources.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn log_level(State(sources): State<Sources>) -> Response {
    match sources.log.current() {
        Ok(filter) => format!("{filter}\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Accepts requests from the pod itself only, which includes `kubectl port-forward`: the port is open to the whole cluster.
async fn set_log_level(
    State(sources): State<Sources>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: String,
) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "only from localhost\n").into_response();
    }
    let filter = match body.trim().parse::<LogFilter>() {
        Ok(filter) => filter,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    match sources.log.set(&filter) {
        Ok(()) => {
            info!(%filter, "log level changed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{
        body::{Body, to_bytes},
        http::{Method, Request},
    };
    use rstest::rstest;
    use tower::ServiceExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{args::ShutdownArgs, metrics, telemetry};

    struct Endpoint {
        readiness: Readiness,
        shutdown: Shutdown,
        router: Router,
    }

    fn endpoint(log: LogHandle) -> Endpoint {
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let shutdown = Shutdown::new(&args);
        let readiness = Readiness::new(shutdown.clone());
        let mut registry = Registry::with_prefix("smartclone");
        metrics::register_build(&mut registry, "test");
        let router = router(Sources { readiness: readiness.clone(), registry: Arc::new(registry), log });
        Endpoint { readiness, shutdown, router }
    }

    impl Endpoint {
        async fn ask(&self, method: Method, path: &str, peer: &str, body: &str) -> (StatusCode, String) {
            let peer = ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1));
            let request = Request::builder().method(method).uri(path).extension(peer);
            let response =
                self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
            let status = response.status();
            let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn get(&self, path: &str) -> (StatusCode, String) {
            self.ask(Method::GET, path, "10.0.0.1", "").await
        }
    }

    #[tokio::test]
    async fn ready_when_every_condition_is_met_and_no_shutdown_has_begun() {
        let (_layer, log) = telemetry::detached();
        let endpoint = endpoint(log);
        let (caches, certificate) = (endpoint.readiness.register("caches"), endpoint.readiness.register("certificate"));
        let unavailable = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n"));

        assert_eq!(endpoint.get("/ready").await, unavailable("caches, certificate"));
        caches.ready();
        assert_eq!(endpoint.get("/ready").await, unavailable("certificate"));
        certificate.ready();
        assert_eq!(endpoint.get("/ready").await, (StatusCode::OK, "ready\n".to_owned()));
        certificate.not_ready();
        assert_eq!(endpoint.get("/ready").await, unavailable("certificate"));
        certificate.ready();
        endpoint.shutdown.begin();
        assert_eq!(endpoint.get("/ready").await, unavailable("shutting down"));
        assert_eq!(endpoint.get("/live").await.0, StatusCode::OK, "a draining process is alive");
    }

    #[tokio::test]
    async fn metrics_are_open_metrics() {
        let (_layer, log) = telemetry::detached();
        let (status, body) = endpoint(log).get("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("smartclone_build_info{{program=\"test\",version=\"{version}\"}} 1\n");
        assert!(body.contains(&line) && body.ends_with("# EOF\n"), "{body}");
    }

    #[rstest]
    #[case::port_forward("::1", "debug", StatusCode::NO_CONTENT, "debug\n")]
    #[case::mapped_loopback("::ffff:127.0.0.1", "warn,kube=trace", StatusCode::NO_CONTENT, "kube=trace,warn\n")]
    #[case::another_pod("10.0.0.1", "trace", StatusCode::FORBIDDEN, "info\n")]
    #[case::nonsense("127.0.0.1", "shout=very", StatusCode::BAD_REQUEST, "info\n")]
    #[tokio::test]
    async fn the_log_level_is_changed_from_the_pod_only(
        #[case] peer: &str,
        #[case] level: &str,
        #[case] status: StatusCode,
        #[case] then: &str,
    ) {
        let (layer, log) = telemetry::detached();
        let _subscriber = tracing_subscriber::registry().with(layer);
        let endpoint = endpoint(log);
        assert_eq!(endpoint.ask(Method::PUT, "/log-level", peer, level).await.0, status);
        assert_eq!(endpoint.get("/log-level").await.1, then);
    }
}
