//! Claims that users make themselves, to be filled from a VolumeCloneSource, without a DataVolume.

use anyhow::{Result, ensure};
use common::{keys, names, requester::Reference};
use kube::ResourceExt as _;
use reference_csi::behaviour::Behaviour;

use crate::harness::{Disk, Named, Space, gi, mi, populator::ClaimHandle};

tests![
    a_claim_is_filled_by_snapshot,
    a_device_is_filled_from_another_namespace,
    a_claim_is_filled_from_a_snapshot_of_another_namespace,
    a_claim_is_filled_by_a_clone_of_the_storage_when_the_class_says_so,
    a_claim_is_filled_by_copy_when_the_class_says_so,
    a_larger_claim_is_filled,
    a_claim_waits_for_its_clone_source_and_then_for_its_source,
    a_claim_of_a_class_that_waits_for_a_consumer_is_filled_when_a_pod_comes,
    nothing_is_left_of_a_claim_that_is_deleted_in_the_middle,
    who_may_not_read_the_source_gets_no_claim_filled;
    alone:
    the_override_counts_for_claims_too,
];

/// By this strategy, as the claim itself says in CDI's words, and with the same bytes; nothing else is left, here or there.
async fn is_filled(
    (t, source): (&Space, &Space),
    claim: &ClaimHandle,
    disk: &Disk,
    kept: &[&dyn Named],
    strategy: &str,
) -> Result<()> {
    let filled = claim.succeeds().await?;
    let annotation = |key: &str| filled.annotations().get(key).map(String::as_str);
    ensure!(annotation(keys::CLONE_TYPE) == Some(strategy), "{:?}", filled.annotations());
    ensure!(annotation(keys::POPULATOR_PROGRESS) == Some("100.0%"), "{:?}", filled.annotations());
    ensure!(annotation(keys::CONDITION_RUNNING) == Some("false"), "{:?}", filled.annotations());
    ensure!(filled.owner_references().is_empty(), "somebody owns it: {:?}", filled.owner_references());
    claim.has_bytes_of(disk).await?;
    if t.name() == source.name() {
        let all: Vec<&dyn Named> = kept.iter().copied().chain([claim as &dyn Named]).collect();
        return t.nothing_left_but(&all).await;
    }
    source.nothing_left_but(kept).await?;
    t.nothing_left_but(&[claim]).await
}

async fn a_claim_is_filled_by_snapshot(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    t.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").made().await?;
    is_filled((t, t), &claim, &disk, &[&disk], "snapshot").await
}

async fn a_device_is_filled_from_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().filled(mi(24)).await?;
    gold.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").from(&gold).block().made().await?;
    is_filled((t, &gold), &claim, &disk, &[&disk], "snapshot").await
}

async fn a_claim_is_filled_from_a_snapshot_of_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let snapshot = gold.snapshot("monday", &disk, "cow").await?.ready().await?;
    gold.clone_source("golden", &snapshot).await?;
    let claim = t.claim_from("golden").from(&gold).made().await?;
    is_filled((t, &gold), &claim, &disk, &[&disk, &snapshot], "snapshot").await?;
    snapshot.is_untouched().await
}

async fn a_claim_is_filled_by_a_clone_of_the_storage_when_the_class_says_so(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "csi-clone").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(24)).await?;
    gold.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").from(&gold).class(&class).made().await?;
    is_filled((t, &gold), &claim, &disk, &[&disk], "csi-clone").await
}

async fn a_claim_is_filled_by_copy_when_the_class_says_so(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "copy").made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    t.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").class(&class).block().made().await?;
    is_filled((t, t), &claim, &disk, &[&disk], "copy").await
}

async fn a_larger_claim_is_filled(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(24)).await?;
    t.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").block().size(gi(2)).made().await?;
    is_filled((t, t), &claim, &disk, &[&disk], "snapshot").await?;
    let capacity = t.capacity(&claim).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn a_claim_waits_for_its_clone_source_and_then_for_its_source(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let original = gold.source("original").filled(mi(4)).await?;
    let claim = t.claim_from("golden").from(&gold).made().await?;
    let missing = format!("VolumeCloneSource {}/golden does not exist", gold.name());
    ensure!(t.event(claim.uid(), "VolumeCloneSourceMissing", &missing).await? == "Warning", "not a warning");
    gold.clone_source("golden", "late").await?;
    let message = claim.waits_for("CloneWithoutSource").await?;
    ensure!(message.contains("/late does not exist"), "{message}");
    let disk = gold.source("late").with_content_of(&original).await?;
    is_filled((t, &gold), &claim, &original, &[&original, &disk], "snapshot").await
}

async fn a_claim_of_a_class_that_waits_for_a_consumer_is_filled_when_a_pod_comes(t: &Space) -> Result<()> {
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    gold.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").from(&gold).class(&class).made().await?;
    claim.waits_for("WaitForFirstConsumer").await?;
    gold.nothing_left_but(&[&disk]).await?;
    let consumer = t.pod_using(&claim).await?;
    claim.succeeds().await?;
    consumer.delete().await?;
    is_filled((t, &gold), &claim, &disk, &[&disk], "snapshot").await
}

async fn nothing_is_left_of_a_claim_that_is_deleted_in_the_middle(t: &Space) -> Result<()> {
    let slow = Behaviour { volume_takes_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(4)).await?;
    gold.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").from(&gold).class(&class).made().await?;
    gold.claimed(names::temporary_claim(claim.uid()).as_str()).await?;
    claim.delete().await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await
}

async fn who_may_not_read_the_source_gets_no_claim_filled(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    t.administered_by("alice").await?;
    gold.lets_read("alice", Reference::VolumeCloneSource, "golden").await?;
    // Nobody can say at admission what is going to be offered under that name.
    let early = t.claim_from("golden").from(&gold).by("alice").made().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    gold.clone_source("golden", &disk).await?;
    let message = early.waits_for("CloneNotAuthorized").await?;
    ensure!(message.contains("user \"alice\" may not clone"), "{message}");
    early.delete().await?;
    // Now somebody can.
    let denial = t.claim_from("golden").from(&gold).by("alice").refused().await?;
    let field = format!("metadata.annotations[{}]", keys::DATA_SOURCE_NAMESPACE);
    denial.about(&field, "FieldValueForbidden", "user \"alice\" may not clone")?.causes(1)?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await?;

    gold.lets_clone("alice", &disk).await?;
    let claim = t.claim_from("golden").from(&gold).by("alice").made().await?;
    is_filled((t, &gold), &claim, &disk, &[&disk], "snapshot").await
}

async fn the_override_counts_for_claims_too(t: &Space) -> Result<()> {
    let original = t.source("original").filled(mi(4)).await?;
    t.clone_source("golden", "late").await?;
    let claim = t.claim_from("golden").annotate(keys::FILE_OWNERS, "Keep").made().await?;
    claim.waits_for("CloneWithoutSource").await?;
    t.override_strategy(Some("copy")).await?;
    // What is decided now is decided with the override: it was there before the source.
    let disk = t.source("late").with_content_of(&original).await?;
    is_filled((t, t), &claim, &original, &[&original, &disk], "copy").await
}
