//! The kind VolumeCloneSource: the source of a claim that names it in its `dataSourceRef` and is filled as a clone without a DataVolume.

use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The source of a clone.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "VolumeCloneSource",
    plural = "volumeclonesources",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    doc = "The source of a clone, to be named in the dataSourceRef of a PersistentVolumeClaim. It lives in the namespace of the source."
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeCloneSourceSpec {
    /// A PersistentVolumeClaim, or a VolumeSnapshot of the API group snapshot.storage.k8s.io, in the same namespace.
    pub source: TypedLocalObjectReference,
    /// True if all space is to be allocated in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<bool>,
    /// The PriorityClass of pods that move the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}
