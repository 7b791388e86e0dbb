//! Virtual machines: what KubeVirt's virt-controller gets to see of its DataVolumes, and does because of it.

use anyhow::{Context as _, Result, ensure};
use common::{api::Phase, keys};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{ResourceExt as _, api::DeleteParams};
use serde_json::json;
use webhook::manifests::MUTATING;

use crate::harness::{
    Disk, Named as _, Snapshot, Space, clone_of, gi,
    machine::{Machine, Printable},
    mi,
    wait::{self, Look},
};

tests![
    a_machine_starts_with_one_pod_in_both_bindings,
    a_restored_machine_starts_in_both_bindings,
    a_machine_is_restored_in_place,
    what_was_never_bound_goes_with_the_machine,
    a_quota_is_the_machine_s_failure,
    a_failed_disk_is_the_machine_s_failure,
    what_time_cures_is_waited_for,
    another_source_gets_a_word,
];

/// A source in a class that binds at once, and a class that waits for consumers.
async fn late(t: &Space) -> Result<(String, Disk)> {
    t.with_virt_controller().await?;
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    Ok((class, t.source("disk").filled(mi(4)).await?))
}

async fn with_snapshot(t: &Space) -> Result<(String, Disk, Snapshot)> {
    let (class, disk) = late(t).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    Ok((class, disk, snapshot))
}

/// One pod, not a throw-away one before it; and nothing that nobody has to act on is a warning.
async fn a_machine_starts_with_one_pod_in_both_bindings(t: &Space) -> Result<()> {
    let (class, disk) = late(t).await?;
    for (name, class) in [("at-once", "cow"), ("late", class.as_str())] {
        let machine = t.machine(name, clone_of(&disk).class(class)).await?;
        let (pod, pods) = machine.starts().await?;
        ensure!(pods == 1, "{name}: {:?}", machine.disk.phases());
        ensure!(machine.printable().await? == Printable::Starting, "{:?}", machine.printable().await?);
        pod.delete().await?;
        machine.disk.has_bytes_of(&disk).await?;
        for volume in machine.disk.versions() {
            let status = volume.status.clone().unwrap_or_default();
            ensure!(status.conditions.is_empty() || !status.phase.is_unset(), "{name}: conditions without a phase");
        }
    }
    // A pool, and a disk that is plugged into a machine that runs: virt-controller owns it not, and an attachment pod binds it.
    let mut pool = Vec::new();
    for name in ["pool-0", "pool-1", "pool-2"] {
        pool.push(t.machine(name, clone_of(&disk).class(&class)).await?);
    }
    for (pod, pods) in try_join_all(pool.iter().map(Machine::starts)).await? {
        ensure!(pods == 1, "{pods} pods for {}", pod.name());
        pod.delete().await?;
    }
    let plugged = t.create(clone_of(&disk).named("plugged").class(&class).by(&t.virt_controller())).await?;
    plugged.phase(Phase::PendingPopulation).await?;
    t.pod_using(&plugged).await?.delete().await?;
    plugged.succeeds().await?.has_bytes_of(&disk).await?;
    let waited = t.machine("waits", clone_of(&disk).class(&class)).await?;
    waited.disk.phase(Phase::PendingPopulation).await?;
    let kind = waited.disk.event("PendingPopulation", "start a pod").await?;
    ensure!(kind == "Normal", "{kind}");
    Ok(())
}

