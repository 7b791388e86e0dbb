//! Long-running programs: started apart from the terminal, known by pid *and* start time, stopped by that alone.

use std::{
    fmt::Display,
    fs::{File, OpenOptions},
    io::ErrorKind,
    ops::ControlFlow,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::{
    command::{command, tail, until, write},
    layout::Layout,
};

/// A process to be.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its name in logs, pid files and `status`.
    pub name: String,
    /// What is executed.
    pub executable: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Additions to its environment.
    pub env: Vec<(String, String)>,
    /// Files that it reads at its start only: when one changes, `up` starts the program anew.
    pub inputs: Vec<PathBuf>,
}

impl Program {
    /// A program without environment or inputs.
    pub fn new(name: impl Into<String>, executable: impl Into<PathBuf>, args: Vec<String>) -> Self {
        Self { name: name.into(), executable: executable.into(), args, env: Vec::new(), inputs: Vec::new() }
    }

    /// Adds a file that the program reads at its start.
    #[must_use]
    pub fn reads(mut self, file: PathBuf) -> Self {
        self.inputs.push(file);
        self
    }

    /// Changes whenever the running process would be another one if it were started now.
    fn fingerprint(&self) -> Result<String> {
        let executable =
            std::fs::metadata(&self.executable).with_context(|| format!("{} is missing", self.executable.display()))?;
        let mut hash = blake3::Hasher::new();
        hash.update(
            format!("{self:?} {} {} {}", executable.len(), executable.mtime(), executable.mtime_nsec()).as_bytes(),
        );
        for input in &self.inputs {
            hash.update(&std::fs::read(input).with_context(|| format!("read {}", input.display()))?);
        }
        Ok(hash.finalize().to_hex().to_string())
    }
}

/// What is written down about a started process. A pid alone would be a stranger's one day.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// See [`Program::name`].
    pub name: String,
    /// The process.
    pub pid: i32,
    /// When it was started.
    pub since: Timestamp,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    start: u64,
    boot: String,
    fingerprint: String,
}

impl Record {
    /// Whether exactly this process still runs.
    pub fn is_alive(&self) -> bool {
        self.boot == boot() && start_of(self.pid) == Some(self.start)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        signal_if(self.pid, signal, || self.is_alive())
    }
}

/// Signals `pid` if it is still the process that the caller means. The descriptor pins it while that is asked.
pub fn signal_if(pid: i32, signal: Signal, is_meant: impl FnOnce() -> bool) -> Result<()> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    let result = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|fd| if is_meant() { pidfd_send_signal(fd, signal) } else { Ok(()) });
    match result {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signal process {pid:?}")),
    }
}

/// All processes of one cluster.
#[derive(Debug, Clone)]
pub struct Processes<'a> {
    layout: &'a Layout,
}

/// What [`Processes::start`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It ran already, as it should.
    Running,
    /// It was started.
    Started,
}

impl<'a> Processes<'a> {
    /// Those of this layout.
    pub fn of(layout: &'a Layout) -> Self {
        Self { layout }
    }

    /// Starts a program inside the cluster's network, unless just that one runs.
    pub async fn start(&self, program: &Program) -> Result<Start> {
        let fingerprint = program.fingerprint()?;
        if let Some(running) = self.record(&program.name)?.filter(Record::is_alive) {
            if running.fingerprint == fingerprint {
                return Ok(Start::Running);
            }
            self.stop(&program.name, Duration::from_secs(5)).await?;
        }
        let log = self.layout.log(&program.name);
        std::fs::create_dir_all(log.parent().context("a log has a directory")?)?;
        let log = OpenOptions::new().create(true).append(true).open(&log)?;
        // A session of its own: closing the terminal doesn't concern it. Both execute in place, so the pid is kept.
        let mut start = command("setsid", ["nsenter"]);
        start.arg(format!("--net={}", self.layout.netns().display())).arg("--").arg(&program.executable);
        start.args(&program.args).envs(program.env.iter().map(|(name, value)| (name, value)));
        start.current_dir("/").stdout(log.try_clone()?).stderr(log);
        let child = start.spawn().with_context(|| format!("start {}", program.name))?;
        let pid = i32::try_from(child.id().context("the process has ended at once")?)?;
        let record = Record {
            name: program.name.clone(),
            pid,
            since: Timestamp::now(),
            start: start_of(pid).with_context(|| self.obituary(&program.name))?,
            boot: boot(),
            fingerprint,
        };
        write(&self.pid_file(&program.name), serde_json::to_vec_pretty(&record)?)?;
        Ok(Start::Started)
    }

