//! The kind ObjectTransfer: moves a claim with its data, or a DataVolume with its claim, to another name or namespace.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, rules};

/// The object to move and its target. Immutable.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "ObjectTransfer",
    plural = "objecttransfers",
    shortname = "ot",
    shortname = "ots",
    status = "ObjectTransferStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Moves a PersistentVolumeClaim with its data, or a DataVolume with its claim, to another name or namespace.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Where the transfer stands"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::object_transfer)]
pub struct ObjectTransferSpec {
    /// The object to move.
    pub source: TransferSource,
    /// The target: another namespace, another name, or both.
    pub target: TransferTarget,
    /// Name of the ObjectTransfer for which this one was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub parent_name: Option<String>,
}

/// The object to move.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferSource {
    /// Its API version. Default: v1 for a PersistentVolumeClaim, cdi.kubevirt.io/v1beta1 for a DataVolume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub api_version: Option<String>,
    /// Its kind: PersistentVolumeClaim or DataVolume.
    #[schemars(extend("enum" = ["PersistentVolumeClaim", "DataVolume"]))]
    pub kind: String,
    /// Its namespace.
    #[schemars(extend("minLength" = 1, "maxLength" = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(extend("minLength" = 1, "maxLength" = 253))]
    pub name: String,
    /// Annotations that the object must have before it is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = { "type": "string", "maxLength": 1024 }))]
    pub required_annotations: Option<BTreeMap<String, String>>,
}

/// The target: another namespace, another name, or both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferTarget {
    /// The target namespace. Default: the namespace of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub namespace: Option<String>,
    /// The target name. Default: the name of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub name: Option<String>,
}

/// The observed state of an ObjectTransfer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectTransferStatus {
    /// Data that the controller needs after a restart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// The phase: Pending, Running, Complete or Error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// The condition `Complete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
