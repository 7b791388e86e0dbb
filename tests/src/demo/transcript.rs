//! How the demo looks: what is said, typed and answered; with colours and moving bars on a terminal, as plain lines elsewhere.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Cells of a progress bar.
const CELLS: u16 = 32;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Everything goes to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Transcript {
    terminal: bool,
    colours: bool,
}

impl Transcript {
    /// As stdout and the user's environment want it.
    pub fn to_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { terminal, colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()) }
    }

    /// Whether something may move.
    pub fn is_live(self) -> bool {
        self.terminal
    }

    /// A new part of the story.
    pub fn chapter(self, number: usize, title: &str) -> Result<()> {
        print(&format!("\n{}\n", self.painted(BOLD, &format!("━━ {number}. {title}"))))
    }

    /// A sentence.
    pub fn say(self, text: &str) -> Result<()> {
        print(&format!("{}\n{text}\n", self.cleared()))
    }

    /// A file that is about to be used.
    pub fn file(self, path: &str, content: &str) -> Result<()> {
        print(&format!("\n{}\n", self.painted(DIM, path)))?;
        content.lines().try_for_each(|line| {
            let style = if line.starts_with('#') { DIM } else { CYAN };
            print(&format!("  │ {}\n", self.painted(style, line)))
        })
    }

    /// A command as one would type it.
    pub fn command(self, line: &str) -> Result<()> {
        print(&format!("{}\n{} {}\n", self.cleared(), self.painted(GREEN, "$"), self.painted(BOLD, line)))
    }

    /// A line that a command has answered.
    pub fn answer(self, line: &str) -> Result<()> {
        let style = match line.split_inclusive(':').next() {
            Some("Warning:") => Some(YELLOW),
            Some(word) if word.to_lowercase().starts_with("error") || word.ends_with(" is invalid:") => Some(RED),
            _ => None,
        };
        let line = style.map_or_else(|| line.to_owned(), |style| self.painted(style, line));
        print(&format!("{line}\n"))
    }

    /// Something that has been checked and is as promised.
    pub fn good(self, text: &str) -> Result<()> {
        print(&format!("{} {text}\n", self.painted(GREEN, "✔")))
    }

    /// Something that has come about, so long after the beginning.
    pub fn moment(self, since: Duration, text: &str) -> Result<()> {
        print(&format!("{}{:>9}  {text}\n", self.cleared(), shown(since)))
    }

    /// The state of something that moves; on a terminal in place of the last one.
    pub fn moving(self, since: Duration, text: &str, share: Option<f64>) -> Result<()> {
        let share = share.map(|share| if self.terminal { bar(share) } else { percent(share) }).unwrap_or_default();
        let end = if self.terminal { "" } else { "\n" };
        print(&format!("{}{:>9}  {text:<28} {share}{end}", self.cleared(), shown(since)))
    }

    /// Removes the line of [`Transcript::moving`].
    pub fn still(self) -> Result<()> {
        if self.terminal { print(self.cleared()) } else { Ok(()) }
    }

    fn cleared(self) -> &'static str {
        if self.terminal { "\r\x1b[2K" } else { "" }
    }

    fn painted(self, style: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write to stdout")
}

fn shown(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn percent(share: f64) -> String {
    format!("{:>6.2}%", share * 100.0)
}

fn bar(share: f64) -> String {
    let filled = (share.clamp(0.0, 1.0) * f64::from(CELLS)).floor();
    let cells = (0..CELLS).map(|cell| if f64::from(cell) < filled { '█' } else { '░' });
    format!("{} {}", cells.collect::<String>(), percent(share))
}

/// A word as a shell has to be given it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_at_the_end_and_only_then() {
        let cells = |share| bar(share).chars().filter(|c| *c == '█').count();
        assert_eq!([cells(0.0), cells(0.5), cells(0.9999), cells(1.0)], [0, 16, 31, 32]);
        assert!(bar(0.1234).ends_with(" 12.34%"), "{}", bar(0.1234));
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        assert_eq!(quoted("--for=condition=Ready"), "--for=condition=Ready");
        assert_eq!(quoted(r#"{"spec":null}"#), r#"'{"spec":null}'"#);
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_plain_transcript_has_nothing_that_only_a_terminal_understands() {
        let plain = Transcript { terminal: false, colours: false };
        assert_eq!(plain.painted(RED, "text"), "text");
        assert_eq!(plain.cleared(), "");
    }
}
