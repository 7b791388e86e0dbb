//! The only code that writes. Each write carries its precondition, so a crash, a second controller or a stale cache makes it fail, and
//! nothing else.

use std::fmt::Debug;

use common::{
    api::{DataVolume, snapshot::VolumeSnapshot},
    clone::{Action, Exact, Kind, Waiting},
    meta,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tracing::info;

use crate::{Error, run::Context};

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
pub async fn each(volume: &DataVolume, actions: &[Action], ctx: &Context) -> Result<Done, Error> {
    let mut done = Done::default();
    for action in actions {
        let verb = action.verb();
        let result = one(volume, action, ctx, &mut done).await;
        ctx.metrics.action(verb, result.is_ok());
        match result {
            Ok(()) => {
                info!(namespace = volume.namespace(), name = volume.name_any(), action = verb, "done");
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

/// The API server has a newer object than we do.
pub fn conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

async fn one(volume: &DataVolume, action: &Action, ctx: &Context, done: &mut Done) -> Result<(), kube::Error> {
    let namespace = volume.namespace().unwrap_or_default();
    match action {
        Action::Pin(annotations) => {
            let patch = json!({ "metadata": {
                "uid": volume.uid(), "resourceVersion": volume.resource_version(), "annotations": annotations,
            }});
            let api: Api<DataVolume> = Api::namespaced(ctx.client.clone(), &namespace);
            let patched = api.patch(&volume.name_any(), &params(), &Patch::Merge(patch)).await?;
            done.resource_version = patched.resource_version();
        }
        Action::CreateSnapshot(snapshot) => create::<VolumeSnapshot>(volume, snapshot, ctx, done).await?,
        Action::CreateClaim(claim) => create::<PersistentVolumeClaim>(volume, claim, ctx, done).await?,
        Action::CreateMover(pod) => create::<Pod>(volume, pod, ctx, done).await?,
        Action::GrowClaim { claim, to } => {
            let size = json!({ "resources": { "requests": { "storage": to.to_string() } } });
            patch_claim(&namespace, claim, json!({ "spec": size }), ctx).await?;
        }
        Action::MarkCopied { claim, digest } => {
            let annotations = json!({ meta::COPIED: digest });
            patch_claim(&namespace, claim, json!({ "metadata": { "annotations": annotations } }), ctx).await?;
        }
        Action::Delete { kind: Kind::VolumeSnapshot, what } => delete::<VolumeSnapshot>(&namespace, what, ctx).await?,
        Action::Delete { kind: Kind::Pod, what } => delete::<Pod>(&namespace, what, ctx).await?,
    }
    Ok(())
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PatchParams::default() }
}

/// Creates `object`, whose name holds the DataVolume's identity or is the DataVolume's own. One that exists is the result of an earlier
/// pass if the DataVolume controls it; anybody else's is left alone.
async fn create<K>(volume: &DataVolume, object: &K, ctx: &Context, done: &mut Done) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), &volume.namespace().unwrap_or_default());
    let params = PostParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, object).await {
        Ok(_) => Ok(()),
        Err(error) if conflict(&error) => {
            let name = object.name_any();
            match api.get_opt(&name).await? {
                Some(there) if there.owner_references().iter().any(|o| Some(&o.uid) == volume.uid().as_ref()) => {}
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

async fn patch_claim(
    namespace: &str,
    claim: &Exact,
    mut patch: serde_json::Value,
    ctx: &Context,
) -> Result<(), kube::Error> {
    patch["metadata"]["uid"] = json!(claim.uid);
    patch["metadata"]["resourceVersion"] = json!(claim.resource_version);
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), namespace);
    api.patch(&claim.name, &params(), &Patch::Merge(patch)).await.map(|_| ())
}

/// Deletes exactly this object; one that is gone already, or replaced by another of the same name, is no error.
async fn delete<K>(namespace: &str, what: &Exact, ctx: &Context) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    // The identity is what makes it ours; its version changes with every sidecar that touches it.
    let preconditions = Preconditions { uid: Some(what.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&what.name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}
