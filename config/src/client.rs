//! The connection to the API server.
//!
//! kube's defaults leave a request unlimited in time, because a watch is silent for minutes. Here every request other
//! than a watch has a deadline, so that an API server which vanished without closing its connections costs seconds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Uri, header::InvalidHeaderValue, header::USER_AGENT};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
    config::InferConfigError,
};
use thiserror::Error;
use tokio::time::timeout;
use tower::{BoxError, Layer, Service};

/// Longer than the 295 s of silence after which kube's watcher itself gives a watch up.
const SILENCE: Duration = Duration::from_secs(305);

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Watches, and reads and writes of a background task: retried on 429, 503 and 504, 30 s in all.
    Control,
    /// Reads that an admission request waits for: one attempt, 2 s, for an answer in time or none.
    Admission,
}

impl Purpose {
    /// From the first attempt to the head of the answer.
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
        // Else the time that a pooled connection was idle counts against the next answer.
        config.reset_reader_on_write = true;
        config.default_retry = self == Self::Control;
    }
}

/// No client could be made.
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

/// A client for the cluster of the kubeconfig, or else of the pod's service account.
///
/// The API server's audit log knows it as `smartclone-<program>/<version>`.
pub async fn connect(program: &str, purpose: Purpose) -> Result<Client, Error> {
    let mut config = Config::infer().await.map_err(Error::Config)?;
    purpose.adjust(&mut config);
    let agent = format!("smartclone-{program}/{}", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::try_from(agent).map_err(Error::UserAgent)?));
    let builder = ClientBuilder::try_from(config).map_err(Error::Client)?;
    Ok(builder.with_layer(&DeadlineLayer(purpose.deadline())).build())
}

/// Limits the time to the head of an answer, for all but the requests that stay open by design.
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

    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, api::WatchParams};
    use tokio::time::Instant;

    use super::*;

    /// An API server that takes every request and answers none.
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

    #[test]
    fn an_admission_read_is_never_retried_or_left_open() {
        let mut config = Config::new(Uri::from_static("https://cluster.test"));
        Purpose::Admission.adjust(&mut config);
        assert!(!config.default_retry);
        assert_eq!(config.read_timeout, Some(Purpose::Admission.deadline()));
    }
}
