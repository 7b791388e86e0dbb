//! The writes to the API server: their parameters, their preconditions, and the classification of their errors.
//!
//! Each write carries the UID or the version of the object that was read, so that a crash, a second controller or a stale cache makes it
//! fail and does nothing else.

use std::fmt::Debug;

use common::{api::snapshot::VolumeSnapshotContent, meta, object::ObjectVersion, rebind};
use config::api::Objects;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// What a failed write means for the pass.
#[derive(Debug)]
pub enum Failure {
    /// The object is newer than the one that was read. Nothing was changed; the event of the newer object starts the next pass.
    Stale,
    /// The object, or the namespace of one that was to be created, does not exist any more; the words of the API server.
    Gone(String),
    /// The API server refuses the write as it is.
    Refused {
        /// A quota is the reason.
        quota: bool,
        /// The words of the API server.
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
            400 | 403 | 422 => {
                Failure::Refused { quota: status.message.contains("exceeded quota"), message: status.message.clone() }
            }
            _ => Failure::Failed(kube::Error::Api(status)),
        },
        error => Failure::Failed(error),
    }
}

/// The API server answered with one of these codes.
pub fn answered(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

/// The API server has a newer object than the one that was read, or an object of the name exists.
pub fn is_conflict(error: &kube::Error) -> bool {
    answered(error, &[409])
}

/// The parameters of patches: our field manager.
pub fn params() -> PatchParams {
    PatchParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PatchParams::default() }
}

/// The parameters of all other writes: our field manager.
pub fn post_params() -> PostParams {
    PostParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PostParams::default() }
}

/// Patches exactly this claim, as it was read.
pub async fn patch_claim(
    claim: &ObjectVersion,
    mut patch: serde_json::Value,
    client: &Client,
) -> Result<(), kube::Error> {
    patch["metadata"]["uid"] = json!(claim.uid);
    patch["metadata"]["resourceVersion"] = json!(claim.resource_version);
    let api = Objects::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
    api.patch(&claim.name, &params(), &Patch::Merge(patch)).await.map(|_| ())
}

/// Removes our finalizer from exactly this claim, as it was read. A claim that does not exist any more is no error.
pub async fn release(claim: &ObjectVersion, rest: &[String], client: &Client) -> Result<(), kube::Error> {
    let api = Objects::<PersistentVolumeClaim>::namespaced(client.clone(), &claim.namespace);
    match api.patch(&claim.name, &params(), &Patch::Merge(rebind::release(claim, rest))).await {
        Ok(_) => Ok(()),
        Err(error) if answered(&error, &[404]) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes exactly this object. One that does not exist any more, or was replaced by another of the same name, is no error.
pub async fn delete<K>(what: &ObjectVersion, client: &Client) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api = Objects::<K>::namespaced(client.clone(), &what.namespace);
    // The identity is what makes it ours; its version changes with every sidecar that touches it.
    let preconditions = Preconditions { uid: Some(what.uid.clone()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&what.name, &params).await {
        Ok(()) => Ok(()),
        Err(error) if answered(&error, &[404, 409]) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Lets the volume of a temporary claim go with the claim, unless it has changed since it was read.
pub async fn discard_volume(volume: &ObjectVersion, client: &Client) -> Result<(), kube::Error> {
    let api = Objects::<PersistentVolume>::all(client.clone());
    let patch = json!({
        "metadata": { "uid": volume.uid, "resourceVersion": volume.resource_version },
        "spec": { "persistentVolumeReclaimPolicy": "Delete" },
    });
    api.patch(&volume.name, &params(), &Patch::Merge(patch)).await.map(|_| ())
}

/// Lets the driver's snapshot go with a temporary VolumeSnapshot, unless its content has changed since it was read.
pub async fn discard_content(content: &ObjectVersion, client: &Client) -> Result<(), kube::Error> {
    let api = Objects::<VolumeSnapshotContent>::all(client.clone());
    let patch = json!({
        "metadata": { "uid": content.uid, "resourceVersion": content.resource_version },
        "spec": { "deletionPolicy": "Delete" },
    });
    api.patch(&content.name, &params(), &Patch::Merge(patch)).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use kube::core::{Status, response::StatusSummary};
    use rstest::rstest;

    use super::*;

    fn answer(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Box::new(Status {
            status: Some(StatusSummary::Failure),
            code,
            message: message.into(),
            ..Status::default()
        }))
    }

    #[rstest]
    #[case::bad_request(400, "x", "refused")]
    #[case::forbidden(403, "x", "refused")]
    #[case::quota(403, "pods \"x\" is forbidden: exceeded quota: q", "quota")]
    #[case::not_found(404, "x", "gone")]
    #[case::conflict(409, "x", "stale")]
    #[case::invalid(422, "x", "refused")]
    #[case::too_many_requests(429, "x", "failed")]
    #[case::internal(500, "exceeded quota", "failed")]
    #[case::unavailable(503, "x", "failed")]
    fn errors_have_one_classification(#[case] code: u16, #[case] message: &str, #[case] expected: &str) {
        let class = match classify(answer(code, message)) {
            Failure::Stale => "stale",
            Failure::Gone(_) => "gone",
            Failure::Refused { quota: true, .. } => "quota",
            Failure::Refused { quota: false, .. } => "refused",
            Failure::Failed(_) => "failed",
        };
        assert_eq!(class, expected);
    }
}
