use common::{keys, object::ObjectVersion, rebind::ClaimIdentity};
use fake_api::{FakeApi, Request, path_of};
use jiff::Timestamp;
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::fixture::{Fixture, answer, lines, put, put_version};

/// The objects of a transfer from `gold/disk` to `gold/moved`.
struct Moving {
    transfer: ObjectTransfer,
    claim: ObjectVersion,
    volume: ObjectVersion,
    data_volume: ObjectVersion,
}

fn put_objects(api: &FakeApi) -> Moving {
    let meta = |namespace: &str| json!({"namespace": namespace, "name": "disk", "uid": "u"});
    let source = json!({"kind": "PersistentVolumeClaim", "namespace": "gold", "name": "disk"});
    let metadata = json!({"name": "t", "uid": "u", "finalizers": ["x", keys::TRANSFER_FINALIZER]});
    Moving {
        transfer: put(api, &json!({"metadata": metadata, "spec": {"source": source, "target": {"name": "moved"}}})),
        claim: put_version::<PersistentVolumeClaim>(api, &json!({"metadata": meta("gold"), "spec": {}})),
        volume: put_version::<PersistentVolume>(
            api,
            &json!({
                "metadata": {"name": "pv", "uid": "u"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}},
            }),
        ),
        data_volume: put_version::<DataVolume>(api, &json!({"metadata": meta("gold"), "spec": {}})),
    }
}

type Make = fn(&Moving) -> Write;

fn create_claim(_: &Moving) -> Write {
    let metadata = json!({"namespace": "gold", "name": "moved"});
    Write::CreateClaim(Box::new(serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()))
}

fn create_data_volume(_: &Moving) -> Write {
    let metadata = json!({"namespace": "gold", "name": "moved"});
    Write::CreateDataVolume(Box::new(serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()))
}

fn hand_over(objects: &Moving) -> Write {
    let to = ClaimIdentity { namespace: "gold".into(), name: "moved".into(), uid: "v".into() };
    Write::HandOver { volume: objects.volume.clone(), to, policy: None, at: Timestamp::UNIX_EPOCH }
}

fn restore_policy(objects: &Moving) -> Write {
    Write::RestorePolicy { volume: objects.volume.clone(), policy: "Delete".into() }
}

fn nudge(objects: &Moving) -> Write {
    Write::Nudge { claim: objects.claim.clone(), at: Timestamp::UNIX_EPOCH }
}

fn delete_claim(objects: &Moving) -> Write {
    Write::DeleteClaim(objects.claim.clone())
}

fn delete_data_volume(objects: &Moving) -> Write {
    Write::DeleteDataVolume(objects.data_volume.clone())
}

fn guard(_: &Moving) -> Write {
    Write::Guard
}

fn release(_: &Moving) -> Write {
    Write::Release
}

/// The outcome in one word.
fn outcome(result: &Result<Done, Error>) -> &'static str {
    match result {
        Ok(Done { stale: true, .. }) => "stale",
        Ok(Done { refused: Some(_), .. }) => "refused",
        Ok(_) => "done",
        Err(Error::Write { .. }) => "failed",
        Err(_) => "another error",
    }
}

/// The UID and the version in the preconditions of a write.
fn preconditions(request: &Request) -> [Option<&str>; 2] {
    let named = if request.method == "DELETE" { &request.body["preconditions"] } else { &request.body["metadata"] };
    [named["uid"].as_str(), named["resourceVersion"].as_str()]
}

const CLAIMS: &str = "/api/v1/namespaces/gold/persistentvolumeclaims";
const DATA_VOLUMES: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/gold/datavolumes";

