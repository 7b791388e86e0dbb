//! What a user can type.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::{
    bench::Bench,
    demo,
    lab::{Lab, progress::Progress, status},
    verify::Verify,
};

/// The local cluster and everything that runs on it.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start, stop and inspect this checkout's own single-node Kubernetes.
    #[command(subcommand)]
    Cluster(Cluster),
    /// Write `manifests/` from the code.
    Manifests {
        /// Change nothing; fail if there would be something to change.
        #[arg(long)]
        check: bool,
    },
    /// Start the cluster, install smartclone on it, and show what it does.
    Demo,
    /// Compare what smartclone takes with the least that the same storage can do.
    #[command(subcommand)]
    Measure(Bench),
    Verify(Verify),
}

#[derive(Debug, Subcommand)]
enum Cluster {
    /// Start the cluster, or what of it isn't running; build and install first what is missing.
    Up,
    /// Stop the cluster and leave the machine as it was before.
    Down,
    /// Start again with an empty etcd and empty storage.
    Reset,
    /// Show processes and endpoints.
    Status,
    /// Print the path of the administrator's kubeconfig.
    Kubeconfig,
}

impl Cli {
    /// Does what was asked; errors go to stderr, with their causes.
    pub fn run(self) -> ExitCode {
        match self.execute() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                for (depth, cause) in error.chain().enumerate() {
                    let label = if depth == 0 { "error" } else { "  because" };
                    // Nothing is left to tell when stderr itself is gone.
                    let _ = writeln!(std::io::stderr(), "{label}: {cause}");
                }
                ExitCode::FAILURE
            }
        }
    }

    fn execute(self) -> Result<()> {
        // Fails only when a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
        runtime.block_on(async {
            match self.command {
                Command::Cluster(command) => command.run().await,
                Command::Manifests { check } => crate::manifests::run(check),
                Command::Demo => demo::run().await,
                Command::Verify(verify) => Box::pin(verify.run()).await,
                Command::Measure(bench) => bench.run().await,
            }
        })
    }
}

impl Cluster {
    async fn run(self) -> Result<()> {
        let lab = Lab::for_this_checkout()?;
        let progress = Progress::to_stderr();
        match self {
            Self::Up => {
                lab.up(&progress).await?;
                progress.line(&status::how_to_use(&lab));
            }
            Self::Down => lab.down(&progress).await?,
            Self::Reset => lab.reset(&progress).await?,
            Self::Status => writeln!(std::io::stdout(), "{}", status::report(&lab)?)?,
            Self::Kubeconfig => writeln!(std::io::stdout(), "{}", lab.kubeconfig().display())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
