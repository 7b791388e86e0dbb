//! Start and end of a process: the TLS provider, the runtime, the exit code.

use std::{process::ExitCode, time::Duration};

use rustls::crypto::aws_lc_rs;
use tokio::runtime::Builder;

/// The time limit for blocking threads at the end of the process.
const LINGER: Duration = Duration::from_secs(1);

/// Makes aws-lc-rs the TLS provider of the process; the first line of every `main`.
pub fn install_provider() {
    // An error means that one is installed already, and this tree has only one.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Runs `main` to its end on a multi-threaded runtime; an error is logged with its causes and makes
/// the exit code 1.
///
/// Unlike with `#[tokio::main]`, a blocking call that hangs cannot keep the process alive.
pub fn run(main: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let outcome = Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
        let outcome = runtime.block_on(main);
        runtime.shutdown_timeout(LINGER);
        outcome
    });
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if tracing::dispatcher::has_been_set() {
        tracing::error!(error = format!("{error:#}"), "exiting");
    } else {
        eprintln!("error: {error:#}");
    }
    ExitCode::FAILURE
}
