//! Each lock alone, with the others open: who asked for a clone stays what the API server said; and the controller's own account can't
//! be used to take what isn't its.

use anyhow::{Context as _, Result, bail, ensure};
use common::{confinement::may_delete, keys, requester::Requester};
use k8s_openapi::api::{
    admissionregistration::v1::{
        MutatingWebhookConfiguration, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
    },
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use webhook::{
    manifests::{MUTATING, VALIDATING},
    policies::{CONFINEMENT, MOVERS, REQUESTER},
};

use crate::{
    harness::{
        CloneRequest, Named as _, Space, clone_of, mi,
        wait::{self, PATIENCE},
    },
    lab::command::{Look, until},
};

tests![
    the_controller_s_account_takes_nothing_that_is_not_its,
    the_controller_s_account_deletes_only_claims_without_data,
    the_controller_s_account_starts_nothing_but_data_movers;
    alone:
    the_validating_webhook_alone_keeps_stamps_true,
    the_policy_alone_keeps_stamps_true,
];

const FORGED: &str = r#"{"username":"root","groups":["system:masters"]}"#;

/// Lets the API server ask a configuration's webhooks about nothing, until the end of the test.
async fn open<K>(t: &Space, name: &'static str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug + Send + Sync + 'static,
{
    let api: Api<K> = t.everywhere();
    let found = serde_json::to_value(api.get(name).await?)?;
    let as_it_was = json!({"webhooks": found["webhooks"]});
    let mut opened = as_it_was.clone();
    for webhook in opened["webhooks"].as_array_mut().context("there are no webhooks")? {
        webhook["matchConditions"] = json!([{"name": "opened-by-a-test", "expression": "false"}]);
    }
    api.patch(name, &PatchParams::default(), &Patch::Merge(opened)).await?;
    t.undo(async move {
        api.patch(name, &PatchParams::default(), &Patch::Merge(as_it_was)).await?;
        Ok(())
    });
    Ok(())
}

/// The same for a policy.
pub(super) async fn unbind(t: &Space, name: &'static str) -> Result<()> {
    let api: Api<ValidatingAdmissionPolicyBinding> = t.everywhere();
    let mut binding = api.get(name).await?;
    api.delete(name, &DeleteParams::default()).await?;
    t.undo(async move {
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        api.create(&PostParams::default(), &binding).await?;
        Ok(())
    });
    Ok(())
}

/// The API server learns by watches, which nobody can look at, which locks are open.
async fn refused_by(t: &Space, request: &CloneRequest, words: &str) -> Result<()> {
    until(&format!("a refusal by {words}"), PATIENCE, async || {
        let said = match t.asked(request).await? {
            Ok(()) => "admitted".to_owned(),
            Err(denial) if denial.text().contains(words) => return Ok(Look::Break(())),
            Err(denial) => denial.text().to_owned(),
        };
        Ok(Look::Continue(said))
    })
    .await
}

/// Forged stamps are refused in these words, at creation and later; a true one isn't.
async fn keeps_stamps_true(t: &Space, words: &str) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    t.administered_by("alice").await?;
    let alice = Requester {
        username: "alice".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        ..Requester::default()
    };
    let stamped = |stamp: &str| clone_of(&disk).by("alice").annotate(keys::REQUESTER, stamp);
    refused_by(t, &stamped(FORGED), words).await?;
    // One group too many, and one word too many, are forged, too.
    let more =
        Requester { groups: vec!["system:authenticated".to_owned(), "system:masters".to_owned()], ..alice.clone() };
    let extra = Requester { extra: [("scopes".to_owned(), vec!["all".to_owned()])].into(), ..alice.clone() };
    for forged in [&more, &extra] {
        refused_by(t, &stamped(&forged.write()?), words).await?;
    }
    let clone = t.create(stamped(&alice.write()?)).await?;
    let edit = format!("{}={FORGED}", keys::REQUESTER);
    let change = t.kubectl(&["annotate", "datavolume", "clone", "--overwrite", &edit]).await;
    let said = change.err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(said.contains(words), "changed later: {said:?}");
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    Ok(())
}

async fn the_validating_webhook_alone_keeps_stamps_true(t: &Space) -> Result<()> {
    open::<MutatingWebhookConfiguration>(t, MUTATING).await?;
    unbind(t, REQUESTER).await?;
    keeps_stamps_true(t, VALIDATING).await
}

async fn the_policy_alone_keeps_stamps_true(t: &Space) -> Result<()> {
    open::<MutatingWebhookConfiguration>(t, MUTATING).await?;
    open::<ValidatingWebhookConfiguration>(t, VALIDATING).await?;
    keeps_stamps_true(t, REQUESTER).await
}

/// Who has the controller's token still can't do this.
fn confined<K: std::fmt::Debug>(what: &str, answer: kube::Result<K>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.message.contains(CONFINEMENT) => Ok(()),
        other => bail!("{what}: {other:?}"),
    }
}

