//! Tests with temporary objects in `gold`, created for the clone `clones/a` with the UID `1`.

use common::keys;
use fake_api::{FakeApi, path_of};
use k8s_openapi::api::core::v1::Pod;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Fixture, answer, lines};

/// The clone itself.
fn put_owner(api: &FakeApi, change: Value) {
    let mut owner = json!({"metadata": {"namespace": "clones", "name": "a", "uid": "1"}, "spec": {}});
    json_merge(&mut owner, change);
    api.put::<DataVolume>(&owner);
}

/// Merges `change` into `object`, nested objects field by field.
fn json_merge(object: &mut Value, change: Value) {
    match (object, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (field, change) in changes {
                json_merge(fields.entry(field).or_insert(Value::Null), change);
            }
        }
        (field, change) => *field = change,
    }
}

fn temporary(name: &str) -> Value {
    json!({
        "namespace": "gold", "name": name, "uid": format!("uid-of-{name}"),
        "labels": {(keys::OWNED_BY_UID): "1"}, "annotations": {(keys::OWNED_BY_DATA_VOLUME): "clones/a"},
    })
}

/// A temporary claim with `change` in its metadata.
fn put_claim(api: &FakeApi, change: Value) {
    let mut metadata = temporary("smartclone-pvc-1");
    json_merge(&mut metadata, change);
    api.put::<PersistentVolumeClaim>(&json!({"metadata": metadata, "spec": {}}));
}

