//! Programs that run to their end, and waiting for what others bring about.

use std::{
    ffi::{OsStr, OsString},
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// A command with these arguments, without the terminal, that is found also where administrators' programs live.
pub fn command<I>(program: impl AsRef<OsStr>, args: I) -> Command
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("PATH", path());
    command
}

/// Runs a command and returns what it wrote to stdout; the error holds the command line and its stderr.
pub async fn run(mut command: Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let output = command.kill_on_drop(true).output().await.with_context(|| format!("can't run {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}\n{}", output.status, said.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown}: not UTF-8"))
}

/// Where `program` is.
pub fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// A plain user's PATH, which `su` and `sudo` often keep, lacks the administrators' directories.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// The answer of one look at something that is awaited: it is there, or why not yet.
pub type Look<T> = ControlFlow<T, String>;

/// Looks until it is there; an error ends the waiting at once. Fails after `patience`, telling what was seen last.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(50);
    let start = Instant::now();
    loop {
        match look().await? {
            ControlFlow::Break(found) => return Ok(found),
            ControlFlow::Continue(why) if start.elapsed() > patience => {
                bail!("waited {} s for {what}: {why}", patience.as_secs())
            }
            ControlFlow::Continue(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What comes of `work`; Ctrl-C ends it with an error, so that whoever asked for it can clean up. After it, Ctrl-C does nothing any more.
pub async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        signal = tokio::signal::ctrl_c() => signal.context("listen for SIGINT").and_then(|()| bail!("interrupted")),
    }
}

/// The last `lines` of a log, or why they can't be read.
pub fn tail(file: &Path, lines: usize) -> String {
    match std::fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => error.to_string(),
    }
}

/// Creates `file` with its directory. Written beside and renamed, so that nobody reads half of it.
pub fn write(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let directory = file.parent().context("a file has a directory")?;
    std::fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let beside = file.with_added_extension("new");
    std::fs::write(&beside, content).with_context(|| format!("write {}", beside.display()))?;
    std::fs::rename(&beside, file).with_context(|| format!("write {}", file.display()))
}

/// Removes a file or a directory with everything in it, if it is there.
pub fn remove_entry(path: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.with_context(|| format!("remove {}", path.display())),
    }
}
