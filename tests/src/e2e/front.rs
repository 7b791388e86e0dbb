//! The front for `cargo test -p tests --test e2e`: lists the tests and runs those that are named, by the runner of `cargo verify`.
//!
//! libtest-mimic has a thread for each chosen test, which only waits for its outcome: order and limits are the runner's.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{Ending, Test, all, run};
use crate::{
    harness::{
        Cluster,
        cluster::CONTEXT,
        install::{install, is_installed},
    },
    lab::progress::Progress,
};

/// Runs the tests that the arguments name, on the cluster of `SMARTCLONE_CONTEXT` or on the lab, which stays up.
pub fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let (chosen, rest): (Vec<_>, Vec<_>) = all().into_iter().partition(|test| {
        let trial = Trial::test(test.name, || Ok(()));
        !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial)
    });
    let at_most = arguments.test_threads.unwrap_or(usize::MAX);
    // Never 1: then libtest-mimic prints a name before its test runs, and the runner's progress would tear the line.
    arguments.test_threads = Some(chosen.len().max(2));
    let (senders, receivers): (HashMap<_, _>, Vec<_>) = chosen
        .iter()
        .map(|test| {
            let (sender, receiver) = channel();
            ((test.name, sender), (test.name, receiver))
        })
        .unzip();
    // libtest-mimic counts the rest as filtered out or ignored, and never runs it.
    let mut trials: Vec<_> = rest.iter().map(|test| Trial::test(test.name, || Ok(()))).collect();
    trials.extend(receivers.into_iter().map(|(name, outcome)| Trial::ignorable_test(name, move || wait_for(&outcome))));
    if !arguments.list && !chosen.is_empty() {
        thread::spawn(move || run_in_background(chosen, at_most, &senders));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn wait_for(outcome: &Receiver<Ending>) -> Result<Completion, Failed> {
    match outcome.recv() {
        Ok(Ending::Passed) => Ok(Completion::Completed),
        Ok(Ending::Ignored(reason)) => Ok(Completion::ignored_with(reason)),
        Ok(Ending::Failed(error)) => Err(error.into()),
        Err(_) => Err("the cluster is not available".into()),
    }
}

fn run_in_background(tests: Vec<Test>, at_most: usize, senders: &HashMap<&str, Sender<Ending>>) {
    // An outcome that nobody waits for any more may be dropped.
    let tell = |name: &str, ending: Ending| senders.get(name).map(|sender| sender.send(ending));
    // Fails only when a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime");
    let ran = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let cluster = available().await?;
            run(&cluster, at_most, tests, |outcome| drop(tell(outcome.name, outcome.ending.clone()))).await
        })
    });
    if let Err(error) = ran {
        // Every test may have ended by then, and nobody would be told.
        eprintln!("{error:#}");
        for name in senders.keys() {
            tell(name, Ending::Failed(format!("{error:#}")));
        }
    }
}

/// The cluster with smartclone on it: one that exists, or the lab, which is started.
async fn available() -> Result<Cluster> {
    let progress = Progress::to_stderr();
    let cluster = Cluster::of(std::env::var(CONTEXT).ok().filter(|context| !context.is_empty()))?;
    match &cluster {
        Cluster::Existing { .. } => is_installed(&cluster).await?,
        Cluster::Lab(lab) => {
            let up = Box::pin(lab.up(&progress)).await;
            up.with_context(|| format!("start the lab; {CONTEXT}=NAME tests on an existing cluster instead"))?;
            progress.step("smartclone installed", Box::pin(install(lab))).await?;
            progress.line("the cluster stays up; cargo cluster down stops it");
        }
    }
    Ok(cluster)
}
