//! `cargo measure`: what smartclone takes, against the least that the same storage can do, on the same machine at the same time.

mod admission;
pub mod audit;
mod bare;
mod burst;
mod clone;
mod copy;
mod leftovers;
mod pairs;
mod report;
mod statistics;
mod transfer;
pub mod watch;
mod webhook;

use std::{fmt::Debug, io::Write as _, path::PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use kube::{Api, api::DeleteParams};
use serde::de::DeserializeOwned;

use crate::{
    harness::{self, Cluster, Space},
    lab::{Lab, command::unless_interrupted, progress::Progress},
};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A clone by snapshot, from `create` to Succeeded, against a bare VolumeSnapshot and a claim restored from it.
    Clone(Options),
    /// An ObjectTransfer of a bound claim, from `create` to Complete, against the same hand-over by hand.
    Transfer(Options),
    /// Many clones of one source at once, against one bare VolumeSnapshot and as many claims restored from it.
    Burst(burst::Options),
    /// What admission adds to `create`, against the creation of an object that no webhook looks at.
    Admission(Options),
    /// The webhook alone: reviews a second, memory, and how soon it is ready.
    Webhook(webhook::Options),
    /// A copy of a volume by the data mover, against cp, dd and tar on the same volumes. Needs root and no cluster.
    Copy(Options),
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
    /// Clone into another namespace; the floor's claim is a temporary one then, whose volume is handed to a claim there.
    #[arg(long)]
    cross_namespace: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("nothing would be measured".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

impl Bench {
    /// Starts the cluster and installs smartclone if that is to be measured; measures; prints a table.
    pub async fn run(self) -> Result<()> {
        let (lab, progress) = (Lab::for_this_checkout()?, Progress::to_stderr());
        if !matches!(self, Self::Copy(_)) {
            lab.up(&progress).await?;
            progress.step("smartclone installed", harness::install(&lab)).await?;
        }
        let (json, (report, notes)) = match &self {
            Self::Clone(options) => (&options.json, Box::pin(clone::run(&lab, options, &progress)).await?),
            Self::Transfer(options) => (&options.json, Box::pin(transfer::run(&lab, options, &progress)).await?),
            Self::Admission(options) => (&options.json, Box::pin(admission::run(&lab, options, &progress)).await?),
            Self::Webhook(options) => (&options.json, Box::pin(webhook::run(&lab, options, &progress)).await?),
            Self::Burst(options) => (&options.json, burst::run(&lab, options, &progress).await?),
            Self::Copy(options) => (&options.json, Box::pin(copy::run(&lab, options, &progress)).await?),
        };
        if let Some(file) = json {
            report.write(file)?;
        }
        writeln!(std::io::stdout(), "\n{report}\n{notes}")?;
        Ok(())
    }
}

/// A namespace for the source and, if they are to be apart, one for the clones; gone at the end, whatever became of the work, Ctrl-C included.
async fn in_spaces<T>(
    lab: &Lab,
    purpose: &str,
    apart: bool,
    work: impl AsyncFnOnce(&Space, &Space) -> Result<T>,
) -> Result<T> {
    let (cluster, client) = (Cluster::from(lab.clone()), lab.client()?);
    let from = Space::new(&cluster, &client, purpose).await?;
    let to = if apart { Some(Space::new(&cluster, &client, purpose).await?) } else { None };
    let mut done = unless_interrupted(Box::pin(work(&from, to.as_ref().unwrap_or(&from)))).await;
    // What a transfer has left belongs to both; the clones' namespace goes first.
    for space in to.into_iter().chain([from]) {
        let ended = space.end().await;
        // What went wrong first is the cause of the rest.
        done = done.and_then(|done| ended.map(|()| done));
    }
    done
}

async fn delete<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> Result<()> {
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}
