//! A hostile tenant: the admin of the namespace that a clone's source is in, and nothing elsewhere. While the clone is made its volume is in his
//! namespace; he never gets it, and what he makes in our form is nobody's.

use std::fmt::Debug;

use anyhow::{Context as _, Result, bail, ensure};
use common::{
    api::{DataVolume, Phase, snapshot::VolumeSnapshot},
    keys, names,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use reference_csi::behaviour::Behaviour;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use webhook::policies::{CONNECTIONS, TEMPORARY};

use super::locks::unbind;
use crate::{
    harness::{CloneHandle, Disk, Named as _, PodHandle, Space, clone_of, gi, mi, wait, wait::PATIENCE},
    lab::{
        command::{Look, until},
        images::Image,
    },
};

tests![
    nobody_but_the_controller_makes_or_uses_temporary_objects,
    a_right_that_is_taken_away_takes_back_what_was_made,
    what_a_user_writes_on_a_data_volume_marks_nothing;
    alone:
    without_the_policies_nobody_keeps_the_volume_over_the_hand_over,
    without_the_policies_forged_objects_are_told_and_left_alone,
];

/// A clone by copy that waits, with its temporary claim bound, since a pod uses the source.
struct WaitingCopy {
    /// The source's namespace, of which mallory is the admin.
    gold: Space,
    disk: Disk,
    clone: CloneHandle,
    busy: PodHandle,
    /// The name of the temporary claim.
    temporary: String,
}

async fn waiting_copy(t: &Space, bytes: u64) -> Result<WaitingCopy> {
    // Long enough for a pod to come after the temporary claim is there and before it is bound.
    let slow = Behaviour { volume_takes_ms: Some(3000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let gold = t.neighbour().await?;
    gold.administered_by("mallory").await?;
    let disk = gold.source("disk").class(&class).block().size(gi(2)).filled(mi(bytes)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).class(&class).annotate(keys::CLONE_TYPE, "copy")).await?;
    let temporary = names::temporary_claim(clone.uid());
    gold.claimed(temporary.as_str()).await?;
    let busy = gold.pod_using(&disk).await?;
    clone.waits_for("CloneSourceInUse").await?;
    gold.bound(temporary.as_str()).await?;
    Ok(WaitingCopy { gold, disk, clone, busy, temporary })
}

/// A pod with this claim that does nothing.
fn pod(name: &str, claim: &str, block: bool) -> Value {
    let mut container = json!({"name": "tools", "image": Image::Tools.reference(), "args": ["sleep"]});
    if block {
        container["volumeDevices"] = json!([{"name": "volume", "devicePath": "/volume"}]);
    } else {
        container["volumeMounts"] = json!([{"name": "volume", "mountPath": "/volume"}]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}],
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
        },
    })
}

fn with(mut object: Value, pointer: &str, value: Value) -> Result<Value> {
    let (parent, key) = pointer.rsplit_once('/').context("no pointer")?;
    let parent = object.pointer_mut(parent).with_context(|| format!("no {parent}"))?;
    parent[key.replace("~1", "/").as_str()] = value;
    Ok(object)
}

fn claim(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    })
}

/// The API server refuses it by this policy.
fn refused<K: Debug>(what: &str, policy: &str, answer: kube::Result<K>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.message.contains(policy) => Ok(()),
        other => bail!("{what}: {other:?}"),
    }
}

async fn create<K>(client: &Client, space: &Space, object: Value) -> kube::Result<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), space.name());
    let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    api.create(&PostParams::default(), &object).await
}

const UID: &str = "01234567-89ab-cdef-0123-456789abcdef";