async fn the_controller_s_account_takes_nothing_that_is_not_its(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    let user = t.pod_using(&disk).await?;
    let volume = t.bound(&disk).await?.spec.and_then(|spec| spec.volume_name).context("no volume")?;
    let client = t
        .cluster()
        .client_as(&format!("system:serviceaccount:{}:smartclone-controller", common::manifest::NAMESPACE))?;
    let delete = DeleteParams::default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), t.name());
    confined("delete a claim", claims.delete(disk.name(), &delete).await)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), t.name());
    confined("delete a pod", pods.delete(user.name(), &delete).await)?;
    let snapshots: Api<common::api::snapshot::VolumeSnapshot> = Api::namespaced(client.clone(), t.name());
    confined("delete a snapshot", snapshots.delete(snapshot.name(), &delete).await)?;
    let volumes: Api<PersistentVolume> = Api::all(client);
    let thief = json!({"name": "thief", "namespace": t.name(), "uid": "1"});
    let mark = json!({"annotations": {common::keys::HANDED_OVER: "2026-01-01T00:00:00Z"}});
    for (what, patch) in [
        ("take a volume without a mark", json!({"spec": {"claimRef": thief}})),
        ("make a volume anybody's", json!({"metadata": mark, "spec": {"claimRef": null}})),
        ("point a volume at other data", json!({"spec": {"csi": {"volumeHandle": "another"}}})),
    ] {
        let answer = volumes.patch(&volume, &PatchParams::default(), &Patch::Merge(patch)).await;
        // What the API server itself doesn't allow needs no policy.
        if !matches!(&answer, Err(kube::Error::Api(status)) if status.code == 422) {
            confined(what, answer)?;
        }
    }
    // A label isn't a way around.
    let label = json!({"metadata": {"labels": {(keys::OWNED_BY_UID): "1"}}});
    confined("label a claim", claims.patch(disk.name(), &PatchParams::default(), &Patch::Merge(label)).await)?;
    let free = json!({"metadata": {"finalizers": null}});
    confined(
        "take a claim's protection",
        claims.patch(disk.name(), &PatchParams::default(), &Patch::Merge(free)).await,
    )?;
    // CDI's finalizers are taken off what is being deleted, and are not written.
    let former = json!({"metadata": {"finalizers": [keys::CLONE_POPULATOR_FINALIZER]}});
    let answer = claims.patch(disk.name(), &PatchParams::default(), &Patch::Merge(former)).await;
    confined("write a finalizer", answer)?;
    let unmarked = json!({
        "metadata": {"name": "mine"}, "spec": {"source": {"persistentVolumeClaimName": disk.name()}},
    });
    confined("make a snapshot", snapshots.create(&PostParams::default(), &serde_json::from_value(unmarked)?).await)?;
    user.delete().await?;
    ensure!(t.bound(&disk).await?.uid().as_deref() == Some(disk.uid()), "the claim is another one");
    snapshot.is_untouched().await
}

