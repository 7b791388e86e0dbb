//! What people trip over elsewhere: public reports, and other members of the kinds that they stand for. docs/reports.md lists them.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{
        Cdi, DataSource, DataVolume, Phase,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    keys, names,
};
use k8s_openapi::api::core::v1::{LimitRange, Node, PersistentVolume, PersistentVolumeClaim, ResourceQuota};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use reference_csi::behaviour::{Behaviour, LargerRestore, RestoreSize};
use serde_json::{Value, json};

use super::{
    convert::{IMAGE, digest, image},
    datasources::HeldUp,
};
use crate::harness::{
    Named as _, Space, clone_by, clone_of, clone_of_snapshot, gi, mi,
    wait::{self, Look},
};

tests![
    a_data_source_is_followed_again_when_its_source_goes_before_it_was_read,
    once_the_snapshot_is_cut_the_source_may_go,
    a_source_that_is_being_deleted_is_told_and_the_next_one_is_cloned,
    classes_that_retain_keep_nothing_of_ours,
    classes_that_retain_keep_nothing_of_ours_when_it_is_deleted_in_the_middle,
    a_snapshot_that_claims_to_need_next_to_nothing,
    what_is_sent_again_is_unchanged,
    a_copy_fits_into_quotas_of_everything,
    a_limit_that_refuses_the_pod_is_told_with_its_cure,
    a_sidecar_keeps_no_copy_from_its_end,
    a_user_s_labels_are_on_the_claim,
    a_pod_without_a_node_counts,
    a_read_only_source_makes_a_writable_disk,
    a_class_that_exists_in_name_only_is_told,
    a_volume_mode_goes_with_the_access_modes,
    what_is_written_is_honoured_or_refused,
    settings_without_effect_are_told,
    what_a_former_controller_left_comes_to_an_end,
    a_clone_inherits_the_default_instance_type;
    alone:
    pods_go_where_the_admin_says,
];

async fn a_data_source_is_followed_again_when_its_source_goes_before_it_was_read(t: &Space) -> Result<()> {
    let HeldUp { new, user, clone, .. } = HeldUp::while_its_data_source_moves_on(t).await?;
    // It stays as long as the pod does, and can't be cloned any more.
    t.api::<PersistentVolumeClaim>().delete("old", &DeleteParams::default()).await?;
    clone.succeeds().await?.has_bytes_of(&new).await?;
    user.delete().await?;
    t.nothing_left_but(&[&new, &clone]).await
}

async fn once_the_snapshot_is_cut_the_source_may_go(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let digest = t.digest(&disk, None).await?;
    // The claim is refused, the snapshot is not.
    t.quota_of("persistentvolumeclaims", "1").await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.waits_for("ErrExceededQuota").await?;
    t.snapshot_for(|members| members.contains_key(clone.uid())).await?;
    t.api::<PersistentVolumeClaim>().delete("disk", &DeleteParams::default()).await?;
    clone.succeeds().await?;
    ensure!(t.digest(&clone, None).await? == digest, "other bytes");
    t.nothing_left_but(&[&clone]).await
}

async fn a_source_that_is_being_deleted_is_told_and_the_next_one_is_cloned(t: &Space) -> Result<()> {
    let first = t.source("disk").filled(mi(4)).await?;
    let other = t.source("other").filled(mi(8)).await?;
    let user = t.pod_using(&first).await?;
    t.api::<PersistentVolumeClaim>().delete("disk", &DeleteParams::default()).await?;
    let clone = t.create(clone_of("disk").size(gi(1))).await?;
    let told = |line: &String| line.contains("is being deleted (finalizers: kubernetes.io/pvc-protection)");
    ensure!(clone.warnings.iter().any(told), "{:?}", clone.warnings);
    let message = clone.waits_for("CloneSourceDeleting").await?;
    ensure!(told(&message), "{message}");
    user.delete().await?;
    clone.waits_for("CloneWithoutSource").await?;
    // Its content is there when it appears: the clone starts at once.
    let next = t.source("disk").with_content_of(&other).await?;
    clone.succeeds().await?.has_bytes_of(&other).await?;
    t.nothing_left_but(&[&other, &next, &clone]).await
}