/// A shared snapshot with `change`.
fn put_snapshot(api: &FakeApi, change: Value) {
    let mut metadata = temporary("smartclone-snapshot-1");
    metadata["annotations"][keys::MEMBERS] = json!(r#"{"1": "clones/a"}"#);
    let mut snapshot = json!({"metadata": metadata, "spec": {"source": {"persistentVolumeClaimName": "disk"}}});
    json_merge(&mut snapshot, change);
    api.put::<VolumeSnapshot>(&snapshot);
}

const CLAIM: &str = "/api/v1/namespaces/gold/persistentvolumeclaims/smartclone-pvc-1";
const OWNER: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/clones/datavolumes/a";
const OWNING_CLAIM: &str = "/api/v1/namespaces/clones/persistentvolumeclaims/a";

const LEFT: &[&str] = &[];
const CLAIM_DELETED: &[&str] = &["DELETE /api/v1/namespaces/gold/persistentvolumeclaims/smartclone-pvc-1"];
const CLAIM_RELEASED: &[&str] = &["PATCH /api/v1/namespaces/gold/persistentvolumeclaims/smartclone-pvc-1"];
const CONTENT_DISCARDED: &[&str] = &["PATCH /apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/content"];
const SNAPSHOT_DELETED: &[&str] =
    &["DELETE /apis/snapshot.storage.k8s.io/v1/namespaces/gold/volumesnapshots/smartclone-snapshot-1"];

/// Objects before the caches are filled, a change that no watch reports, and the expected writes.
#[rstest]
#[case::owner_is_gone(|api: &FakeApi| put_claim(api, json!({})), |_: &FakeApi| {}, CLAIM_DELETED)]
#[case::owner_exists(|api: &FakeApi| { put_claim(api, json!({})); put_owner(api, json!({})) }, |_: &FakeApi| {}, LEFT)]
#[case::owner_is_not_in_the_cache_yet(|api: &FakeApi| put_claim(api, json!({})), |api: &FakeApi| put_owner(api, json!({})), LEFT)]
#[case::owner_is_a_claim(|api: &FakeApi| put_claim(api, json!({})), |api: &FakeApi| drop(api.put_at(OWNING_CLAIM, &json!({"metadata": {"uid": "1"}}))), LEFT)]
#[case::another_of_the_owner_s_name(|api: &FakeApi| { put_claim(api, json!({})); put_owner(api, json!({"metadata": {"uid": "2"}})) }, |_: &FakeApi| {}, CLAIM_DELETED)]
#[case::owner_is_being_deleted(|api: &FakeApi| { put_claim(api, json!({})); put_owner(api, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})) }, |_: &FakeApi| {}, CLAIM_DELETED)]
#[case::owner_is_unknown(|api: &FakeApi| put_claim(api, json!({})), |api: &FakeApi| api.answer_always("GET", OWNER, answer(500)), LEFT)]
#[case::owner_may_not_be_read(|api: &FakeApi| put_claim(api, json!({})), |api: &FakeApi| api.answer_always("GET", OWNING_CLAIM, answer(403)), LEFT)]
#[case::no_connection(|api: &FakeApi| put_claim(api, json!({})), |api: &FakeApi| api.answer_always("GET", OWNER, answer(0)), LEFT)]
#[case::not_labelled(|api: &FakeApi| put_claim(api, json!({"labels": {(keys::OWNED_BY_UID): null}})), |_: &FakeApi| {}, LEFT)]
#[case::user_s_name(|api: &FakeApi| put_claim(api, json!({"name": "payroll"})), |_: &FakeApi| {}, LEFT)]
#[case::name_of_another_uid(|api: &FakeApi| put_claim(api, json!({"name": "smartclone-pvc-2"})), |_: &FakeApi| {}, LEFT)]
#[case::no_owner(|api: &FakeApi| put_claim(api, json!({"annotations": null})), |_: &FakeApi| {}, LEFT)]
#[case::is_being_deleted(|api: &FakeApi| put_claim(api, json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]})), |_: &FakeApi| {}, LEFT)]
#[case::is_kept_by_our_finalizer(|api: &FakeApi| put_claim(api, json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x", keys::HAND_OVER_FINALIZER]})), |_: &FakeApi| {}, CLAIM_RELEASED)]
#[case::will_be_kept_by_our_finalizer(|api: &FakeApi| put_claim(api, json!({"finalizers": [keys::HAND_OVER_FINALIZER]})), |_: &FakeApi| {}, CLAIM_DELETED)]
#[case::another_operator(|api: &FakeApi| { put_claim(api, json!({})); put_operator(api) }, |_: &FakeApi| {}, LEFT)]
#[case::snapshot_without_its_member(|api: &FakeApi| put_snapshot(api, json!({})), |_: &FakeApi| {}, SNAPSHOT_DELETED)]
#[case::snapshot_of_a_clone(|api: &FakeApi| { put_snapshot(api, json!({})); put_owner(api, json!({})) }, |_: &FakeApi| {}, LEFT)]
#[case::snapshot_of_a_clone_that_is_done(|api: &FakeApi| { put_snapshot(api, json!({})); put_owner(api, json!({"status": {"phase": "Succeeded"}})) }, |_: &FakeApi| {}, SNAPSHOT_DELETED)]
#[case::snapshot_of_a_new_clone(|api: &FakeApi| put_snapshot(api, json!({})), |api: &FakeApi| put_owner(api, json!({})), LEFT)]
#[case::snapshot_of_an_unknown_clone(|api: &FakeApi| put_snapshot(api, json!({})), |api: &FakeApi| api.answer_always("GET", OWNER, answer(500)), LEFT)]
#[case::user_s_snapshot(|api: &FakeApi| put_snapshot(api, json!({"metadata": {"labels": {(keys::OWNED_BY_UID): null}}})), |_: &FakeApi| {}, LEFT)]
#[case::snapshot_without_members(|api: &FakeApi| put_snapshot(api, json!({"metadata": {"annotations": {(keys::MEMBERS): null}}})), |_: &FakeApi| {}, LEFT)]
#[case::snapshot_that_is_being_deleted(|api: &FakeApi| put_snapshot(api, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}})), |_: &FakeApi| {}, LEFT)]
#[case::snapshot_that_is_being_restored(|api: &FakeApi| { put_snapshot(api, json!({})); put_restored(api, "Pending") }, |_: &FakeApi| {}, LEFT)]
#[case::snapshot_that_was_restored(|api: &FakeApi| { put_snapshot(api, json!({})); put_restored(api, "Bound") }, |_: &FakeApi| {}, SNAPSHOT_DELETED)]
#[case::retained_content_of_a_clone_s_snapshot(|api: &FakeApi| { put_snapshot(api, json!({})); put_owner(api, json!({})); put_content(api, "Retain") }, |_: &FakeApi| {}, CONTENT_DISCARDED)]
#[case::retained_content_of_a_snapshot_without_its_member(|api: &FakeApi| { put_snapshot(api, json!({})); put_content(api, "Retain") }, |_: &FakeApi| {}, CONTENT_DISCARDED)]
#[case::retained_content_of_a_snapshot_that_is_being_deleted(|api: &FakeApi| { put_snapshot(api, json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}})); put_content(api, "Retain") }, |_: &FakeApi| {}, CONTENT_DISCARDED)]
#[case::retained_content_of_a_user_s_snapshot(|api: &FakeApi| { put_snapshot(api, json!({"metadata": {"labels": {(keys::OWNED_BY_UID): null}}})); put_content(api, "Retain") }, |_: &FakeApi| {}, LEFT)]
#[case::content_that_goes_with_its_snapshot(|api: &FakeApi| { put_snapshot(api, json!({})); put_content(api, "Delete") }, |_: &FakeApi| {}, SNAPSHOT_DELETED)]
#[case::retained_content_of_another_snapshot(|api: &FakeApi| { put_snapshot(api, json!({"metadata": {"uid": "another"}})); put_owner(api, json!({})); put_content(api, "Retain") }, |_: &FakeApi| {}, LEFT)]
#[tokio::test(start_paused = true)]
async fn what_is_removed(#[case] objects: fn(&FakeApi), #[case] untold: fn(&FakeApi), #[case] expected: &[&str]) {
    let api = FakeApi::default();
    objects(&api);
    let fixture = Fixture::start(&api).await;
    api.pause_watches();
    untold(&api);
    clean_up(&fixture.reconciler, &mut Failures::default()).await;
    let writes = api.take_writes();
    assert_eq!(lines(&writes), expected);
    for write in writes {
        let named = if write.method == "DELETE" { &write.body["preconditions"] } else { &write.body["metadata"] };
        let uid = match expected {
            SNAPSHOT_DELETED => "uid-of-smartclone-snapshot-1",
            CONTENT_DISCARDED => "uid-of-content",
            _ => "uid-of-smartclone-pvc-1",
        };
        assert_eq!(named["uid"], uid);
        assert_eq!(write.body["spec"]["deletionPolicy"] == "Delete", expected == CONTENT_DISCARDED);
    }
}

/// The content of the shared snapshot.
fn put_content(api: &FakeApi, policy: &str) {
    let snapshot = json!({"namespace": "gold", "name": "smartclone-snapshot-1", "uid": "uid-of-smartclone-snapshot-1"});
    api.put::<VolumeSnapshotContent>(&json!({
        "metadata": {"name": "content", "uid": "uid-of-content"},
        "spec": {"volumeSnapshotRef": snapshot, "driver": "d", "deletionPolicy": policy, "source": {}},
    }));
}

/// The answer to the patch of a content, and true if it is retried after a time. A newer or deleted content triggers by its event.
#[rstest]
#[case::done(None, false)]
#[case::gone(Some(404), false)]
#[case::newer(Some(409), false)]
#[case::refused(Some(403), true)]
#[case::failed(Some(500), true)]
#[tokio::test(start_paused = true)]
async fn a_content_that_can_not_be_changed(#[case] code: Option<u16>, #[case] repeated: bool) {
    let api = FakeApi::default();
    put_snapshot(&api, json!({}));
    put_owner(&api, json!({}));
    put_content(&api, "Retain");
    let fixture = Fixture::start(&api).await;
    if let Some(code) = code {
        api.answer_next("PATCH", &path_of::<VolumeSnapshotContent>(None, "content"), answer(code));
    }
    let mut failures = Failures::default();
    clean_up(&fixture.reconciler, &mut failures).await;
    assert_eq!(failures.0.contains_key("uid-of-smartclone-snapshot-1"), repeated);
    assert_eq!(lines(&api.take_writes()), CONTENT_DISCARDED);
}

/// An object that is being deleted and that CDI's finalizer keeps, with `change`.
fn put_former<K: Resource<DynamicType = ()>>(api: &FakeApi, finalizer: &str, change: Value) {
    let mut object = json!({
        "metadata": {
            "namespace": "clones", "name": "b", "uid": "2", "resourceVersion": "7",
            "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x", finalizer],
        },
        "spec": {},
    });
    json_merge(&mut object, change);
    api.put::<K>(&object);
}

