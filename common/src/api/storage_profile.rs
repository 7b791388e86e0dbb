//! The kind StorageProfile: the admin's settings for one StorageClass, and its known properties.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CloneStrategy, Condition, rules, strategy};

/// The admin's settings. They take precedence over everything else that is known about the StorageClass.
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
    /// Clone strategy for volumes of this StorageClass: copy, snapshot or csi-clone.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    pub clone_strategy: Option<CloneStrategy>,
    /// Combinations of access modes and volume mode, in order of preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub claim_property_sets: Option<Vec<ClaimPropertySet>>,
    /// Format in which a DataImportCron keeps its imports: snapshot or pvc.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_import_cron_source_format: Option<String>,
    /// The VolumeSnapshotClass for clones by snapshot. Default: chosen by driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
}

/// Access modes of one volume mode.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::claim_property_set)]
pub struct ClaimPropertySet {
    /// Access modes: ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub access_modes: Option<Vec<String>>,
    /// Volume mode: Block or Filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(required, extend("enum" = ["Block", "Filesystem"]))]
    pub volume_mode: Option<String>,
}

/// The properties of the StorageClass in effect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageProfileStatus {
    /// The StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// The driver of the StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<String>,
    /// Clone strategy for volumes of this StorageClass.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub clone_strategy: Option<CloneStrategy>,
    /// Combinations of access modes and volume mode, in order of preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub claim_property_sets: Option<Vec<ClaimPropertySet>>,
    /// Format in which a DataImportCron keeps its imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_import_cron_source_format: Option<String>,
    /// The VolumeSnapshotClass for clones by snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_class: Option<String>,
    /// The condition that is True if the driver and the StorageClass's parameters are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Known capabilities of the driver, with the source of each. Not part of CDI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub capabilities: Vec<Capability>,
    /// Strategies that the driver refused in several namespaces for clones into this StorageClass. They are not tried again before `until`.
    /// Not part of CDI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub refusals: Vec<Refusal>,
}

/// A known capability of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// Name of the capability, such as `restoreSize`.
    pub name: String,
    /// Value of the capability.
    pub value: String,
    /// Source of the value: `BuiltIn`, `StorageClass`, `StorageProfile`, `Learned` or `Default`.
    pub provenance: String,
}

/// A strategy that the driver refused in several namespaces, with an error that waiting does not cure. Every tenant may read it, so it
/// contains neither the driver's message nor a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The strategy.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub strategy: Option<CloneStrategy>,
    /// The StorageClass of the sources for which it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_class: Option<String>,
    /// The driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The gRPC code, or one word for a known error text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Number of namespaces in which it was refused without a success in between.
    #[serde(default)]
    #[schemars(with = "i32", extend("minimum" = 0))]
    pub namespaces: u32,
    /// Minimum size, as a quantity, of the clones for which the refusal counts. No refused request was larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Number of refusals in a row.
    #[serde(default)]
    #[schemars(with = "i32", extend("minimum" = 0))]
    pub count: u32,
    /// Time of the last refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
    /// Time from which clones try the strategy again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}
