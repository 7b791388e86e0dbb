//! The requester annotation: set once at creation from the review's `userInfo`, immutable afterwards.

use kube::core::ObjectMeta;

use crate::{
    field::{FieldError, annotation_path},
    keys, object,
    requester::Requester,
};

fn stamp(metadata: &ObjectMeta) -> Option<&str> {
    object::annotation(metadata, keys::REQUESTER)
}

/// The error if a new object that `requester` creates has another requester annotation.
pub fn wrong(metadata: &ObjectMeta, requester: &Requester) -> Option<FieldError> {
    let stamp = stamp(metadata).unwrap_or_default();
    (Requester::read(stamp).as_ref() != Some(requester)).then(|| {
        let cure = "smartclone's mutating webhook writes here who asks, and nobody else may; leave it to it";
        FieldError::invalid(annotation_path(keys::REQUESTER), stamp, cure)
    })
}

/// The error if an update changes the requester annotation.
pub fn changed(old: &ObjectMeta, new: &ObjectMeta) -> Option<FieldError> {
    let cure = "it says who asked for the clone, and nobody may change that; delete the object and create another one";
    (stamp(old) != stamp(new)).then(|| FieldError::forbidden(annotation_path(keys::REQUESTER), cure))
}
