//! The writes of a pass over a clone, in the order of the plan, up to the first that fails.

use std::fmt::Debug;

use common::{
    api::{DataVolume, snapshot::VolumeSnapshot},
    clone::{
        Kind, Waiting, Write, beside,
        claim::{owner_of_target, waits_for_cdi},
        objects,
        observed::Target,
        ownership::{Owner, Ownership},
    },
    keys,
    object::{ObjectVersion, TargetKind, exact},
    rebind,
};
use config::api::Objects;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tracing::info;

use super::{
    CloneTarget, Reconciler,
    observe::{completed, snapshot_owner},
    report,
};
use crate::{
    Error,
    write::{
        self, Failure, StatusReplacement, classify, discard_volume, is_conflict, merge_patch, patch_claim, release,
    },
};

/// The outcome of the writes of a pass.
#[derive(Debug, Default)]
pub struct Done {
    /// The DataVolume's version after our own write to it.
    pub resource_version: Option<String>,
    /// An object is newer than the one that was read. Nothing was changed, and its event starts the next pass.
    pub stale: bool,
    /// The API server refused a write, for this reason.
    pub refused: Option<Waiting>,
}

/// Sends the writes in their order, up to the first that fails.
pub async fn apply_writes(target: CloneTarget<'_>, actions: &[Write], ctx: &Reconciler) -> Result<Done, Error> {
    let mut done = Done::default();
    for action in actions {
        let verb = action.verb();
        let result = apply_write(target, action, ctx, &mut done).await;
        ctx.context.metrics.action(verb, result.is_ok());
        match result {
            Ok(()) => {
                info!(namespace = target.volume.namespace(), name = target.volume.name_any(), action = verb, "done");
            }
            Err(error) => match classify(error) {
                Failure::Stale => done.stale = true,
                Failure::Gone(message) => done.refused = Some(refused(action, false, &message)),
                Failure::Refused { quota, message } => done.refused = Some(refused(action, quota, &message)),
                Failure::Failed(source) => return Err(Error::Write { verb, source }),
            },
        }
        if done.refused.is_some() || done.stale {
            return Ok(done);
        }
    }
    Ok(done)
}

fn refused(action: &Write, quota: bool, message: &str) -> Waiting {
    Waiting::Refused { quota, message: format!("{}: {message}", action.attempt()) }
}

async fn apply_write(
    target: CloneTarget<'_>,
    action: &Write,
    ctx: &Reconciler,
    done: &mut Done,
) -> Result<(), kube::Error> {
    let volume = target.volume;
    match action {
        Write::Pin(pinned) => {
            let mut patch = json!({ "metadata": { "annotations": pinned.annotations } });
            if !pinned.labels.is_empty() {
                patch["metadata"]["labels"] = json!(pinned.labels);
            }
            let (read, client) = (exact(&volume.metadata), ctx.context.client.clone());
            done.resource_version = match target.kind {
                TargetKind::DataVolume => {
                    let api = Objects::<DataVolume>::namespaced(client, &read.namespace);
                    merge_patch(&api, &read, patch).await?.resource_version()
                }
                TargetKind::Claim => {
                    let api = Objects::<PersistentVolumeClaim>::namespaced(client, &read.namespace);
                    merge_patch(&api, &read, patch).await?.resource_version()
                }
            };
        }
        Write::CreateSnapshot(snapshot) => {
            let owner = completed(target, ctx);
            let ours = |there: &VolumeSnapshot| snapshot_owner(there, &owner.created, ctx) == Owner::Ours;
            create::<VolumeSnapshot>(&owner.uid, snapshot, ours, ctx, done).await?;
        }
        Write::CreateClaim(claim) => {
            let owner = completed(target, ctx);
            let own = claim.name_any() == owner.name && claim.namespace().as_ref() == Some(&owner.namespace);
            let ours = |there: &PersistentVolumeClaim| {
                if own {
                    // What CDI made for the same DataVolume, and fills, is not ours beside CDI.
                    let is_cdis = owner.reported_by_cdi.is_some() && waits_for_cdi(there);
                    !is_cdis && owner_of_target(there.meta(), &owner.uid) == Owner::Ours
                } else {
                    is_ours(&owner, Kind::PersistentVolumeClaim, there.meta())
                }
            };
            create::<PersistentVolumeClaim>(&owner.uid, claim, ours, ctx, done).await?;
        }
        Write::CreatePod(pod) => {
            let owner = completed(target, ctx);
            let ours = |there: &Pod| is_ours(&owner, Kind::Pod, there.meta());
            create::<Pod>(&owner.uid, pod, ours, ctx, done).await?;
        }
        Write::Adopt(claim) => {
            let api = Objects::<PersistentVolumeClaim>::namespaced(ctx.context.client.clone(), &claim.namespace);
            let Some(there) = api.metadata(&claim.name).await? else {
                done.stale = true;
                return Ok(());
            };
            let owners = there.owner_references.unwrap_or_default();
            let owners = objects::owners_with(&Target::of(volume), &owners);
            patch_claim(claim, json!({ "metadata": { "ownerReferences": owners } }), &ctx.context.client).await?;
        }
        Write::GrowClaim { claim, to } => {
            let size = json!({ "resources": { "requests": { "storage": to.to_string() } } });
            patch_claim(claim, json!({ "spec": size }), &ctx.context.client).await?;
        }
        Write::MarkCopied { claim, digest } => {
            let annotations = json!({ keys::COPIED: digest });
            patch_claim(claim, json!({ "metadata": { "annotations": annotations } }), &ctx.context.client).await?;
        }
        Write::Release { claim, rest } => release(claim, rest, &ctx.context.client).await?,
        Write::Nudge { claim, at } => patch_claim(claim, rebind::nudge(claim, *at), &ctx.context.client).await?,
        Write::DiscardVolume { volume } => discard_volume(volume, &ctx.context.client).await?,
        Write::Seal { claim } => {
            let annotations = json!({ keys::POPULATED_FOR: claim.name });
            patch_claim(claim, json!({ "metadata": { "annotations": annotations } }), &ctx.context.client).await?;
        }
        Write::ReportForCdi { claim } => report_for_cdi(target, claim, ctx, done).await?,
        Write::HandOver { volume, to, at, .. } => {
            let api = Objects::<PersistentVolume>::all(ctx.context.client.clone());
            merge_patch(&api, volume, rebind::hand_over(volume, to, *at)).await?;
        }
        Write::Delete { kind: Kind::VolumeSnapshot, what } => {
            write::delete::<VolumeSnapshot>(what, &ctx.context.client).await?;
        }
        Write::Delete { kind: Kind::PersistentVolumeClaim, what } => {
            write::delete::<PersistentVolumeClaim>(what, &ctx.context.client).await?;
        }
        Write::Delete { kind: Kind::Pod, what } => write::delete::<Pod>(what, &ctx.context.client).await?,
    }
    Ok(())
}

