//! Clones of what is in another namespace: how they come over, who may have them, and that nothing stays where they came from.

use std::fmt::Debug;

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{Phase, snapshot::VolumeSnapshot},
    keys, names,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{Resource, ResourceExt as _, runtime::watcher::Config};
use reference_csi::behaviour::{Behaviour, LargerRestore};
use serde::{Serialize, de::DeserializeOwned};
use webhook::manifests::MUTATING;

use super::process::kill;
use crate::harness::{
    CloneHandle, Disk, Space, clone_of, gi, mi,
    wait::{self, Look},
};

tests![
    a_file_system_comes_from_another_namespace_by_snapshot,
    a_device_comes_from_another_namespace_by_snapshot,
    a_clone_of_the_storage_comes_from_another_namespace,
    a_copied_file_system_comes_from_another_namespace,
    a_copied_device_comes_from_another_namespace,
    a_larger_device_grows_when_it_has_come,
    a_larger_file_system_comes_as_large_as_it_is,
    a_class_that_waits_for_a_consumer_is_filled_when_a_pod_comes,
    who_may_not_read_the_source_is_refused_and_the_cure_cures,
    nobody_asks_in_the_name_of_another,
    a_right_that_is_taken_away_counts_when_the_source_appears,
    nothing_is_left_of_one_that_is_deleted_while_its_snapshot_is_taken,
    nothing_is_left_of_one_that_is_deleted_while_its_volume_is_restored,
    nothing_is_left_of_one_that_is_deleted_while_it_is_copied,
    what_the_user_writes_stays_in_the_user_s_namespace,
    a_pod_that_comes_too_early_gets_the_whole_clone;
    alone:
    a_controller_that_is_killed_in_the_middle_of_a_transfer_loses_nothing,
];

/// By this strategy and with the same bytes; nothing else is left, here or there.
async fn comes_over(t: &Space, gold: &Space, clone: &CloneHandle, disk: &Disk, strategy: &str) -> Result<()> {
    clone.succeeds().await?;
    let annotated = clone.annotation(keys::CLONE_TYPE);
    ensure!(annotated.as_deref() == Some(strategy), "{annotated:?} instead of {strategy}: {:?}", clone.warnings);
    clone.has_bytes_of(disk).await?;
    gold.nothing_left_but(&[disk]).await?;
    t.nothing_left_but(&[clone]).await
}

async fn a_file_system_comes_from_another_namespace_by_snapshot(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold)).await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

async fn a_device_comes_from_another_namespace_by_snapshot(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold)).await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

async fn a_clone_of_the_storage_comes_from_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).annotate(keys::CLONE_TYPE, "csi-clone")).await?;
    comes_over(t, &gold, &clone, &disk, "csi-clone").await
}

async fn a_copied_file_system_comes_from_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    comes_over(t, &gold, &clone, &disk, "copy").await
}

async fn a_copied_device_comes_from_another_namespace(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).annotate(keys::CLONE_TYPE, "copy")).await?;
    comes_over(t, &gold, &clone, &disk, "copy").await
}

async fn a_larger_device_grows_when_it_has_come(t: &Space) -> Result<()> {
    let refuses = Behaviour { larger_restore: Some(LargerRestore::OutOfRange), ..Behaviour::default() };
    let class = t.class().behaving(refuses).annotate(keys::RESTORE_SIZE, "exact").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class).size(gi(2))).await?;
    clone.phase(Phase::ExpansionInProgress).await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await?;
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn a_larger_file_system_comes_as_large_as_it_is(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).size(gi(2))).await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await?;
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn a_class_that_waits_for_a_consumer_is_filled_when_a_pod_comes(t: &Space) -> Result<()> {
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class)).await?;
    clone.phase(Phase::PendingPopulation).await?;
    gold.nothing_left_but(&[&disk]).await?;
    let consumer = t.pod_using(&clone).await?;
    clone.succeeds().await?;
    consumer.delete().await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