/// Temporary snapshots, and claims that are restored to be copied from, go completely; the user's volume keeps the policy of its class.
async fn classes_that_retain_keep_nothing_of_ours(t: &Space) -> Result<()> {
    let class = t.class().retaining().made().await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let retained = t.source("retained").class(&class).filled(mi(4)).await?;
    let by_snapshot = t.create(clone_of(&retained).class(&class).named("by-snapshot")).await?;
    by_snapshot.succeeds().await?.has_bytes_of(&retained).await?;
    let by_copy =
        clone_of_snapshot(&snapshot).class(&class).named("by-copy").annotate(keys::CLONE_TYPE, "copy").with_owners();
    let by_copy = t.create(by_copy).await?;
    by_copy.succeeds().await?;
    for clone in [&by_snapshot, &by_copy] {
        let volume = t.bound(clone).await?.spec.and_then(|spec| spec.volume_name).context("it has no volume")?;
        let volume = t.everywhere::<PersistentVolume>().get(&volume).await?;
        let policy = volume.spec.and_then(|spec| spec.persistent_volume_reclaim_policy);
        ensure!(policy.as_deref() == Some("Retain"), "{policy:?}");
    }
    t.nothing_left_but(&[&disk, &snapshot, &retained, &by_snapshot, &by_copy]).await?;
    for claim in ["retained", "by-snapshot", "by-copy"] {
        let_go(t, claim).await?;
    }
    Ok(())
}

/// Lets a retained volume go with its claim: it would outlive the test.
async fn let_go(t: &Space, claim: &str) -> Result<()> {
    let volume = t.bound(claim).await?.spec.and_then(|spec| spec.volume_name).context("it has no volume")?;
    let patch = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}});
    t.everywhere::<PersistentVolume>().patch(&volume, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Kubernetes deletes temporary objects with the clone, or with the whole namespace, and nobody of ours is asked before.
async fn classes_that_retain_keep_nothing_of_ours_when_it_is_deleted_in_the_middle(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(60_000), ..Behaviour::default() };
    let class = t.class().behaving(slow).retaining().made().await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let retained = t.source("retained").class(&class).filled(mi(4)).await?;
    // While the driver takes the snapshot.
    let clone = t.create(clone_of(&retained).class(&class).named("by-snapshot")).await?;
    content_goes_with_its_snapshot(t, clone.uid()).await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk, &snapshot, &retained]).await?;
    // While a quota keeps the pod from copying what was restored.
    t.quota_of("count/pods", "0").await?;
    let request = clone_of_snapshot(&snapshot).class(&class).named("by-copy").annotate(keys::CLONE_TYPE, "copy");
    let clone = t.create(request.with_owners()).await?;
    clone.waits_for("ErrExceededQuota").await?;
    let restored = names::temporary_source(clone.uid());
    wait::all(&t.everywhere::<PersistentVolume>(), Config::default(), "the restored volume to go", |volumes| {
        let spec = volumes.iter().filter_map(|volume| volume.spec.as_ref());
        let mut of_claim = spec.filter(|spec| spec.claim_ref.as_ref().and_then(|c| c.name.as_ref()) == Some(&restored));
        let policy = of_claim.next().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        if policy == Some("Delete") { Look::Break(()) } else { Look::Continue(format!("its policy is {policy:?}")) }
    })
    .await?;
    clone.delete().await?;
    t.nothing_left_but(&[&disk, &snapshot, &retained]).await?;
    // A namespace ends with all that is in it, here with the test, which looks for contents of it.
    let there = t.neighbour().await?;
    let source = there.source("source").class(&class).filled(mi(4)).await?;
    let_go(&there, "source").await?;
    let clone = there.create(clone_of(&source).class(&class).with_owners()).await?;
    content_goes_with_its_snapshot(&there, clone.uid()).await?;
    let_go(t, "retained").await
}

