//! Logs: one line per event on standard error, with a filter that can be changed at run time.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

/// Arguments for the level and the format of the log.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Form of a log line.
    #[arg(long, env, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Level, or comma-separated directives such as `info,kube=debug`.
    #[arg(long, env, default_value = "info")]
    pub log_level: LogFilter,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// A filter of events: a level, or directives per module. Valid by construction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::try_new(text).map(|_| Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Changes the filter of the running process.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Replaces the filter for every thread, from the next event on.
    pub fn set(&self, filter: &LogFilter) -> Result<(), reload::Error> {
        self.0.reload(filter.to_env_filter())
    }

    /// The filter in force.
    pub fn current(&self) -> Result<String, reload::Error> {
        self.0.with_current(ToString::to_string)
    }
}

/// The module of kube that logs undecodable answers of the API server, including whole lists with every pod's environment.
const LOGS_BODIES: &str = "kube_client::client";

/// Sends the events of the whole process (and the records of crates that use `log`) to standard
/// error.
pub fn install(args: &LogArgs) -> Result<LogHandle, TryInitError> {
    let (lines, handle) = lines(args, io::stderr, io::stderr().is_terminal());
    lines.try_init()?;
    Ok(LogHandle(handle))
}

/// The subscriber that writes events that pass the filter to `writer`.
fn lines<W>(
    args: &LogArgs,
    writer: W,
    colours: bool,
) -> (impl Subscriber + Send + Sync, reload::Handle<EnvFilter, Registry>)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(args.log_level.to_env_filter());
    // A separate layer, so that no directive of the other one can bypass it.
    let bodies = filter_fn(|metadata| metadata.target() != LOGS_BODIES);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match args.log_format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    (tracing_subscriber::registry().with(filter).with(bodies).with(lines), handle)
}

/// A handle with a filter of its own, for tests.
#[cfg(test)]
pub(crate) fn detached() -> (impl Layer<Registry>, LogHandle) {
    let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
    (filter, LogHandle(handle))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Api, Client, api::ListParams, client::Body};
    use tracing::subscriber::set_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// A list without valid items, which kube logs.
    async fn list_of_nothing_readable() {
        let body = r#"{"metadata": {}, "items": {"password": "hunter2"}}"#;
        let answer = move |_: Request<Body>| async move {
            Ok::<_, Infallible>(Response::new(Body::from(body.as_bytes().to_vec())))
        };
        let pods: Api<Pod> = Api::all(Client::new(tower::service_fn(answer), "default"));
        pods.list(&ListParams::default()).await.unwrap_err();
    }

    #[tokio::test]
    async fn kube_logs_bodies_unless_it_is_kept_from_it() {
        let written = Written::default();
        let (filter, writer) = (EnvFilter::new("info"), written.clone());
        let all = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let guard = set_default(tracing_subscriber::registry().with(filter).with(all));
        list_of_nothing_readable().await;
        drop(guard);
        assert!(written.text().contains("hunter2") && written.text().contains(LOGS_BODIES), "{}", written.text());
    }

    #[tokio::test]
    async fn no_filter_brings_bodies_into_the_log() {
        let filters = [
            "trace",
            "kube_client::client=trace",
            "trace,kube_client=trace,kube_client::client=trace",
            "kube_client::client[HTTP]=trace,warn",
            "[{message}]=trace",
        ];
        for filter in filters {
            let written = Written::default();
            let writer = written.clone();
            let args = LogArgs { log_level: filter.parse().unwrap(), log_format: LogFormat::Json };
            let (lines, handle) = lines(&args, move || writer.clone(), false);
            let guard = set_default(lines);
            list_of_nothing_readable().await;
            LogHandle(handle).set(&"trace,kube_client::client=trace".parse().unwrap()).unwrap();
            list_of_nothing_readable().await;
            tracing::warn!(target: "kube_client::config", "another module");
            drop(guard);
            assert!(!written.text().contains("hunter2"), "{filter}: {}", written.text());
            assert!(written.text().contains("another module"), "{filter}");
        }
    }
}
