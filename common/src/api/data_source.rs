//! The kind DataSource: a reference to a source that may be replaced, such as a golden image.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, DataVolumeSourcePvc, DataVolumeSourceSnapshot};

/// The source to which the DataSource refers.
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
    /// The source to which the DataSource refers.
    pub source: DataSourceSource,
}

/// A source: exactly one of these fields is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceSource {
    /// A PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<DataVolumeSourcePvc>,
    /// A VolumeSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<DataVolumeSourceSnapshot>,
    /// Another DataSource in the same namespace, which itself refers to a PersistentVolumeClaim or a VolumeSnapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_source: Option<DataSourceRef>,
}

/// A reference to another DataSource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceRef {
    /// Its namespace, which is that of the referring DataSource.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The source to which the DataSource refers, after all references are followed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSourceStatus {
    /// The PersistentVolumeClaim or VolumeSnapshot.
    #[serde(default)]
    pub source: DataSourceSource,
    /// The condition `Ready`: True if the source exists and can be cloned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
