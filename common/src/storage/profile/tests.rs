use crate::keys;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::Refusal;

fn class(provisioner: &str, annotations: &Value) -> StorageClass {
    serde_json::from_value(json!({
        "metadata": { "name": "fast", "annotations": annotations }, "provisioner": provisioner,
    }))
    .unwrap()
}

fn profile(annotations: &Value, spec: &Value) -> StorageProfile {
    serde_json::from_value(json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "StorageProfile",
        "metadata": { "name": "fast", "annotations": annotations }, "spec": spec,
    }))
    .unwrap()
}

fn snapshots_of(driver: &str) -> Vec<SnapshotClass> {
    vec![SnapshotClass { name: "snap".into(), driver: driver.into(), is_default: false, retains: false }]
}

const CEPH: &str = "rbd.csi.ceph.com";

#[rstest]
#[case::table(CEPH, json!({}), json!({}), CEPH, "csi-clone", "BuiltIn")]
#[case::class_before_table(CEPH, json!({"cdi.kubevirt.io/clone-strategy": "copy"}), json!({}), CEPH, "copy", "StorageClass")]
#[case::unknown_word(CEPH, json!({"cdi.kubevirt.io/clone-strategy": "magic"}), json!({}), CEPH, "csi-clone", "BuiltIn")]
#[case::profile_first(
    CEPH, json!({"cdi.kubevirt.io/clone-strategy": "copy"}), json!({"cloneStrategy": "snapshot"}), CEPH, "snapshot", "StorageProfile"
)]
#[case::nobody("example.com", json!({}), json!({}), "example.com", "snapshot", "Default")]
#[case::nobody_and_no_snapshots("example.com", json!({}), json!({}), CEPH, "copy", "Default")]
fn strategies(
    #[case] provisioner: &str,
    #[case] annotations: Value,
    #[case] spec: Value,
    #[case] snapshots: &str,
    #[case] strategy: &str,
    #[case] provenance: &str,
) {
    let profile = profile(&json!({}), &spec);
    let class = class(provisioner, &annotations);
    let status = status(&class, Some(&profile), &snapshots_of(snapshots), Timestamp::UNIX_EPOCH);
    assert_eq!(status.clone_strategy.map(CloneStrategy::as_str), Some(strategy));
    let said = status.capabilities.iter().find(|c| c.name == names::CLONE_STRATEGY).unwrap();
    assert_eq!((said.value.as_str(), said.provenance.as_str()), (strategy, provenance));
}

#[test]
fn a_snapshot_class_that_is_gone_is_cleared() {
    let mut profile = profile(&json!({}), &json!({ "cloneStrategy": "snapshot" }));
    let class = class(CEPH, &json!({}));
    let with = status(&class, Some(&profile), &snapshots_of(CEPH), Timestamp::UNIX_EPOCH);
    assert_eq!(with.snapshot_class.as_deref(), Some("snap"));
    profile.status = Some(with);
    let without = status(&class, Some(&profile), &[], Timestamp::UNIX_EPOCH);
    assert_eq!((without.snapshot_class, without.clone_strategy), (None, Some(CloneStrategy::Copy)));
}

#[test]
fn what_was_learned_and_refused_stays_and_a_second_look_writes_nothing() {
    let class = class("example.com", &json!({ keys::RESTORE_SIZE: "larger", keys::DEADLINE: "1h30m" }));
    let mut profile = profile(&json!({}), &json!({}));
    let mut first = status(&class, Some(&profile), &[], Timestamp::UNIX_EPOCH);
    first.refusals = vec![Refusal { count: 1, namespaces: 3, ..Refusal::default() }];
    first.capabilities = learned(&first.capabilities, names::RESTORE_SIZE, "exact").unwrap();
    assert_eq!(learned(&first.capabilities, names::RESTORE_SIZE, "exact"), None);
    profile.status = Some(first.clone());

    let next = status(&class, Some(&profile), &[], Timestamp::MAX);
    assert_eq!(next.refusals, first.refusals);
    let said =
        |name| next.capabilities.iter().find(|c| c.name == name).map(|c| format!("{} {}", c.value, c.provenance));
    assert_eq!(said(names::RESTORE_SIZE).as_deref(), Some("exact Learned"));
    assert_eq!(said(names::DEADLINE).as_deref(), Some("1h 30m StorageClass"));
    profile.status = Some(next.clone());
    assert_eq!(status(&class, Some(&profile), &[], Timestamp::MAX), next);
}

#[rstest]
#[case::table("csi.hpe.com", json!({}), None)]
#[case::table_knows("hspc.csi.hitachi.com", json!({}), Some(Bytes(1 << 30)))]
#[case::admin_knows_better("hspc.csi.hitachi.com", json!({ keys::MINIMUM_SIZE: "2Gi" }), Some(Bytes(2 << 30)))]
#[case::admin_says_none("hspc.csi.hitachi.com", json!({ keys::MINIMUM_SIZE: "" }), None)]
#[case::nonsense("hspc.csi.hitachi.com", json!({ keys::MINIMUM_SIZE: "much" }), Some(Bytes(1 << 30)))]
fn least_sizes(#[case] provisioner: &str, #[case] annotations: Value, #[case] least: Option<Bytes>) {
    let record = Record::of(&class(provisioner, &json!({})), Some(&profile(&annotations, &json!({}))));
    assert_eq!(record.minimum_size.map(|known| known.value), least);
}
