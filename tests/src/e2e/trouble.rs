//! What goes wrong elsewhere is told on the DataVolume, and overcome when it is over.

use anyhow::{Result, ensure};
use common::{api::snapshot::VolumeSnapshot, keys};
use kube::api::ListParams;
use reference_csi::{
    behaviour::{Behaviour, Effect, FailCode, Fault, LargerRestore},
    calls::Rpc,
};

use crate::harness::{Named as _, Space, clone_of, gi, mi, pod::Access};

tests![
    a_driver_s_trouble_with_a_snapshot_is_told_and_overcome,
    a_driver_s_trouble_with_a_volume_is_told_and_overcome,
    a_quota_is_told_and_a_raised_one_lets_it_go_on,
    a_quota_of_snapshots_is_told_and_a_raised_one_lets_it_go_on,
    a_quota_beside_the_source_is_told_and_a_raised_one_lets_it_go_on,
    a_driver_that_is_still_at_it_is_waited_for,
    a_snapshot_that_is_never_deleted_keeps_nobody_waiting,
    a_file_system_that_did_not_grow_with_its_volume_grows_when_it_is_used,
    a_stranger_s_claim_of_its_name_is_left_alone,
];

/// So many calls fail; the class's parameters count them for each volume and snapshot on its own.
fn fails(rpc: Rpc, skip: u32, times: u32, code: FailCode) -> Behaviour {
    let fault = Fault { name: "trouble".to_owned(), rpc, skip, times, effect: Effect::Fail(code) };
    Behaviour { faults: vec![fault], ..Behaviour::default() }
}

async fn a_driver_s_trouble_with_a_snapshot_is_told_and_overcome(t: &Space) -> Result<()> {
    let class = t.class().behaving(fails(Rpc::CreateSnapshot, 0, 3, FailCode::ResourceExhausted)).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.condition("Running", "False", "SnapshotNotReady", "ResourceExhausted").await?;
    clone.condition("Ready", "False", "SnapshotNotReady", "ResourceExhausted").await?;
    ensure!(clone.event("SnapshotNotReady", "ResourceExhausted").await? == "Warning", "not a warning");
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_driver_s_trouble_with_a_volume_is_told_and_overcome(t: &Space) -> Result<()> {
    let class = t.class().behaving(fails(Rpc::CreateVolume, 0, 2, FailCode::ResourceExhausted)).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.condition("Bound", "False", "Pending", "ResourceExhausted").await?;
    clone.condition("Ready", "False", "ClaimNotBound", "ResourceExhausted").await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_quota_is_told_and_a_raised_one_lets_it_go_on(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    t.quota(gi(1)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.waits_for("ErrExceededQuota").await?;
    clone.condition("Ready", "False", "ErrExceededQuota", "exceeded quota: requests.storage").await?;
    ensure!(clone.event("ErrExceededQuota", "exceeded quota").await? == "Warning", "not a warning");
    t.quota(gi(2)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

const SNAPSHOTS: &str = "count/volumesnapshots.snapshot.storage.k8s.io";

async fn a_quota_of_snapshots_is_told_and_a_raised_one_lets_it_go_on(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    t.quota_of(SNAPSHOTS, "0").await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.waits_for("ErrExceededQuota").await?;
    clone.condition("Ready", "False", "ErrExceededQuota", SNAPSHOTS).await?;
    t.quota_of(SNAPSHOTS, "1").await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_quota_beside_the_source_is_told_and_a_raised_one_lets_it_go_on(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    // What is made there for a while counts there.
    gold.quota(gi(1)).await?;
    let clone = t.create(clone_of(&disk).from(&gold)).await?;
    let message = clone.waits_for("ErrExceededQuota").await?;
    ensure!(message.contains("requests.storage=1Gi"), "{message}");
    gold.quota(gi(2)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

/// Longer than the sidecars wait for an answer, so they ask again and are told that it is being done.
async fn a_driver_that_is_still_at_it_is_waited_for(t: &Space) -> Result<()> {
    let slow = Behaviour { volume_takes_ms: Some(15_000), snapshot_takes_ms: Some(15_000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let attempts = clone.status().clone.unwrap_or_default().attempts;
    ensure!(attempts.is_empty(), "it was given up: {attempts:?}");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_snapshot_that_is_never_deleted_keeps_nobody_waiting(t: &Space) -> Result<()> {
    let hangs = Behaviour { snapshot_deletion_hangs: Some(true), ..Behaviour::default() };
    let class = t.class().behaving(hangs).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let hanging = t.api::<VolumeSnapshot>().list(&ListParams::default()).await?.items;
    ensure!(hanging.iter().all(|it| it.metadata.deletion_timestamp.is_some()), "it is wanted no more: {hanging:?}");
    // The driver comes to its senses: its control file wins over the class.
    t.driver_behaves("cow", &Behaviour { snapshot_deletion_hangs: Some(false), ..Behaviour::default() })?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_file_system_that_did_not_grow_with_its_volume_grows_when_it_is_used(t: &Space) -> Result<()> {
    let lazy = Behaviour { larger_restore: Some(LargerRestore::GrowDeviceOnly), ..Behaviour::default() };
    let class = t.class().behaving(lazy).file_system("xfs").annotate(keys::RESTORE_SIZE, "exact").made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    // Restored at its size, as an admin who knows the driver has said, and expanded then.
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2))).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let room: u64 = t.tools(&clone, Access::Write, &["size", "--path", "{}"]).await?.parse()?;
    ensure!(room >= gi(2).0 / 10 * 9, "there is room for {room} bytes");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_stranger_s_claim_of_its_name_is_left_alone(t: &Space) -> Result<()> {
    let clone = t.create(clone_of("late")).await?;
    clone.waits_for("CloneWithoutSource").await?;
    let stranger = t.source("clone").filled(mi(4)).await?;
    let before = t.bound(&stranger).await?;
    let disk = t.source("late").filled(mi(4)).await?;
    clone.waits_for("ErrResourceExists").await?;
    clone.condition("Ready", "False", "ErrResourceExists", "does not belong to this DataVolume").await?;
    clone.delete().await?;
    let after = t.bound(stranger.name()).await?;
    ensure!(before.spec == after.spec && before.metadata.uid == after.metadata.uid, "{after:?}");
    t.nothing_left_but(&[&disk, &stranger]).await
}