/// Waits until the driver's snapshot would go with the temporary one that was taken for the clone.
async fn content_goes_with_its_snapshot(t: &Space, clone: &str) -> Result<()> {
    let snapshot = t.snapshot_for(|members| members.contains_key(clone)).await?;
    wait::all(&t.everywhere::<VolumeSnapshotContent>(), Config::default(), "the content to go", |contents| {
        let uid = Some(&snapshot.exact.uid);
        let of_snapshot = contents.iter().find(|content| content.spec.volume_snapshot_ref.uid.as_ref() == uid);
        match of_snapshot.map(|content| content.spec.deletion_policy.as_str()) {
            Some("Delete") => Look::Break(()),
            policy => Look::Continue(format!("its policy is {policy:?}")),
        }
    })
    .await
}

/// A driver names the bytes in use, at which it refuses to restore. The volume is known as long as there is a PersistentVolume with its
/// handle; when that is gone, too, the requester is told which size to give.
async fn a_snapshot_that_claims_to_need_next_to_nothing(t: &Space) -> Result<()> {
    let stingy = Behaviour { restore_size: Some(RestoreSize::Referenced), ..Behaviour::default() };
    let class = t.class().behaving(stingy.clone()).made().await?;
    let other = t.neighbour().await?;
    let exact = Behaviour { larger_restore: Some(LargerRestore::OutOfRange), ..stingy };
    let exact = other.class().behaving(exact).annotate(keys::RESTORE_SIZE, "exact").made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let snapshot = t.snapshot("snap", &disk, &class).await?.ready().await?;
    let by_snapshot = t.create(clone_of_snapshot(&snapshot).class(&class).named("by-snapshot")).await?;
    let by_copy = clone_of_snapshot(&snapshot).class(&class).named("by-copy").annotate(keys::CLONE_TYPE, "copy");
    let by_copy = t.create(by_copy.with_owners()).await?;
    let exactly =
        t.create(clone_of_snapshot(&snapshot).class(&exact).named("exactly").size(gi(1)).with_owners()).await?;
    for clone in [&by_snapshot, &by_copy, &exactly] {
        clone.succeeds().await?.has_bytes_of(&disk).await?;
        let capacity = t.capacity(clone).await?;
        ensure!(capacity >= Some(gi(1)), "{}: {capacity:?}", clone.name());
    }
    t.nothing_left_but(&[&disk, &snapshot, &by_snapshot, &by_copy, &exactly]).await?;

    let volume = t.bound(&disk).await?.spec.and_then(|spec| spec.volume_name).context("it has no volume")?;
    t.api::<PersistentVolumeClaim>().delete(disk.name(), &DeleteParams::default()).await?;
    wait::gone(&t.everywhere::<PersistentVolume>(), &volume, None).await?;
    let unknown = t.create(clone_of_snapshot(&snapshot).class(&class).named("unknown").with_owners()).await?;
    unknown.fails_with("in spec.storage.resources.requests.storage").await?;
    unknown.delete().await?;
    let given = clone_of_snapshot(&snapshot).class(&class).named("given").size(gi(1)).with_owners();
    let given = t.create(given).await?;
    given.succeeds().await?;
    t.nothing_left_but(&[&snapshot, &by_snapshot, &by_copy, &exactly, &given]).await
}

/// A wish that was replaced by a fallback is still the user's: he applies the same object again, by himself or with his field manager,
/// replaces it, or restores what he has; only real changes are refused.
async fn what_is_sent_again_is_unchanged(t: &Space) -> Result<()> {
    let refuses = Behaviour { refuse_clones: Some(true), ..Behaviour::default() };
    let class = t.class().behaving(refuses).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let request = clone_of(&disk).class(&class).annotate(keys::CLONE_TYPE, "csi-clone").with_owners();
    let object = request.object(t.name());
    let clone = t.create(request).await?;
    clone.succeeds().await?;
    let api = t.api::<DataVolume>();
    let before = api.get(clone.name()).await?;
    let strategy = before.status.as_ref().and_then(|status| status.clone.as_ref()?.strategy);
    ensure!(strategy.is_some_and(|strategy| strategy.as_str() == "copy"), "no fallback: {strategy:?}");
    ensure!(before.annotations()[keys::CLONE_TYPE] == "csi-clone", "{:?}", before.annotations());
    let unchanged = async |how: &str| {
        let after = api.get(clone.name()).await?;
        let same = after.annotations() == before.annotations() && after.spec == before.spec;
        ensure!(same && after.uid() == before.uid(), "{how}: {:?}", after.annotations());
        anyhow::Ok(())
    };
    for _ in 0..2 {
        api.patch(clone.name(), &PatchParams::apply("gitops"), &Patch::Apply(&object)).await.context("apply")?;
        unchanged("server-side apply").await?;
    }
    // A replace knows nothing of what was added.
    let mut again: Value = object.clone();
    again["metadata"]["resourceVersion"] = json!(api.get(clone.name()).await?.resource_version());
    let again: DataVolume = serde_json::from_value(again)?;
    api.replace(clone.name(), &PostParams::default(), &again).await.context("replace")?;
    unchanged("replace").await?;
    // Somebody else writes what he has read.
    let mut read = api.get(clone.name()).await?;
    read.annotations_mut().insert("example.com/note".to_owned(), "x".to_owned());
    api.replace(clone.name(), &PostParams::default(), &read).await.context("read, modify, write")?;
    let change = json!({"metadata": {"annotations": {(keys::CLONE_TYPE): "snapshot"}}});
    let answer = api.patch(clone.name(), &PatchParams::default(), &Patch::Merge(change)).await;
    ensure!(answer.is_err(), "a real change is admitted");
    Ok(())
}