/// Writes the status of a complete clone on this version of the DataVolume, in the place of CDI. The claim is read from the API server: a
/// cache may not know yet that it was deleted.
async fn report_for_cdi(
    target: CloneTarget<'_>,
    claim: &ObjectVersion,
    ctx: &Reconciler,
    done: &mut Done,
) -> Result<(), kube::Error> {
    let client = || ctx.context.client.clone();
    let claims = Objects::<PersistentVolumeClaim>::namespaced(client(), &claim.namespace);
    if claims.metadata(&claim.name).await?.is_none_or(|there| exact(&there) != *claim) {
        done.stale = true;
        return Ok(());
    }
    let status = Some(beside::succeeded_as_cdi(target.volume, &claim.name, Timestamp::now()));
    let api = Objects::<DataVolume>::namespaced(client(), &claim.namespace);
    match write::replace_status(&api, DataVolume { status, ..target.volume.clone() }).await? {
        StatusReplacement::Written => {
            let uid = target.volume.uid().unwrap_or_default();
            ctx.indexes.in_cdis_place.ended(&uid, claim.resource_version.clone());
            report::ended_for_cdi(target, ctx).await;
        }
        StatusReplacement::Conflict(_) | StatusReplacement::Gone => done.stale = true,
    }
    Ok(())
}

/// True if an earlier pass created the object for `target`.
fn is_ours(target: &Target, kind: Kind, meta: &ObjectMeta) -> bool {
    let owners = Ownership { uid: &target.uid, key: target.key.as_deref(), created: &target.created };
    owners.of(kind, meta) == Owner::Ours
}

/// Creates `object` for the clone `uid`. Its name contains an identity or is the DataVolume's own. An existing object of that name is the
/// result of an earlier pass if it is `ours`; any other is left alone. The UID in the API server's answer marks the object as ours from
/// then on.
async fn create<K>(
    uid: &str,
    object: &K,
    ours: impl Fn(&K) -> bool,
    ctx: &Reconciler,
    done: &mut Done,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api = Objects::<K>::namespaced(ctx.context.client.clone(), &object.namespace().unwrap_or_default());
    match write::create(&api, object).await {
        Ok(created) => {
            ctx.indexes.created.record(uid, created.name_any(), created.uid().unwrap_or_default());
            Ok(())
        }
        Err(error) if is_conflict(&error) => {
            let name = object.name_any();
            match api.get_opt(&name).await? {
                Some(there) if ours(&there) => ctx.indexes.created.record(uid, name, there.uid().unwrap_or_default()),
                Some(_) => done.refused = Some(Waiting::Foreign { kind: kind_of::<K>(), name }),
                // It was deleted in the meantime: the next pass creates it.
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

#[cfg(test)]
mod tests;
