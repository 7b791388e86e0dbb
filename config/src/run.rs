//! From an async function to an exit code.

use std::{process::ExitCode, time::Duration};

use tokio::runtime::Builder;

/// How long a blocking thread may outlive the end of the process' work.
const LINGER: Duration = Duration::from_secs(1);

/// Runs `main` to its end on a multi-threaded runtime; an error is logged with its causes and makes the exit code 1.
///
/// Unlike `#[tokio::main]`, a blocking call that hangs cannot keep the process alive after its end was decided.
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
