//! When the source can be read, and what is waited for until then.

use anyhow::{Result, ensure};
use common::{api::Phase, keys};

use crate::harness::{Named as _, Space, clone_of, mi};

tests![
    a_clone_waits_for_its_source_to_appear,
    a_clone_waits_for_its_source_and_says_for_whom,
    a_crash_consistent_clone_does_not_wait,
    a_reader_is_not_waited_for,
    a_copy_never_reads_what_somebody_may_write,
    a_source_smaller_than_the_clone_that_waited_for_it_is_fine_and_a_larger_one_is_not,
];

async fn a_clone_waits_for_its_source_to_appear(t: &Space) -> Result<()> {
    let clone = t.create(clone_of("late")).await?;
    let told = format!("the source PersistentVolumeClaim {}/late does not exist yet", t.name());
    ensure!(clone.warnings.len() == 1 && clone.warnings[0].contains(&told), "{:?}", clone.warnings);
    clone.waits_for("CloneWithoutSource").await?;
    clone.condition("Ready", "False", "CloneWithoutSource", "the clone starts when it appears").await?;
    ensure!(clone.event("CloneWithoutSource", "does not exist").await? == "Warning", "not a warning");
    ensure!(clone.status().phase == Phase::Pending, "{:?}", clone.status());
    let disk = t.source("late").filled(mi(4)).await?;
    clone.succeeds().await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "decided when it appeared");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_clone_waits_for_its_source_and_says_for_whom(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let user = t.pod_using(&disk).await?;
    let clone = t.create(clone_of(&disk)).await?;
    let told = format!("smartclone: the clone waits until pod {:?} no longer uses the source", user.name());
    ensure!(clone.warnings.iter().any(|line| line.starts_with(&told)), "{:?}", clone.warnings);
    let message = clone.waits_for("CloneSourceInUse").await?;
    ensure!(message.contains(&format!("pod {:?}", user.name())), "{message}");
    clone.condition("Ready", "False", "CloneSourceInUse", user.name()).await?;
    ensure!(clone.event("CloneSourceInUse", user.name()).await? == "Warning", "not a warning");
    user.delete().await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_crash_consistent_clone_does_not_wait(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let user = t.pod_using(&disk).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CONSISTENCY, "CrashConsistent")).await?;
    clone.succeeds().await?;
    user.delete().await?;
    clone.has_bytes_of(&disk).await?;
    Ok(())
}

async fn a_reader_is_not_waited_for(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let reader = t.pod_reading(&disk).await?;
    let by_snapshot = t.create(clone_of(&disk).named("by-snapshot")).await?;
    let by_copy = t.create(clone_of(&disk).named("by-copy").annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    by_snapshot.succeeds().await?;
    by_copy.succeeds().await?;
    reader.delete().await
}

async fn a_copy_never_reads_what_somebody_may_write(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let user = t.pod_using(&disk).await?;
    let request = clone_of(&disk).annotate(keys::CLONE_TYPE, "copy").annotate(keys::CONSISTENCY, "CrashConsistent");
    let clone = t.create(request).await?;
    clone.waits_for("CloneSourceInUse").await?;
    ensure!(!clone.phases().contains(&Phase::CloneInProgress), "{:?}", clone.phases());
    user.delete().await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    Ok(())
}

async fn a_source_smaller_than_the_clone_that_waited_for_it_is_fine_and_a_larger_one_is_not(t: &Space) -> Result<()> {
    let larger = t.create(clone_of("late").named("larger").size(crate::harness::gi(2))).await?;
    let smaller = t.create(clone_of("late").named("smaller").size(mi(512))).await?;
    let disk = t.source("late").filled(mi(4)).await?;
    smaller.waits_for("CloneValidationFailed").await?;
    smaller.condition("Ready", "False", "CloneValidationFailed", "1Gi").await?;
    larger.succeeds().await?;
    t.nothing_left_but(&[&disk, &larger]).await
}