/// Every resource that a quota can cover is stated by the pod that copies.
async fn a_copy_fits_into_quotas_of_everything(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "everything"},
        "spec": {"hard": {"limits.cpu": "2", "limits.memory": "2Gi", "requests.cpu": "1", "requests.memory": "1Gi"}},
    });
    t.apply(&t.api::<ResourceQuota>(), "everything", &quota).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    clone.phase(Phase::Succeeded).await?;
    t.api::<ResourceQuota>().delete("everything", &DeleteParams::default()).await?;
    clone.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_limit_that_refuses_the_pod_is_told_with_its_cure(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]},
    });
    t.apply(&t.api::<LimitRange>(), "small", &range).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy").with_owners()).await?;
    let message = clone.waits_for("ErrRefused").await?;
    let told = message.contains("maximum memory usage per Container") && message.contains("podResourceRequirements");
    ensure!(told, "{message}");
    t.api::<LimitRange>().delete("small", &DeleteParams::default()).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

/// A proxy that somebody's policy injects goes on when the copy is done.
async fn a_sidecar_keeps_no_copy_from_its_end(t: &Space) -> Result<()> {
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let sidecar = format!(
        "[JSONPatch{{op: 'add', path: '/spec/containers/-', value: Object.spec.containers{{name: 'a-proxy', image: '{}', args: ['sleep'], \
         securityContext: Object.spec.containers.securityContext{{allowPrivilegeEscalation: false, \
         capabilities: Object.spec.containers.securityContext.capabilities{{drop: ['ALL']}}}}}}}}]",
        crate::lab::images::Image::Tools.reference()
    );
    let name = t.name();
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
            ]},
            "matchConditions": [{"name": "movers", "expression": "has(object.metadata.name) && object.metadata.name.startsWith('smartclone-mover-')"}],
            "failurePolicy": "Fail", "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": sidecar}}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        }},
    });
    for (kind, object) in [("MutatingAdmissionPolicy", policy), ("MutatingAdmissionPolicyBinding", binding)] {
        let kind = kube::core::GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let api: Api<DynamicObject> = Api::all_with(t.client().clone(), &kube::core::ApiResource::from_gvk(&kind));
        api.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(&object)).await?;
        let name = name.to_owned();
        t.undo(async move { Ok(api.delete(&name, &DeleteParams::default()).await.map(drop)?) });
    }
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_user_s_labels_are_on_the_claim(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let request = clone_of(&disk).label("app", "shop").label("alerts.k8s.io/KubePersistentVolumeFillingUp", "enabled");
    let clone = t.create(request.label("team", "x")).await?;
    clone.succeeds().await?;
    let claim = t.bound(&clone).await?;
    for (key, value) in [("app", "shop"), ("alerts.k8s.io/KubePersistentVolumeFillingUp", "enabled"), ("team", "x")] {
        ensure!(claim.labels().get(key).is_some_and(|found| found == value), "{:?}", claim.labels());
    }
    Ok(())
}

