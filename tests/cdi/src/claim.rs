//! What a claim says about a DataVolume: the rules of CDI that read its annotations.

use common::{
    api::DataVolume,
    keys::{
        ALLOW_ADOPTION, CLONE_PHASE, CREATED_FOR_DATA_VOLUME, DATA_SOURCE_NAMESPACE, IMMEDIATE_BINDING, POPULATED_FOR,
        SELECTED_NODE,
    },
    object::{annotation, controller},
    rebind::names_clone_source,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, TypedObjectReference};
use kube::ResourceExt as _;

use crate::{keys::USE_POPULATOR, settings::Settings};

pub use common::object::ClaimPhase;

/// The phase that the populator reports.
pub fn clone_phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, CLONE_PHASE)
}

/// True if the claim's annotations tell the phase of the DataVolume. Kind and group of the data source do not matter.
pub fn has_populator(claim: &PersistentVolumeClaim) -> bool {
    let names_source = claim.spec.as_ref().is_some_and(|spec| spec.data_source_ref.is_some());
    names_source && annotation(&claim.metadata, USE_POPULATOR).is_some_and(|value| parse_bool(value) == Some(true))
}

/// The VolumeCloneSource that the claim names, which makes it a claim of the clone populator.
pub fn clone_source(claim: &PersistentVolumeClaim) -> Option<&TypedObjectReference> {
    claim.spec.as_ref()?.data_source_ref.as_ref().filter(|source| names_clone_source(source))
}

/// The namespace of the VolumeCloneSource.
pub fn clone_source_namespace(claim: &PersistentVolumeClaim) -> String {
    let named = annotation(&claim.metadata, DATA_SOURCE_NAMESPACE).map(str::to_owned);
    named.or_else(|| claim.namespace()).unwrap_or_default()
}

/// The StorageClass.
pub fn class(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.storage_class_name.as_deref()
}

/// True if the claim's class waits for a consumer, and none has come.
pub fn waits_for_consumer(claim: &PersistentVolumeClaim, settings: &Settings) -> bool {
    let has = |key| annotation(&claim.metadata, key).is_some();
    settings.binds_late(class(claim)) && !has(SELECTED_NODE) && !has(IMMEDIATE_BINDING)
}

/// True if the claim is controlled by exactly this DataVolume.
pub fn is_controlled_by(claim: &PersistentVolumeClaim, data_volume: &DataVolume) -> bool {
    controller(&claim.metadata).is_some_and(|owner| Some(&owner.uid) == data_volume.metadata.uid.as_ref())
}

/// True if the claim is controlled by any DataVolume.
pub fn is_controlled_by_any(claim: &PersistentVolumeClaim) -> bool {
    controller(&claim.metadata).is_some_and(|owner| owner.kind == "DataVolume")
}

/// True if the claim is marked as filled for a DataVolume of this name.
pub fn is_populated_for(claim: &PersistentVolumeClaim, name: &str) -> bool {
    annotation(&claim.metadata, POPULATED_FOR) == Some(name)
}

/// False if the DataVolume has nothing to do for the claim, and so counts as complete.
pub fn requires_work(claim: &PersistentVolumeClaim, data_volume: &DataVolume, settings: &Settings) -> bool {
    !is_populated_for(claim, &data_volume.name_any()) && !is_adoptable(claim, data_volume, settings)
}

/// True if the DataVolume may adopt the claim, which is not asked for its phase.
pub fn is_adoptable(claim: &PersistentVolumeClaim, data_volume: &DataVolume, settings: &Settings) -> bool {
    if !settings.version.adopts() {
        return false;
    }
    let created_for = annotation(&claim.metadata, CREATED_FOR_DATA_VOLUME);
    if settings.version.knows_own_claims()
        && created_for.is_some()
        && created_for == data_volume.metadata.uid.as_deref()
    {
        return false;
    }
    match annotation(&data_volume.metadata, ALLOW_ADOPTION) {
        Some(value) => parse_bool(value) == Some(true),
        None => settings.adopts_by_gate(),
    }
}

/// Reads a truth value as Go does.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
