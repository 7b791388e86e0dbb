//! Updates by somebody who does not know what admission and the controller have added: an apply of the same file, a replace, a restore,
//! a controller that writes what it once read. What is missing is carried over from the stored object, so that the object stays as it was.

use common::admission;
use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    object::{annotated, is_ending},
    review::{Answer, Request},
};

/// Adds what the update has lost. `controller` is the user that may remove a decision. An object that can't be read is left to the validation.
pub fn carry_over(review: &Request, controller: &str) -> Answer {
    if review.user() == controller || !review.sub_resource.is_empty() || is_ending(&review.object) {
        return Answer::untouched();
    }
    let (Some(old), Some(new)) = (metadata(&review.old_object), metadata(&review.object)) else {
        return Answer::untouched();
    };
    let patch = annotated(&new, &admission::carried_over(&old, &new));
    if patch == Patch::default() { Answer::untouched() } else { Answer::Allowed { patch, warnings: Vec::new() } }
}

fn metadata(object: &RawValue) -> Option<ObjectMeta> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        annotations: Option<std::collections::BTreeMap<String, String>>,
    }
    let object: Object = serde_json::from_str(object.get()).ok()?;
    Some(ObjectMeta { annotations: object.metadata.annotations, ..ObjectMeta::default() })
}