/// A pod that is about to start may write at any moment.
async fn a_pod_without_a_node_counts(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let user = t.pod_without_node(&disk).await?;
    let clone = t.create(clone_of(&disk)).await?;
    let message = clone.waits_for("CloneSourceInUse").await?;
    ensure!(message.contains(user.name()), "{message}");
    user.delete().await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}

/// A disk isn't read-only because its image is; a copy can't be written into a claim that only asks to be read.
async fn a_read_only_source_makes_a_writable_disk(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let snapshot = t.snapshot("golden", &disk, "cow").await?.ready().await?;
    let image = clone_of_snapshot(&snapshot).named("image").field("accessModes", json!(["ReadOnlyMany"]));
    let image = t.create(image).await?;
    image.succeeds().await?;
    let clone = t.create(clone_of(&image).named("disk-of-a-machine")).await?;
    clone.succeeds().await?;
    let modes = t.bound(&clone).await?.spec.and_then(|spec| spec.access_modes).unwrap_or_default();
    ensure!(modes == ["ReadWriteOnce"], "{modes:?}");
    let copy = clone_of(&disk).named("copy").field("accessModes", json!(["ReadOnlyMany"]));
    let denial = t.refuses(copy.annotate(keys::CLONE_TYPE, "copy")).await?;
    ensure!(denial.text().contains("ReadOnlyAccessMode"), "{}", denial.text());
    Ok(())
}

/// A class of which there is no object is named with a cure that works.
async fn a_class_that_exists_in_name_only_is_told(t: &Space) -> Result<()> {
    let class = t.class().made().await?;
    let other = t.neighbour().await?;
    let compatible = other.class().annotate(keys::COMPATIBLE_WITH, &class).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    t.everywhere::<k8s_openapi::api::storage::v1::StorageClass>().delete(&class, &DeleteParams::default()).await?;
    let clone = t.create(clone_of(&disk).class("cow").named("told").with_owners()).await?;
    let told = |line: &String| line.contains(&format!("StorageClass {class:?} of the source does not exist"));
    ensure!(clone.warnings.iter().any(told), "{:?}", clone.warnings);
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let clone = t.create(clone_of(&disk).class(&compatible).named("declared")).await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "{:?}", clone.warnings);
    clone.succeeds().await?.has_bytes_of(&disk).await.map(|_| ())
}

/// No field of a clone is dropped without a word.
async fn what_is_written_is_honoured_or_refused(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    for (field, value) in [("volumeName", json!("pv-1")), ("selector", json!({"matchLabels": {"tier": "a"}}))] {
        for (form, request) in [("storage", clone_of(&disk)), ("pvc", clone_of(&disk).as_claim(gi(1)))] {
            let denial = t.refuses(request.field(field, value.clone())).await?;
            denial.about(&format!("spec.{form}.{field}"), "FieldValueForbidden", "can't be chosen")?;
        }
    }
    let limited = |limit: &str| {
        let resources = json!({"requests": {"storage": "1Gi"}, "limits": {"storage": limit}});
        clone_of(&disk).as_claim(gi(1)).field("resources", resources)
    };
    t.refuses(limited("512Mi")).await?.about("spec.pvc.resources.limits.storage", "FieldValueInvalid", "raise it")?;
    // The class does not exist: the claim asks for it, and waits.
    let attributes = clone_of(&disk).as_claim(gi(1)).field("volumeAttributesClassName", json!("gold-of-reports"));
    let waits = t.create(attributes.named("waits")).await?;
    t.claimed(&waits).await?;
    let claim = t.api::<PersistentVolumeClaim>().get(waits.name()).await?;
    let class = claim.spec.and_then(|spec| spec.volume_attributes_class_name);
    ensure!(class.as_deref() == Some("gold-of-reports"), "{class:?}");
    waits.delete().await?;

    let clone = t.create(limited("2Gi").with_spec("preallocation", json!(true))).await?;
    ensure!(
        clone.warnings.iter().any(|line| line.contains("spec.preallocation has no effect")),
        "{:?}",
        clone.warnings
    );
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let limits = t.bound(&clone).await?.spec.and_then(|spec| spec.resources).and_then(|it| it.limits);
    ensure!(limits.as_ref().and_then(|it| it.get("storage")).is_some_and(|it| it.0 == "2Gi"), "{limits:?}");
    t.nothing_left_but(&[&disk, &clone]).await
}

