//! The validating webhook: the spec is well-formed and never changes, and a claim of that name is no stranger's.

use common::api::{DataVolume, DataVolumeSpec};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;

use super::review::{Decision, Operation, Request};
use crate::{claim, settings::Settings};

/// Decides about a DataVolume; `claim` is the one of its name, which is asked for at its creation only. Pure.
pub fn validate(request: &Request, claim: Option<&PersistentVolumeClaim>, settings: &Settings) -> Decision {
    let Some(object) = request.data_volume() else { return Decision::Allow };
    let checked = match request.operation {
        Operation::Create => check_spec(&object.spec).and_then(|()| check_claim(&object, claim, settings)),
        Operation::Update => check_change(request, &object),
        Operation::Other => Ok(()),
    };
    checked.map_or_else(Decision::Deny, |()| Decision::Allow)
}

fn check_change(request: &Request, object: &DataVolume) -> Result<(), String> {
    match &request.old_object {
        Some(old) if old.spec != object.spec => Err("Cannot update DataVolume Spec".to_owned()),
        _ => Ok(()),
    }
}

fn check_spec(spec: &DataVolumeSpec) -> Result<(), String> {
    let data_source = match (&spec.pvc, &spec.storage) {
        (Some(claim), None) => {
            let requests = claim.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            if requests.is_none_or(|requests| !requests.contains_key("storage")) {
                return Err("PVC size is missing".to_owned());
            }
            claim.data_source.is_some() || claim.data_source_ref.is_some()
        }
        (None, Some(storage)) => storage.data_source.is_some() || storage.data_source_ref.is_some(),
        (Some(_), Some(_)) => {
            return Err("Duplicate storage definition, both target storage and target pvc defined".to_owned());
        }
        (None, None) => return Err("Missing volume size, neither pvc nor storage is defined".to_owned()),
    };
    let sources = usize::from(spec.source.is_some()) + usize::from(spec.source_ref.is_some());
    match (sources, data_source) {
        (2, _) => Err("Either source or sourceRef should be specified, not both".to_owned()),
        (1, true) => Err("External population is incompatible with Source and SourceRef".to_owned()),
        (0, false) => Err("Data volume should have either Source, SourceRef, or be externally populated".to_owned()),
        _ => Ok(()),
    }
}

fn check_claim(object: &DataVolume, claim: Option<&PersistentVolumeClaim>, settings: &Settings) -> Result<(), String> {
    let Some(claim) = claim else { return Ok(()) };
    let name = object.name_any();
    let fits = claim::is_populated_for(claim, &name)
        || claim::is_adoptable(claim, object, settings)
        || claim::is_controlled_by_any(claim);
    if fits {
        Ok(())
    } else {
        Err(format!("Destination PVC {}/{name} already exists", object.namespace().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use common::keys::{ALLOW_ADOPTION, CREATED_FOR_DATA_VOLUME, POPULATED_FOR};
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::version::Version;

    fn settings() -> Settings {
        Settings::new(Version::new(1, 66, 0), None, [], [])
    }

    fn request(operation: &str, object: &Value, old: &Value) -> Request {
        let review = json!({
            "uid": "u", "operation": operation, "namespace": "n", "object": object, "oldObject": old,
        });
        serde_json::from_value(review).unwrap()
    }

    fn data_volume(annotations: &Value, spec: &Value) -> Value {
        json!({"metadata": {"name": "d", "uid": "dv", "annotations": annotations}, "spec": spec})
    }

    fn clone_of(name: &str) -> Value {
        json!({"source": {"pvc": {"namespace": "n", "name": name}}, "storage": {}})
    }

    #[rstest]
    #[case::clone(clone_of("a"), true)]
    #[case::no_claim(json!({"source": {"blank": {}}}), false)]
    #[case::two_claims(json!({"source": {"blank": {}}, "pvc": {"resources": {"requests": {"storage": "1Gi"}}}, "storage": {}}), false)]
    #[case::no_size(json!({"source": {"blank": {}}, "pvc": {}}), false)]
    #[case::no_source(json!({"storage": {}}), false)]
    #[case::external(json!({"storage": {"dataSourceRef": {"kind": "K", "name": "x"}}}), true)]
    #[case::source_and_external(json!({"source": {"blank": {}}, "storage": {"dataSourceRef": {"kind": "K", "name": "x"}}}), false)]
    #[case::two_sources(json!({"source": {"blank": {}}, "sourceRef": {"kind": "DataSource", "name": "x"}, "storage": {}}), false)]
    fn a_spec_is_well_formed(#[case] spec: Value, #[case] admitted: bool) {
        let request = request("CREATE", &data_volume(&json!({}), &spec), &Value::Null);
        assert_eq!(validate(&request, None, &settings()) == Decision::Allow, admitted);
    }

    #[test]
    fn a_spec_never_changes() {
        let (old, new) = (data_volume(&json!({}), &clone_of("a")), data_volume(&json!({}), &clone_of("b")));
        let denied = Decision::Deny("Cannot update DataVolume Spec".to_owned());
        assert_eq!(validate(&request("UPDATE", &new, &old), None, &settings()), denied);
        let same = data_volume(&json!({"x": "y"}), &clone_of("a"));
        assert_eq!(validate(&request("UPDATE", &same, &old), None, &settings()), Decision::Allow);
    }

    #[rstest]
    #[case::foreign(json!({}), json!({}), json!([]), false)]
    #[case::populated(json!({}), json!({POPULATED_FOR: "d"}), json!([]), true)]
    #[case::populated_for_another(json!({}), json!({POPULATED_FOR: "e"}), json!([]), false)]
    #[case::adoptable(json!({ALLOW_ADOPTION: "true"}), json!({}), json!([]), true)]
    #[case::own(json!({ALLOW_ADOPTION: "true"}), json!({CREATED_FOR_DATA_VOLUME: "dv"}), json!([]), false)]
    #[case::of_a_data_volume(json!({}), json!({}), json!([{"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "d", "uid": "old", "controller": true}]), true)]
    fn a_claim_of_that_name_is_no_strangers(
        #[case] of_data_volume: Value,
        #[case] of_claim: Value,
        #[case] owners: Value,
        #[case] admitted: bool,
    ) {
        let claim = json!({"metadata": {"name": "d", "annotations": of_claim, "ownerReferences": owners}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let request = request("CREATE", &data_volume(&of_data_volume, &clone_of("a")), &Value::Null);
        assert_eq!(validate(&request, Some(&claim), &settings()) == Decision::Allow, admitted);
    }
}
