//! Effects of the fields that users and admins can set: honoured, refused, or none with a warning.
//!
//! Each kind has one table. A test walks the schemas of the CustomResourceDefinitions: every field has a row, and every row a field. The
//! reference page and the policy that warns about settings of the CDI object are generated from the same rows.

mod settings;

pub use self::settings::{CDI, Setting, VOLUME_CLONE_SOURCE, cdi_config};

use k8s_openapi::{api::core::v1::PersistentVolumeClaimSpec, apimachinery::pkg::apis::meta::v1::LabelSelector};

use crate::{
    api::{DataVolume, DataVolumeSource, StorageSpec},
    field::FieldError,
    keys, object,
};

/// The effect of a field, and the reason for it. `When` selects the values to which it applies.
#[derive(Debug, Clone, Copy)]
pub enum Effect<When> {
    /// It has the documented effect.
    Honoured,
    /// An object that sets it is rejected.
    Refused(When, &'static str),
    /// It is admitted and has no effect.
    Unused(When, &'static str),
}

/// A field, with all nested fields that have no row of their own.
#[derive(Debug, Clone, Copy)]
pub struct Field<When> {
    /// The path, such as `spec.pvc.selector`. The path of a list is that of its elements.
    pub path: &'static str,
    /// The effect.
    pub effect: Effect<When>,
}

const fn honoured<When>(path: &'static str) -> Field<When> {
    Field { path, effect: Effect::Honoured }
}

const fn refused<When>(path: &'static str, when: When, why: &'static str) -> Field<When> {
    Field { path, effect: Effect::Refused(when, why) }
}

const fn unused<When>(path: &'static str, when: When, why: &'static str) -> Field<When> {
    Field { path, effect: Effect::Unused(when, why) }
}

/// Predicate: true if a DataVolume sets a field to a value that requests something.
type IsSet = fn(&DataVolume) -> bool;

const ONE_SOURCE: &str = "a clone has one source; remove one of the two";
const ONE_CONTENT: &str = "the content comes from spec.source; remove one of the two";
const NEW_VOLUME: &str = "a clone gets a new volume, so an existing one can't be chosen; leave it out (a claim that has its volume already \
                          is taken over with the annotation cdi.kubevirt.io/storage.checkStaticVolume)";
const IMPORTS_ONLY: &str = "it is about imports in several stages";

/// The fields of a DataVolume that requests a clone.
pub const DATA_VOLUME: [Field<IsSet>; 34] = [
    honoured("spec.source.pvc"),
    honoured("spec.source.snapshot"),
    refused("spec.source.http", |it| source(it, |s| s.http.is_some()), ONE_SOURCE),
    refused("spec.source.s3", |it| source(it, |s| s.s3.is_some()), ONE_SOURCE),
    refused("spec.source.gcs", |it| source(it, |s| s.gcs.is_some()), ONE_SOURCE),
    refused("spec.source.registry", |it| source(it, |s| s.registry.is_some()), ONE_SOURCE),
    refused("spec.source.upload", |it| source(it, |s| s.upload.is_some()), ONE_SOURCE),
    refused("spec.source.blank", |it| source(it, |s| s.blank.is_some()), ONE_SOURCE),
    refused("spec.source.imageio", |it| source(it, |s| s.imageio.is_some()), ONE_SOURCE),
    refused("spec.source.vddk", |it| source(it, |s| s.vddk.is_some()), ONE_SOURCE),
    honoured("spec.sourceRef"),
    honoured("spec.pvc.accessModes"),
    refused("spec.pvc.dataSource", |it| pvc(it, |p| p.data_source.is_some()), ONE_CONTENT),
    refused("spec.pvc.dataSourceRef", |it| pvc(it, |p| p.data_source_ref.is_some()), ONE_CONTENT),
    honoured("spec.pvc.resources"),
    refused(
        "spec.pvc.selector",
        |it| !is_static(it) && pvc(it, |p| p.selector.as_ref().is_some_and(|s| *s != LabelSelector::default())),
        NEW_VOLUME,
    ),
    honoured("spec.pvc.storageClassName"),
    honoured("spec.pvc.volumeAttributesClassName"),
    honoured("spec.pvc.volumeMode"),
    refused("spec.pvc.volumeName", |it| !is_static(it) && pvc(it, |p| is_named(p.volume_name.as_ref())), NEW_VOLUME),
    honoured("spec.storage.accessModes"),
    refused("spec.storage.dataSource", |it| storage(it, |s| s.data_source.is_some()), ONE_CONTENT),
    refused("spec.storage.dataSourceRef", |it| storage(it, |s| s.data_source_ref.is_some()), ONE_CONTENT),
    honoured("spec.storage.resources"),
    refused(
        "spec.storage.selector",
        |it| !is_static(it) && storage(it, |s| s.selector.as_ref().is_some_and(|s| *s != LabelSelector::default())),
        NEW_VOLUME,
    ),
    honoured("spec.storage.storageClassName"),
    honoured("spec.storage.volumeMode"),
    refused(
        "spec.storage.volumeName",
        |it| !is_static(it) && storage(it, |s| is_named(s.volume_name.as_ref())),
        NEW_VOLUME,
    ),
    honoured("spec.priorityClassName"),
    honoured("spec.contentType"),
    unused(
        "spec.serviceAccountName",
        |it| is_named(it.spec.service_account_name.as_ref()),
        "the pod that copies speaks to no API, and the right to clone is the requester's",
    ),
    unused(
        "spec.preallocation",
        |it| it.spec.preallocation == Some(true),
        "the storage driver decides when space is allocated",
    ),
    unused("spec.checkpoints", |it| !it.spec.checkpoints.is_empty(), IMPORTS_ONLY),
    unused("spec.finalCheckpoint", |it| it.spec.final_checkpoint.is_some(), IMPORTS_ONLY),
];

fn source(volume: &DataVolume, is_set: fn(&DataVolumeSource) -> bool) -> bool {
    volume.spec.source.as_ref().is_some_and(is_set)
}

fn pvc(volume: &DataVolume, is_set: fn(&PersistentVolumeClaimSpec) -> bool) -> bool {
    volume.spec.pvc.as_ref().is_some_and(is_set)
}

fn storage(volume: &DataVolume, is_set: fn(&StorageSpec) -> bool) -> bool {
    volume.spec.storage.as_ref().is_some_and(is_set)
}

fn is_named(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

/// True if the user declares that the volume exists already, so that the fields which select a volume are valid.
fn is_static(volume: &DataVolume) -> bool {
    object::annotation(&volume.metadata, keys::CHECK_STATIC_VOLUME).is_some()
}

/// Returns an error for every field of a clone that cannot be honoured. Only new objects are rejected: a clone in progress was admitted by
/// a version, or by another server of this API, that did not use the field.
pub fn refusals(volume: &DataVolume) -> Vec<FieldError> {
    let refused = |field: &Field<IsSet>| match field.effect {
        Effect::Refused(is_set, why) if is_set(volume) => Some(FieldError::forbidden(field.path, why)),
        Effect::Refused(..) | Effect::Honoured | Effect::Unused(..) => None,
    };
    // Each is honoured, but not both together.
    let both = [
        ("spec.source.snapshot", source(volume, |source| source.pvc.is_some() && source.snapshot.is_some())),
        ("spec.sourceRef", volume.spec.source.is_some() && volume.spec.source_ref.is_some()),
    ];
    let both = both.into_iter().filter(|(_, given)| *given).map(|(path, _)| FieldError::forbidden(path, ONE_SOURCE));
    DATA_VOLUME.iter().filter_map(refused).chain(both).collect()
}

/// Returns a warning for each field of a clone that is admitted and has no effect.
pub fn warnings(volume: &DataVolume) -> Vec<String> {
    let told = |field: &Field<IsSet>| match field.effect {
        Effect::Unused(is_set, why) if is_set(volume) => {
            Some(format!("smartclone: {} has no effect on a clone: {why}", field.path))
        }
        Effect::Unused(..) | Effect::Honoured | Effect::Refused(..) => None,
    };
    DATA_VOLUME.iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests;
