use common::{clone::write::Pin, keys, lookup::Lookup, object::ObjectVersion, quantity::Bytes, rebind::ClaimIdentity};
use fake_api::{FakeApi, Request, path_of};
use jiff::Timestamp;
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::fixture::{Fixture, answer, lines, put, put_version};

const CLAIMS: &str = "/api/v1/namespaces/gold/persistentvolumeclaims";
const PODS: &str = "/api/v1/namespaces/gold/pods";
const SNAPSHOTS: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/gold/volumesnapshots";

/// The clone `gold/a` with the UID `1`, and objects that are written for it.
struct Cloning {
    volume: DataVolume,
    claim: ObjectVersion,
    pod: ObjectVersion,
    snapshot: ObjectVersion,
    persistent_volume: ObjectVersion,
}

fn put_objects(api: &FakeApi) -> Cloning {
    let meta = |name: &str| json!({"namespace": "gold", "name": name, "uid": "u"});
    Cloning {
        volume: put(api, &json!({"metadata": {"namespace": "gold", "name": "a", "uid": "1"}, "spec": {}})),
        claim: put_version::<PersistentVolumeClaim>(api, &json!({"metadata": meta("claim"), "spec": {}})),
        pod: put_version::<Pod>(api, &json!({"metadata": meta("pod"), "spec": {"containers": []}})),
        snapshot: put_version::<VolumeSnapshot>(api, &json!({"metadata": meta("snapshot"), "spec": {"source": {}}})),
        persistent_volume: put_version::<PersistentVolume>(
            api,
            &json!({
                "metadata": {"name": "pv", "uid": "u"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}},
            }),
        ),
    }
}

async fn apply(objects: &Cloning, kind: TargetKind, writes: &[Write], fixture: &Fixture) -> Result<Done, Error> {
    let target = CloneTarget { volume: &objects.volume, kind, reference: &Lookup::Absent };
    apply_writes(target, writes, &fixture.reconciler).await
}

async fn apply_to_volume(objects: &Cloning, writes: &[Write], fixture: &Fixture) -> Result<Done, Error> {
    apply(objects, TargetKind::DataVolume, writes, fixture).await
}

/// The outcome in one word.
fn outcome(result: &Result<Done, Error>) -> &'static str {
    match result {
        Ok(Done { refused: Some(Waiting::Refused { quota: true, .. }), .. }) => "quota",
        Ok(Done { refused: Some(Waiting::Refused { .. }), .. }) => "refused",
        Ok(Done { refused: Some(Waiting::Foreign { .. }), .. }) => "foreign",
        Ok(Done { stale: true, refused: None, .. }) => "stale",
        Ok(Done { refused: None, .. }) => "done",
        Ok(_) => "waits for something else",
        Err(Error::Write { .. }) => "failed",
        Err(_) => "another error",
    }
}

type Make = fn(&Cloning) -> Write;

fn pin(_: &Cloning) -> Write {
    let annotations = [(keys::CLONE_TYPE, Some("copy".to_owned())), (keys::CLONE_FALLBACK_REASON, None)].into();
    let labels = [(keys::DEFAULT_INSTANCE_TYPE.to_owned(), "u1".to_owned())].into();
    Write::Pin(Pin { annotations, labels })
}

fn mark_copied(objects: &Cloning) -> Write {
    Write::MarkCopied { claim: objects.claim.clone(), digest: "d".into() }
}

fn grow(objects: &Cloning) -> Write {
    Write::GrowClaim { claim: objects.claim.clone(), to: Bytes::parse("2Gi").unwrap() }
}

fn adopt(objects: &Cloning) -> Write {
    Write::Adopt(objects.claim.clone())
}

fn nudge(objects: &Cloning) -> Write {
    Write::Nudge { claim: objects.claim.clone(), at: Timestamp::UNIX_EPOCH }
}

fn release_claim(objects: &Cloning) -> Write {
    Write::Release { claim: objects.claim.clone(), rest: vec!["x".into()] }
}

