//! Updates by clients that do not know the additions of admission and the controller: `kubectl apply` of the same file, a replace, a
//! restore, a controller that writes an old copy. Missing annotations are carried over from the stored object, so that the object keeps
//! them.

use common::admission;
use json_patch::Patch;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, value::RawValue};

use crate::{
    object::{annotated, is_ending},
    review::{Answer, Request},
};

/// Adds the annotations that the update has lost. `controller` is the user that may remove a decision. An object that can't be read is left
/// to the validation.
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

/// Name and annotations of an object; `None` if it is malformed.
pub(super) fn metadata(object: &RawValue) -> Option<ObjectMeta> {
    let object: Value = serde_json::from_str(object.get()).ok()?;
    let metadata = object.as_object()?.get("metadata")?.as_object()?;
    let annotations = match metadata.get("annotations") {
        None | Some(Value::Null) => None,
        Some(annotations) => Some(serde_json::from_value(annotations.as_object()?.clone().into()).ok()?),
    };
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(ToOwned::to_owned);
    Some(ObjectMeta { name, annotations, ..ObjectMeta::default() })
}

#[cfg(test)]
mod tests {
    use json_patch::patch;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// An update of a DataVolume that has a decision, and its annotations after admission.
    #[rstest]
    #[case::no_annotations(json!({"name": "x"}), Some(json!({"smartclone.dev/plan": "p"})))]
    #[case::null(json!({"name": "x", "annotations": null}), Some(json!({"smartclone.dev/plan": "p"})))]
    #[case::others(json!({"annotations": {"a": "b"}}), Some(json!({"a": "b", "smartclone.dev/plan": "p"})))]
    #[case::changed(json!({"annotations": {"smartclone.dev/plan": "q"}}), None)]
    #[case::unchanged(json!({"annotations": {"smartclone.dev/plan": "p"}}), None)]
    #[case::ending(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), None)]
    #[case::a_list(json!([{}]), None)]
    #[case::annotations_in_a_list(json!({"annotations": [["smartclone.dev/plan", "q"]]}), None)]
    #[case::no_text(json!({"annotations": {"a": 1}}), None)]
    fn what_an_update_has_lost(#[case] metadata: Value, #[case] expected: Option<Value>) {
        let mut object = json!({ "metadata": metadata });
        let review = |object: &Value, user: &str| -> Request {
            let mut review = crate::fake_cluster::creation(object)["request"].take();
            review["operation"] = json!("UPDATE");
            review["oldObject"] = json!({"metadata": {"annotations": {"smartclone.dev/plan": "p", "mine": "x"}}});
            review["userInfo"] = json!({"username": user});
            serde_json::from_value(review).unwrap()
        };
        // The controller may remove its own annotations.
        assert!(
            matches!(carry_over(&review(&object, "controller"), "controller"), Answer::Allowed { patch, .. } if patch.is_empty())
        );
        let Answer::Allowed { patch: changes, .. } = carry_over(&review(&object, "alice"), "controller") else {
            panic!("not allowed")
        };
        assert_eq!(changes.is_empty(), expected.is_none());
        patch(&mut object, &changes).unwrap();
        if let Some(expected) = expected {
            assert_eq!(object["metadata"]["annotations"], expected);
        }
    }
}