/// The policy warns of what an admin sets in vain, and of nothing else.
async fn settings_without_effect_are_told(t: &Space) -> Result<()> {
    let settings = json!({
        "infra": {"deploymentReplicas": 2}, "workload": {"nodeSelector": {"disk": "fast"}}, "imagePullPolicy": "Always",
        "config": {"preallocation": true, "logVerbosity": 3, "featureGates": ["HonorWaitForFirstConsumer"]},
    });
    let told = t.warned_about_cdi(&settings).await?;
    for path in ["spec.infra", "spec.config.preallocation", "spec.config.logVerbosity"] {
        ensure!(told.iter().filter(|line| line.contains(&format!("does not use {path}:"))).count() == 1, "{told:?}");
    }
    ensure!(told.len() == 3, "{told:?}");
    Ok(())
}

/// CDI's finalizers end with their objects, and with the namespace.
async fn what_a_former_controller_left_comes_to_an_end(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let mut object = clone_of("missing").from(&gold).object(t.name());
    object["metadata"]["finalizers"] = json!([keys::DATA_VOLUME_FINALIZER]);
    let volumes = t.api::<DataVolume>();
    let volume: DataVolume = serde_json::from_value(object)?;
    volumes.create(&PostParams::default(), &volume).await?;
    let disk = t.source("disk").blank().await?;
    let claims = t.api::<PersistentVolumeClaim>();
    let kept = json!({"metadata": {"finalizers": [keys::CLONE_POPULATOR_FINALIZER, keys::CLONE_SOURCE_FINALIZER]}});
    claims.patch(disk.name(), &PatchParams::default(), &Patch::Merge(&kept)).await?;
    volumes.delete("clone", &DeleteParams::default()).await?;
    wait::gone(&volumes, "clone", None).await?;
    claims.delete(disk.name(), &DeleteParams::default()).await?;
    wait::gone(&claims, disk.name(), Some(disk.uid())).await?;
    // These go with the namespace, which has to end as well.
    volumes.create(&PostParams::default(), &volume).await?;
    let left = t.source("left").blank().await?;
    claims.patch(left.name(), &PatchParams::default(), &Patch::Merge(&kept)).await?;
    Ok(())
}

/// In the same namespace and another one, of a DataSource and a snapshot; and not where the DataVolume says something itself.
async fn a_clone_inherits_the_default_instance_type(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let (kind, preference) = (keys::DEFAULT_INSTANCE_TYPE, keys::DEFAULT_PREFERENCE);
    let labels = |space: &Space, claim: &str| {
        let (claims, claim) = (space.api::<PersistentVolumeClaim>(), claim.to_owned());
        let labels = json!({"metadata": {"labels": {kind: "u1.medium", preference: "fedora"}}});
        async move { claims.patch(&claim, &PatchParams::default(), &Patch::Merge(labels)).await }
    };
    let (disk, golden) = tokio::try_join!(t.source("disk").filled(mi(4)), gold.source("golden").filled(mi(4)))?;
    labels(t, "disk").await?;
    labels(&gold, "golden").await?;
    // A DataSource follows its claim.
    t.data_source("image", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let words = json!({"metadata": {"labels": {preference: "of-monday"}}});
    t.api::<VolumeSnapshot>().patch("monday", &PatchParams::default(), &Patch::Merge(words)).await?;
    wait::object(&t.api::<DataSource>(), "image", "the labels of its claim", |image| {
        let labels = image.map(|image| image.labels().clone()).unwrap_or_default();
        let inherits = labels.get(kind).is_some_and(|it| it == "u1.medium");
        if inherits { Look::Break(()) } else { Look::Continue(format!("it has {labels:?}")) }
    })
    .await?;

    // The controller inherits where the source comes later.
    let late = t.create(clone_of("late").named("of-late").size(gi(1))).await?;
    late.waits_for("CloneWithoutSource").await?;
    let own = clone_of(&disk).named("own").label(preference, "mine");
    let (both, none) = ([Some("u1.medium"), Some("fedora")], None);
    let mut clones = vec![
        (t.create(clone_of(&disk).named("same")).await?, both),
        (t.create(clone_of(&golden).from(&gold).named("elsewhere")).await?, both),
        (t.create(clone_by("image").named("by-image")).await?, both),
        (t.create(clone_of_snapshot(&snapshot).named("of-snapshot")).await?, [none, Some("of-monday")]),
        (t.create(own).await?, [none, Some("mine")]),
    ];
    let claim = json!({"metadata": {"name": "late", "labels": {kind: "u1.late"}}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "dataSource": {"kind": "PersistentVolumeClaim", "name": "disk"},
    }});
    let claim: PersistentVolumeClaim = serde_json::from_value(claim)?;
    t.api::<PersistentVolumeClaim>().create(&PostParams::default(), &claim).await?;
    clones.push((late, [Some("u1.late"), none]));
    for (clone, expected) in clones {
        clone.succeeds().await?;
        let claim = t.bound(&clone).await?;
        for labels in [clone.now().labels().clone(), claim.labels().clone()] {
            let found = [kind, preference].map(|key| labels.get(key).map(String::as_str));
            ensure!(found == expected, "{}: {labels:?}", clone.name());
        }
    }
    Ok(())
}

