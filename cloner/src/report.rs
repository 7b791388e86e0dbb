//! The report of the process: progress and losses on standard output, the outcome in the
//! termination log.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use common::mover::{Outcome, Progress, TERMINATION_LOG_BYTES};

use crate::Observer;

/// The minimum interval between two lines of progress.
const EVERY: Duration = Duration::from_millis(250);

/// Prints progress as lines of JSON to `out`, and losses to `log`.
pub struct Reporter<O, L> {
    out: O,
    log: L,
    printed: Option<Instant>,
    waiting: Option<Progress>,
}

impl<O: Write, L: Write> Reporter<O, L> {
    /// A reporter that has printed nothing.
    pub fn new(out: O, log: L) -> Self {
        Self { out, log, printed: None, waiting: None }
    }

    /// Prints the last progress if it was not printed yet.
    pub fn finish(&mut self) {
        if let Some(progress) = self.waiting.take() {
            self.print(progress);
        }
    }

    fn print(&mut self, progress: Progress) {
        self.printed = Some(Instant::now());
        // A closed output does not stop the copy.
        if let Ok(line) = serde_json::to_string(&progress) {
            let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        }
    }
}

impl<O: Write, L: Write> Observer for Reporter<O, L> {
    fn progress(&mut self, progress: Progress) {
        // Completed progress is reported at once: syncing and reading back are still to come and take time.
        let through = progress.done == progress.total;
        if through || self.printed.is_none_or(|printed| printed.elapsed() >= EVERY) {
            self.waiting = None;
            self.print(progress);
        } else {
            self.waiting = Some(progress);
        }
    }

    fn lost(&mut self, what: &str) {
        let _ = writeln!(self.log, "{what}");
    }
}

/// Returns `outcome` as JSON of at most [`TERMINATION_LOG_BYTES`]: a text that is too long is cut, so that the JSON stays readable.
pub fn termination_message(outcome: &Outcome) -> serde_json::Result<String> {
    const MARK: &str = " …";
    let mut outcome = outcome.clone();
    loop {
        let json = serde_json::to_string(&outcome)?;
        let longest = match &mut outcome {
            Outcome::Retry { message } | Outcome::Never { message } | Outcome::SourceChanged { message } => {
                Some(message)
            }
            Outcome::Copied { notes, .. } => notes.iter_mut().max_by_key(|note| note.len()),
        };
        let excess = json.len().saturating_sub(TERMINATION_LOG_BYTES);
        let Some(message) = longest.filter(|message| excess > 0 && !message.is_empty()) else { return Ok(json) };
        // Characters that JSON escapes are longer in JSON: the text is cut until it fits.
        let kept = message.strip_suffix(MARK).unwrap_or(message).to_owned();
        let kept = &kept[..kept.floor_char_boundary(kept.len().saturating_sub(excess.div_ceil(6).max(MARK.len())))];
        *message = if kept.is_empty() { String::new() } else { format!("{kept}{MARK}") };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_progress_are_always_printed() {
        let lines = |last: u64, finish: bool| -> Vec<Progress> {
            let mut out = Vec::new();
            let mut reporter = Reporter::new(&mut out, Vec::new());
            for done in 0..=last {
                reporter.progress(Progress { done, total: 1000 });
            }
            if finish {
                reporter.finish();
            }
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        for (last, finish) in [(1000, false), (1000, true), (999, true)] {
            let lines = lines(last, finish);
            assert_eq!(lines.first(), Some(&Progress { done: 0, total: 1000 }));
            assert_eq!(lines.last(), Some(&Progress { done: last, total: 1000 }));
            assert_eq!(lines.iter().filter(|line| line.done == last).count(), 1);
            assert!(lines.len() < 100, "{} lines in a moment", lines.len());
        }
    }

    #[test]
    fn a_long_message_is_cut_and_still_json() {
        for filler in ["x", "ä", "\"", "\u{1}"] {
            let long = Outcome::Retry { message: format!("write: {}", filler.repeat(5000)) };
            let json = termination_message(&long).unwrap();
            assert!(json.len() <= TERMINATION_LOG_BYTES, "{}", json.len());
            assert!(json.len() > TERMINATION_LOG_BYTES - 64, "{filler:?} was cut to {}", json.len());
            let Outcome::Retry { message } = serde_json::from_str(&json).unwrap() else { panic!("{json}") };
            assert!(message.starts_with("write: ") && message.ends_with('…'));
        }
        let noted = |notes| Outcome::Copied { total: 1, written: 1, digest: "d".into(), notes };
        let json = termination_message(&noted(vec!["ä".repeat(1500); 9])).unwrap();
        assert!(json.len() <= TERMINATION_LOG_BYTES, "{}", json.len());
        let short = Outcome::Never { message: "no".into() };
        assert_eq!(termination_message(&short).unwrap(), serde_json::to_string(&short).unwrap());
    }
}
