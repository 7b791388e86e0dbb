//! The verbs of writing to the API server, with their preconditions, and the classification of their errors.
//!
//! A write carries the UID, and most carry the version, of the object that was read: after a crash, beside a second controller or with
//! a stale cache it fails and changes nothing.

use std::fmt::Debug;

use common::{api::snapshot::VolumeSnapshotContent, decode::Decoded, keys, object::ObjectVersion};
use config::api::Objects;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
};
use kube::{
    Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// The cause in the refusal of a creation in a namespace that is being deleted (`NamespaceTerminatingCause` of the API).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The consequence of a failed write for the pass.
#[derive(Debug)]
pub enum Failure {
    /// The object is newer than the one that was read. Nothing was changed; the event of the newer object starts the next pass.
    Stale,
    /// The object, or the namespace of one that was to be created, does not exist any more; the message of the API server.
    Gone(String),
    /// The API server refuses the write.
    Refused {
        /// True if a quota is the reason.
        quota: bool,
        /// The message of the API server.
        message: String,
    },
    /// The write may succeed when it is repeated: the network, an overloaded API server.
    Failed(kube::Error),
}

/// Classifies the error of a write.
pub fn classify(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            409 => Failure::Stale,
            404 => Failure::Gone(status.message.clone()),
            400 | 403 | 422 => Failure::Refused { quota: is_quota(&status.message), message: status.message.clone() },
            _ => Failure::Failed(kube::Error::Api(status)),
        },
        error => Failure::Failed(error),
    }
}

/// True if the quota admission plugin refused: it refuses objects that exceed a quota, and objects that omit a resource which a quota
/// covers.
fn is_quota(message: &str) -> bool {
    ["exceeded quota", "failed quota", "insufficient quota"].iter().any(|words| message.contains(words))
}

/// True if the API server has a newer object than the one that was read, or an object of the name exists.
pub fn is_conflict(error: &kube::Error) -> bool {
    answered(error, &[409])
}

/// True if the object does not exist any more.
pub fn is_gone(error: &kube::Error) -> bool {
    answered(error, &[404])
}

/// True if our account lacks the right, or a policy refuses.
pub fn is_forbidden(error: &kube::Error) -> bool {
    answered(error, &[403])
}

/// True if the API server answered with one of these codes.
fn answered(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// True if the namespace of an object that was to be created is being deleted, or gone.
pub fn is_namespace_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let Some(details) = &status.details else { return false };
    match status.code {
        403 => details.causes.iter().any(|cause| cause.reason == NAMESPACE_TERMINATING),
        404 => details.kind == "namespaces",
        _ => false,
    }
}

