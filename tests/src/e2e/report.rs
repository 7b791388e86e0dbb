//! What a user reads in a terminal.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use common::keys;
use reference_csi::behaviour::Behaviour;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{CloneRequest, Space, clone_of, gi, mi};

tests![
    kubectl_create_prints_the_decision,
    kubectl_create_prints_each_mistake_with_its_field,
    kubectl_get_shows_phase_and_progress,
    kubectl_describe_tells_the_story,
    kubectl_explain_knows_the_fields,
];

/// `kubectl create`; what it wrote to stdout and stderr, and whether it was content.
async fn kubectl_create(t: &Space, request: CloneRequest, args: &[&str]) -> Result<(bool, String, String)> {
    let mut kubectl = t.cluster().kubectl();
    kubectl.arg("create").args(args).arg("--filename=-");
    kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = kubectl.spawn()?;
    let mut stdin = running.stdin.take().context("there is a pipe")?;
    stdin.write_all(request.object(t.name()).to_string().as_bytes()).await?;
    drop(stdin);
    let output = running.wait_with_output().await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.success(), text(output.stdout), text(output.stderr)))
}

async fn kubectl_create_prints_the_decision(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let (admitted, stdout, stderr) = kubectl_create(t, clone_of(&disk), &["--dry-run=server"]).await?;
    ensure!(
        admitted && stdout.trim() == "datavolume.cdi.kubevirt.io/clone created (server dry run)",
        "{stdout}{stderr}"
    );
    let told = "Warning: smartclone: cloned by snapshot, with VolumeSnapshotClass \"cow\"";
    ensure!(stderr.trim() == told, "{stderr}");
    Ok(())
}

async fn kubectl_create_prints_each_mistake_with_its_field(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).blank().await?;
    let (admitted, _, stderr) = kubectl_create(t, clone_of(&disk).size(gi(1)), &[]).await?;
    let told = "spec.storage.resources.requests.storage: Invalid value: \"1Gi\"";
    ensure!(!admitted && stderr.contains(told) && stderr.contains("2Gi"), "{stderr}");
    Ok(())
}

async fn kubectl_get_shows_phase_and_progress(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    t.create(clone_of(&disk)).await?.succeeds().await?;
    let table = t.kubectl(&["get", "dv"]).await?;
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows[0] == ["NAME", "PHASE", "PROGRESS", "RESTARTS", "AGE"], "{table}");
    ensure!(rows[1][..3] == ["clone", "Succeeded", "100.0%"], "{table}");
    let all = t.kubectl(&["get", "all", "--output=name"]).await?;
    ensure!(all.contains("datavolume.cdi.kubevirt.io/clone"), "{all}");
    Ok(())
}

async fn kubectl_describe_tells_the_story(t: &Space) -> Result<()> {
    // What passes soon isn't told where there is much to tell, so nothing does.
    let slow = Behaviour { snapshot_ready_after_ms: Some(8000), volume_takes_ms: Some(8000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.succeeds().await?;
    for reason in ["SnapshotForSmartCloneInProgress", "CloneFromSnapshotSourceInProgress", "CloneSucceeded"] {
        ensure!(clone.event(reason, "").await? == "Normal", "the event {reason} is no trouble");
    }
    clone.condition("Ready", "True", "Ready", "complete").await?;
    clone.condition("Bound", "True", "Bound", "clone is bound").await?;
    clone.condition("Running", "False", "Completed", "Clone complete").await?;
    let text = t.kubectl(&["describe", "dv", "clone"]).await?;
    for words in [keys::CLONE_TYPE, "Clone complete", "CloneSucceeded", "smartclone-controller"] {
        ensure!(text.contains(words), "{words:?} is missing in\n{text}");
    }
    Ok(())
}

async fn kubectl_explain_knows_the_fields(t: &Space) -> Result<()> {
    let text = t.kubectl(&["explain", "dv.spec.source.pvc", "--api-version=cdi.kubevirt.io/v1beta1"]).await?;
    ensure!(text.contains("namespace") && text.contains("-required-"), "{text}");
    Ok(())
}
