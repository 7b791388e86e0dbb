//! The only code that writes. Each write carries its precondition, so a crash, a second controller or a stale cache makes it fail, and
//! nothing else.

use std::fmt::Debug;

use common::{
    api::{DataVolume, snapshot::VolumeSnapshot},
    clone::{
        Action, Exact, Kind, Waiting, objects,
        ownership::{Owner, Ownership},
        plan::{Target, owner_of_target},
        request::MadeFor,
    },
    meta, transfer,
};
use config::api::Objects;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tracing::info;

use crate::{
    Error,
    clone::{Subject, observe::snapshot_owner},
    run::Context,
};

/// What became of a pass's writes.
#[derive(Debug, Default)]
pub struct Done {
    /// The DataVolume's version after our own write to it.
    pub resource_version: Option<String>,
    /// An object was newer than the one that was looked at; nothing was changed, and its event is on the way.
    pub stale: bool,
    /// The API server will not have it, and says why.
    pub refused: Option<Waiting>,
}

/// Carries out the actions in order, up to the first that isn't possible.
pub async fn each(subject: Subject<'_>, actions: &[Action], ctx: &Context) -> Result<Done, Error> {
    let mut done = Done::default();
    for action in actions {
        let verb = action.verb();
        let result = one(subject, action, ctx, &mut done).await;
        ctx.metrics.action(verb, result.is_ok());
        match result {
            Ok(()) => {
                info!(namespace = subject.volume.namespace(), name = subject.volume.name_any(), action = verb, "done");
            }
            Err(error) if conflict(&error) => {
                done.stale = true;
                return Ok(done);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 404 | 422) => {
                done.refused = Some(Waiting::Refused {
                    quota: status.message.contains("exceeded quota"),
                    message: format!("{verb}: {}", status.message),
                });
                return Ok(done);
            }
            Err(source) => return Err(Error::Write { verb, source }),
        }
        if done.refused.is_some() || done.stale {
            return Ok(done);
        }
    }
    Ok(done)
}

/// The API server answered with one of these codes.
pub fn answered(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// The API server has a newer object than we do.
pub fn conflict(error: &kube::Error) -> bool {
    answered(error, &[409])
}

async fn one(subject: Subject<'_>, action: &Action, ctx: &Context, done: &mut Done) -> Result<(), kube::Error> {
    let volume = subject.volume;
    let namespace = volume.namespace().unwrap_or_default();
    match action {
        Action::Pin(annotations) => {
            let patch = json!({ "metadata": {
                "uid": volume.uid(), "resourceVersion": volume.resource_version(), "annotations": annotations,
            }});
            let (name, client, patch) = (volume.name_any(), ctx.client.clone(), Patch::Merge(patch));
            done.resource_version = match subject.kind {
                MadeFor::DataVolume => {
                    let api = Objects::<DataVolume>::namespaced(client, &namespace);
                    api.patch(&name, &params(), &patch).await?.resource_version()
                }
                MadeFor::Claim => {
                    let api = Objects::<PersistentVolumeClaim>::namespaced(client, &namespace);
                    api.patch(&name, &params(), &patch).await?.resource_version()
                }
            };
        }
        Action::CreateSnapshot(snapshot) => {
            let target = target(volume, ctx);
            let ours = |there: &VolumeSnapshot| snapshot_owner(there, &target.created, ctx) == Owner::Ours;
            create::<VolumeSnapshot>(&target.uid, snapshot, ours, ctx, done).await?;
        }
        Action::CreateClaim(claim) => {
            let target = target(volume, ctx);
            let own = claim.name_any() == target.name && claim.namespace().as_ref() == Some(&target.namespace);
            let ours = |there: &PersistentVolumeClaim| {
                if own {
                    owner_of_target(there.meta(), &target.uid) == Owner::Ours
                } else {
                    is_ours(&target, Kind::PersistentVolumeClaim, there.meta())
                }
            };
            create::<PersistentVolumeClaim>(&target.uid, claim, ours, ctx, done).await?;
        }
        Action::CreatePod(pod) => {
            let target = target(volume, ctx);
            let ours = |there: &Pod| is_ours(&target, Kind::Pod, there.meta());
            create::<Pod>(&target.uid, pod, ours, ctx, done).await?;
        }
        Action::Adopt(claim) => {
            let api = Objects::<PersistentVolumeClaim>::namespaced(ctx.client.clone(), &claim.namespace);
            let Some(there) = api.metadata(&claim.name).await? else {
                done.stale = true;
                return Ok(());
            };
            let owners = there.owner_references.unwrap_or_default();
            let owners = objects::owners_with(&Target::of(volume), &owners);
            patch_claim(claim, json!({ "metadata": { "ownerReferences": owners } }), ctx).await?;
        }
        Action::GrowClaim { claim, to } => {
            let size = json!({ "resources": { "requests": { "storage": to.to_string() } } });
            patch_claim(claim, json!({ "spec": size }), ctx).await?;
        }
        Action::MarkCopied { claim, digest } => {
            let annotations = json!({ meta::COPIED: digest });
            patch_claim(claim, json!({ "metadata": { "annotations": annotations } }), ctx).await?;
        }
        Action::Release { claim, rest } => release(claim, rest, ctx).await?,
        Action::Nudge { claim, at } => patch_claim(claim, transfer::nudge(claim, *at), ctx).await?,
        Action::HandOver { volume, to, at, .. } => {
            let api = Objects::<PersistentVolume>::all(ctx.client.clone());
            api.patch(&volume.name, &params(), &Patch::Merge(transfer::hand_over(volume, to, *at))).await?;
        }
        Action::Delete { kind: Kind::VolumeSnapshot, what } => delete::<VolumeSnapshot>(what, ctx).await?,
        Action::Delete { kind: Kind::PersistentVolumeClaim, what } => {
            delete::<PersistentVolumeClaim>(what, ctx).await?;
        }
        Action::Delete { kind: Kind::Pod, what } => delete::<Pod>(what, ctx).await?,
    }
    Ok(())
}

/// The clone with all that is known of what was created for it.
fn target(volume: &DataVolume, ctx: &Context) -> Target {
    let mut target = Target::of(volume);
    ctx.created.complete(&target.uid, &mut target.created);
    target
}

/// An earlier pass has made it for `target`.
fn is_ours(target: &Target, kind: Kind, meta: &ObjectMeta) -> bool {
    let owners = Ownership { uid: &target.uid, key: target.key.as_deref(), created: &target.created };
    owners.of(kind, meta) == Owner::Ours
}

/// For patches.
pub fn params() -> PatchParams {
    PatchParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PatchParams::default() }
}

