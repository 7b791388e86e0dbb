//! The changes that are allowed after creation.

use super::stamp;
use crate::{
    api::{DataVolume, DataVolumeSpec},
    field::{FieldError, annotation_path},
    meta,
    quantity::Bytes,
};

/// The mistakes in changing `old` to `new`. `by_controller`: the change is made by smartclone's own service account.
/// Who asked for the clone, nobody changes.
pub fn changes(old: &DataVolume, new: &DataVolume, by_controller: bool) -> Vec<FieldError> {
    if new.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if comparable(&old.spec) != comparable(&new.spec) {
        errors.push(FieldError::forbidden(
            "spec",
            "a DataVolume can't be changed once it is created; delete it and create another one",
        ));
    }
    errors.extend(stamp::changed(&old.metadata, &new.metadata));
    if !by_controller {
        let changed = |key: &&&str| meta::annotation(&old.metadata, key) != meta::annotation(&new.metadata, key);
        errors.extend(meta::DECISION.iter().filter(changed).map(|key| {
            FieldError::forbidden(
                annotation_path(key),
                "decided at creation, and only smartclone may change it; delete the DataVolume and create another one",
            )
        }));
    }
    errors
}

/// What counts: not how a quantity is written, and not the checkpoints, which multi-stage imports move on.
fn comparable(spec: &DataVolumeSpec) -> DataVolumeSpec {
    let mut spec = spec.clone();
    spec.checkpoints.clear();
    spec.final_checkpoint = None;
    let resources = [
        spec.pvc.as_mut().and_then(|p| p.resources.as_mut()),
        spec.storage.as_mut().and_then(|s| s.resources.as_mut()),
    ];
    for quantities in resources.into_iter().flatten().flat_map(|r| [r.requests.as_mut(), r.limits.as_mut()]).flatten() {
        for quantity in quantities.values_mut() {
            if let Ok(bytes) = Bytes::of(quantity) {
                *quantity = bytes.into();
            }
        }
    }
    spec
}
