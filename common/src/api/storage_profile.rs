//! The kind StorageProfile: the settings of an admin for one StorageClass, and what is known about it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
    /// What is known of the driver and where from; CDI has no word for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub capabilities: Vec<Capability>,
    /// What the driver refused to several namespaces for clones into this class: not asked for again before `until`. CDI has no word for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub refusals: Vec<Refusal>,
}

/// One thing that is known of a driver.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// What it is about, such as `restoreSize`.
    pub name: String,
    /// What holds.
    pub value: String,
    /// Who says so: `BuiltIn`, `StorageClass`, `StorageProfile`, `Learned`, `Default`.
    pub provenance: String,
}

/// A strategy that the driver refused to several namespaces, in a way that waiting doesn't cure. Every tenant may read it, so it has
/// neither the driver's words nor a namespace.
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
    /// The gRPC code, or one word for a known text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of namespaces that met it with no success between.
    #[serde(default)]
    #[schemars(with = "i32", extend("minimum" = 0))]
    pub namespaces: u32,
    /// The size, as a quantity, from which on it counts: what each of the namespaces asked for is at most so large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// How often in a row.
    #[serde(default)]
    #[schemars(with = "i32", extend("minimum" = 0))]
    pub count: u32,
    /// The time of the last refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
    /// The time from which on clones try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}
