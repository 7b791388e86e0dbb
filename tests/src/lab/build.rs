//! The project's own programs.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{
    command::{command, run},
    layout::Layout,
};

/// Builds everything that the cluster runs, with the features and flags of the program that is running now.
pub async fn ensure(layout: &Layout) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["tests", "webhook", "controller", "cloner", "reference-csi", "cdi-double"];
    let mut build = command(cargo, ["build", "--quiet", "--bins"]);
    build.args(packages.iter().flat_map(|package| ["--package", package])).current_dir(layout.checkout());
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    // Cargo tells build scripts and programs about *this* package; a nested cargo would take it for its own input.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            build.env_remove(name);
        }
    }
    run(build).await.context("build the project")?;
    Ok(())
}

/// A program of this project: the one beside the program that is running, or, for a test, above it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("where is this program?")?;
    let mut places = this.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    places.find(|file| file.is_file()).with_context(|| format!("{name} is not built"))
}
