//! What the storage driver refuses, or doesn't do in time, is done in another way; or told, where no other way is wanted.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{CloneStrategy, Phase, StorageProfile},
    keys,
};
use kube::Api;
use reference_csi::behaviour::{Behaviour, LargerRestore};

use crate::harness::{
    CloneHandle, Disk, Space, clone_of, gi, mi,
    wait::{self, Look},
};

tests![
    a_refused_snapshot_becomes_a_copy_and_similar_clones_need_not_find_out,
    what_several_namespaces_met_is_told_to_all_without_words,
    a_refused_restore_becomes_a_copy,
    a_refused_clone_of_the_storage_becomes_a_copy,
    what_is_refused_in_another_namespace_becomes_a_copy,
    a_claim_without_a_data_volume_gets_a_copy_too,
    where_no_fallback_is_allowed_a_refusal_is_the_end,
    what_takes_too_long_becomes_a_copy,
    a_driver_that_gives_less_than_it_was_asked_for_is_not_believed,
];

fn refuses_snapshots() -> Behaviour {
    Behaviour { refuse_snapshots: Some(true), ..Behaviour::default() }
}

/// It was tried by `strategy`, which is told everywhere with `words`, and is a copy now; nothing of the attempt is left.
async fn became_a_copy(
    (t, at_source): (&Space, &Space),
    clone: &CloneHandle,
    disk: &Disk,
    strategy: CloneStrategy,
    (reason, words): (&str, &str),
) -> Result<()> {
    clone.succeeds().await?;
    let in_force = clone.status().clone.and_then(|clone| clone.strategy);
    ensure!(in_force == Some(CloneStrategy::Copy), "{in_force:?}");
    let told = clone.annotation(keys::CLONE_FALLBACK_REASON).context("no fallback reason is annotated")?;
    ensure!(told.starts_with(&format!("{reason}: ")) && told.contains(words), "{told}");
    ensure!(clone.event(reason, words).await? == "Warning", "the event is not a warning");
    let status = clone.status().clone.unwrap_or_default();
    ensure!(status.fallback_reason.as_ref() == Some(&told), "{:?} is not {told}", status.fallback_reason);
    let attempt = status.attempts.first().context("no attempt is recorded")?;
    ensure!(
        attempt.strategy == Some(strategy)
            && attempt.reason.as_deref() == Some(reason)
            && attempt.message.as_deref().is_some_and(|message| message.contains(words))
            && attempt.started_at.is_some(),
        "{attempt:?}"
    );
    clone.has_bytes_of(disk).await?;
    if t.name() == at_source.name() {
        return t.nothing_left_but(&[disk, clone]).await;
    }
    at_source.nothing_left_but(&[disk]).await?;
    t.nothing_left_but(&[clone]).await
}

async fn a_refused_snapshot_becomes_a_copy_and_similar_clones_need_not_find_out(t: &Space) -> Result<()> {
    let class = t.class().behaving(refuses_snapshots()).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    let told = ("DriverRefused", "FailedPrecondition");
    became_a_copy((t, t), &clone, &disk, CloneStrategy::Snapshot, told).await?;

    // The next one of the namespace goes another way without asking the driver.
    let next = t.create(clone_of(&disk).class(&class).named("next")).await?;
    next.succeeds().await?.has_bytes_of(&disk).await?;
    let reason = next.annotation(keys::CLONE_FALLBACK_REASON).unwrap_or_default();
    ensure!(reason.contains("refused a similar clone in this namespace 1 times"), "{reason}");
    let tried = next.phases().contains(&Phase::SnapshotForSmartCloneInProgress);
    ensure!(!tried && next.status().clone.unwrap_or_default().attempts.is_empty(), "{:?}", next.phases());
    // Who wants no other way gets it tried, whatever is remembered.
    let never = t.create(clone_of(&disk).class(&class).named("never").annotate(keys::FALLBACK, "Never")).await?;
    never.fails_with("FailedPrecondition").await?;
    t.nothing_left_but(&[&disk, &clone, &next]).await
}

async fn what_several_namespaces_met_is_told_to_all_without_words(t: &Space) -> Result<()> {
    let class = t.class().behaving(refuses_snapshots()).made().await?;
    let (second, third, fourth) = (t.neighbour().await?, t.neighbour().await?, t.neighbour().await?);
    let profiles: Api<StorageProfile> = t.everywhere();
    for space in [t, &second, &third] {
        let profile = profiles.get(&class).await?;
        ensure!(profile.status.is_none_or(|status| status.refusals.is_empty()), "one namespace is not enough");
        let disk = space.source("disk").class(&class).block().filled(mi(4)).await?;
        space.create(clone_of(&disk).class(&class)).await?.succeeds().await?;
    }
    let refusal = wait::object(&profiles, &class, "the refusal in the StorageProfile", |profile| {
        let known = profile.and_then(|profile| profile.status.as_ref()?.refusals.first());
        known.map_or_else(|| Look::Continue("there is none".to_owned()), |refusal| Look::Break(refusal.clone()))
    })
    .await?;
    ensure!(
        refusal.strategy == Some(CloneStrategy::Snapshot)
            && refusal.reason.as_deref() == Some("FailedPrecondition")
            && (refusal.count, refusal.namespaces) == (1, 3)
            && refusal.until.is_some(),
        "{refusal:?}"
    );
    let raw = t.kubectl(&["get", "storageprofile", &class, "--output=json"]).await?;
    let namespaces = [second.name(), third.name()];
    ensure!(!raw.contains("rpc error") && namespaces.iter().all(|name| !raw.contains(name)), "{raw}");
    let disk = fourth.source("disk").class(&class).block().filled(mi(4)).await?;
    let told = fourth.create(clone_of(&disk).class(&class)).await?;
    let warned = told.warnings.iter().find(|line| line.contains("in several namespaces (FailedPrecondition)"));
    ensure!(warned.is_some_and(|line| !line.contains("rpc error")), "{:?}", told.warnings);
    told.succeeds().await?.has_bytes_of(&disk).await?;
    ensure!(told.status().clone.unwrap_or_default().attempts.is_empty(), "it was tried: {:?}", told.phases());
    Ok(())
}

