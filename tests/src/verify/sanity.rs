//! The reference storage driver against the specification's own test, `csi-sanity`, apart from the drivers that the cluster uses.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use reference_csi::inventory::inventory;
use tokio::process::Command;

use super::tools::run;
use crate::lab::{
    Lab,
    command::{Look, command, until},
};

/// Runs all of it; returns how much that was.
pub async fn run_all(lab: &Lab, log: &Path) -> Result<String> {
    let place = lab.layout().at("sanity");
    // On the disk that can share blocks between files, as every driver's volumes.
    let data = lab.driver("cow").data_dir().with_file_name("sanity");
    for directory in [&place, &data] {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(directory)?,
        }
    }
    let socket = place.join("csi.sock");
    let endpoint = format!("unix://{}", socket.display());
    let driver_log = log.with_extension("driver.log");
    let driver_log = fs::File::create(&driver_log)?;
    let this = std::env::current_exe().context("where is this program?")?;
    let mut driver =
        command(this.with_file_name("reference-csi"), ["--driver-name=sanity.csi.smartclone.dev", "--node-id=lab"]);
    driver.arg(format!("--endpoint={endpoint}"));
    driver.arg(format!("--registration-socket={}", place.join("registration.sock").display()));
    driver.arg(format!("--data-dir={}", data.display()));
    let mut driver = driver.stdout(driver_log.try_clone()?).stderr(driver_log).kill_on_drop(true).spawn()?;
    until("the driver's socket", Duration::from_secs(20), async || {
        ensure!(driver.try_wait()?.is_none(), "the driver has ended");
        Ok(match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => Look::Break(()),
            Err(error) => Look::Continue(error.to_string()),
        })
    })
    .await?;
    let mut sanity = Command::new(lab.components_bin().join("csi-sanity"));
    sanity.arg(format!("--csi.endpoint={endpoint}"));
    sanity.arg(format!("--csi.mountdir={}", place.join("mount").display()));
    sanity.arg(format!("--csi.stagingdir={}", place.join("stage").display()));
    sanity.arg("--ginkgo.no-color");
    let ran = run(sanity, log).await;
    driver.kill().await?;
    let text = ran?;
    let left = inventory(&data)?;
    ensure!(left.is_empty(), "csi-sanity has left something in the driver: {left:?}");
    for directory in [&place, &data] {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    let summary =
        text.lines().find_map(|line| line.strip_prefix("SUCCESS! -- ")).context("csi-sanity has no summary")?;
    // `67 Passed | 0 Failed | 1 Pending | 24 Skipped`: what is skipped, the driver doesn't claim to have.
    let count = |what: &str| summary.split(" | ").find_map(|part| part.strip_suffix(what)).unwrap_or("?");
    Ok(format!("{} passed, {} not claimed", count(" Passed"), count(" Skipped")))
}
