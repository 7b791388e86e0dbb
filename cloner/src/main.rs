//! Copies one volume to another. Reports the progress on standard output, and the outcome in the termination log.

use std::{
    fs,
    io::{stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use cloner::report::{Reporter, termination_message};
use common::mover::{ContentType, SOURCE_DEVICE, SOURCE_DIR, TARGET_DEVICE, TARGET_DIR, TERMINATION_LOG};

/// Makes the target volume equal to the source volume.
///
/// Each is a directory (a file system's top) or a raw device: a block device, or a regular file
/// that stands in for one. Between the two kinds the disk of a virtual machine is converted:
/// `disk.img` in a file system holds what a block device holds as a whole.
///
/// Exit codes: 0 copied and verified, 1 try again, 2 it can't succeed, 3 the source changed.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Directory or device that is only read [default: where the controller mounts it].
    #[arg(long)]
    source: Option<PathBuf>,
    /// Directory or device that becomes equal to the source [default: where the controller mounts
    /// it].
    #[arg(long)]
    target: Option<PathBuf>,
    /// Contents of the volumes: `kubevirt` (a disk, which may be converted) or `archive` (files,
    /// which may not).
    #[arg(long, default_value_t)]
    content: ContentType,
    /// File that the outcome is written to, as JSON.
    #[arg(long, default_value = TERMINATION_LOG)]
    termination_log: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let source = args.source.unwrap_or_else(|| mounted(SOURCE_DIR, SOURCE_DEVICE));
    let target = args.target.unwrap_or_else(|| mounted(TARGET_DIR, TARGET_DEVICE));

    let mut reporter = Reporter::new(stdout().lock(), stderr().lock());
    let outcome = cloner::copy(&source, &target, args.content, &mut reporter);
    reporter.finish();
    drop(reporter);

    eprintln!("{outcome:?}");
    let written = termination_message(&outcome)
        .map_err(anyhow::Error::from)
        .and_then(|message| Ok(fs::write(&args.termination_log, message)?));
    if let Err(error) = written {
        eprintln!("write {}: {error}", args.termination_log.display());
    }
    outcome.exit_code().into()
}

fn mounted(directory: &str, device: &str) -> PathBuf {
    let directory = Path::new(directory);
    if directory.is_dir() { directory.into() } else { device.into() }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Args::command().debug_assert();
    }
}