async fn a_refused_restore_becomes_a_copy(t: &Space) -> Result<()> {
    // The driver can only restore a volume of the snapshot's size, and nobody has said so in the StorageClass.
    let exact = Behaviour { larger_restore: Some(LargerRestore::OutOfRange), ..Behaviour::default() };
    let class = t.class().behaving(exact).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2))).await?;
    became_a_copy((t, t), &clone, &disk, CloneStrategy::Snapshot, ("DriverRefused", "OutOfRange")).await
}

async fn a_refused_clone_of_the_storage_becomes_a_copy(t: &Space) -> Result<()> {
    let refuses = Behaviour { refuse_clones: Some(true), ..Behaviour::default() };
    let class = t.class().behaving(refuses).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    let request = clone_of(&disk).class(&class).annotate(keys::CLONE_TYPE, "csi-clone").with_owners();
    let clone = t.create(request).await?;
    became_a_copy((t, t), &clone, &disk, CloneStrategy::CsiClone, ("DriverRefused", "InvalidArgument")).await
}

async fn what_is_refused_in_another_namespace_becomes_a_copy(t: &Space) -> Result<()> {
    let refuses = Behaviour { larger_restore: Some(LargerRestore::InvalidArgument), ..Behaviour::default() };
    let class = t.class().behaving(refuses).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class).size(gi(2))).await?;
    became_a_copy((t, &gold), &clone, &disk, CloneStrategy::Snapshot, ("DriverRefused", "InvalidArgument")).await
}

async fn a_claim_without_a_data_volume_gets_a_copy_too(t: &Space) -> Result<()> {
    let class = t.class().behaving(refuses_snapshots()).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    t.clone_source("golden", &disk).await?;
    let claim = t.claim_from("golden").class(&class).block().made().await?;
    let filled = claim.succeeds().await?;
    let annotation = |key: &str| filled.metadata.annotations.as_ref()?.get(key).cloned();
    let told = annotation(keys::CLONE_FALLBACK_REASON).context("no fallback reason is annotated")?;
    ensure!(annotation(keys::CLONE_TYPE).as_deref() == Some("copy") && told.starts_with("DriverRefused: "), "{told}");
    claim.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &claim]).await
}

async fn where_no_fallback_is_allowed_a_refusal_is_the_end(t: &Space) -> Result<()> {
    let class = t.class().behaving(refuses_snapshots()).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class).annotate(keys::FALLBACK, "Never")).await?;
    clone.fails_with("FailedPrecondition").await?;
    ensure!(clone.event("CloneFailed", "no fallback is allowed").await? == "Warning", "not a warning");
    t.nothing_left_but(&[&disk]).await
}

async fn what_takes_too_long_becomes_a_copy(t: &Space) -> Result<()> {
    let never = Behaviour { snapshot_ready_after_ms: Some(600_000), ..Behaviour::default() };
    let class = t.class().behaving(never).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let deadline = Duration::from_secs(10);
    let request = clone_of(&disk).class(&class).annotate(keys::DEADLINE, &format!("{}s", deadline.as_secs()));
    let clone = t.create(request).await?;
    let told = ("DriverTooSlow", "it did not say why");
    became_a_copy((t, t), &clone, &disk, CloneStrategy::Snapshot, told).await?;
    let status = clone.status().clone.unwrap_or_default();
    let attempt = status.attempts.first().context("no attempt is recorded")?;
    let (Some(started), Some(ended)) = (&attempt.started_at, &attempt.ended_at) else { anyhow::bail!("{attempt:?}") };
    let took = ended.0.duration_since(started.0);
    ensure!(took >= deadline.try_into()?, "given up after {took:#}");
    // Slow isn't refused: nobody else is kept from trying.
    let profile = Api::<StorageProfile>::all(t.client().clone()).get(&class).await?;
    ensure!(profile.status.is_none_or(|status| status.refusals.is_empty()), "slow is not refused");
    Ok(())
}

async fn a_driver_that_gives_less_than_it_was_asked_for_is_not_believed(t: &Space) -> Result<()> {
    let stingy = Behaviour { larger_restore: Some(LargerRestore::KeepSmall), ..Behaviour::default() };
    let class = t.class().behaving(stingy).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let request = clone_of(&disk).class(&class).size(gi(2)).annotate(keys::DEADLINE, "10s");
    let clone = t.create(request).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let size: u64 = t.tools(&clone, crate::harness::pod::Access::Write, &["size", "--path", "{}"]).await?.parse()?;
    ensure!(size >= gi(2).0, "it has {size} bytes");
    t.nothing_left_but(&[&disk, &clone]).await
}
