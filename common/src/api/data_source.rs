//! The kind DataSource: a reference to a source that may be replaced, such as a golden image.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, DataVolumeSourcePvc, DataVolumeSourceSnapshot};

/// What the name stands for.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "DataSource",
    plural = "datasources",
    namespaced,
    shortname = "das",
    category = "all",
    derive = "PartialEq",
    derive = "Default",
    doc = "A name for a source of DataVolumes: a claim, a VolumeSnapshot, or another DataSource of the same namespace."
)]
#[kube(status = "DataSourceStatus")]
#[serde(rename_all = "camelCase")]
pub struct DataSourceSpec {
    /// The source that the name stands for.
    pub source: DataSourceSource,
}

/// Exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceSource {
    /// A claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<DataVolumeSourcePvc>,
    /// A VolumeSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<DataVolumeSourceSnapshot>,
    /// Another DataSource of the same namespace, which names a claim or a snapshot itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_source: Option<DataSourceRef>,
}

/// Another DataSource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceRef {
    /// Its namespace: that of the DataSource that refers to it.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What the name stands for, all references followed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceStatus {
    /// The claim or the snapshot.
    #[serde(default)]
    pub source: DataSourceSource,
    /// Whether there is one: `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