/// A claim that CDI created for the object `2`.
fn put_of_cdi(api: &FakeApi) {
    api.put::<PersistentVolumeClaim>(&json!({
        "metadata": {"namespace": "gold", "name": "smartclone-pvc-2", "labels": {(keys::OWNED_BY_UID): "2"}}, "spec": {},
    }));
}

fn put_reader(api: &FakeApi) {
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "b"}});
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/"}]}], "volumes": [volume]});
    api.put::<Pod>(&json!({"metadata": {"namespace": "clones", "name": "reader"}, "spec": spec}));
}

const FORMER_VOLUME: &[&str] = &["PATCH /apis/cdi.kubevirt.io/v1beta1/namespaces/clones/datavolumes/b"];
const FORMER_CLAIM: &[&str] = &["PATCH /api/v1/namespaces/clones/persistentvolumeclaims/b"];

/// CDI's finalizers are removed when CDI is gone, and the reason for them is gone too.
#[rstest]
#[case::data_volume(|api: &FakeApi| put_former::<DataVolume>(api, keys::DATA_VOLUME_FINALIZER, json!({})), FORMER_VOLUME)]
#[case::claim(|api: &FakeApi| put_former::<PersistentVolumeClaim>(api, keys::CLONE_POPULATOR_FINALIZER, json!({})), FORMER_CLAIM)]
#[case::source(|api: &FakeApi| put_former::<PersistentVolumeClaim>(api, keys::CLONE_SOURCE_FINALIZER, json!({})), FORMER_CLAIM)]
#[case::lives(|api: &FakeApi| put_former::<DataVolume>(api, keys::DATA_VOLUME_FINALIZER, json!({"metadata": {"deletionTimestamp": null}})), LEFT)]
#[case::of_others(|api: &FakeApi| put_former::<DataVolume>(api, "y", json!({})), LEFT)]
#[case::of_a_data_volume_in_the_making(|api: &FakeApi| { put_former::<DataVolume>(api, keys::DATA_VOLUME_FINALIZER, json!({})); put_of_cdi(api) }, LEFT)]
#[case::of_a_claim_in_the_making(|api: &FakeApi| { put_former::<PersistentVolumeClaim>(api, keys::CLONE_POPULATOR_FINALIZER, json!({})); put_of_cdi(api) }, LEFT)]
#[case::of_a_source_in_use(|api: &FakeApi| { put_former::<PersistentVolumeClaim>(api, keys::CLONE_SOURCE_FINALIZER, json!({})); put_reader(api) }, LEFT)]
#[case::used_all_the_same(|api: &FakeApi| { put_former::<PersistentVolumeClaim>(api, keys::CLONE_POPULATOR_FINALIZER, json!({})); put_reader(api) }, FORMER_CLAIM)]
#[case::cdi_is_there(|api: &FakeApi| { put_former::<DataVolume>(api, keys::DATA_VOLUME_FINALIZER, json!({})); put_operator(api) }, LEFT)]
#[tokio::test(start_paused = true)]
async fn what_cdi_has_left_ends(#[case] objects: fn(&FakeApi), #[case] expected: &[&str]) {
    let api = FakeApi::default();
    objects(&api);
    let fixture = Fixture::start(&api).await;
    clean_up(&fixture.reconciler, &mut Failures::default()).await;
    let writes = api.take_writes();
    assert_eq!(lines(&writes), expected);
    for write in writes {
        let metadata = &write.body["metadata"];
        assert_eq!((&metadata["finalizers"], &metadata["uid"]), (&json!(["x"]), &json!("2")));
        assert!(metadata["resourceVersion"].is_string());
    }
}

