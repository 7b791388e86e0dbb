//! What needs no cluster.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use tokio::process::Command;

use super::{
    none,
    tools::{cargo, cargo_deny, run},
};
use crate::lab::{packages, progress::Progress};

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// Its name, also for `--only`.
    pub name: &'static str,
    body: for<'a> fn(&'a Path) -> BoxFuture<'a, Result<String>>,
}

impl Check {
    /// Does it, with everything that is written in `log`; returns what there is to say.
    pub async fn run(self, log: &Path) -> Result<String> {
        (self.body)(log).await
    }
}

/// All of them, cheap before dear.
pub fn all() -> [Check; 7] {
    [
        Check {
            name: "fmt",
            body: |log| Box::pin(silent(cargo(["fmt", "--all", "--check", "--", "--color=never"]), log)),
        },
        Check { name: "common is pure", body: |log| Box::pin(pure(log)) },
        Check { name: "dependencies", body: |log| Box::pin(dependencies(log)) },
        Check { name: "clippy", body: |log| Box::pin(clippy(log)) },
        Check { name: "manifests", body: |log| Box::pin(manifests(log)) },
        Check { name: "doc", body: |log| Box::pin(documentation(log)) },
        Check { name: "unit tests", body: |log| Box::pin(unit_tests(log)) },
    ]
}

async fn silent(program: Result<Command>, log: &Path) -> Result<String> {
    run(program?, log).await.map(|_| String::new())
}

async fn clippy(log: &Path) -> Result<String> {
    // The second selects what is no target by default.
    for targets in ["--all-targets", "--test=e2e"] {
        let clippy = cargo(["clippy", "--quiet", "--workspace", targets, "--locked", "--", "--deny", "warnings"]);
        silent(clippy, log).await?;
    }
    Ok(String::new())
}

async fn manifests(log: &Path) -> Result<String> {
    let mut check = Command::new(std::env::current_exe().context("where is this program?")?);
    check.args(["manifests", "--check"]);
    silent(Ok(check), log).await
}

async fn documentation(log: &Path) -> Result<String> {
    let mut doc = cargo(["doc", "--quiet", "--workspace", "--no-deps", "--locked"])?;
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    silent(Ok(doc), log).await
}

/// The decision can't read a clock, a socket or a cluster: it has nothing to do it with.
async fn pure(log: &Path) -> Result<String> {
    const IMPURE: [&str; 9] =
        ["tokio", "hyper", "rustls", "kube-client", "kube-runtime", "aws-lc-rs", "ring", "rand", "reqwest"];
    let tree = ["tree", "--package", "common", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--locked"];
    let text = run(cargo(tree)?, log).await?;
    let names: Vec<_> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    ensure!(names.contains(&"kube-core"), "this is not the tree of `common`:\n{text}");
    let found: Vec<_> = IMPURE.iter().filter(|name| names.contains(name)).map(ToString::to_string).collect();
    none("`common` depends on what a pure crate can't use", &found)?;
    silent(cargo(["check", "--quiet", "--package", "common", "--locked"]), log).await?;
    Ok(format!("{} crates, builds alone", names.len()))
}

async fn dependencies(log: &Path) -> Result<String> {
    let mut deny = Command::new(cargo_deny(log).await?);
    let cargo = cargo::<[&str; 0]>([])?;
    let checkout = cargo.as_std().get_current_dir().context("cargo runs in the checkout")?;
    deny.current_dir(checkout).args([
        "--color=never",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    silent(Ok(deny), log).await?;
    Ok("licences, sources and bans".to_owned())
}

async fn unit_tests(log: &Path) -> Result<String> {
    // Some tests want file systems and devices: ignored elsewhere, not here, where what they need is installed first.
    packages::ensure(&Progress::to_stderr()).await?;
    let text = run(cargo(["test", "--quiet", "--workspace", "--locked", "--", "--include-ignored"])?, log).await?;
    let count = |what: &str| -> usize {
        let results = text.lines().filter(|line| line.starts_with("test result: "));
        results
            .filter_map(|line| {
                line.split("; ").find_map(|part| part.strip_suffix(what)?.split(' ').next_back()?.parse::<usize>().ok())
            })
            .sum()
    };
    let passed = count(" passed");
    ensure!(passed > 0, "no test has run");
    ensure!(count(" ignored") == 0, "{} tests were ignored", count(" ignored"));
    Ok(format!("{passed} passed"))
}
