use common::keys::{CLONE_PHASE, DATA_SOURCE_NAMESPACE};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixtures::{self, NOW},
    token::EXTENDED_TOKEN_LIFE,
};

fn target(annotations: &Value, phase: &str, finalizer: bool) -> PersistentVolumeClaim {
    let mut claim = fixtures::claim(annotations, phase, "now", true);
    if finalizer {
        claim.finalizers_mut().push(CLONE_POPULATOR_FINALIZER.to_owned());
    }
    claim
}

fn clone_source(namespace: &str) -> VolumeCloneSource {
    let object = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "VolumeCloneSource",
        "metadata": {"namespace": namespace, "name": "s"},
        "spec": {"source": {"kind": "PersistentVolumeClaim", "name": "disk"}},
    });
    serde_json::from_value(object).unwrap()
}

fn words(claim: &PersistentVolumeClaim, version: &str, temporary: Option<(&str, &str)>) -> String {
    let (settings, tokens) = (fixtures::settings(version), Tokens::new("s"));
    let namespace = claim::clone_source_namespace(claim);
    let source = clone_source(&namespace);
    let object = SourceObject { size: Some(Quantity("2Gi".to_owned())), ready: true, ..SourceObject::default() };
    let (phase, uid) = temporary.unwrap_or_default();
    let mut other = fixtures::claim(&json!({}), phase, "now", false);
    other.metadata.uid = Some("t".to_owned());
    let volume: PersistentVolume =
        serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": uid}}})).unwrap();
    let observed = Observed {
        claim,
        clone_source: Some(&source),
        source_object: Some(&object),
        temporary: temporary.map(|_| &other),
        volume: temporary.map(|_| &volume),
        settings: &settings,
    };
    let word = |write: &Write| match write {
        Write::Claim(edit) => {
            let mut meta = claim.metadata.clone();
            edit.apply(&mut meta);
            let phase = annotation(&meta, CLONE_PHASE).unwrap_or_default().to_owned();
            if meta.finalizers == claim.metadata.finalizers && annotation(&claim.metadata, CLONE_PHASE) == Some(&phase)
            {
                "bound".to_owned()
            } else if meta.finalizers == claim.metadata.finalizers {
                phase
            } else {
                "finalizer".to_owned()
            }
        }
        Write::CreateTemporary(claim) => {
            let size = &claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"];
            format!("create {}/{} of {}", claim.namespace().unwrap(), claim.name_any(), size.0)
        }
        Write::Rebind { volume, .. } => format!("rebind {volume}"),
        Write::DeleteOwned => "delete owned".to_owned(),
    };
    match populate(&observed, &tokens, NOW) {
        Ok(writes) => writes.iter().map(word).collect::<Vec<_>>().join(", "),
        Err(Refusal(message)) => message,
    }
}

#[rstest]
#[case::begin("Pending", json!({}), false, None, "finalizer, CSIClone, create n/tmp-pvc-c of 2Gi")]
#[case::waiting("Pending", json!({CLONE_PHASE: "CSIClone"}), true, Some(("Pending", "")), "")]
#[case::cloned("Pending", json!({CLONE_PHASE: "CSIClone"}), true, Some(("Bound", "t")), "Rebind, rebind pv")]
#[case::rebound("Pending", json!({CLONE_PHASE: "Rebind"}), true, Some(("Lost", "c")), "")]
#[case::bound("Bound", json!({CLONE_PHASE: "Rebind"}), true, Some(("Lost", "c")), "Succeeded")]
#[case::done("Bound", json!({CLONE_PHASE: "Succeeded"}), true, None, "delete owned, finalizer")]
#[case::stamped("Pending", json!({CLONE_PHASE: "Succeeded"}), false, None, "")]
fn each_step(
    #[case] phase: &str,
    #[case] annotations: Value,
    #[case] finalizer: bool,
    #[case] temporary: Option<(&str, &str)>,
    #[case] wanted: &str,
) {
    assert_eq!(words(&target(&annotations, phase, finalizer), "1.62.0", temporary), wanted);
}

/// Since 1.64 a claim that is skipped is still told that it is not bound, until it is.
#[test]
fn a_stamped_claim_hears_that_it_is_not_bound() {
    let stamped = json!({CLONE_PHASE: "Succeeded"});
    assert_eq!(words(&target(&stamped, "Pending", false), "1.66.0", None), "bound");
    assert_eq!(words(&target(&stamped, "Bound", false), "1.66.0", None), "");
}

#[test]
fn another_namespace_needs_a_token() {
    let without = json!({DATA_SOURCE_NAMESPACE: "golden"});
    assert_eq!(
        words(&target(&without, "Pending", false), "1.62.0", None),
        "clone from another namespace without a token"
    );
    let token = Tokens::new("s").issue(&fixtures::source(), "n", NOW + EXTENDED_TOKEN_LIFE);
    let with = json!({DATA_SOURCE_NAMESPACE: "golden", EXTENDED_CLONE_TOKEN: token});
    assert_eq!(
        words(&target(&with, "Pending", false), "1.62.0", None),
        "finalizer, CSIClone, create golden/tmp-pvc-c of 2Gi"
    );
}

#[test]
fn only_one_kind_of_data_source_counts() {
    assert!(claim::clone_source(&fixtures::claim(&json!({}), "Pending", "now", true)).is_none());
    let mut claim = fixtures::claim(&json!({}), "Pending", "now", true);
    let reference = claim.spec.as_mut().unwrap().data_source_ref.as_mut().unwrap();
    reference.api_group = Some("cdi.kubevirt.io".to_owned());
    reference.kind = "VolumeCloneSource".to_owned();
    assert!(claim::clone_source(&claim).is_some());
}

#[test]
fn a_claim_without_a_consumer_waits() {
    let claim = fixtures::claim(&json!({}), "Pending", "late", true);
    assert_eq!(words(&claim, "1.62.0", None), "Pending");
}