async fn nobody_but_the_controller_makes_or_uses_temporary_objects(t: &Space) -> Result<()> {
    let WaitingCopy { gold, disk, clone, busy, temporary } = waiting_copy(t, 1024).await?;
    let mallory = t.cluster().client_as("mallory")?;

    // Pods with a temporary claim, or that look like a mover.
    let label = "/metadata/labels";
    let plain = || pod("lurk", disk.name(), true);
    let scratch = json!([{"name": format!("pvc-{}", clone.uid()), "ephemeral": {"volumeClaimTemplate": {"spec": claim("")["spec"]}}}]);
    let idle = json!([{"name": "tools", "image": Image::Tools.reference()}]);
    for (what, object) in [
        ("a pod with the claim", pod("lurk", &temporary, true)),
        ("a pod with a claim to be restored", pod("lurk", &names::temporary_source(clone.uid()), true)),
        (
            "a pod whose ephemeral volume has the name",
            with(with(pod("smartclone", "x", true), "/spec/volumes", scratch)?, "/spec/containers", idle)?,
        ),
        ("a pod with our label", with(plain(), label, json!({(keys::OWNED_BY_UID): clone.uid()}))?),
        ("a pod with a mover's name", pod(&names::mover(UID), disk.name(), true)),
        ("a pod with our proof", with(plain(), "/metadata/annotations", json!({(keys::PROOF): "x"}))?),
    ] {
        refused(what, TEMPORARY, create::<Pod>(&mallory, &gold, object).await)?;
    }
    // Claims and snapshots.
    for (what, object) in [
        ("a claim with our name", claim(&names::temporary_claim(UID))),
        ("a claim with our label", with(claim("c"), label, json!({(keys::OWNED_BY_UID): "bad"}))?),
        (
            "a claim with an owner elsewhere",
            with(claim("c"), "/metadata/annotations", json!({(keys::OWNED_BY_DATA_VOLUME): "kube-system/x"}))?,
        ),
    ] {
        refused(what, TEMPORARY, create::<PersistentVolumeClaim>(&mallory, &gold, object).await)?;
    }
    let snapshot = json!({
        "metadata": {"name": names::snapshot(UID), "annotations": {(keys::MEMBERS): "{}"}},
        "spec": {"source": {"persistentVolumeClaimName": disk.name()}},
    });
    // The administrator has the right that mallory lacks, and isn't the controller either.
    refused("a snapshot with our name", TEMPORARY, create::<VolumeSnapshot>(t.client(), &gold, snapshot).await)?;

    // What is ours stays as it is.
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(mallory.clone(), gold.name());
    let change = |patch: Value| {
        let (claims, temporary) = (claims.clone(), temporary.clone());
        async move { claims.patch(&temporary, &PatchParams::default(), &Patch::Merge(patch)).await }
    };
    for (what, patch) in [
        ("say that the copy is complete", json!({"metadata": {"annotations": {(keys::COPIED): "forged"}}})),
        ("take the label off", json!({"metadata": {"labels": {(keys::OWNED_BY_UID): null}}})),
        ("take the finalizer off", json!({"metadata": {"finalizers": null}})),
        ("choose the volume's size", json!({"spec": {"resources": {"requests": {"storage": "9Gi"}}}})),
    ] {
        refused(what, TEMPORARY, change(patch).await)?;
    }
    let own: PersistentVolumeClaim = create(&mallory, &gold, claim("own")).await?;
    let adopt = json!({"metadata": {"labels": {(keys::OWNED_BY_UID): clone.uid()}}});
    let adopted = claims.patch(&own.name_any(), &PatchParams::default(), &Patch::Merge(adopt)).await;
    refused("label a claim of one's own", TEMPORARY, adopted)?;
    claims.delete("own", &DeleteParams::default()).await?;

    // The mover while it copies: no image of somebody else's, no further container, no connection.
    busy.delete().await?;
    let mover = names::mover(clone.uid());
    let pods: Api<Pod> = Api::namespaced(mallory, gold.name());
    wait::object(&gold.api::<Pod>(), &mover, "the mover", |pod| match pod {
        Some(_) => Look::Break(()),
        None => Look::Continue("there is none".to_owned()),
    })
    .await?;
    let image =
        json!({"spec": {"containers": [{"name": common::mover::CONTAINER, "image": Image::Tools.reference()}]}});
    let image = pods.patch(&mover, &PatchParams::default(), &Patch::Strategic(image)).await;
    refused("give the mover another image", TEMPORARY, image)?;
    let all: Api<Pod> = gold.api();
    let container = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": Image::Tools.reference()}]}});
    let answer = all
        .patch_subresource("ephemeralcontainers", &mover, &PatchParams::default(), &Patch::Strategic(container))
        .await;
    refused("add a container to the mover", TEMPORARY, answer)?;
    for connection in ["exec", "attach", "portforward"] {
        let path = format!("/api/v1/namespaces/{}/pods/{mover}/{connection}?command=x&ports=1", gold.name());
        let request = http::Request::post(path).body(Vec::new())?;
        refused(connection, CONNECTIONS, gold.client().request_text(request).await)?;
    }
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

async fn a_right_that_is_taken_away_takes_back_what_was_made(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().size(gi(2)).filled(mi(1024)).await?;
    t.administered_by("alice").await?;
    gold.lets_clone("alice", &disk).await?;
    let copy = |name: &str| clone_of(&disk).from(&gold).named(name).by("alice").annotate(keys::CLONE_TYPE, "copy");
    let clone = t.create(copy("clone")).await?;
    clone.phase(Phase::CloneInProgress).await?;
    gold.forbids_cloning("alice", &disk).await?;
    clone.waits_for("CloneNotAuthorized").await?;
    gold.nothing_left_but(&[&disk]).await?;
    gold.lets_clone("alice", &disk).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await
}

async fn what_a_user_writes_on_a_data_volume_marks_nothing(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let mut request = clone_of(&disk).label(keys::OWNED_BY_UID, UID).label("team", "blue");
    for key in keys::EVIDENCE {
        request = request.annotate(key, "here/mine");
    }
    let clone = t.create(request).await?;
    clone.succeeds().await?;
    let claim = t.bound(&clone).await?;
    ensure!(claim.labels().contains_key("team") && !claim.labels().contains_key(keys::OWNED_BY_UID), "{claim:?}");
    let reserved: Vec<_> = claim.annotations().keys().filter(|key| keys::EVIDENCE.contains(&key.as_str())).collect();
    ensure!(reserved.is_empty(), "{reserved:?}");
    Ok(())
}

/// The locks that the tests below do without.
async fn open(t: &Space) -> Result<()> {
    unbind(t, TEMPORARY).await?;
    unbind(t, CONNECTIONS).await
}

/// Creates a pod as soon as the API server has learned that the policy is gone.
async fn starts(space: &Space, object: Value) -> Result<Pod> {
    let pods: Api<Pod> = space.api();
    let wanted: Pod = serde_json::from_value(object)?;
    let made = until("the policy to be gone", PATIENCE, async || {
        Ok(match pods.create(&PostParams::default(), &wanted).await {
            Ok(pod) => Look::Break(pod),
            Err(error) => Look::Continue(error.to_string()),
        })
    });
    made.await
}

async fn runs(space: &Space, name: &str) -> Result<()> {
    wait::object(&space.api::<Pod>(), name, &format!("pod {name} to run"), |pod| {
        let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.clone());
        if phase.as_deref() == Some("Running") { Look::Break(()) } else { Look::Continue(format!("{phase:?}")) }
    })
    .await
}