fn hand_over(objects: &Cloning) -> Write {
    let claim = |uid: &str| ClaimIdentity { namespace: "gold".into(), name: "a".into(), uid: uid.into() };
    Write::HandOver {
        volume: objects.persistent_volume.clone(),
        from: claim("u"),
        to: claim("v"),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn delete(kind: Kind, what: &ObjectVersion) -> Write {
    Write::Delete { kind, what: what.clone() }
}

fn delete_pod(objects: &Cloning) -> Write {
    delete(Kind::Pod, &objects.pod)
}

fn delete_claim(objects: &Cloning) -> Write {
    delete(Kind::PersistentVolumeClaim, &objects.claim)
}

fn delete_snapshot(objects: &Cloning) -> Write {
    delete(Kind::VolumeSnapshot, &objects.snapshot)
}

fn create_pod(_: &Cloning) -> Write {
    let pod = json!({"metadata": {"namespace": "gold", "name": "new"}, "spec": {"containers": []}});
    Write::CreatePod(Box::new(serde_json::from_value(pod).unwrap()))
}

fn create_claim(_: &Cloning) -> Write {
    let claim = json!({"metadata": {"namespace": "gold", "name": "new"}, "spec": {}});
    Write::CreateClaim(Box::new(serde_json::from_value(claim).unwrap()))
}

fn create_snapshot(_: &Cloning) -> Write {
    let snapshot = json!({"metadata": {"namespace": "gold", "name": "new"}, "spec": {"source": {}}});
    Write::CreateSnapshot(Box::new(serde_json::from_value(snapshot).unwrap()))
}

/// The UID and the version in the preconditions of a write.
fn preconditions(request: &Request) -> [Option<&str>; 2] {
    let named = if request.method == "DELETE" { &request.body["preconditions"] } else { &request.body["metadata"] };
    [named["uid"].as_str(), named["resourceVersion"].as_str()]
}

/// The preconditions of a write: UID and version.
const NOTHING: [bool; 2] = [false, false];
const UID: [bool; 2] = [true, false];
const VERSION: [bool; 2] = [true, true];

#[rstest]
#[case::pin(pin, "PATCH", path_of::<DataVolume>(Some("gold"), "a"), VERSION)]
#[case::mark_copied(mark_copied, "PATCH", format!("{CLAIMS}/claim"), VERSION)]
#[case::grow(grow, "PATCH", format!("{CLAIMS}/claim"), VERSION)]
#[case::adopt(adopt, "PATCH", format!("{CLAIMS}/claim"), VERSION)]
#[case::nudge(nudge, "PATCH", format!("{CLAIMS}/claim"), VERSION)]
#[case::release(release_claim, "PATCH", format!("{CLAIMS}/claim"), VERSION)]
#[case::hand_over(hand_over, "PATCH", path_of::<PersistentVolume>(None, "pv"), VERSION)]
#[case::delete_pod(delete_pod, "DELETE", format!("{PODS}/pod"), UID)]
#[case::delete_claim(delete_claim, "DELETE", format!("{CLAIMS}/claim"), UID)]
#[case::delete_snapshot(delete_snapshot, "DELETE", format!("{SNAPSHOTS}/snapshot"), UID)]
#[case::create_pod(create_pod, "POST", PODS.to_owned(), NOTHING)]
#[case::create_claim(create_claim, "POST", CLAIMS.to_owned(), NOTHING)]
#[case::create_snapshot(create_snapshot, "POST", SNAPSHOTS.to_owned(), NOTHING)]
#[tokio::test(start_paused = true)]
async fn a_write_names_what_was_read(
    #[case] make: Make,
    #[case] method: &str,
    #[case] path: String,
    #[case] names: [bool; 2],
) {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    let read = api.get_at(&path).map(|object| object["metadata"].clone()).unwrap_or_default();
    let done = apply_to_volume(&objects, &[make(&objects)], &fixture).await;
    assert_eq!(outcome(&done), "done", "{done:?}");
    let writes = api.take_writes();
    assert_eq!(lines(&writes), [format!("{method} {path}")]);
    let named = |field: &str, names: bool| names.then(|| read[field].as_str().unwrap());
    assert_eq!(preconditions(&writes[0]), [named("uid", names[0]), named("resourceVersion", names[1])]);
    // A write with a version fails after a change; a deletion depends on the UID only.
    if names == VERSION {
        let again = apply_to_volume(&objects, &[make(&objects)], &fixture).await;
        assert_eq!(outcome(&again), "stale");
    }
}

/// The answer to the second of three writes. The third is sent only after a successful one.
#[rstest]
#[case::done(None, "done")]
#[case::bad_request(Some(400), "refused")]
#[case::forbidden(Some(403), "refused")]
#[case::gone(Some(404), "refused")]
#[case::newer(Some(409), "stale")]
#[case::invalid(Some(422), "refused")]
#[case::too_many_requests(Some(429), "failed")]
#[case::failed(Some(500), "failed")]
#[case::no_connection(Some(0), "failed")]
#[tokio::test(start_paused = true)]
async fn the_first_write_that_fails_ends_the_pass(#[case] code: Option<u16>, #[case] expected: &str) {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    let second = path_of::<PersistentVolume>(None, "pv");
    if let Some(code) = code {
        api.answer_next("PATCH", &second, answer(code));
    }
    let writes = [mark_copied(&objects), hand_over(&objects), delete_pod(&objects)];
    let done = apply_to_volume(&objects, &writes, &fixture).await;
    assert_eq!(outcome(&done), expected, "{done:?}");
    if let Ok(Done { refused: Some(Waiting::Refused { message, .. }), .. }) = &done {
        assert_eq!(message, "binding the PersistentVolume to the clone's claim: words of the API server");
    }
    let mut sent = vec![format!("PATCH {CLAIMS}/claim"), format!("PATCH {second}"), format!("DELETE {PODS}/pod")];
    sent.truncate(if expected == "done" { 3 } else { 2 });
    assert_eq!(lines(&api.take_writes()), sent);
}

/// The status is written to the version that results from the write of the decision.
#[rstest]
#[case::data_volume(TargetKind::DataVolume, path_of::<DataVolume>(Some("gold"), "a"))]
#[case::claim(TargetKind::Claim, format!("{CLAIMS}/a"))]
#[tokio::test(start_paused = true)]
async fn a_decision_is_written_on_the_clone(#[case] kind: TargetKind, #[case] path: String) {
    let api = FakeApi::default();
    let mut objects = put_objects(&api);
    if kind == TargetKind::Claim {
        let claim = api.put::<PersistentVolumeClaim>(&json!({
            "metadata": {"namespace": "gold", "name": "a", "uid": "1"}, "spec": {},
        }));
        objects.volume.metadata = serde_json::from_value(claim["metadata"].clone()).unwrap();
    }
    let fixture = Fixture::start(&api).await;
    let done = apply(&objects, kind, &[pin(&objects)], &fixture).await.unwrap();
    let metadata = &api.get_at(&path).unwrap()["metadata"];
    assert_eq!(json!(done.resource_version), metadata["resourceVersion"]);
    assert_eq!(metadata["annotations"], json!({(keys::CLONE_TYPE): "copy"}));
}

/// The existing object with the name of an object to be created, the outcome, and true if its UID is then recorded.
#[rstest]
#[case::nothing(|_: &FakeApi| {}, "done", true)]
#[case::another_s(|api: &FakeApi| put_pod(api, "stranger"), "foreign", false)]
#[case::of_an_earlier_pass(|api: &FakeApi| put_pod(api, "ours"), "done", true)]
#[case::gone_since(gone_since, "stale", false)]
#[case::quota(|api: &FakeApi| api.answer_next("POST", PODS, fake_api::Answer::failure(403, "exceeded quota: q")), "quota", false)]
#[case::namespace_ends(|api: &FakeApi| api.end_namespace("gold"), "refused", false)]
#[case::no_connection(|api: &FakeApi| api.answer_next("POST", PODS, answer(0)), "failed", false)]
#[case::unknown_whose(unknown_whose, "failed", true)]
#[tokio::test(start_paused = true)]
async fn what_is_created_is_ours(#[case] before: fn(&FakeApi), #[case] expected: &str, #[case] is_recorded: bool) {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    // The UID in the answer to an earlier pass, if there was one.
    let created = &fixture.reconciler.indexes.created;
    created.record("1", "new".into(), "ours".into());
    before(&api);
    let done = apply_to_volume(&objects, &[create_pod(&objects), delete_snapshot(&objects)], &fixture).await;
    assert_eq!(outcome(&done), expected, "{done:?}");
    let there = api.get_at(&format!("{PODS}/new")).map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned());
    assert_eq!(created.of("1", "new") == there, is_recorded, "{there:?}");
    let goes_on = api.get_at(&format!("{SNAPSHOTS}/snapshot")).is_none();
    assert_eq!(goes_on, expected == "done");
}

fn put_pod(api: &FakeApi, uid: &str) {
    api.put::<Pod>(&json!({"metadata": {"namespace": "gold", "name": "new", "uid": uid}, "spec": {"containers": []}}));
}

fn gone_since(api: &FakeApi) {
    put_pod(api, "stranger");
    api.before_next("GET", &format!("{PODS}/new"), |api| api.remove::<Pod>(Some("gold"), "new"));
}

fn unknown_whose(api: &FakeApi) {
    put_pod(api, "ours");
    api.answer_next("GET", &format!("{PODS}/new"), answer(500));
}

/// Adoption by a DataVolume keeps the existing owners of a claim. Without the claim nothing is adopted.
#[tokio::test(start_paused = true)]
async fn an_adopted_claim_keeps_its_owners() {
    let api = FakeApi::default();
    let mut objects = put_objects(&api);
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "o"});
    let metadata = json!({"namespace": "gold", "name": "claim", "uid": "u", "ownerReferences": [owner]});
    objects.claim = put_version::<PersistentVolumeClaim>(&api, &json!({"metadata": metadata, "spec": {}}));
    let fixture = Fixture::start(&api).await;
    assert_eq!(outcome(&apply_to_volume(&objects, &[adopt(&objects)], &fixture).await), "done");
    let claim = api.get::<PersistentVolumeClaim>(Some("gold"), "claim").unwrap();
    let owners: Vec<&Value> =
        claim["metadata"]["ownerReferences"].as_array().unwrap().iter().map(|it| &it["uid"]).collect();
    assert_eq!(owners, ["o", "1"]);
    api.remove::<PersistentVolumeClaim>(Some("gold"), "claim");
    assert_eq!(outcome(&apply_to_volume(&objects, &[adopt(&objects)], &fixture).await), "stale");
}