const NAMESPACE: &str = "spec.source.pvc.namespace";

async fn who_may_not_read_the_source_is_refused_and_the_cure_cures(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    t.administered_by("alice").await?;
    let denial = t.refuses(clone_of(&disk).from(&gold).by("alice")).await?.by(MUTATING)?;
    let why = format!(
        "user \"alice\" may not clone PersistentVolumeClaim {}/disk: that takes the verb create on datavolumes/source of the group \
         cdi.kubevirt.io",
        gold.name()
    );
    let denial = denial.about(NAMESPACE, "FieldValueForbidden", &why)?.causes(1)?;
    // Whether there is a source at all is not told either.
    let missing = t.refuses(clone_of("nothing").from(&gold).by("alice")).await?;
    ensure!(missing.text().replace("nothing", "disk") == denial.text(), "{missing}\nis not {denial}");

    // An admin does what the refusal advises.
    let (_, cure) = denial.words(NAMESPACE)?.split_once("can give: ").context("there is no cure")?;
    for command in cure.split(" && ") {
        let args: Vec<_> = command.split_whitespace().skip_while(|word| *word == "kubectl").collect();
        gold.kubectl(&args).await?;
    }
    gold.knows_source_right("alice", &disk, true).await?;
    t.refuses(clone_of("nothing").from(&gold).by("alice")).await?;
    let clone = t.create(clone_of(&disk).from(&gold).by("alice")).await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

async fn nobody_asks_in_the_name_of_another(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    t.administered_by("alice").await?;
    let root = r#"{"username":"root","groups":["system:masters"]}"#;
    let forged = clone_of(&disk).from(&gold).by("alice").annotate(keys::REQUESTER, root);
    t.refuses(forged).await?.by(MUTATING)?.about(NAMESPACE, "FieldValueForbidden", "user \"alice\"")?;

    gold.lets_clone("alice", &disk).await?;
    let clone = t.create(clone_of(&disk).from(&gold).by("alice").annotate(keys::REQUESTER, root)).await?;
    let stamp = clone.annotation(keys::REQUESTER).context("there is no stamp")?;
    ensure!(stamp.contains("\"alice\"") && !stamp.contains("masters"), "{stamp}");
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

async fn a_right_that_is_taken_away_counts_when_the_source_appears(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    t.administered_by("alice").await?;
    gold.lets_clone("alice", "late").await?;
    let clone = t.create(clone_of("late").from(&gold).by("alice")).await?;
    clone.waits_for("CloneWithoutSource").await?;
    gold.forbids_cloning("alice", "late").await?;
    let disk = gold.source("late").filled(mi(4)).await?;
    let message = clone.waits_for("CloneNotAuthorized").await?;
    ensure!(message.contains("kubectl create rolebinding"), "{message}");
    clone.condition("Ready", "False", "CloneNotAuthorized", "user \"alice\" may not clone").await?;
    ensure!(clone.event("CloneNotAuthorized", "may not clone").await? == "Warning", "not a warning");
    // An answer counts for a second, so the clone's own claim may be there; beside the source nothing is.
    gold.nothing_left_but(&[&disk]).await?;

    gold.lets_clone("alice", "late").await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

/// Waits until something is made beside the source for a clone; returns it.
async fn beside<K>(gold: &Space, clone: &CloneHandle) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let selection = Config::default().labels(&format!("{}={}", keys::OWNED_BY_UID, clone.uid()));
    wait::all(&gold.api::<K>(), selection, &format!("a {} beside the source", K::kind(&())), |found| {
        found.first().map_or_else(|| Look::Continue("there is none".to_owned()), |first| Look::Break((*first).clone()))
    })
    .await
}

async fn nothing_is_left_of_one_that_is_deleted_while_its_snapshot_is_taken(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(60_000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class)).await?;
    beside::<VolumeSnapshot>(&gold, &clone).await?;
    clone.delete().await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await
}

async fn nothing_is_left_of_one_that_is_deleted_while_its_volume_is_restored(t: &Space) -> Result<()> {
    let slow = Behaviour { volume_takes_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class)).await?;
    beside::<PersistentVolumeClaim>(&gold, &clone).await?;
    clone.delete().await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await
}

