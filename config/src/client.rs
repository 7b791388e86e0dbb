//! The connection to the API server.
//!
//! kube's defaults set no time limit for a request, because a watch is silent for minutes. Here every request other than a watch has a
//! deadline, so that an API server that vanished without closing its connections costs seconds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Uri, header::InvalidHeaderValue, header::USER_AGENT};
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt, retry::RetryPolicy},
    config::InferConfigError,
};
use thiserror::Error;
use tokio::time::timeout;
use tower::{BoxError, Layer, Service, ServiceBuilder, retry::RetryLayer};

/// The read timeout: longer than the 295 s of silence after which kube's watcher itself ends a watch.
const SILENCE: Duration = Duration::from_secs(305);

/// The purpose of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Watches, and reads and writes of a background task: retried on 429, 503 and 504, 30 s in total.
    Control,
    /// Reads that an admission request waits for: one attempt within 2 s.
    Admission,
}

impl Purpose {
    /// The time from the first attempt to the head of the answer.
    fn deadline(self) -> Duration {
        match self {
            Self::Control => Duration::from_secs(30),
            Self::Admission => Duration::from_secs(2),
        }
    }

    fn adjust(self, config: &mut Config) {
        config.connect_timeout = Some(self.deadline() / 2);
        config.write_timeout = Some(self.deadline());
        config.read_timeout = Some(match self {
            Self::Control => SILENCE,
            Self::Admission => self.deadline(),
        });
        // Otherwise the idle time of a pooled connection counts against the next answer.
        config.reset_reader_on_write = true;
        config.default_retry = self == Self::Control;
    }
}

/// A client could not be created.
#[derive(Debug, Error)]
pub enum Error {
    /// Neither a kubeconfig nor a service account was found.
    #[error("failed to find out how to reach the API server")]
    Config(#[source] InferConfigError),
    /// The program's name does not fit into a header.
    #[error("failed to name the program to the API server")]
    UserAgent(#[source] InvalidHeaderValue),
    /// The settings that were found cannot be used.
    #[error("failed to make a client from the settings found")]
    Client(#[source] kube::Error),
}

/// The API server did not answer in time; the source of a [`kube::Error::Service`].
#[derive(Debug, Error)]
#[error("no answer from the API server within {0:?}")]
pub struct DeadlineExceeded(pub Duration);

/// A client for the cluster of the kubeconfig, or else of the pod's ServiceAccount.
///
/// The API server's audit log knows it as `smartclone-<program>/<version>`.
pub async fn connect(program: &str, purpose: Purpose) -> Result<Client, Error> {
    let mut config = Config::infer().await.map_err(Error::Config)?;
    purpose.adjust(&mut config);
    let agent = format!("smartclone-{program}/{}", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::try_from(agent).map_err(Error::UserAgent)?));
    client(config, purpose).map_err(Error::Client)
}

/// kube's own client, except that it sends at once (`TCP_NODELAY`). Otherwise the first request of a new connection waits until the server
/// has acknowledged the end of the TLS handshake, which takes 40 ms.
fn client(config: Config, purpose: Purpose) -> Result<Client, kube::Error> {
    let deadline = DeadlineLayer(purpose.deadline());
    // Only kube can set up a proxy, and a certificate that a program issues and renews.
    if config.proxy_url.is_some() || config.auth_info.exec.is_some() {
        return Ok(ClientBuilder::try_from(config)?.with_layer(&deadline).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).with_layer(&deadline).build())
}

/// Limits the time to the head of an answer, except for requests that stay open by design.
#[derive(Clone)]
struct DeadlineLayer(Duration);

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, limit: self.0 }
    }
}

struct Deadline<S> {
    inner: S,
    limit: Duration,
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = (!stays_open(request.uri())).then_some(self.limit);
        let answer = self.inner.call(request);
        Box::pin(async move {
            match limit {
                None => answer.await.map_err(Into::into),
                Some(limit) => timeout(limit, answer).await.map_err(|_| DeadlineExceeded(limit))?.map_err(Into::into),
            }
        })
    }
}

fn stays_open(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true"))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, error::Error as _, future::pending};

    use axum::{Json, Router};
    use futures::StreamExt;
    use http::HeaderMap;
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, api::WatchParams};
    use tokio::time::Instant;

    use super::*;

    /// An API server that accepts every request and answers none.
    fn silent(purpose: Purpose) -> Api<Secret> {
        let service = tower::service_fn(|_: Request<Body>| pending::<Result<http::Response<Body>, Infallible>>());
        let client = ClientBuilder::new(service, "default").with_layer(&DeadlineLayer(purpose.deadline())).build();
        Api::default_namespaced(client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_costs_a_read_no_more_than_the_deadline() {
        for purpose in [Purpose::Admission, Purpose::Control] {
            let start = Instant::now();
            let error = silent(purpose).get("any").await.unwrap_err();
            assert_eq!(start.elapsed(), purpose.deadline());
            let kube::Error::Service(source) = &error else { panic!("{error:?} ({:?})", error.source()) };
            assert!(source.is::<DeadlineExceeded>(), "{source:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_may_be_silent() {
        let secrets = silent(Purpose::Control);
        let watch = async { secrets.watch(&WatchParams::default(), "0").await?.boxed().next().await.transpose() };
        assert!(timeout(SILENCE, watch).await.is_err(), "ended by the deadline");
    }

    #[tokio::test]
    async fn a_request_goes_where_the_configuration_says_with_our_name_on_it() {
        crate::install_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        Purpose::Control.adjust(&mut config);
        config.headers.push((USER_AGENT, HeaderValue::from_static("smartclone-test")));
        let client = client(config, Purpose::Control).unwrap();
        let server = Router::new().fallback(async |uri: Uri, headers: HeaderMap| {
            let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
            Json(serde_json::json!({"metadata": {"name": uri.path(), "namespace": agent}}))
        });
        let secrets = Api::<Secret>::namespaced(client, "ns");
        tokio::select! {
            ended = axum::serve(listener, server) => panic!("{ended:?}"),
            secret = secrets.get("any") => {
                let metadata = secret.unwrap().metadata;
                assert_eq!(metadata.name.as_deref(), Some("/api/v1/namespaces/ns/secrets/any"));
                assert_eq!(metadata.namespace.as_deref(), Some("smartclone-test"));
            }
        }
    }

    #[test]
    fn an_admission_read_is_never_retried_or_left_open() {
        let mut config = Config::new(Uri::from_static("https://cluster.test"));
        Purpose::Admission.adjust(&mut config);
        assert!(!config.default_retry);
        assert_eq!(config.read_timeout, Some(Purpose::Admission.deadline()));
    }
}