/// A claim that is not bound and a DataVolume that declares it populated, in each of the three ways of a VirtualMachineRestore and a backup.
async fn a_restored_machine_starts_in_both_bindings(t: &Space) -> Result<()> {
    let (class, disk, snapshot) = with_snapshot(t).await?;
    let request = || clone_of("nothing").size(gi(1));
    for (name, class, request) in [
        ("at-once", "cow", request().annotate(keys::PRE_POPULATED, "true").annotate(keys::ALLOW_ADOPTION, "true")),
        (
            "late",
            class.as_str(),
            request().annotate(keys::PRE_POPULATED, "true").annotate(keys::ALLOW_ADOPTION, "true"),
        ),
        ("adopted", class.as_str(), request().annotate(keys::ALLOW_ADOPTION, "true")),
        ("called-filled", class.as_str(), request().annotate(keys::PRE_POPULATED, "true")),
    ] {
        let claim = t.restored_claim(name, class, &snapshot).await?;
        let machine = t.machine(name, request.class(class)).await?;
        // Before any pod: this is what virt-controller waits for.
        machine.disk.succeeds().await?;
        machine.disk.event("CloneSucceeded", "nothing was cloned").await?;
        let owned = t.api::<PersistentVolumeClaim>().get(name).await?;
        let owners = owned.owner_references();
        ensure!(
            owned.uid() == claim.uid() && owners.iter().any(|it| it.uid == machine.disk.uid()),
            "{name}: {owners:?}"
        );
        let (pod, pods) = machine.starts().await?;
        ensure!(pods == 1, "{name}: {:?}", machine.disk.phases());
        pod.delete().await?;
        machine.disk.has_bytes_of(&disk).await?;
        ensure!(machine.disk.status().phase == Phase::Succeeded, "{name}: {:?}", machine.disk.phases());
        ensure!(machine.disk.condition("Bound", "True", "Bound", "").await.is_ok());
    }
    Ok(())
}

/// A DataVolume that has succeeded stays so while its claim is replaced, and its claim becomes its own again.
async fn a_machine_is_restored_in_place(t: &Space) -> Result<()> {
    let (class, disk, snapshot) = with_snapshot(t).await?;
    let machine = t.machine("machine", clone_of(&disk).class(&class)).await?;
    machine.starts().await?.0.delete().await?;
    let before = machine.disk.phases();
    let restored = machine.is_restored_in_place(&class, &snapshot).await?;
    let own = |claim: Option<&PersistentVolumeClaim>| match claim {
        Some(claim) if claim.owner_references().iter().any(|it| it.uid == machine.disk.uid()) => {
            Look::Break(claim.uid())
        }
        other => Look::Continue(format!("{other:?}")),
    };
    let uid = wait::object(&t.api(), "machine", "the restored claim to be the DataVolume's", own).await?;
    ensure!(uid == restored.uid(), "another claim: {uid:?}");
    machine.starts().await?.0.delete().await?;
    ensure!(machine.disk.phases() == before, "{:?}, then {:?}", before, machine.disk.phases());
    machine.disk.has_bytes_of(&disk).await?;
    Ok(())
}

async fn what_was_never_bound_goes_with_the_machine(t: &Space) -> Result<()> {
    let (class, disk, snapshot) = with_snapshot(t).await?;
    t.restored_claim("restored", &class, &snapshot).await?;
    let adopting = clone_of("nothing").size(gi(1)).class(&class).annotate(keys::ALLOW_ADOPTION, "true");
    let restored = t.machine("restored", adopting).await?;
    restored.disk.succeeds().await?;
    let cloned = t.machine("cloned", clone_of(&disk).class(&class)).await?;
    cloned.disk.phase(Phase::PendingPopulation).await?;
    restored.disk.delete().await?;
    cloned.disk.delete().await?;
    t.nothing_left_but(&[&disk, &snapshot]).await
}

/// `Pending`, with the quota in the condition `Bound`: virt-controller looks at nothing else.
async fn a_quota_is_the_machine_s_failure(t: &Space) -> Result<()> {
    t.with_virt_controller().await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    t.quota_of("persistentvolumeclaims", "1").await?;
    let machine = t.machine("machine", clone_of(&disk)).await?;
    machine.shows(Printable::Failure).await?;
    machine.disk.condition("Bound", "False", "ErrExceededQuota", "exceeded quota").await?;
    t.quota_of("persistentvolumeclaims", "9").await?;
    machine.disk.succeeds().await?;
    Ok(())
}