/// A pod that has the temporary claim before it is closed keeps the clone waiting, by name, until it is gone; a label hides no writer.
async fn without_the_policies_nobody_keeps_the_volume_over_the_hand_over(t: &Space) -> Result<()> {
    open(t).await?;
    let WaitingCopy { gold, disk, clone, busy, temporary } = waiting_copy(t, 24).await?;
    starts(&gold, pod("lurk", &temporary, true)).await?;
    runs(&gold, "lurk").await?;
    // Another one that says it is a mover of ours, and writes to the source.
    let hidden =
        with(pod("hidden", disk.name(), true), "/metadata/labels", json!({(keys::OWNED_BY_UID): clone.uid()}))?;
    starts(&gold, hidden).await?;
    runs(&gold, "hidden").await?;
    busy.delete().await?;
    let second = t.create(clone_of(&disk).from(&gold).named("second").annotate(keys::CLONE_TYPE, "copy")).await?;
    second.waits_for("CloneSourceInUse").await?;
    second.delete().await?;
    gold.kubectl(&["delete", "pod", "hidden"]).await?;
    let message = clone.waits_for("CloneVolumeInUse").await?;
    ensure!(message.contains(&format!("{}/lurk", gold.name())), "{message}");
    // Nobody else gets in after the claim is closed.
    let late = starts(&gold, pod("late", &temporary, true)).await?;
    gold.kubectl(&["delete", "pod", "lurk"]).await?;
    let phase = gold.api::<Pod>().get(&late.name_any()).await?.status.and_then(|status| status.phase);
    ensure!(phase.as_deref() == Some("Pending"), "it is {phase:?}");
    gold.kubectl(&["delete", "pod", "late"]).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

/// A claim, and then a pod with a result, that somebody else made under our names.
async fn without_the_policies_forged_objects_are_told_and_left_alone(t: &Space) -> Result<()> {
    open(t).await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    // Nothing is made while the source isn't there; the names are known from the start.
    let clone =
        t.create(clone_of("late").from(&gold).annotate(keys::CLONE_TYPE, "copy").size(gi(1)).with_owners()).await?;
    clone.waits_for("CloneWithoutSource").await?;
    let marks = |name: &str| {
        json!({
            "name": name, "labels": {(keys::OWNED_BY_UID): clone.uid()},
            "annotations": {(keys::OWNED_BY_DATA_VOLUME): format!("{}/clone", t.name()), (keys::COPIED): "forged"},
        })
    };
    let temporary = names::temporary_claim(clone.uid());
    let forged = with(claim(&temporary), "/metadata", marks(&temporary))?;
    let forged: PersistentVolumeClaim = until("the policy to be gone", PATIENCE, async || {
        Ok(match create(t.client(), &gold, forged.clone()).await {
            Ok(claim) => Look::Break(claim),
            Err(error) => Look::Continue(error.to_string()),
        })
    })
    .await?;
    let mover = names::mover(clone.uid());
    let result = r#"{"outcome":"copied","total":1,"written":1,"digest":"forged","notes":["call me"]}"#;
    let speaker = json!([{
        "name": common::mover::CONTAINER, "image": Image::Tools.reference(), "args": ["--help"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }]);
    let mut pod = with(pod(&mover, &temporary, false), "/metadata", marks(&mover))?;
    pod["metadata"]["annotations"][keys::FILLS] = json!(forged.uid());
    pod["metadata"]["annotations"]["example.com/result"] = json!(result);
    pod["spec"]["containers"] = speaker;
    // Kubernetes keeps a claim as long as a pod names it, even one that has ended; the next one of that name is ours.
    pod["spec"]["volumes"] = json!([]);
    starts(&gold, pod).await?;
    gold.source("late").with_content_of(&disk).await?;
    let message = clone.waits_for("ErrResourceExists").await?;
    ensure!(message.contains(&temporary), "{message}");
    ensure!(gold.bound(temporary.as_str()).await?.uid() == forged.uid(), "the forged claim is another one");
    gold.kubectl(&["delete", "pvc", &temporary, "--wait=false"]).await?;
    let told = clone.until("a conflict about the mover", |volume: &DataVolume| {
        let waiting = volume.status.clone()?.clone?.waiting_for?;
        let message = waiting.message.unwrap_or_default();
        (waiting.reason.as_deref() == Some("ErrResourceExists") && message.contains(&mover)).then_some(())
    });
    told.await?;
    ensure!(gold.api::<Pod>().get_opt(&mover).await?.is_some(), "the forged pod was deleted");
    gold.kubectl(&["delete", "pod", &mover]).await?;
    clone.succeeds().await?;
    let notes = clone.status().clone.map(|clone| clone.notes).unwrap_or_default();
    ensure!(!notes.iter().any(|note| note.contains("call me")), "{notes:?}");
    t.holds_the_same(&clone, &disk).await
}
