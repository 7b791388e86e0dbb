//! `cargo verify`: everything that can be proved here, cheap before dear, with one line for each step and one at the end.

mod checks;
#[cfg(test)]
mod documents;
mod refusals;
mod report;
mod rights;
mod sanity;
mod tools;

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Result, bail};

use self::report::Report;
use crate::{
    bench::audit::Mark,
    e2e,
    harness::{
        Cluster,
        cluster::CONTEXT,
        install::{install, is_installed},
        leftovers,
    },
    lab::{Lab, layout::Layout, progress::Progress},
};

/// Check everything: style, dependencies, manifests, documentation, unit tests, and smartclone on a real cluster.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Only the steps, or the tests on the cluster, whose name begins so: `clippy`, `e2e`, `e2e::snapshot`.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Run the tests on an existing cluster with smartclone on it, by its context in the kubeconfig. Without it, on the lab.
    #[arg(long, value_name = "NAME", env = CONTEXT)]
    context: Option<String>,
}

impl Verify {
    /// Runs all steps; fails when one of them did.
    pub async fn run(self) -> Result<()> {
        let cluster = Cluster::of(self.context.clone())?;
        let start = Instant::now();
        let mut report = Report::in_directory(Layout::of_this_checkout()?.checkout().join("target/verify"))?;
        let only = self.only.as_deref().unwrap_or_default();
        for check in checks::all() {
            if check.name.starts_with(only) {
                report.step(check.name, async |log| check.run(log).await).await;
            }
        }
        let sanity = "csi-sanity".starts_with(only);
        let tests = e2e::beginning_with(only);
        match &cluster {
            Cluster::Lab(lab) if sanity || !tests.is_empty() => {
                self.on_the_lab(&cluster, lab, sanity, tests, &mut report).await;
            }
            Cluster::Existing { .. } if !tests.is_empty() => {
                let installed = report.step("smartclone installed", async |_| {
                    is_installed(&cluster).await?;
                    Ok(String::new())
                });
                if installed.await {
                    Box::pin(self.end_to_end(&cluster, false, tests, &mut report)).await;
                }
            }
            _ => {}
        }
        report.close(start.elapsed())
    }

    /// What one step needs of those before it is worth nothing without them: the first that fails is the last.
    async fn on_the_lab(&self, cluster: &Cluster, lab: &Lab, sanity: bool, tests: Vec<e2e::Test>, report: &mut Report) {
        let was_up = lab.check().is_ok();
        // A step's time is its own: the programs are built before the cluster is started.
        let up = report.step("cluster up", async |_| {
            lab.up(&Progress::to_stderr()).await?;
            Ok(String::new())
        });
        if up.await {
            let mut go_on = !sanity || report.step("csi-sanity", async |log| sanity::run_all(lab, log).await).await;
            if !tests.is_empty() {
                go_on &= report
                    .step("smartclone installed", async |_| {
                        install(lab).await?;
                        Ok(String::new())
                    })
                    .await;
                if go_on {
                    Box::pin(self.end_to_end(cluster, !was_up, tests, report)).await;
                }
            }
        }
        if was_up || self.keep {
            report.note("the cluster stays up; cargo cluster down stops it");
        } else {
            report
                .step("cluster down", async |_| {
                    lab.down(&Progress::silent()).await?;
                    Ok(String::new())
                })
                .await;
        }
    }

    async fn end_to_end(&self, cluster: &Cluster, is_new: bool, tests: Vec<e2e::Test>, report: &mut Report) {
        // A part of the tests needs a part of the rights.
        let everything = self.only.as_deref().is_none_or(|only| only == "e2e");
        let mut before = BTreeSet::new();
        let start = cluster.lab().ok().map(|lab| Mark::now(lab.audit_log())).transpose();
        let listed = report.quietly(async || {
            before = leftovers::of_the_cluster(cluster).await?;
            Ok(())
        });
        if !listed.await {
            return;
        }
        let (beside_cdi, tests): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.beside_cdi);
        let ran = e2e::run(cluster, usize::MAX, tests, |outcome| report.test(outcome)).await;
        if let Ok(outcomes) = &ran {
            for line in e2e::surprises::table(outcomes) {
                report.note(&line);
            }
        }
        report.quietly(async || ran.map(drop)).await;
        if everything
            && is_new
            && let Ok(lab) = cluster.lab()
        {
            report.step("least rights", async |_| rights::exactly(&lab.audit_log())).await;
        }
        let ran = e2e::run(cluster, usize::MAX, beside_cdi, |outcome| report.test(outcome)).await;
        report.quietly(async || ran.map(drop)).await;
        if cluster.lab().is_err() {
            report.note("rights, refusals, drivers, devices and mounts are checked on the lab only");
            return self.nothing_left(cluster, &before, report).await;
        }
        report
            .step("no refusal of our own", async |_| match &start {
                Ok(Some(start)) => refusals::none_of_our_own(start),
                Ok(None) => bail!("the lab has no audit log"),
                Err(error) => bail!("{error:#}"),
            })
            .await;
        if everything && !is_new {
            // Of a cluster that has run for long, nobody knows the beginning any more, in which some rights are used once.
            report.note("the rights are not compared with what was used: that takes a cluster that was down before");
        }
        self.nothing_left(cluster, &before, report).await;
    }

    async fn nothing_left(&self, cluster: &Cluster, before: &BTreeSet<String>, report: &mut Report) {
        report
            .step("nothing is left over", async |_| {
                leftovers::nothing_new_since(cluster, before).await?;
                Ok(if cluster.lab().is_ok() { "in API, drivers, devices and mounts" } else { "in the API" }.to_owned())
            })
            .await;
    }
}

/// Fails with what is wrong, one thing a line.
fn none(what: &str, wrong: &[String]) -> Result<()> {
    if wrong.is_empty() { Ok(()) } else { bail!("{what}:\n{}", wrong.join("\n")) }
}
