//! Updates of DataVolumes: the changes that are allowed after creation.

use kube::core::ObjectMeta;

use super::{beside, stamp};
use crate::{
    api::{DataVolume, DataVolumeSpec},
    field::{FieldError, annotation_path},
    keys::{self, Annotations},
    object,
    quantity::Bytes,
};

/// The annotations of admission and the controller, and beside CDI those that keep CDI off, that `old` has and `new` lacks. A client that sends an object again (apply, replace,
/// restore, a controller that writes what it read) may not know them. Changed annotations are not included.
pub fn carried_over(old: &ObjectMeta, new: &ObjectMeta) -> Annotations {
    let is_lost = |key: &&str| object::annotation(new, key).is_none();
    let keys = keys::DECISION
        .into_iter()
        .chain([keys::REQUESTER])
        .chain(beside::kept(old, new).iter().copied())
        .filter(is_lost);
    keys.filter_map(|key| Some((key, Some(object::annotation(old, key)?.to_owned())))).collect()
}

/// The errors in changing `old` to `new`. `by_controller`: the change is made by smartclone's own service account. Even that may not change
/// the requester.
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
        let changed = |key: &&&str| object::annotation(&old.metadata, key) != object::annotation(&new.metadata, key);
        errors.extend(keys::DECISION.iter().filter(changed).map(|key| {
            FieldError::forbidden(
                annotation_path(key),
                "decided at creation, and only smartclone may change it; delete the DataVolume and create another one",
            )
        }));
    }
    errors
}

/// The spec in comparable form: quantities are normalized, and checkpoints, which multi-stage imports update, are removed.
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

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn meta(annotations: &Value) -> ObjectMeta {
        serde_json::from_value(json!({ "annotations": annotations })).unwrap()
    }

    /// A client that sends the object without the annotations of admission gets them unchanged; an annotation that it changes is an error
    /// and not replaced.
    #[rstest]
    #[case::all_are_lost(json!({}), &[keys::CLONE_FALLBACK_REASON, keys::CLONE_TYPE, keys::OWNERSHIP_KEY, keys::PLAN, keys::REQUESTER])]
    #[case::one_is_lost(json!({
        (keys::CLONE_TYPE): "copy", (keys::CLONE_FALLBACK_REASON): "r", (keys::OWNERSHIP_KEY): "k", (keys::REQUESTER): "a",
    }), &[keys::PLAN])]
    #[case::one_is_changed(json!({
        (keys::CLONE_TYPE): "snapshot", (keys::CLONE_FALLBACK_REASON): "r", (keys::OWNERSHIP_KEY): "k", (keys::REQUESTER): "a",
        (keys::PLAN): "p",
    }), &[])]
    fn what_is_lost_is_carried_over(#[case] new: Value, #[case] expected: &[&str]) {
        let old = json!({
            (keys::CLONE_TYPE): "copy", (keys::CLONE_FALLBACK_REASON): "r", (keys::OWNERSHIP_KEY): "k", (keys::REQUESTER): "a",
            (keys::PLAN): "p", "example.com/note": "x",
        });
        let carried = carried_over(&meta(&old), &meta(&new));
        assert_eq!(carried.keys().copied().collect::<Vec<_>>(), expected);
        for (key, value) in carried {
            assert_eq!(value.as_deref(), old[key].as_str());
        }
        assert_eq!(carried_over(&meta(&json!({})), &meta(&json!({}))), Annotations::new());
    }
}
