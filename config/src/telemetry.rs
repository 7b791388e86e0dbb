//! Logs: one line per event on standard error, with a filter that can be changed while the process runs.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
};

use clap::ValueEnum;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::ParseError,
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::args::LogArgs;

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

/// Which events are logged: a level, or directives per module. Valid by construction.
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

/// Sends the events of the whole process (and the records of crates that use `log`) to standard error.
pub fn install(args: &LogArgs) -> Result<LogHandle, TryInitError> {
    let (filter, handle) = reload::Layer::new(args.log_level.to_env_filter());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match args.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).try_init()?;
    Ok(LogHandle(handle))
}

/// A handle whose filter belongs to nobody else, for tests of what takes one.
#[cfg(test)]
pub(crate) fn detached() -> (impl Layer<Registry>, LogHandle) {
    let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
    (filter, LogHandle(handle))
}