    /// Stops one process: asks, and after `patience` no longer asks. With no patience at all it is killed at once.
    pub async fn stop(&self, name: &str, patience: Duration) -> Result<()> {
        let Some(record) = self.record(name)? else { return Ok(()) };
        let gone = async |patience| {
            until(name, patience, async || {
                Ok(if record.is_alive() {
                    ControlFlow::Continue(format!("process {} still runs", record.pid))
                } else {
                    ControlFlow::Break(())
                })
            })
            .await
        };
        if !patience.is_zero() {
            record.signal(Signal::TERM)?;
        }
        if patience.is_zero() || gone(patience).await.is_err() {
            record.signal(Signal::KILL)?;
            gone(Duration::from_secs(10)).await?;
        }
        std::fs::remove_file(self.pid_file(name)).with_context(|| format!("remove the pid file of {name}"))
    }

    /// Fails, with the end of its log, when a process that should run doesn't.
    pub fn check(&self, name: &str) -> Result<()> {
        if self.record(name)?.is_some_and(|record| record.is_alive()) {
            return Ok(());
        }
        bail!(self.obituary(name))
    }

    /// What a process said last.
    pub fn obituary(&self, name: &str) -> String {
        let log = self.layout.log(name);
        format!("{name} has ended; the last lines of {}:\n{}", log.display(), tail(&log, 20))
    }

    /// What is known of one process.
    pub fn record(&self, name: &str) -> Result<Option<Record>> {
        read(&self.pid_file(name))
    }

    /// What is known of all processes, oldest first.
    pub fn records(&self) -> Result<Vec<Record>> {
        let entries = match std::fs::read_dir(self.layout.at("pids")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(read(&path)?);
            }
        }
        records.sort_by_key(|record| record.since);
        Ok(records)
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.layout.at("pids").join(format!("{name}.json"))
    }
}

/// A lock that this process alone holds until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; tells when it has to wait for another command.
    pub async fn take(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        std::fs::create_dir_all(path.parent().context("a lock has a directory")?)?;
        let mut waiting = Some(waiting);
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let file = if file.try_lock().is_ok() {
                file
            } else {
                if let Some(tell) = waiting.take() {
                    tell();
                }
                tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await??
            };
            // `down` removes the file while it holds the lock: what was locked then is nobody's any more.
            let current = std::fs::metadata(path).map(|current| current.ino()).ok();
            if current == Some(file.metadata()?.ino()) {
                return Ok(Self { _file: file });
            }
        }
    }
}

fn read(file: &Path) -> Result<Option<Record>> {
    match std::fs::read(file) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json).with_context(|| format!("read {}", file.display()))?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The start time of a process that lives; a zombie doesn't.
fn start_of(pid: i32) -> Option<u64> {
    let fields = stat(pid)?;
    if fields.first()? == "Z" { None } else { fields.get(19)?.parse().ok() }
}

/// What `/proc/PID/stat` says of a process, from the third field on.
fn stat(pid: impl Display) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses, and may hold anything.
    Some(stat.get(stat.rfind(')')? + 2..)?.split(' ').map(ToOwned::to_owned).collect())
}

/// The processor time that a process has had so far, in the kernel's ticks.
pub fn ticks(pid: impl Display) -> Option<u64> {
    // The 14th field is for itself, the 15th for what the kernel does for it.
    stat(pid)?.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The resident memory of a process, in bytes.
pub fn resident(pid: impl Display) -> Option<u64> {
    let pages: u64 = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_not_by_its_pid() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let record = Record {
            name: "self".to_owned(),
            pid,
            since: Timestamp::UNIX_EPOCH,
            start: start_of(pid).expect("this process lives"),
            boot: boot(),
            fingerprint: String::new(),
        };
        assert!(record.is_alive());
        assert!(!Record { start: record.start + 1, ..record.clone() }.is_alive());
        assert!(!Record { boot: "another".to_owned(), ..record }.is_alive());
    }

    #[tokio::test]
    async fn a_lock_is_taken_once_even_when_its_file_is_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("lock");
        let first = Lock::take(&path, || {}).await?;
        let (told, was_told) = tokio::sync::oneshot::channel();
        let second = Lock::take(&path, || told.send(()).expect("somebody listens"));
        let release = async {
            was_told.await?;
            std::fs::remove_file(&path)?;
            drop(first);
            anyhow::Ok(())
        };
        let (second, released) = tokio::join!(second, release);
        released?;
        second?;
        assert!(path.exists(), "the second lock is on a file that others see");
        Ok(())
    }
}