async fn nothing_is_left_of_one_that_is_deleted_while_it_is_copied(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").size(gi(2)).block().filled(mi(1024)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.phase(Phase::CloneInProgress).await?;
    beside::<Pod>(&gold, &clone).await?;
    clone.delete().await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await
}

/// Nothing in it is the user's.
fn is_all_ours<K: Serialize>(object: &K) -> Result<()> {
    let text = serde_json::to_string(object)?;
    ensure!(!["example.com", "mine", "team", "blue"].iter().any(|word| text.contains(word)), "{text}");
    Ok(())
}

async fn what_the_user_writes_stays_in_the_user_s_namespace(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(1500), volume_takes_ms: Some(1500), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(4)).await?;
    let written = |request: crate::harness::CloneRequest| {
        request.from(&gold).class(&class).with_owners().label("team", "blue").annotate("example.com/note", "mine")
    };
    let by_snapshot = t.create(written(clone_of(&disk)).named("by-snapshot")).await?;
    is_all_ours(&beside::<VolumeSnapshot>(&gold, &by_snapshot).await?)?;
    let temporary = beside::<PersistentVolumeClaim>(&gold, &by_snapshot).await?;
    ensure!(temporary.name_any() == names::temporary_claim(by_snapshot.uid()), "{temporary:?}");
    is_all_ours(&temporary)?;
    let by_copy = t.create(written(clone_of(&disk)).named("by-copy").annotate(keys::CLONE_TYPE, "copy")).await?;
    is_all_ours(&beside::<PersistentVolumeClaim>(&gold, &by_copy).await?)?;
    is_all_ours(&beside::<Pod>(&gold, &by_copy).await?)?;
    for clone in [&by_snapshot, &by_copy] {
        clone.succeeds().await?.has_bytes_of(&disk).await?;
        let claim = t.bound(clone).await?;
        ensure!(claim.labels().get("team").map(String::as_str) == Some("blue"), "{:?}", claim.labels());
        let note = claim.annotations().get("example.com/note").map(String::as_str);
        ensure!(
            note == Some("mine") && !claim.annotations().contains_key(keys::REQUESTER),
            "{:?}",
            claim.annotations()
        );
    }
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&by_snapshot, &by_copy]).await
}

async fn a_pod_that_comes_too_early_gets_the_whole_clone(t: &Space) -> Result<()> {
    let slow = Behaviour { volume_takes_ms: Some(2000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class)).await?;
    t.claimed(&clone).await?;
    let (pod, _) = tokio::try_join!(t.pod_using(&clone), clone.succeeds())?;
    pod.delete().await?;
    comes_over(t, &gold, &clone, &disk, "snapshot").await
}

async fn a_controller_that_is_killed_in_the_middle_of_a_transfer_loses_nothing(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(3000), volume_takes_ms: Some(3000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).filled(mi(24)).await?;
    let request = |name: &str, strategy: &str| {
        clone_of(&disk).from(&gold).class(&class).named(name).annotate(keys::CLONE_TYPE, strategy).with_owners()
    };
    let by_snapshot = t.create(request("by-snapshot", "snapshot")).await?;
    let by_copy = t.create(request("by-copy", "copy")).await?;
    beside::<VolumeSnapshot>(&gold, &by_snapshot).await?;
    kill(t, keys::CONTROLLER).await?;
    beside::<PersistentVolumeClaim>(&gold, &by_snapshot).await?;
    kill(t, keys::CONTROLLER).await?;
    by_snapshot.succeeds().await?.has_bytes_of(&disk).await?;
    by_copy.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&by_snapshot, &by_copy]).await
}
