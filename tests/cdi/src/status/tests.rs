use common::keys::{
    ALLOW_ADOPTION, CLONE_PHASE, CONDITION_RUNNING, CONDITION_RUNNING_REASON, CREATED_FOR_DATA_VOLUME,
    IMMEDIATE_BINDING, POPULATED_FOR, SELECTED_NODE,
};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    fixtures::{self, NOW, data_volume},
    keys::{CONDITION_BOUND, CONDITION_BOUND_MESSAGE, CONDITION_BOUND_REASON, USE_POPULATOR},
};

fn derive(data_volume: &DataVolume, claim: Option<&PersistentVolumeClaim>, version: &str) -> Derived {
    let (source, settings) = (fixtures::source(), fixtures::settings(version));
    let input = Input { data_volume, claim, source: &source, settings: &settings, now: NOW };
    status(&input, None)
}

/// The annotations of a claim with a populator, and more.
fn populated(more: &Value) -> Value {
    let mut annotations = json!({USE_POPULATOR: "true", CREATED_FOR_DATA_VOLUME: "dv"});
    json_patch::merge(&mut annotations, more);
    annotations
}

fn shown(status: &DataVolumeStatus) -> String {
    let condition = |type_: &str| {
        let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}/{}", found.status, text(&found.reason), text(&found.message))
    };
    format!("{} | {} | {}", condition("Bound"), condition("Ready"), condition("Running"))
}

#[rstest]
#[case::nothing(json!({}), "", "Pending")]
#[case::was_succeeded(json!({}), "Succeeded", "Succeeded")]
#[case::hands_off(json!({PRE_POPULATED: "smartclone.dev"}), "Succeeded", "Pending")]
fn a_phase_without_a_claim(#[case] annotations: Value, #[case] before: &str, #[case] after: &str) {
    let derived = derive(&data_volume(&annotations, before), None, "1.66.0");
    assert_eq!(derived.status.phase.as_str(), after);
    assert!(derived.events.contains(&Event::normal("NotFound", "No PVC found")));
}

#[rstest]
#[case::by_clone_phase("Pending", "now", json!({CLONE_PHASE: "Snapshot"}), "SnapshotForSmartCloneInProgress")]
#[case::no_clone_phase("Pending", "now", json!({}), "CloneScheduled")]
#[case::bound("Bound", "now", json!({CLONE_PHASE: "Rebind"}), "RebindInProgress")]
#[case::bound_and_done("Bound", "now", json!({CLONE_PHASE: "Succeeded"}), "Succeeded")]
#[case::error("Bound", "now", json!({CLONE_PHASE: "Error"}), "Pending")]
#[case::another_word("Bound", "now", json!({CLONE_PHASE: "Whatever"}), "Pending")]
#[case::late("Pending", "late", json!({CLONE_PHASE: "Snapshot"}), "PendingPopulation")]
#[case::late_with_node("Pending", "late", json!({CLONE_PHASE: "CSIClone", SELECTED_NODE: "n"}), "CSICloneInProgress")]
#[case::late_at_once("Pending", "late", json!({CLONE_PHASE: "HostClone", IMMEDIATE_BINDING: ""}), "CloneInProgress")]
#[case::no_populator("Pending", "now", json!({USE_POPULATOR: "false"}), "Pending")]
#[case::no_populator_late("Pending", "late", json!({USE_POPULATOR: "false"}), "WaitForFirstConsumer")]
#[case::no_populator_bound("Bound", "now", json!({USE_POPULATOR: "false", CLONE_PHASE: "Succeeded"}), "PVCBound")]
#[case::pod_done("Bound", "now", json!({USE_POPULATOR: "false", POD_PHASE: "Succeeded"}), "Succeeded")]
#[case::restored("Pending", "now", json!({POPULATED_FOR: "d"}), "Succeeded")]
#[case::restored_another("Pending", "now", json!({POPULATED_FOR: "e"}), "CloneScheduled")]
#[case::lost("Lost", "now", json!({}), "Failed")]
fn a_phase_with_a_claim(#[case] phase: &str, #[case] class: &str, #[case] more: Value, #[case] after: &str) {
    let claim = fixtures::claim(&populated(&more), phase, class, true);
    let derived = derive(&data_volume(&json!({}), "Pending"), Some(&claim), "1.66.0");
    assert_eq!(derived.status.phase.as_str(), after);
    assert_eq!(derived.status.claim_name.as_deref(), Some("d"));
}

#[test]
fn a_claim_without_a_data_source_has_no_populator() {
    let claim = fixtures::claim(&populated(&json!({CLONE_PHASE: "Succeeded"})), "Bound", "now", false);
    assert_eq!(derive(&data_volume(&json!({}), "Pending"), Some(&claim), "1.66.0").status.phase, Phase::PvcBound);
}

