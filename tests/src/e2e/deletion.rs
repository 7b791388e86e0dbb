//! A DataVolume that is deleted leaves nothing behind, whenever that happens.

use anyhow::Result;
use common::{api::Phase, keys};
use reference_csi::behaviour::Behaviour;

use crate::harness::{Space, clone_of, gi, mi};

tests![
    nothing_is_left_of_one_that_waited,
    nothing_is_left_while_the_snapshot_is_taken,
    nothing_is_left_while_the_volume_is_restored,
    nothing_is_left_while_the_volume_is_copied,
    nothing_is_left_of_one_that_succeeded,
    a_name_can_be_used_again_at_once,
];

async fn nothing_is_left_of_one_that_waited(t: &Space) -> Result<()> {
    let clone = t.create(clone_of("late")).await?;
    clone.waits_for("CloneWithoutSource").await?;
    clone.delete().await?;
    t.nothing_left_but(&[]).await
}

async fn nothing_is_left_while_the_snapshot_is_taken(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(60_000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    t.snapshot_for(|members| members.contains_key(clone.uid())).await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk]).await
}

async fn nothing_is_left_while_the_volume_is_restored(t: &Space) -> Result<()> {
    let slow = Behaviour { volume_takes_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    t.claimed(&clone).await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk]).await
}

async fn nothing_is_left_while_the_volume_is_copied(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).block().filled(mi(1024)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.phase(Phase::CloneInProgress).await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk]).await
}

async fn nothing_is_left_of_one_that_succeeded(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let by_snapshot = t.create(clone_of(&disk).named("by-snapshot")).await?;
    let by_copy = t.create(clone_of(&disk).named("by-copy").annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    by_snapshot.succeeds().await?;
    by_copy.succeeds().await?;
    by_snapshot.delete().await?;
    by_copy.delete().await?;
    t.nothing_left_but(&[&disk]).await
}

async fn a_name_can_be_used_again_at_once(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let first = t.create(clone_of(&disk)).await?;
    first.succeeds().await?;
    first.delete().await?;
    let second = t.create(clone_of(&disk)).await?;
    second.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &second]).await
}
