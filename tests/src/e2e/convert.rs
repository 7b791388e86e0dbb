//! Disks that change their form when they are copied, and what the copying pod may do.

use anyhow::{Context as _, Result, ensure};
use common::{api::Phase, keys, quantity::Bytes};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, runtime::watcher::Config};
use webhook::manifests::MUTATING;

use crate::harness::{
    CloneHandle, Disk, Named as _, Space, clone_of, gi, mi,
    pod::Access,
    wait::{self, Look},
};

tests![
    a_device_becomes_an_image_in_a_file_system,
    an_image_in_a_file_system_becomes_a_device,
    an_image_stays_an_image_under_pod_security_restricted,
    a_device_stays_a_device_under_pod_security_restricted,
    what_the_pod_may_not_read_is_told_with_the_cure,
    owners_that_could_not_be_kept_are_told,
    an_archive_is_not_converted,
    who_writes_to_the_source_spoils_the_copy_and_it_begins_again,
];

pub(super) const IMAGE: &str = "{}/disk.img";

/// A file system that holds the image of a disk, as KubeVirt keeps it.
pub(super) async fn image(t: &Space, bytes: Bytes) -> Result<Disk> {
    let disk = t.source("disk").blank().await?;
    t.tools(&disk, Access::Write, &["fill", "--path", IMAGE, "--bytes", &bytes.0.to_string()]).await?;
    Ok(disk)
}

pub(super) async fn digest(
    t: &Space,
    claim: &(impl crate::harness::Named + ?Sized),
    path: &str,
    bytes: Bytes,
) -> Result<String> {
    t.tools(claim, Access::Read, &["digest", "--path", path, "--length", &bytes.0.to_string()]).await
}

async fn is_a_conversion(t: &Space, clone: &CloneHandle) -> Result<()> {
    clone.succeeds().await?;
    let told = clone.annotation(keys::CLONE_FALLBACK_REASON).context("no reason is annotated")?;
    ensure!(told.starts_with("IncompatibleVolumeModes: "), "{told}");
    ensure!(t.bound(clone).await?.status.is_some(), "it has no status");
    Ok(())
}

async fn a_device_becomes_an_image_in_a_file_system(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).mode("Filesystem")).await?;
    is_a_conversion(t, &clone).await?;
    // The whole device, which is larger than what was written to it.
    let (ours, theirs) = (digest(t, &clone, IMAGE, gi(2)).await?, digest(t, &disk, "{}", gi(1)).await?);
    ensure!(ours == theirs, "the image holds {ours}, the device {theirs}");
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity > Some(gi(1)), "a file system needs room for itself: {capacity:?}");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn an_image_in_a_file_system_becomes_a_device(t: &Space) -> Result<()> {
    let disk = image(t, mi(24)).await?;
    let clone = t.create(clone_of(&disk).mode("Block")).await?;
    is_a_conversion(t, &clone).await?;
    let (ours, theirs) = (digest(t, &clone, "{}", mi(24)).await?, digest(t, &disk, IMAGE, mi(24)).await?);
    ensure!(ours == theirs, "the device holds {ours}, the image {theirs}");
    t.nothing_left_but(&[&disk, &clone]).await
}

/// Whether pods of the namespace are held to the Pod Security level `restricted`.
async fn restricted(t: &Space, yes: bool) -> Result<()> {
    let level = if yes { "restricted" } else { "privileged" };
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    t.kubectl(&["label", "--overwrite", "namespace", t.name(), &label]).await.map(drop)
}

async fn an_image_stays_an_image_under_pod_security_restricted(t: &Space) -> Result<()> {
    let disk = image(t, mi(24)).await?;
    restricted(t, true).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?;
    restricted(t, false).await?;
    let (ours, theirs) = (digest(t, &clone, IMAGE, mi(24)).await?, digest(t, &disk, IMAGE, mi(24)).await?);
    ensure!(ours == theirs, "the clone holds {ours}, its source {theirs}");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_device_stays_a_device_under_pod_security_restricted(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    restricted(t, true).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?;
    restricted(t, false).await?;
    clone.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn what_the_pod_may_not_read_is_told_with_the_cure(t: &Space) -> Result<()> {
    // The tree has a file that only root may read.
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.fails_with("annotate the DataVolume with smartclone.dev/file-owners: Keep").await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk]).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    Ok(())
}

async fn owners_that_could_not_be_kept_are_told(t: &Space) -> Result<()> {
    let disk = image(t, mi(4)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?;
    let notes = clone.status().clone.unwrap_or_default().notes;
    ensure!(notes.iter().any(|note| note.contains("owner")), "{notes:?}");
    ensure!(clone.event("CloneIncomplete", "owner").await? == "Warning", "not a warning");
    Ok(())
}

async fn an_archive_is_not_converted(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().blank().await?;
    let request = clone_of(&disk).as_claim(gi(2)).class("cow").mode("Filesystem").archive();
    let denial = t.refuses(request).await?.by(MUTATING)?;
    denial.about("spec.pvc.volumeMode", "FieldValueInvalid", "contentType archive is not converted")?.causes(1)?;
    t.nothing_left_but(&[&disk]).await
}

async fn who_writes_to_the_source_spoils_the_copy_and_it_begins_again(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).block().filled(mi(1024)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.phase(Phase::CloneInProgress).await?;
    let first = mover(t, &clone, None).await?;
    let writer = t.pod_using(&disk).await?;
    let message = clone.waits_for("CloneSourceInUse").await?;
    ensure!(message.contains(&format!("pod {:?}", writer.name())), "{message}");
    wait::gone(&t.api::<Pod>(), &first.name_any(), first.uid().as_deref()).await?;
    t.tools(&disk, Access::Write, &["fill", "--path", "{}", "--bytes", "4194304", "--seed", "7"]).await?;
    ensure!(clone.status().phase != Phase::Succeeded, "a spoiled copy is complete");
    writer.delete().await?;
    mover(t, &clone, first.uid()).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

/// Waits for the pod that copies for `clone`; another one than `before`.
async fn mover(t: &Space, clone: &CloneHandle, before: Option<String>) -> Result<Pod> {
    let selection = Config::default().labels(&format!("{}={}", keys::OWNED_BY_UID, clone.uid()));
    wait::all(&t.api::<Pod>(), selection, "the pod that copies", |pods| {
        let found = pods.iter().find(|pod| before.is_none() || pod.uid() != before);
        found.map_or_else(|| Look::Continue("there is none".to_owned()), |pod| Look::Break((*pod).clone()))
    })
    .await
}