/// A DataVolume that may adopt takes a Pending claim for complete, unless the claim says that it was created for it.
#[rstest]
#[case::own("1.66.0", json!({}), "CloneScheduled")]
#[case::own_unknown("1.58.2", json!({}), "Succeeded")]
#[case::not_marked("1.66.0", json!({CREATED_FOR_DATA_VOLUME: null}), "Succeeded")]
#[case::of_another("1.59.2", json!({CREATED_FOR_DATA_VOLUME: "other"}), "Succeeded")]
fn adoption(#[case] version: &str, #[case] more: Value, #[case] after: &str) {
    let claim = fixtures::claim(&populated(&more), "Pending", "now", true);
    let data_volume = data_volume(&json!({ALLOW_ADOPTION: "true"}), "Pending");
    assert_eq!(derive(&data_volume, Some(&claim), version).status.phase.as_str(), after);
}

#[rstest]
#[case("1.59.2", "Unknown/NotFound/No PVC found | False// | False//")]
#[case("1.66.0", "False/NotFound/No PVC found | False// | False//")]
fn conditions_without_a_claim(#[case] version: &str, #[case] wanted: &str) {
    assert_eq!(shown(&derive(&data_volume(&json!({}), ""), None, version).status), wanted);
}

#[rstest]
#[case::pending("Pending", json!({}), "False/Pending/PVC d Pending | False// | False//")]
#[case::waits("Pending", json!({CONDITION_BOUND: "false", CONDITION_BOUND_REASON: "R", CONDITION_BOUND_MESSAGE: "m"}), "False/R/m | False// | False//")]
#[case::runs("Pending", json!({CONDITION_RUNNING: "true", CONDITION_RUNNING_REASON: "W"}), "False/Pending/PVC d Pending | False/TransferRunning/ | True/W/")]
#[case::done("Bound", json!({CLONE_PHASE: "Succeeded", CONDITION_RUNNING: "false", CONDITION_RUNNING_REASON: "Completed"}), "True/Bound/PVC d Bound | True// | False/Completed/")]
#[case::still_runs("Bound", json!({CLONE_PHASE: "Succeeded", CONDITION_RUNNING: "true"}), "True/Bound/PVC d Bound | False/TransferRunning/ | True//")]
#[case::key_left("Bound", json!({CLONE_PHASE: "Succeeded", CONDITION_BOUND: "false", CONDITION_BOUND_REASON: "R"}), "False/R/ | True// | False//")]
fn conditions_with_a_claim(#[case] phase: &str, #[case] more: Value, #[case] wanted: &str) {
    let claim = fixtures::claim(&populated(&more), phase, "now", true);
    assert_eq!(shown(&derive(&data_volume(&json!({}), "Pending"), Some(&claim), "1.66.0").status), wanted);
}

/// What CDI derives from its own status is the same status: a finished clone is quiet.
#[test]
fn a_second_pass_changes_nothing() {
    let claim = fixtures::claim(&populated(&json!({CLONE_PHASE: "Succeeded"})), "Bound", "now", true);
    let mut object = data_volume(&json!({}), "Pending");
    let first = derive(&object, Some(&claim), "1.66.0");
    let reasons: Vec<_> = first.events.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(reasons, ["CloneSucceeded", "Bound"]);
    object.status = Some(first.status.clone());
    assert_eq!(derive(&object, Some(&claim), "1.66.0"), Derived { status: first.status, events: Vec::new() });
}

/// A status that smartclone has written in CDI's place stays as it is.
#[test]
fn progress_and_restarts_come_from_the_claim() {
    let more = json!({CLONE_PHASE: "HostClone", POPULATOR_PROGRESS: "40.0%", POD_RESTARTS: "2"});
    let claim = fixtures::claim(&populated(&more), "Pending", "now", true);
    let mut object = data_volume(&json!({}), "Pending");
    let status = derive(&object, Some(&claim), "1.66.0").status;
    assert_eq!((status.progress.as_deref(), status.restart_count), (Some("40.0%"), Some(2)));
    // They stay when the claim goes.
    object.status = Some(status);
    assert_eq!(derive(&object, None, "1.66.0").status.progress.as_deref(), Some("40.0%"));
    let silent = fixtures::claim(&populated(&json!({})), "Pending", "now", true);
    let fresh = derive(&data_volume(&json!({}), ""), Some(&silent), "1.66.0").status;
    assert_eq!(fresh.progress.as_deref(), Some("N/A"));
}
