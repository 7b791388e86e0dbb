//! What an admin says, and what is known, about one StorageClass.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CloneStrategy, Condition, rules, strategy};

/// What the admin says; it outranks whatever is known otherwise.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "StorageProfile",
    plural = "storageprofiles",
    status = "StorageProfileStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What an admin says, and what is known, about the StorageClass of the same name."
)]
#[serde(rename_all = "camelCase")]
pub struct StorageProfileSpec {
    /// How volumes of this class are cloned: copy, snapshot or csi-clone.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    pub clone_strategy: Option<CloneStrategy>,
    /// Which access modes go with which volume mode, best first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub claim_property_sets: Option<Vec<ClaimPropertySet>>,
    /// As what a DataImportCron keeps its imports: snapshot or pvc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_import_cron_source_format: Option<String>,
    /// The VolumeSnapshotClass for clones by snapshot. Left out: chosen by driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
}

/// Access modes that a volume mode has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::claim_property_set)]
pub struct ClaimPropertySet {
    /// ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub access_modes: Option<Vec<String>>,
    /// Block or Filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(required, extend("enum" = ["Block", "Filesystem"]))]
    pub volume_mode: Option<String>,
}

/// What holds for the class, all things considered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageProfileStatus {
    /// The StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Its driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<String>,
    /// How volumes of this class are cloned.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub clone_strategy: Option<CloneStrategy>,
    /// Which access modes go with which volume mode, best first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub claim_property_sets: Option<Vec<ClaimPropertySet>>,
    /// As what a DataImportCron keeps its imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_import_cron_source_format: Option<String>,
    /// The VolumeSnapshotClass for clones by snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
    /// Whether the driver is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