/// Claims in every state that the policy tells apart: the API server permits the deletion of exactly those of which the controller thinks so.
async fn the_controller_s_account_deletes_only_claims_without_data(t: &Space) -> Result<()> {
    let client = t.cluster().client_as(&common::manifest::user(keys::CONTROLLER))?;
    let controller: Api<PersistentVolumeClaim> = Api::namespaced(client, t.name());
    let claims = t.api::<PersistentVolumeClaim>();
    t.source("bound").blank().await?;
    let annotated = |key: &str| json!({"annotations": {key: "1"}});
    for (name, phase, mut metadata) in [
        ("bound", "Bound", json!(null)),
        ("waiting", "Pending", json!({})),
        ("made-for-a-data-volume", "Pending", annotated(keys::CREATED_FOR_DATA_VOLUME)),
        ("made-for-a-transfer", "Pending", annotated(keys::TRANSFER)),
        // Kubernetes finds that the volume which it was bound to doesn't exist.
        ("lost", "Lost", annotated("pv.kubernetes.io/bind-completed")),
        ("temporary", "Pending", json!({"labels": {(keys::OWNED_BY_UID): "1"}})),
    ] {
        if !metadata.is_null() {
            metadata["name"] = json!(name);
            let object = serde_json::from_value(json!({
                "metadata": metadata,
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                    "storageClassName": "no-such-class", "volumeName": (phase == "Lost").then_some("no-such-volume"),
                },
            }))?;
            // Only the controller writes the label.
            let creator = if name == "temporary" { &controller } else { &claims };
            creator.create(&PostParams::default(), &object).await.context(name)?;
        }
        let claim = wait::object(&claims, name, &format!("claim {name} to be {phase}"), |claim| {
            let found = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
            match claim.filter(|_| found == Some(phase)) {
                Some(claim) => wait::Look::Break(claim.clone()),
                None => wait::Look::Continue(format!("it is {found:?}")),
            }
        })
        .await?;
        let answer = controller.delete(name, &DeleteParams { dry_run: true, ..DeleteParams::default() }).await;
        match answer {
            Ok(_) => ensure!(may_delete(&claim), "the policy permits the deletion of claim {name}"),
            Err(error) => {
                ensure!(!may_delete(&claim), "claim {name}: {error:?}");
                confined::<()>(name, Err(error))?;
            }
        }
    }
    Ok(())
}

/// Pods as the controller never makes them, each in one way; and one as it does.
async fn the_controller_s_account_starts_nothing_but_data_movers(t: &Space) -> Result<()> {
    let client = t.cluster().client_as(&common::manifest::user(keys::CONTROLLER))?;
    let pods: Api<Pod> = Api::namespaced(client, t.name());
    let uid = "01234567-89ab-cdef-0123-456789abcdef";
    let mover = json!({
        "metadata": {"name": common::names::mover(uid), "labels": {(keys::OWNED_BY_UID): uid}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "mover", "image": common::manifest::image(keys::CLONER),
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
            "volumes": [{"name": "target", "persistentVolumeClaim": {"claimName": "c"}}],
        },
    });
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let create = |object: serde_json::Value| {
        let (pods, params) = (pods.clone(), params.clone());
        async move { pods.create(&params, &serde_json::from_value(object).map_err(kube::Error::SerdeError)?).await }
    };
    create(mover.clone()).await.context("a data mover")?;
    let container = "/spec/containers/0";
    for (what, pointer, value) in [
        ("another image", "/spec/containers/0/image", json!("evil")),
        ("a command", "/spec/containers/0/command", json!(["sh"])),
        ("a privileged container", "/spec/containers/0/securityContext", json!({"privileged": true})),
        (
            "a Secret in a variable",
            "/spec/containers/0/env",
            json!([{"name": "a", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
        ),
        ("a Secret in the environment", "/spec/containers/0/envFrom", json!([{"secretRef": {"name": "s"}}])),
        ("a further container", "/spec/containers", json!([mover.pointer(container), {"name": "b", "image": "evil"}])),
        ("an init container", "/spec/initContainers", json!([{"name": "b", "image": "evil"}])),
        ("the node's network", "/spec/hostNetwork", json!(true)),
        ("the node's processes", "/spec/hostPID", json!(true)),
        ("the node's IPC", "/spec/hostIPC", json!(true)),
        ("a node", "/spec/nodeName", json!("lab")),
        ("a token", "/spec/automountServiceAccountToken", json!(true)),
        ("the node's files", "/spec/volumes", json!([{"name": "v", "hostPath": {"path": "/"}}])),
        ("a Secret", "/spec/volumes", json!([{"name": "v", "secret": {"secretName": "s"}}])),
        (
            "a projected token",
            "/spec/volumes",
            json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
        ),
        ("no label", "/metadata/labels", json!({})),
        ("a name of its own", "/metadata/name", json!("shell")),
    ] {
        let mut object = mover.clone();
        let (parent, key) = pointer.rsplit_once('/').context("no pointer")?;
        object.pointer_mut(parent).context("no parent")?[key] = value;
        match create(object).await {
            Err(kube::Error::Api(status)) if status.message.contains(MOVERS) => {}
            other => bail!("{what}: {other:?}"),
        }
    }
    Ok(())
}