/// For everything else.
pub fn post_params() -> PostParams {
    PostParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

/// Creates `object` for the clone `uid`. Its name holds an identity or is the DataVolume's own; one that exists is the result of an earlier
/// pass if it is `ours`, and anybody else's is left alone. The UID that the API server answers is what makes it ours from then on.
async fn create<K>(
    uid: &str,
    object: &K,
    ours: impl Fn(&K) -> bool,
    ctx: &Context,
    done: &mut Done,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api = Objects::<K>::namespaced(ctx.client.clone(), &object.namespace().unwrap_or_default());
    match api.create(&post_params(), object).await {
        Ok(created) => {
            ctx.created.record(uid, created.name_any(), created.uid().unwrap_or_default());
            Ok(())
        }
        Err(error) if conflict(&error) => {
            let name = object.name_any();
            match api.get_opt(&name).await? {
                Some(there) if ours(&there) => ctx.created.record(uid, name, there.uid().unwrap_or_default()),
                Some(_) => done.refused = Some(Waiting::Foreign { kind: kind_of::<K>(), name }),
                // Gone since: the next pass creates it.
                None => done.stale = true,
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()).as_ref() {
        "VolumeSnapshot" => "VolumeSnapshot",
        "PersistentVolumeClaim" => "PersistentVolumeClaim",
        _ => "Pod",
    }
}

async fn patch_claim(claim: &Exact, mut patch: serde_json::Value, ctx: &Context) -> Result<(), kube::Error> {
    patch["metadata"]["uid"] = json!(claim.uid);
    patch["metadata"]["resourceVersion"] = json!(claim.resource_version);
    let api = Objects::<PersistentVolumeClaim>::namespaced(ctx.client.clone(), &claim.namespace);
    api.patch(&claim.name, &params(), &Patch::Merge(patch)).await.map(|_| ())
}

/// Takes our finalizer off exactly this claim, if it is as it was seen; one that is gone already is no error.
pub async fn release(claim: &Exact, rest: &[String], ctx: &Context) -> Result<(), kube::Error> {
    let api = Objects::<PersistentVolumeClaim>::namespaced(ctx.client.clone(), &claim.namespace);
    match api.patch(&claim.name, &params(), &Patch::Merge(transfer::release(claim, rest))).await {
        Ok(_) => Ok(()),
        Err(error) if answered(&error, &[404]) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes exactly this object; one that is gone already, or replaced by another of the same name, is no error.
pub async fn delete<K>(what: &Exact, ctx: &Context) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Objects::<K>::namespaced(ctx.client.clone(), &what.namespace);
    // The identity is what makes it ours; its version changes with every sidecar that touches it.
    let preconditions = Preconditions { uid: Some(what.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&what.name, &params).await {
        Ok(()) => Ok(()),
        Err(error) if answered(&error, &[404, 409]) => Ok(()),
        Err(error) => Err(error),
    }
}