/// The parameters of all writes but patches: our field manager.
fn post_params() -> PostParams {
    PostParams { field_manager: Some(keys::CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

/// Creates an object.
pub async fn create<K>(api: &Objects<K>, object: &K) -> kube::Result<Decoded<K>>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    api.create(&post_params(), object).await
}

/// Creates an object unless one of its name exists. Returns true if it was created.
pub async fn create_if_absent<K>(api: &Objects<K>, object: &K) -> kube::Result<bool>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    match create(api, object).await {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Patches exactly this version of an object.
pub async fn merge_patch<K>(api: &Objects<K>, object: &ObjectVersion, mut patch: Value) -> kube::Result<Decoded<K>>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    patch["metadata"]["uid"] = json!(object.uid);
    patch["metadata"]["resourceVersion"] = json!(object.resource_version);
    let field_manager = Some(keys::CONTROLLER_MANAGER.to_owned());
    let params = PatchParams { field_manager, ..PatchParams::default() };
    api.patch(&object.name, &params, &Patch::Merge(patch)).await
}

/// Patches exactly this version of a claim.
pub async fn patch_claim(claim: &ObjectVersion, patch: Value, client: &Client) -> kube::Result<()> {
    let api = Objects::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
    merge_patch(&api, claim, patch).await.map(drop)
}

/// Sets the reclaim policy of a temporary claim's volume to `Delete`; exactly this version of the volume.
pub async fn discard_volume(volume: &ObjectVersion, client: &Client) -> kube::Result<()> {
    let api = Objects::<PersistentVolume>::all(client.clone());
    merge_patch(&api, volume, json!({ "spec": { "persistentVolumeReclaimPolicy": "Delete" } })).await.map(drop)
}

/// Gives up exactly this version of a volume that no claim has: refers it to a claim that never existed, and lets it be deleted in the
/// storage system. A volume that is not bound is deleted only when its claim is gone.
pub async fn give_up_volume(volume: &ObjectVersion, client: &Client) -> kube::Result<()> {
    let api = Objects::<PersistentVolume>::all(client.clone());
    let spec = json!({ "persistentVolumeReclaimPolicy": "Delete", "claimRef": { "uid": volume.uid } });
    merge_patch(&api, volume, json!({ "spec": spec })).await.map(drop)
}

/// Sets the deletion policy of a temporary VolumeSnapshot's content to `Delete`; exactly this version of the content.
pub async fn discard_content(content: &ObjectVersion, client: &Client) -> kube::Result<()> {
    let api = Objects::<VolumeSnapshotContent>::all(client.clone());
    merge_patch(&api, content, json!({ "spec": { "deletionPolicy": "Delete" } })).await.map(drop)
}

/// Removes our finalizer from exactly this version of a claim and leaves `rest`. A claim that does not exist any more is no error.
pub async fn release(claim: &ObjectVersion, rest: &[String], client: &Client) -> kube::Result<()> {
    keep_finalizers::<PersistentVolumeClaim>(claim, rest, client).await
}

/// Removes all finalizers but `rest` from exactly this version of an object. An object that does not exist any more is no error.
pub async fn keep_finalizers<K>(object: &ObjectVersion, rest: &[String], client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let api = Objects::<K>::namespaced(client.clone(), &object.namespace);
    match merge_patch(&api, object, json!({ "metadata": { "finalizers": rest } })).await {
        Err(error) if is_gone(&error) => Ok(()),
        kept => kept.map(drop),
    }
}

/// The result of the replacement of a status.
#[derive(Debug)]
#[must_use = "a status that was not written has to be written by another pass"]
pub enum StatusReplacement {
    /// The status is written.
    Written,
    /// The object is newer than the one that was read, and its event starts the next pass; the error of the API server.
    Conflict(kube::Error),
    /// The object does not exist any more.
    Gone,
}

impl StatusReplacement {
    /// The result of a write that the API server has answered so.
    pub fn of<T>(answer: kube::Result<T>) -> kube::Result<Self> {
        match answer {
            Ok(_) => Ok(Self::Written),
            Err(error) if is_conflict(&error) => Ok(Self::Conflict(error)),
            Err(error) if is_gone(&error) => Ok(Self::Gone),
            Err(error) => Err(error),
        }
    }
}

/// Replaces the status of exactly this version of `object`.
pub async fn replace_status<K>(api: &Objects<K>, mut object: K) -> kube::Result<StatusReplacement>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned,
{
    object.meta_mut().managed_fields = None;
    StatusReplacement::of(api.replace_status(&object.name_any(), &post_params(), &object).await)
}

/// Deletes the object of this UID, whatever its version: the identity makes it ours, and every sidecar that touches it changes the version.
/// It is no error if the object does not exist any more, or was replaced by another of the same name.
pub async fn delete<K>(object: &ObjectVersion, client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let preconditions = Preconditions { uid: Some(object.uid.clone()), resource_version: None };
    match delete_if::<K>(object, preconditions, client).await {
        Err(error) if answered(&error, &[404, 409]) => Ok(()),
        deleted => deleted,
    }
}

/// Deletes exactly this version of an object.
pub async fn delete_version<K>(object: &ObjectVersion, client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let (uid, resource_version) = (Some(object.uid.clone()), Some(object.resource_version.clone()));
    delete_if::<K>(object, Preconditions { uid, resource_version }, client).await
}

async fn delete_if<K>(object: &ObjectVersion, preconditions: Preconditions, client: &Client) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    Objects::<K>::namespaced(client.clone(), &object.namespace).delete(&object.name, &params).await
}

#[cfg(test)]
mod tests;
