//! One line per step, with its time.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Where the steps of a long command are told.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    silent: bool,
}

impl Progress {
    /// Tells everything on stderr: stdout is for results.
    pub fn to_stderr() -> Self {
        Self { silent: false }
    }

    /// Tells nothing.
    pub fn silent() -> Self {
        Self { silent: true }
    }

    /// Does `work` and tells how long it took. The error, if any, names the step.
    pub async fn step<T>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let result = work.await;
        let mark = if result.is_ok() { "ok" } else { "FAILED" };
        self.timed(mark, start.elapsed(), name);
        result.with_context(|| format!("step failed: {name}"))
    }

    /// One line of text.
    pub fn line(&self, text: &str) {
        if !self.silent {
            // A closed stderr is no reason to stop starting a cluster.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// A line in the form of a step's.
    pub fn timed(&self, mark: &str, took: Duration, text: &str) {
        self.line(&format!("{mark:>6} {:7.1} s  {text}", took.as_secs_f64()));
    }
}
