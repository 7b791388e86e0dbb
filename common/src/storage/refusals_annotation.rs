//! Shared refusals beside CDI: CDI's definition of a StorageProfile has no field for them, and prunes it, so they are in an annotation.
//! Every reader gets them in the status all the same.

use serde_json::json;

use super::refusals::is_shared;
use crate::{
    api::{Refusal, StorageProfile},
    keys::{self, Annotations},
    object,
};

/// The annotation that holds these refusals. No refusals, no annotation.
pub fn annotation(refusals: &[Refusal]) -> Annotations {
    [(keys::REFUSALS, (!refusals.is_empty()).then(|| json!(refusals).to_string()))].into()
}

/// Moves the refusals in the annotation into the status, which has none of its own beside CDI. One that can't be read, or does not name
/// enough namespaces to be shared, is left out.
pub fn move_to_status(profile: &mut StorageProfile) {
    let Some(text) = object::annotation(&profile.metadata, keys::REFUSALS) else { return };
    let noted: Vec<Refusal> = serde_json::from_str(text).unwrap_or_default();
    let status = profile.status.get_or_insert_default();
    if status.refusals.is_empty() {
        status.refusals = noted.into_iter().filter(is_shared).collect();
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn refusals(drivers: &[&str]) -> Vec<Refusal> {
        serde_json::from_value(drivers.iter().map(|driver| json!({"driver": driver, "namespaces": 3})).collect())
            .unwrap()
    }

    fn profile(annotation: Option<&str>, status: &Value) -> StorageProfile {
        let annotations = annotation.map(|text| json!({keys::REFUSALS: text}));
        serde_json::from_value(
            json!({"metadata": {"name": "fast", "annotations": annotations}, "spec": {}, "status": status}),
        )
        .unwrap()
    }

    /// The annotation, the status, and the drivers of the refusals that are read.
    #[rstest]
    #[case::none(None, json!(null), &[])]
    #[case::noted(Some(r#"[{"driver": "a", "namespaces": 3}]"#), json!(null), &["a"])]
    #[case::beside_a_status_of_cdi(Some(r#"[{"driver": "a", "namespaces": 3}]"#), json!({"storageClass": "fast"}), &["a"])]
    #[case::own_status(Some(r#"[{"driver": "a", "namespaces": 3}]"#), json!({"refusals": [{"driver": "b"}]}), &["b"])]
    #[case::of_one_namespace(Some(r#"[{"driver": "a", "namespaces": 1}]"#), json!(null), &[])]
    #[case::no_json(Some("none"), json!(null), &[])]
    #[case::no_list(Some("{}"), json!(null), &[])]
    fn what_is_noted_is_read(#[case] annotation: Option<&str>, #[case] status: Value, #[case] expected: &[&str]) {
        let mut profile = profile(annotation, &status);
        move_to_status(&mut profile);
        let found = profile.status.unwrap_or_default().refusals;
        assert_eq!(found.iter().filter_map(|refusal| refusal.driver.as_deref()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        let all = refusals(&["a", "b"]);
        let mut profile = profile(annotation(&all)[keys::REFUSALS].as_deref(), &Value::Null);
        move_to_status(&mut profile);
        assert_eq!(profile.status.unwrap().refusals, all);
        assert_eq!(annotation(&[]), Annotations::from([(keys::REFUSALS, None)]));
    }
}
