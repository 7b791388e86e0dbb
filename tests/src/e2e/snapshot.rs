//! Clones that the storage makes by snapshot and restore.

use anyhow::{Result, ensure};
use common::{
    api::{CloneStrategy, Phase},
    keys,
    quantity::Bytes,
};
use reference_csi::behaviour::{Behaviour, LargerRestore, RestoreSize};

use crate::harness::{CloneHandle, Disk, Named as _, Space, clone_of, gi, mi, pod::Access};

tests![
    a_file_system_is_cloned_with_everything_in_it,
    a_device_is_cloned_byte_by_byte,
    a_complete_claim_is_made_as_it_is_described,
    a_larger_file_system_grows_into_its_volume,
    a_larger_device_has_its_size,
    a_file_system_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then,
    a_device_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then,
    a_snapshot_that_takes_its_time_is_waited_for,
    a_snapshot_of_unknown_size_is_restored_at_the_source_s,
    a_snapshot_that_claims_to_need_less_is_restored_at_the_source_s,
    a_clone_is_cloned_again,
    a_class_that_waits_for_a_consumer_is_cloned_when_a_pod_comes,
];

/// By snapshot, with the same bytes, of this size for those who use it; the snapshot is gone.
async fn is_a_snapshot_clone(t: &Space, clone: &CloneHandle, disk: &Disk, size: Bytes) -> Result<()> {
    clone.succeeds().await?;
    ensure!(
        clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"),
        "{:?}",
        clone.now().metadata.annotations
    );
    ensure!(clone.status().clone.and_then(|it| it.strategy) == Some(CloneStrategy::Snapshot), "{:?}", clone.status());
    clone.has_bytes_of(disk).await?;
    has_room_for(t, clone, size).await?;
    t.nothing_left_but(&[disk, clone]).await
}

/// What the API says, and what a pod finds; a file system takes some of its volume for itself.
async fn has_room_for(t: &Space, clone: &CloneHandle, size: Bytes) -> Result<()> {
    let found: u64 = t.tools(clone, Access::Write, &["size", "--path", "{}"]).await?.parse()?;
    let claim = t.bound(clone).await?;
    let block = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let least = if block { size.0 } else { size.0 / 10 * 9 };
    ensure!(found >= least, "{} has room for {found} bytes, {size} were asked for", clone.name());
    let capacity = claim.status.and_then(|status| Bytes::of(status.capacity?.get("storage")?).ok());
    ensure!(capacity >= Some(size), "the claim's capacity is {capacity:?}, {size} were asked for");
    Ok(())
}

async fn a_file_system_is_cloned_with_everything_in_it(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_device_is_cloned_byte_by_byte(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_complete_claim_is_made_as_it_is_described(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let request = clone_of(&disk).as_claim(gi(1)).class("cow").mode("Block");
    let clone = t.create(request).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_larger_file_system_grows_into_its_volume(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).size(gi(2))).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(2)).await
}

async fn a_larger_device_has_its_size(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).size(gi(2))).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(2)).await
}

/// A class of a driver that refuses to restore anything larger than the snapshot, and says so.
async fn exact_class(t: &Space) -> Result<String> {
    let refuses = Behaviour { larger_restore: Some(LargerRestore::OutOfRange), ..Behaviour::default() };
    t.class().behaving(refuses).annotate(keys::RESTORE_SIZE, "exact").made().await
}

async fn a_file_system_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then(t: &Space) -> Result<()> {
    let class = exact_class(t).await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2))).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(2)).await
}

async fn a_device_is_restored_at_its_size_where_the_driver_wants_that_and_grows_then(t: &Space) -> Result<()> {
    let class = exact_class(t).await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2))).await?;
    clone.phase(Phase::ExpansionInProgress).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(2)).await
}

async fn a_snapshot_that_takes_its_time_is_waited_for(t: &Space) -> Result<()> {
    // Longer than the report of a state may be withheld.
    let slow = Behaviour { snapshot_ready_after_ms: Some(8000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.phase(Phase::SnapshotForSmartCloneInProgress).await?;
    clone.condition("Running", "True", "SnapshotNotReady", "The storage driver is taking the snapshot").await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_snapshot_of_unknown_size_is_restored_at_the_source_s(t: &Space) -> Result<()> {
    let silent = Behaviour { restore_size: Some(RestoreSize::Absent), ..Behaviour::default() };
    let class = t.class().behaving(silent).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_snapshot_that_claims_to_need_less_is_restored_at_the_source_s(t: &Space) -> Result<()> {
    let stingy = Behaviour { restore_size: Some(RestoreSize::Referenced), ..Behaviour::default() };
    let class = t.class().behaving(stingy).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    is_a_snapshot_clone(t, &clone, &disk, gi(1)).await
}

async fn a_clone_is_cloned_again(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let first = t.create(clone_of(&disk).named("first")).await?;
    // The first one isn't ready yet: the second one waits for it.
    let second = t.create(clone_of(&first).named("second")).await?;
    first.succeeds().await?;
    second.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &first, &second]).await
}

async fn a_class_that_waits_for_a_consumer_is_cloned_when_a_pod_comes(t: &Space) -> Result<()> {
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.phase(Phase::PendingPopulation).await?;
    let consumer = t.pod_using(&clone).await?;
    clone.succeeds().await?;
    consumer.delete().await?;
    clone.has_bytes_of(&disk).await?;
    Ok(())
}