/// Each write: its request, and true if it is done when the object does not exist any more.
#[rstest]
#[case::create_claim(create_claim, "POST", CLAIMS.to_owned(), false)]
#[case::create_data_volume(create_data_volume, "POST", DATA_VOLUMES.to_owned(), false)]
#[case::hand_over(hand_over, "PATCH", path_of::<PersistentVolume>(None, "pv"), false)]
#[case::restore_policy(restore_policy, "PATCH", path_of::<PersistentVolume>(None, "pv"), false)]
#[case::nudge(nudge, "PATCH", format!("{CLAIMS}/disk"), false)]
#[case::delete_claim(delete_claim, "DELETE", format!("{CLAIMS}/disk"), true)]
#[case::delete_data_volume(delete_data_volume, "DELETE", format!("{DATA_VOLUMES}/disk"), true)]
#[case::guard(guard, "PATCH", path_of::<ObjectTransfer>(None, "t"), false)]
#[case::release(release, "PATCH", path_of::<ObjectTransfer>(None, "t"), true)]
#[tokio::test(start_paused = true)]
async fn a_write(#[case] make: Make, #[case] method: &str, #[case] path: String, #[case] may_be_gone: bool) {
    for (code, expected) in [
        (None, "done"),
        (Some(404), if may_be_gone { "done" } else { "refused" }),
        (Some(409), "stale"),
        (Some(403), "refused"),
        (Some(422), "refused"),
        (Some(429), "failed"),
        (Some(500), "failed"),
        (Some(0), "failed"),
    ] {
        let api = FakeApi::default();
        let objects = put_objects(&api);
        let fixture = Fixture::start(&api).await;
        let read = api.get_at(&path).map(|object| object["metadata"]["resourceVersion"].clone());
        if let Some(code) = code {
            api.answer_next(method, &path, answer(code));
        }
        let result = apply(&objects.transfer, Some(&make(&objects)), fixture.context()).await;
        assert_eq!(outcome(&result), expected, "{code:?}");
        let writes = api.take_writes();
        assert_eq!(lines(&writes), [format!("{method} {path}")], "{code:?}");
        // A creation has no preconditions.
        let named = read.as_ref().map_or([None, None], |version| [Some("u"), version.as_str()]);
        assert_eq!(preconditions(&writes[0]), named, "{code:?}");
    }
}

/// An object that has changed since it was read is not changed.
#[rstest]
#[case::hand_over(hand_over)]
#[case::restore_policy(restore_policy)]
#[case::nudge(nudge)]
#[case::delete_claim(delete_claim)]
#[case::delete_data_volume(delete_data_volume)]
#[case::guard(guard)]
#[case::release(release)]
#[tokio::test(start_paused = true)]
async fn what_has_changed_is_left_alone(#[case] make: Make) {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    // Each object gets another version.
    put_objects(&api);
    assert_eq!(outcome(&apply(&objects.transfer, Some(&make(&objects)), fixture.context()).await), "stale");
}

#[rstest]
#[case::guard(guard, json!(["x", keys::TRANSFER_FINALIZER]))]
#[case::release(release, json!(["x"]))]
#[tokio::test(start_paused = true)]
async fn finalizers_of_others_stay(#[case] make: Make, #[case] expected: Value) {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    let done = apply(&objects.transfer, Some(&make(&objects)), fixture.context()).await.unwrap();
    let metadata = api.get::<ObjectTransfer>(None, "t").unwrap()["metadata"].clone();
    assert_eq!(metadata["finalizers"], expected);
    assert_eq!(json!(done.resource_version), metadata["resourceVersion"], "the status is written on top of it");
}

/// The API server's message is reported to the user.
#[tokio::test(start_paused = true)]
async fn a_refusal_quotes_the_api_server() {
    let api = FakeApi::default();
    let objects = put_objects(&api);
    let fixture = Fixture::start(&api).await;
    let quota = "claims is forbidden: exceeded quota: q";
    for (message, reason) in [(quota, "ErrExceededQuota"), ("no", "ErrRefused")] {
        api.answer_next("POST", CLAIMS, fake_api::Answer::failure(403, message));
        let done = apply(&objects.transfer, Some(&create_claim(&objects)), fixture.context()).await.unwrap();
        let why = done.refused.unwrap();
        assert!(why.reason == reason && why.message.contains(message), "{why:?}");
    }
}
