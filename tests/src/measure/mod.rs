//! `cargo measure`: what smartclone takes, against the least that the same storage can do, on the same cluster at the same time.

mod audit;
mod clone;
mod pairs;
mod report;
mod statistics;
pub mod watch;

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{
    cluster::{Lab, progress::Progress},
    harness,
};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A clone by snapshot in one namespace, from `create` to Succeeded, against a bare VolumeSnapshot and a claim restored from it.
    Clone(Options),
}

/// How often, and where to.
#[derive(Debug, Args)]
pub struct Options {
    /// Write the result to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many pairs of runs count, for each case.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = at_least_one)]
    pairs: usize,
    /// Show which program wrote what when in the last run of each case.
    #[arg(long)]
    timeline: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("nothing would be measured".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

impl Bench {
    /// Starts the cluster and installs smartclone if need be; measures; prints a table.
    pub async fn run(self) -> Result<()> {
        let Self::Clone(options) = self;
        let (lab, progress) = (Lab::for_this_checkout()?, Progress::to_stderr());
        lab.up(&progress).await?;
        progress.step("smartclone installed", harness::install(&lab)).await?;
        let (report, notes) = clone::run(&lab, &options, &progress).await?;
        if let Some(file) = &options.json {
            report.write(file)?;
        }
        writeln!(std::io::stdout(), "\n{report}\n{notes}")?;
        Ok(())
    }
}