/// Of the pairs that the StorageProfile offers, the one that has the access modes; the disk is converted for it.
async fn a_volume_mode_goes_with_the_access_modes(t: &Space) -> Result<()> {
    let sets = json!([
        {"accessModes": ["ReadWriteMany"], "volumeMode": "Block"},
        {"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"},
    ]);
    let class = t.class().claim_properties(sets).made().await?;
    let disk = image(t, mi(24)).await?;
    let clone = clone_of(&disk).class(&class).field("accessModes", json!(["ReadWriteMany"])).with_owners();
    let clone = t.create(clone).await?;
    clone.succeeds().await?;
    let spec = t.bound(&clone).await?.spec.context("it has no spec")?;
    ensure!(spec.volume_mode.as_deref() == Some("Block"), "{spec:?}");
    ensure!(spec.access_modes.as_deref() == Some(&["ReadWriteMany".to_owned()]), "{spec:?}");
    let (ours, theirs) = (digest(t, &clone, "{}", mi(24)).await?, digest(t, &disk, IMAGE, mi(24)).await?);
    ensure!(ours == theirs, "the device holds {ours}, the image {theirs}");
    t.nothing_left_but(&[&disk, &clone]).await
}

/// On tainted nodes run what `CDI.spec.workload` lets run there: the pod that copies, and the one that only requests a volume.
async fn pods_go_where_the_admin_says(t: &Space) -> Result<()> {
    let late = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let disk = t.source("disk").block().filled(mi(24)).await?;
    let (nodes, cdis) = (t.everywhere::<Node>(), t.everywhere::<Cdi>());
    let all: Vec<_> = nodes.list(&ListParams::default()).await?.items.iter().map(ResourceExt::name_any).collect();
    let patch = async |taints: Value, workload: Value| {
        let (taints, workload) = (json!({"spec": {"taints": taints}}), json!({"spec": {"workload": workload}}));
        cdis.patch("cdi", &PatchParams::default(), &Patch::Merge(&workload)).await?;
        for node in &all {
            nodes.patch(node, &PatchParams::default(), &Patch::Merge(&taints)).await?;
        }
        anyhow::Ok(())
    };
    let taints = json!([{"key": "dedicated", "value": "vms", "effect": "NoSchedule"}]);
    let workload = json!({"tolerations": [{"key": "dedicated", "operator": "Exists"}]});
    patch(taints, workload).await?;
    let work = async {
        let copy = t.create(clone_of(&disk).named("copy").annotate(keys::CLONE_TYPE, "copy")).await?;
        let requested = clone_of(&disk).named("requested").class(&late).annotate(keys::IMMEDIATE_BINDING, "");
        let requested = t.create(requested).await?;
        copy.succeeds().await?;
        requested.succeeds().await?;
        anyhow::Ok([copy, requested])
    };
    let made = work.await;
    // The pods of the tests tolerate nothing.
    patch(Value::Null, Value::Null).await?;
    let [copy, requested] = made?;
    copy.has_bytes_of(&disk).await?;
    requested.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &copy, &requested]).await
}
