//! StorageClasses that make a volume only when a pod wants it.

use anyhow::{Result, ensure};
use common::{api::Phase, keys};

use crate::harness::{Disk, Space, clone_of, mi};

tests![
    who_asks_for_it_gets_a_snapshot_restored_without_a_consumer,
    who_asks_for_it_gets_a_copy_without_a_consumer,
    who_asks_for_it_gets_a_clone_of_another_namespace_without_a_consumer,
    a_copy_waits_for_its_consumer_and_goes_where_that_is,
];

/// A class that waits for consumers, and a device in a class that doesn't, from which it may be cloned.
async fn late(t: &Space, at_source: &Space) -> Result<(String, Disk)> {
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    Ok((class, at_source.source("disk").block().filled(mi(24)).await?))
}

async fn who_asks_for_it_gets_a_snapshot_restored_without_a_consumer(t: &Space) -> Result<()> {
    let (class, disk) = late(t, t).await?;
    let clone = t.create(clone_of(&disk).class(&class).annotate(keys::IMMEDIATE_BINDING, "")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "{:?}", clone.warnings);
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn who_asks_for_it_gets_a_copy_without_a_consumer(t: &Space) -> Result<()> {
    let (class, disk) = late(t, t).await?;
    let request = clone_of(&disk).class(&class).annotate(keys::IMMEDIATE_BINDING, "true");
    let clone = t.create(request.annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn who_asks_for_it_gets_a_clone_of_another_namespace_without_a_consumer(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let (class, disk) = late(t, &gold).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class).annotate(keys::IMMEDIATE_BINDING, "")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

async fn a_copy_waits_for_its_consumer_and_goes_where_that_is(t: &Space) -> Result<()> {
    let (class, disk) = late(t, t).await?;
    let clone = t.create(clone_of(&disk).class(&class).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.phase(Phase::PendingPopulation).await?;
    clone.condition("Running", "False", "WaitForFirstConsumer", "start a pod").await?;
    let consumer = t.pod_using(&clone).await?;
    clone.succeeds().await?;
    consumer.delete().await?;
    clone.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}
