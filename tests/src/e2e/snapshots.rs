//! Users' own VolumeSnapshots as sources. They are read, and nothing else is done to them.

use anyhow::{Result, ensure};
use common::keys;
use reference_csi::behaviour::Behaviour;
use webhook::manifests::MUTATING;

use crate::harness::{CloneHandle, Disk, Named as _, Snapshot, Space, clone_of_snapshot, gi, mi};

tests![
    a_snapshot_of_a_file_system_is_cloned,
    a_snapshot_of_a_device_is_cloned_to_a_larger_one,
    a_snapshot_is_cloned_into_another_namespace,
    a_snapshot_is_cloned_when_what_it_was_taken_of_is_gone,
    a_snapshot_is_copied_when_the_requester_says_so,
    a_snapshot_is_copied_into_another_namespace_when_the_class_says_so,
    a_snapshot_of_another_driver_is_copied,
    a_snapshot_that_is_being_taken_is_waited_for,
    a_snapshot_that_does_not_exist_is_waited_for,
    a_snapshot_is_nothing_for_a_clone_of_the_storage,
    who_may_not_restore_a_snapshot_may_not_clone_it,
];

/// By this strategy and with the same bytes; the snapshot is as it was, and nothing else is left beside it and `disks`.
async fn is_restored(
    (t, source): (&Space, &Space),
    clone: &CloneHandle,
    (disk, snapshot): (&Disk, &Snapshot),
    strategy: &str,
) -> Result<()> {
    clone.succeeds().await?;
    let annotated = clone.annotation(keys::CLONE_TYPE);
    ensure!(annotated.as_deref() == Some(strategy), "{annotated:?} instead of {strategy}: {:?}", clone.warnings);
    clone.has_bytes_of(disk).await?;
    snapshot.is_untouched().await?;
    if t.name() == source.name() {
        return t.nothing_left_but(&[disk, snapshot, clone]).await;
    }
    source.nothing_left_but(&[disk, snapshot]).await?;
    t.nothing_left_but(&[clone]).await
}

async fn a_snapshot_of_a_file_system_is_cloned(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot)).await?;
    ensure!(clone.warnings == ["smartclone: cloned by restoring the snapshot"], "{:?}", clone.warnings);
    is_restored((t, t), &clone, (&disk, &snapshot), "snapshot").await
}

async fn a_snapshot_of_a_device_is_cloned_to_a_larger_one(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot).mode("Block").size(gi(2))).await?;
    is_restored((t, t), &clone, (&disk, &snapshot), "snapshot").await?;
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn a_snapshot_is_cloned_into_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().filled(mi(24)).await?;
    let snapshot = gold.snapshot("monday", &disk, "cow").await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot).from(&gold)).await?;
    is_restored((t, &gold), &clone, (&disk, &snapshot), "snapshot").await
}

async fn a_snapshot_is_cloned_when_what_it_was_taken_of_is_gone(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let before = t.digest(&disk, None).await?;
    t.kubectl(&["delete", "persistentvolumeclaim", disk.name()]).await?;
    let clone = t.create(clone_of_snapshot(&snapshot)).await?;
    clone.succeeds().await?;
    let after = t.digest(&clone, None).await?;
    ensure!(after == before, "it holds {after}, its source held {before}");
    snapshot.is_untouched().await?;
    t.nothing_left_but(&[&snapshot, &clone]).await
}

async fn a_snapshot_is_copied_when_the_requester_says_so(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    is_restored((t, t), &clone, (&disk, &snapshot), "copy").await
}

async fn a_snapshot_is_copied_into_another_namespace_when_the_class_says_so(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "copy").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).block().filled(mi(24)).await?;
    let snapshot = gold.snapshot("monday", &disk, &class).await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot).from(&gold).class(&class)).await?;
    is_restored((t, &gold), &clone, (&disk, &snapshot), "copy").await
}

async fn a_snapshot_of_another_driver_is_copied(t: &Space) -> Result<()> {
    let disk = t.source("disk").class("other").filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, "other").await?.ready().await?;
    let clone = t.create(clone_of_snapshot(&snapshot).class("cow").with_owners()).await?;
    let told = clone.annotation(keys::CLONE_FALLBACK_REASON).unwrap_or_default();
    ensure!(told.starts_with("IncompatibleProvisioners: "), "{told}");
    is_restored((t, t), &clone, (&disk, &snapshot), "copy").await
}

async fn a_snapshot_that_is_being_taken_is_waited_for(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, &class).await?;
    let clone = t.create(clone_of_snapshot(&snapshot).class(&class)).await?;
    clone.waits_for("CloneSourceNotReady").await?;
    clone.condition("Ready", "False", "CloneSourceNotReady", "is not ready to be restored yet").await?;
    is_restored((t, t), &clone, (&disk, &snapshot), "snapshot").await
}

async fn a_snapshot_that_does_not_exist_is_waited_for(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of_snapshot("late")).await?;
    let told = format!("the source VolumeSnapshot {}/late does not exist yet", t.name());
    ensure!(clone.warnings.len() == 1 && clone.warnings[0].contains(&told), "{:?}", clone.warnings);
    clone.waits_for("CloneWithoutSource").await?;
    let snapshot = t.snapshot("late", &disk, "cow").await?;
    is_restored((t, t), &clone, (&disk, &snapshot), "snapshot").await
}

async fn a_snapshot_is_nothing_for_a_clone_of_the_storage(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let denial = t.refuses(clone_of_snapshot(&snapshot).annotate(keys::CLONE_TYPE, "csi-clone")).await?;
    let field = format!("metadata.annotations[{}]", keys::CLONE_TYPE);
    denial.by(MUTATING)?.about(&field, "FieldValueInvalid", "SourceIsSnapshot: ")?.causes(1)?;
    t.nothing_left_but(&[&disk, &snapshot]).await
}

async fn who_may_not_restore_a_snapshot_may_not_clone_it(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").blank().await?;
    let snapshot = gold.snapshot("monday", &disk, "cow").await?.ready().await?;
    t.administered_by("alice").await?;
    let denial = t.refuses(clone_of_snapshot(&snapshot).from(&gold).by("alice")).await?.by(MUTATING)?;
    let words = "(or on pods and persistentvolumeclaims)";
    denial.about("spec.source.snapshot.namespace", "FieldValueForbidden", words)?.causes(1)?;
    gold.nothing_left_but(&[&disk, &snapshot]).await?;
    t.nothing_left_but(&[]).await
}