/// The claim stays, without content, so that a pod that waits for it doesn't say that it is missing; the next DataVolume of the name
/// makes its own.
async fn a_failed_disk_is_the_machine_s_failure(t: &Space) -> Result<()> {
    let (class, disk) = late(t).await?;
    // The mover may not read what belongs to root.
    let unreadable = clone_of(&disk).class(&class).annotate(keys::CLONE_TYPE, "copy");
    let machine = t.machine("machine", unreadable).await?;
    machine.disk.phase(Phase::PendingPopulation).await?;
    let claims = t.api::<PersistentVolumeClaim>();
    let before = claims.get("machine").await?;
    let pod = t.pod_without_volume(&machine).await?;
    machine.shows(Printable::DataVolumeError).await?;
    ensure!(machine.printable().await? == Printable::DataVolumeError, "{:?}", machine.printable().await?);
    machine.disk.condition("Bound", "False", "Failed", "").await?;
    let after = claims.get("machine").await.context("the claim was taken away")?;
    ensure!(after.uid() == before.uid() && after.metadata.deletion_timestamp.is_none(), "{after:?}");
    let bound = after.spec.and_then(|spec| spec.volume_name);
    ensure!(bound.is_none(), "it has a volume: {bound:?}");
    pod.delete().await?;
    machine.disk.delete().await?;
    t.nothing_left_but(&[&disk]).await
}

/// A person is told at once, a controller gets its object and a warning: the class comes later, and the name is free later.
async fn what_time_cures_is_waited_for(t: &Space) -> Result<()> {
    t.with_virt_controller().await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let class = t.name().to_owned();
    let denial = t.refuses(clone_of(&disk).class(&class)).await?.by(MUTATING)?;
    denial.about("spec.storage.storageClassName", "FieldValueNotFound", "there is no such StorageClass")?;
    let (_, warnings) = t.dry_run(clone_of(&disk).class(&class).by(&t.virt_controller())).await?;
    let machine = t.machine("machine", clone_of(&disk).class(&class)).await?;
    for warnings in [&warnings, &machine.disk.warnings] {
        ensure!(warnings.iter().any(|line| line.contains("starts when the StorageClass exists")), "{warnings:?}");
    }
    machine.shows(Printable::Provisioning).await?;
    ensure!(machine.disk.event("ErrClaimNotValid", "there is no such StorageClass").await? == "Warning");
    t.class().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    machine.disk.succeeds().await?.has_bytes_of(&disk).await?;

    let stranger = t.source("taken").blank().await?;
    t.refuses(clone_of(&disk).named("taken")).await?.by(MUTATING)?.causes(1)?;
    let waits = t.machine("taken", clone_of(&disk)).await?;
    waits.disk.waits_for("ErrResourceExists").await?;
    t.api::<PersistentVolumeClaim>().delete(stranger.name(), &DeleteParams::default()).await?;
    waits.disk.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &machine, &waits]).await
}

/// smartclone serves clones alone, and says so; what is filled already needs no source.
async fn another_source_gets_a_word(t: &Space) -> Result<()> {
    t.with_virt_controller().await?;
    let blank = || clone_of("nothing").source(json!({"blank": {}})).size(gi(1));
    let machine = t.machine("machine", blank()).await?;
    machine.shows(Printable::Provisioning).await?;
    machine.disk.condition("Ready", "False", "SourceNotSupported", "install CDI").await?;
    ensure!(machine.disk.event("SourceNotSupported", "install CDI").await? == "Warning");
    machine.disk.delete().await?;
    t.source("restored").blank().await?;
    let restored = t.machine("restored", blank().annotate(keys::PRE_POPULATED, "restored")).await?;
    restored.disk.succeeds().await?;
    restored.disk.delete().await?;
    t.nothing_left_but(&[]).await
}