fn put_operator(api: &FakeApi) {
    api.put::<common::api::Cdi>(&json!({
        "metadata": {"name": "cdi"}, "spec": {}, "status": {"operatorVersion": "v1.60", "phase": "Deployed"},
    }));
}

fn put_restored(api: &FakeApi, phase: &str) {
    let source =
        json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "smartclone-snapshot-1"});
    api.put::<PersistentVolumeClaim>(&json!({
        "metadata": {"namespace": "gold", "name": "restored"},
        "spec": {"dataSourceRef": source}, "status": {"phase": phase},
    }));
}

/// The answer to the removal of a claim, true if it is retried, and true if the next pod is removed in the same run.
#[rstest]
#[case::done(None, false, true)]
#[case::gone(Some(404), false, true)]
#[case::replaced(Some(409), false, true)]
#[case::refused(Some(403), true, true)]
#[case::failed(Some(500), true, true)]
#[case::no_connection(Some(0), true, false)]
#[tokio::test(start_paused = true)]
async fn a_removal_that_fails(#[case] code: Option<u16>, #[case] repeated: bool, #[case] goes_on: bool) {
    let api = FakeApi::default();
    put_claim(&api, json!({}));
    api.put::<Pod>(&json!({"metadata": temporary("smartclone-mover-1"), "spec": {"containers": []}}));
    let fixture = Fixture::start(&api).await;
    api.pause_watches();
    if let Some(code) = code {
        api.answer_next("DELETE", CLAIM, answer(code));
    }
    let mut failures = Failures::default();
    let next = clean_up(&fixture.reconciler, &mut failures).await;
    assert_eq!((failures.0.contains_key("uid-of-smartclone-pvc-1"), next < RESYNC), (repeated, repeated));
    assert_eq!(api.get_at(&path_of::<Pod>(Some("gold"), "smartclone-mover-1")).is_none(), goes_on);
    // Not before its retry time.
    api.take_requests();
    clean_up(&fixture.reconciler, &mut failures).await;
    assert_eq!(lines(&api.take_writes()).contains(&CLAIM_DELETED[0].to_owned()), !repeated);
}

