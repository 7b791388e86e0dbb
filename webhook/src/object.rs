//! The object of a review: decoded as its type, and patched with annotations.

use std::collections::BTreeMap;

use common::{decode::decode, field::FieldError, keys::Annotations, machine_defaults::Labels};
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, jsonptr::PointerBuf};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value, value::RawValue};

use crate::review::Request;

/// The ownership key of a new object: the existing one if the webhook is reinvoked, else a random one.
pub(crate) fn ownership_key(object: &ObjectMeta) -> Option<String> {
    let is_key = |text: &&str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let known = common::object::annotation(object, common::keys::OWNERSHIP_KEY).filter(is_key);
    known.map(ToOwned::to_owned).or_else(|| config::random::secret().ok())
}

/// Reads the object as its type, or names the field that violates the schema. The API server checks the schema later.
pub(crate) fn read<K: ResourceExt + DeserializeOwned>(
    object: &RawValue,
    review: &Request,
) -> Result<Box<K>, FieldError> {
    let mut read: Box<K> =
        decode(object.get()).map_err(|error| FieldError::invalid(error.path, &error.value, error.message))?;
    if *read.meta() == ObjectMeta::default() {
        return Err(FieldError::required("metadata", "name the object"));
    }
    read.meta_mut().namespace = Some(review.namespace.clone());
    Ok(read)
}

/// True if the object is being deleted. Its removal must not fail, whatever else the object contains.
pub(crate) fn is_ending(object: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<IgnoredAny>,
    }
    serde_json::from_str(object.get()).is_ok_and(|object: Object| object.metadata.deletion_timestamp.is_some())
}

/// The patch that sets `annotations` on an object with this metadata; empty if they are set already.
pub(crate) fn annotated(metadata: &ObjectMeta, annotations: &Annotations) -> Patch {
    let changes = annotations.iter().map(|(key, value)| (*key, value.as_deref()));
    changed("annotations", metadata.annotations.as_ref(), changes)
}

/// The patch that adds `labels` to an object with this metadata; empty if it has them already.
pub(crate) fn labelled(metadata: &ObjectMeta, labels: &Labels) -> Patch {
    let changes = labels.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())));
    changed("labels", metadata.labels.as_ref(), changes)
}

/// The patch that makes `changes` to the field `field` of the metadata, which has the value `before`; `None` removes a key.
fn changed<'a>(
    field: &str,
    before: Option<&BTreeMap<String, String>>,
    changes: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Patch {
    let path = |key: Option<&str>| PointerBuf::from_tokens(["metadata", field].into_iter().chain(key));
    let add = |path, value| PatchOperation::Add(AddOperation { path, value });
    let Some(before) = before else {
        let written: Map<_, _> = changes.filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
        let is_empty = written.is_empty();
        return Patch(if is_empty { Vec::new() } else { vec![add(path(None), Value::Object(written))] });
    };
    let change = |(key, value): (&str, Option<&str>)| match (before.get(key), value) {
        (None, None) => None,
        (Some(old), Some(new)) if old == new => None,
        // Replaces the existing value, if there is one.
        (_, Some(new)) => Some(add(path(Some(key)), new.into())),
        (Some(_), None) => Some(PatchOperation::Remove(RemoveOperation { path: path(Some(key)) })),
    };
    Patch(changes.filter_map(change).collect())
}

#[cfg(test)]
mod tests {
    use json_patch::patch;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::fake_cluster::creation;

    fn request(object: &Value) -> Request {
        serde_json::from_value(creation(object)["request"].take()).unwrap()
    }

    #[rstest]
    #[case::none(json!({"name": "clone"}), json!({"a": "1", "b.io/c": "2"}))]
    #[case::null(json!({"name": "clone", "labels": null}), json!({"a": "1", "b.io/c": "2"}))]
    #[case::others(json!({"labels": {"x": "y"}}), json!({"a": "1", "b.io/c": "2", "x": "y"}))]
    fn labels_are_added(#[case] metadata: Value, #[case] expected: Value) {
        let labels = Labels::from([("a".to_owned(), "1".to_owned()), ("b.io/c".to_owned(), "2".to_owned())]);
        let mut object = json!({ "metadata": metadata });
        let read: ObjectMeta = serde_json::from_value(metadata).unwrap();
        assert!(labelled(&read, &Labels::new()).is_empty());
        patch(&mut object, &labelled(&read, &labels)).unwrap();
        assert_eq!(object["metadata"]["labels"], expected);
    }

    #[rstest]
    #[case::none(json!({"name": "clone"}))]
    #[case::null(json!({"name": "clone", "annotations": null}))]
    #[case::others(json!({"name": "clone", "annotations": {"a/b~c": "x", "gone": "y"}}))]
    #[case::older(json!({"name": "clone", "annotations": {"here/too": "before", "gone": "y"}}))]
    fn annotations_are_as_they_are_to_be(#[case] metadata: Value) {
        let wanted = Annotations::from([("here/too", Some("now".to_owned())), ("gone", None)]);
        let mut object = json!({"metadata": metadata});
        let read = |object: &Value| serde_json::from_value::<PersistentVolumeClaim>(object.clone()).unwrap().metadata;
        let before = read(&object);
        patch(&mut object, &annotated(&before, &wanted)).unwrap();

        let mut expected = before.annotations.clone().unwrap_or_default();
        expected.insert("here/too".to_owned(), "now".to_owned());
        expected.remove("gone");
        let after = read(&object);
        assert_eq!(after.annotations, Some(expected));
        assert_eq!(annotated(&after, &wanted), Patch::default());
    }

    #[rstest]
    #[case::no_object(json!([]), ".", "invalid type")]
    #[case::nameless(json!({"spec": {}}), "metadata", "Required value")]
    #[case::field(json!({"metadata": {"name": 7}}), "metadata.name", "Invalid value: \"7\"")]
    fn a_mistake_has_a_place(#[case] object: Value, #[case] field: &str, #[case] words: &str) {
        let request = request(&object);
        let error = read::<PersistentVolumeClaim>(&request.object, &request).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(words), "{error}");
    }

    /// Users who may replace an object may write its managed fields, and the API server stores times that our types can't represent.
    #[test]
    fn what_is_of_no_account_is_no_mistake() {
        for time in hostile::TIMES {
            let fields = json!([{"manager": "x", "operation": "Update", "time": time, "fieldsV1": {"f:spec": {}}}]);
            let object = json!({"metadata": {"name": "a", "managedFields": fields}, "spec": {"volumeName": "b"}});
            let request = request(&object);
            let read = read::<PersistentVolumeClaim>(&request.object, &request).unwrap();
            assert_eq!(read.spec.and_then(|spec| spec.volume_name).as_deref(), Some("b"), "{time}");
        }
        let object = json!({"metadata": {"name": "a", "creationTimestamp": "9999-12-31T23:59:59Z"}});
        let request = request(&object);
        assert!(read::<PersistentVolumeClaim>(&request.object, &request).is_ok());
    }

    #[rstest]
    #[case::no_object(json!(null), false)]
    #[case::stays(json!({"metadata": {"deletionTimestamp": null}, "spec": 1}), false)]
    #[case::goes(json!({"metadata": {"deletionTimestamp": "2026-11-25T00:00:00Z", "name": 1}, "spec": 1}), true)]
    fn what_ends_is_seen(#[case] object: Value, #[case] ending: bool) {
        assert_eq!(is_ending(&request(&object).object), ending);
    }
}
