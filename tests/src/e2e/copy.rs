//! Clones that a pod copies, because somebody wants it so or the storage can't do better.

use anyhow::{Context as _, Result, ensure};
use common::{api::Phase, keys};

use crate::harness::{CloneHandle, Disk, Space, clone_of, gi, mi};

tests![
    a_file_system_is_copied_when_the_requester_says_so,
    a_device_is_copied_when_the_requester_says_so,
    a_device_is_copied_to_a_larger_one,
    a_class_may_want_copies,
    another_driver_can_only_be_copied_to,
    other_parameters_can_only_be_copied_to_unless_an_admin_vouches,
    without_a_snapshot_class_there_are_copies,
    without_expansion_an_exact_driver_is_copied_to_a_larger_volume,
    progress_is_told_while_copying,
];

/// By copy, with the same bytes; nothing is left of the mover and what it wrote to.
async fn is_a_copy(t: &Space, clone: &CloneHandle, disk: &Disk) -> Result<()> {
    clone.succeeds().await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("copy"), "{:?}", clone.now().metadata.annotations);
    ensure!(clone.phases().contains(&Phase::CloneInProgress), "{:?}", clone.phases());
    clone.has_bytes_of(disk).await?;
    t.nothing_left_but(&[disk, clone]).await
}

/// A copy for this reason, which the user was told in every place where a user looks.
async fn is_a_fallback(t: &Space, clone: &CloneHandle, disk: &Disk, reason: &str, words: &str) -> Result<()> {
    let told = clone.annotation(keys::CLONE_FALLBACK_REASON).context("no fallback reason is annotated")?;
    ensure!(told.starts_with(&format!("{reason}: ")) && told.contains(words), "{told}");
    ensure!(clone.warnings.contains(&format!("smartclone: {told}")), "{:?}", clone.warnings);
    ensure!(clone.event(reason, words).await? == "Warning", "the event is not a warning");
    is_a_copy(t, clone, disk).await?;
    ensure!(clone.status().clone.and_then(|it| it.fallback_reason) == Some(told), "{:?}", clone.status().clone);
    Ok(())
}

async fn a_file_system_is_copied_when_the_requester_says_so(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    is_a_copy(t, &clone, &disk).await?;
    ensure!(clone.annotation(keys::CLONE_FALLBACK_REASON).is_none(), "a wish is no fallback");
    Ok(())
}

async fn a_device_is_copied_when_the_requester_says_so(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    is_a_copy(t, &clone, &disk).await
}

async fn a_device_is_copied_to_a_larger_one(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).size(gi(2)).annotate(keys::CLONE_TYPE, "copy")).await?;
    is_a_copy(t, &clone, &disk).await?;
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn a_class_may_want_copies(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "copy").made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class).with_owners()).await?;
    let told = "smartclone: cloned by a full copy of 1Gi (wanted by the StorageClass)";
    ensure!(clone.warnings == [told], "{:?}", clone.warnings);
    is_a_copy(t, &clone, &disk).await
}

async fn another_driver_can_only_be_copied_to(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class("other").with_owners()).await?;
    is_a_fallback(t, &clone, &disk, "IncompatibleProvisioners", &t.driver("other").await?).await
}

async fn other_parameters_can_only_be_copied_to_unless_an_admin_vouches(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class("cow-xfs").with_owners()).await?;
    is_a_fallback(t, &clone, &disk, "IncompatibleStorageClasses", "\"cow-xfs\" differ in their parameters").await?;

    let vouched = t.class().annotate(keys::COMPATIBLE_WITH, "cow, cow-xfs").made().await?;
    let clone = t.create(clone_of(&disk).named("vouched").class(&vouched)).await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "{:?}", clone.warnings);
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    Ok(())
}

async fn without_a_snapshot_class_there_are_copies(t: &Space) -> Result<()> {
    let class = t.class().without_snapshot_class().made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class).with_owners()).await?;
    is_a_fallback(t, &clone, &disk, "NoVolumeSnapshotClass", "correct spec.snapshotClass of the StorageProfile").await
}

async fn without_expansion_an_exact_driver_is_copied_to_a_larger_volume(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::RESTORE_SIZE, "exact").without_expansion().made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2)).with_owners()).await?;
    is_a_fallback(t, &clone, &disk, "NoVolumeExpansion", "allowVolumeExpansion").await
}

async fn progress_is_told_while_copying(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).block().filled(mi(1024)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?;
    let mut told = Vec::new();
    for version in clone.versions() {
        let Some(status) = version.status.as_ref().filter(|status| status.phase == Phase::CloneInProgress) else {
            continue;
        };
        let Some(number) = status.progress.as_deref().and_then(|text| text.strip_suffix('%')) else { continue };
        let digits = number.split_once('.').map(|(_, digits)| digits.len());
        ensure!(digits == Some(2), "CDI writes two digits, this is {number:?}");
        told.push(number.parse::<f64>()?);
    }
    ensure!(told.iter().any(|percent| (1.0..99.99).contains(percent)), "nothing between beginning and end: {told:?}");
    ensure!(told.is_sorted(), "progress went back: {told:?}");
    ensure!(clone.status().progress.as_deref() == Some("100.0%"), "{:?}", clone.status().progress);
    Ok(())
}