/// Without a connection no owner can be read, so the rest waits for the next run.
#[tokio::test(start_paused = true)]
async fn a_run_without_a_connection_ends() {
    let api = FakeApi::default();
    put_claim(&api, json!({}));
    put_snapshot(&api, json!({}));
    let fixture = Fixture::start(&api).await;
    api.answer_always("GET", OWNER, answer(0));
    let mut failures = Failures::default();
    clean_up(&fixture.reconciler, &mut failures).await;
    assert_eq!(lines(&api.take_requests()), [format!("GET {OWNER}")]);
    assert_eq!(failures.0.len(), 1);
}

#[test]
fn an_object_that_fails_is_tried_ever_more_rarely_and_no_other_waits_for_it() {
    let (mut failures, start) = (Failures::default(), Instant::now());
    assert_eq!(failures.note("bad", start), Duration::from_secs(1));
    assert!(!failures.is_due("bad", start) && failures.is_due("good", start));
    assert_eq!(failures.next(start), Some(Duration::from_secs(1)));
    let later = start + Duration::from_secs(1);
    assert!(failures.is_due("bad", later));
    assert_eq!(failures.note("bad", later), Duration::from_secs(2));
    failures.forget("bad");
    assert_eq!(failures.note("bad", later), Duration::from_secs(1));
    assert_eq!(failures.next(later + 2 * RESYNC), None, "gone meanwhile");
}

/// Beside CDI, a volume that lost its claim to another one is given up; alone there is nobody else who fills claims.
#[rstest]
#[case::beside("v1.66.0", "theirs", "theirs", &["PATCH /api/v1/persistentvolumes/ours"])]
#[case::won_since("v1.66.0", "theirs", "ours", LEFT)]
#[case::alone("", "theirs", "theirs", LEFT)]
#[tokio::test(start_paused = true)]
async fn a_volume_that_lost_its_claim(
    #[case] version: &str,
    #[case] cached: &str,
    #[case] latest: &str,
    #[case] writes: &[&str],
) {
    let api = FakeApi::default();
    api.put::<common::api::Cdi>(
        &json!({"metadata": {"name": "cdi"}, "spec": {}, "status": {"operatorVersion": version}}),
    );
    api.put::<k8s_openapi::api::core::v1::PersistentVolume>(&json!({
        "metadata": {"name": "ours", "uid": "v", "annotations": {(keys::HANDED_OVER): "2026-01-01T00:00:00Z"}},
        "spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "1"}},
        "status": {"phase": "Available"},
    }));
    let claim = |volume: &str| {
        json!({
            "metadata": {"namespace": "n", "name": "c", "uid": "1"},
            "spec": {"volumeName": volume}, "status": {"phase": "Bound"},
        })
    };
    api.put::<PersistentVolumeClaim>(&claim(cached));
    let fixture = Fixture::start(&api).await;
    api.pause_watches();
    api.put::<PersistentVolumeClaim>(&claim(latest));
    api.take_requests();
    clean_up(&fixture.reconciler, &mut Failures::default()).await;
    assert_eq!(lines(&api.take_writes()), writes);
}
