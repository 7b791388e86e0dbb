//! Labels with the default instance type and preference of virtual machines that boot from a disk. A clone inherits them, as a DataSource
//! does: KubeVirt reads them from the DataVolume, the claim and the DataSource (kubevirt#9894).
//!
//! They are inherited together or not at all: an object with one of its own inherits none.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::{keys, object};

/// Labels of an object, here only [these defaults](keys::MACHINE_DEFAULTS).
pub type Labels = BTreeMap<String, String>;

/// Returns these labels of an object.
pub fn of(object: &ObjectMeta) -> Labels {
    let labels = object.labels.iter().flatten();
    labels
        .filter(|(key, _)| keys::MACHINE_DEFAULTS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Returns the labels that an object with the labels `own` inherits: those of the first of `sources` that has any.
pub fn inherited<'a>(own: Option<&Labels>, sources: impl IntoIterator<Item = &'a Labels>) -> Labels {
    let has_own = own.is_some_and(|own| keys::MACHINE_DEFAULTS.iter().any(|key| own.contains_key(*key)));
    let first = sources.into_iter().find(|labels| !labels.is_empty());
    first.filter(|_| !has_own).cloned().unwrap_or_default()
}

/// Returns the change of a DataSource's metadata that copies the labels `source` from its source, or `None` if nothing is to change. Labels
/// that somebody else has written, changed or removed are left alone: the inherited labels are recorded.
pub fn follow(data_source: &ObjectMeta, source: &Labels) -> Option<Value> {
    let present = of(data_source);
    let recorded = object::annotation(data_source, keys::INHERITED_LABELS);
    let recorded: Labels = recorded.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if present != recorded || present == *source {
        return None;
    }
    let labels: BTreeMap<_, _> = present.keys().chain(source.keys()).map(|key| (key, source.get(key))).collect();
    let record = (!source.is_empty()).then(|| json!(source).to_string());
    Some(json!({ "labels": labels, "annotations": { (keys::INHERITED_LABELS): record } }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TYPE: &str = keys::DEFAULT_INSTANCE_TYPE;
    const PREFERENCE: &str = keys::DEFAULT_PREFERENCE;

    fn labels(labels: &Value) -> Labels {
        serde_json::from_value(labels.clone()).unwrap()
    }

    fn meta(labels: &Value, record: Option<&Value>) -> ObjectMeta {
        let mut annotations = json!({});
        if let Some(record) = record {
            annotations[keys::INHERITED_LABELS] = json!(record.to_string());
        }
        serde_json::from_value(json!({"labels": labels, "annotations": annotations})).unwrap()
    }

    /// The first object with such labels provides them all. Labels of the object itself take precedence, and other labels do not count.
    #[rstest]
    #[case::nobody(json!({}), json!({}), json!({}), json!({}))]
    #[case::source(json!({}), json!({}), json!({TYPE: "u1", PREFERENCE: "fedora"}), json!({TYPE: "u1", PREFERENCE: "fedora"}))]
    #[case::data_source(json!({}), json!({TYPE: "u2"}), json!({TYPE: "u1", PREFERENCE: "fedora"}), json!({TYPE: "u2"}))]
    #[case::same_of_its_own(json!({TYPE: "u3"}), json!({TYPE: "u2"}), json!({TYPE: "u1"}), json!({}))]
    #[case::another_of_its_own(json!({PREFERENCE: "rhel"}), json!({TYPE: "u2"}), json!({TYPE: "u1"}), json!({}))]
    #[case::others_of_its_own(json!({"app": "x"}), json!({}), json!({TYPE: "u1"}), json!({TYPE: "u1"}))]
    #[case::others_of_the_source(json!({}), json!({"app": "x"}), json!({"team": "y"}), json!({}))]
    fn a_clone_inherits(
        #[case] own: Value,
        #[case] data_source: Value,
        #[case] source: Value,
        #[case] expected: Value,
    ) {
        let sources = [of(&meta(&data_source, None)), of(&meta(&source, None))];
        assert_eq!(inherited(Some(&labels(&own)), &sources), labels(&expected));
        if own == json!({}) {
            assert_eq!(inherited(None, &sources), labels(&expected));
        }
    }

    #[test]
    fn every_label_of_a_machine_is_inherited() {
        let all: Labels = keys::MACHINE_DEFAULTS.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect();
        assert_eq!(all.len(), 4);
        assert_eq!(of(&ObjectMeta { labels: Some(all.clone()), ..ObjectMeta::default() }), all);
    }

    /// A DataSource follows its source unless somebody else has changed its labels.
    #[rstest]
    #[case::new(json!({}), None, json!({TYPE: "u1"}), Some(json!({TYPE: "u1"})))]
    #[case::beside_other_labels(json!({"app": "x"}), None, json!({TYPE: "u1"}), Some(json!({TYPE: "u1"})))]
    #[case::done(json!({TYPE: "u1"}), Some(json!({TYPE: "u1"})), json!({TYPE: "u1"}), None)]
    #[case::moved_on(json!({TYPE: "u1"}), Some(json!({TYPE: "u1"})), json!({TYPE: "u2", PREFERENCE: "f"}), Some(json!({TYPE: "u2", PREFERENCE: "f"})))]
    #[case::source_says_no_more(json!({TYPE: "u1"}), Some(json!({TYPE: "u1"})), json!({}), Some(json!({TYPE: null})))]
    #[case::nothing_to_say(json!({}), None, json!({}), None)]
    #[case::written_by_a_user(json!({TYPE: "u9"}), None, json!({TYPE: "u1"}), None)]
    #[case::another_written_by_a_user(json!({PREFERENCE: "f"}), None, json!({TYPE: "u1"}), None)]
    #[case::changed_by_a_user(json!({TYPE: "u9"}), Some(json!({TYPE: "u1"})), json!({TYPE: "u2"}), None)]
    #[case::removed_by_a_user(json!({}), Some(json!({TYPE: "u1"})), json!({TYPE: "u1"}), None)]
    #[case::added_to_by_a_user(json!({TYPE: "u1", PREFERENCE: "f"}), Some(json!({TYPE: "u1"})), json!({TYPE: "u2"}), None)]
    fn a_data_source_follows(
        #[case] own: Value,
        #[case] record: Option<Value>,
        #[case] source: Value,
        #[case] expected: Option<Value>,
    ) {
        let mut meta = meta(&own, record.as_ref());
        let change = follow(&meta, &labels(&source));
        assert_eq!(change.as_ref().map(|change| change["labels"].clone()), expected);
        // Once the change is written, there is nothing more to write.
        let Some(change) = change else { return };
        for (field, all) in [("labels", &mut meta.labels), ("annotations", &mut meta.annotations)] {
            for (key, value) in change[field].as_object().unwrap() {
                match value.as_str() {
                    Some(value) => all.get_or_insert_default().insert(key.clone(), value.to_owned()),
                    None => all.get_or_insert_default().remove(key),
                };
            }
        }
        assert_eq!(follow(&meta, &labels(&source)), None);
    }
}
