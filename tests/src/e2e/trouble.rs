//! What goes wrong elsewhere is told on the DataVolume, and overcome when it is over.

use anyhow::{Result, ensure};
use reference_csi::{
    behaviour::{Behaviour, Effect, FailCode, Fault},
    calls::Rpc,
};

use crate::harness::{Named as _, Space, clone_of, gi, mi};

tests![
    a_driver_s_trouble_with_a_snapshot_is_told_and_overcome,
    a_driver_s_trouble_with_a_volume_is_told_and_overcome,
    a_quota_is_told_and_a_raised_one_lets_it_go_on,
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
    clone.condition("Ready", "False", "ErrExceededQuota", "exceeded quota: storage").await?;
    ensure!(clone.event("ErrExceededQuota", "exceeded quota").await? == "Warning", "not a warning");
    t.quota(gi(2)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
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
