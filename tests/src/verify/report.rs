//! One line for each step, a log for each, and the line that sums it up.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    e2e::{Ending, Outcome},
    lab::{command, progress::Progress},
};

/// How much of a failed step's log is shown.
const SHOWN: usize = 30;

/// What has been found so far.
#[derive(Debug)]
pub struct Report {
    directory: PathBuf,
    progress: Progress,
    passed: Vec<String>,
    tests: usize,
    ignored: usize,
    failed: Vec<String>,
}

impl Report {
    /// Keeps its logs there, and removes those of the last time.
    pub fn in_directory(directory: PathBuf) -> Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?,
        }
        Ok(Self {
            directory,
            progress: Progress::to_stderr(),
            passed: Vec::new(),
            tests: 0,
            ignored: 0,
            failed: Vec::new(),
        })
    }

    /// Does one step, which may write to the log that it is given and returns what to say of its success; whether it succeeded.
    pub async fn step(&mut self, name: &str, work: impl AsyncFnOnce(&Path) -> Result<String>) -> bool {
        let log = self.directory.join(format!("{}.log", name.replace(' ', "-")));
        let start = Instant::now();
        match Box::pin(work(&log)).await {
            Ok(said) => {
                let line = if said.is_empty() { name.to_owned() } else { format!("{name}: {said}") };
                self.progress.timed("ok", start.elapsed(), &line);
                self.passed.push(line);
                true
            }
            Err(error) => {
                self.progress.timed("FAILED", start.elapsed(), name);
                self.explain(name, &log, &format!("{error:#}"));
                false
            }
        }
    }

    /// Does something that isn't worth a line when it succeeds; whether it did.
    pub async fn quietly(&mut self, work: impl AsyncFnOnce() -> Result<()>) -> bool {
        let result = work().await;
        if let Err(error) = &result {
            self.progress.line(&format!("{error:#}"));
            self.failed.push("end to end".to_owned());
        }
        result.is_ok()
    }

    /// Tells how a test on the cluster ended.
    pub fn test(&mut self, outcome: &Outcome) {
        match &outcome.ending {
            Ending::Passed => {
                self.tests += 1;
                self.progress.timed("ok", outcome.took, outcome.name);
            }
            Ending::Ignored(reason) => {
                self.ignored += 1;
                self.progress.timed("-", outcome.took, &format!("{}: {reason}", outcome.name));
            }
            Ending::Failed(failure) => {
                self.progress.timed("FAILED", outcome.took, outcome.name);
                let log = self.directory.join(format!("{}.log", outcome.name.replace("::", ".")));
                let kept = fs::write(&log, failure);
                let why = failure.split("\n\n").next().unwrap_or_default();
                let why = kept.map_or_else(|error| format!("{why}\n(no log: {error})"), |()| why.to_owned());
                self.explain(outcome.name, &log, &why);
            }
        }
    }

    fn explain(&mut self, name: &str, log: &Path, why: &str) {
        let mut lines: Vec<_> = why.lines().map(|line| format!("        {line}")).collect();
        if log.exists() {
            lines.push(format!("        everything is in {}", log.display()));
        }
        self.progress.line(&lines.join("\n"));
        self.failed.push(name.to_owned());
    }

    /// A remark.
    pub fn note(&self, text: &str) {
        self.progress.line(text);
    }

    /// The last line.
    pub fn close(self, took: Duration) -> Result<()> {
        let seconds = took.as_secs();
        let took = format!("{}:{:02} min", seconds / 60, seconds % 60);
        if !self.failed.is_empty() {
            bail!("{} failed after {took}: {}", self.failed.len(), self.failed.join(", "));
        }
        if self.passed.is_empty() && self.tests + self.ignored == 0 {
            bail!("nothing has that name");
        }
        let mut parts = self.passed;
        if self.tests > 0 {
            parts.push(format!("{} tests on a real cluster", self.tests));
        }
        if self.ignored > 0 {
            parts.push(format!("{} tests ignored", self.ignored));
        }
        self.progress.line(&format!("verified in {took}: {}", parts.join(", ")));
        Ok(())
    }
}

/// The end of a step's log, as an error.
pub fn end_of(log: &Path) -> anyhow::Error {
    anyhow::anyhow!("its last words:\n{}", command::tail(log, SHOWN))
}
