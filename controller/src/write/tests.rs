use std::{io, time::Duration};

use common::{
    api::{StorageProfile, StorageProfileSpec, StorageProfileStatus},
    keys,
    object::exact,
};
use fake_api::{Answer, FakeApi, path_of};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use rstest::rstest;
use tokio::time::timeout;

use super::*;
use crate::fixture::{answer, lines, put, put_version};

const PATH: &str = "/api/v1/namespaces/n/persistentvolumeclaims/a";

/// A server with one claim, and the claim's version.
fn server() -> (FakeApi, ObjectVersion) {
    let api = FakeApi::default();
    let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "finalizers": ["x", keys::HAND_OVER_FINALIZER]});
    let version = put_version::<PersistentVolumeClaim>(&api, &json!({"metadata": metadata, "spec": {}}));
    (api, version)
}

fn claims(api: &FakeApi) -> Objects<PersistentVolumeClaim> {
    Objects::namespaced(api.client(), "n")
}

/// The class of a failure in one word.
fn class(failure: &Failure) -> &'static str {
    match failure {
        Failure::Stale => "stale",
        Failure::Gone(_) => "gone",
        Failure::Refused { quota: true, .. } => "quota",
        Failure::Refused { quota: false, .. } => "refused",
        Failure::Failed(_) => "failed",
    }
}

/// The class of each answer, which does not depend on the verb.
#[rstest]
#[case::bad_request(Answer::failure(400, "x"), "refused")]
#[case::unauthorized(Answer::failure(401, "x"), "failed")]
#[case::forbidden(Answer::failure(403, "x"), "refused")]
#[case::namespace_ends(Answer::namespace_ends("pods", "a", "n"), "refused")]
#[case::unstated(
    Answer::failure(403, "pods \"x\" is forbidden: failed quota: q: must specify limits.cpu for: mover"),
    "quota"
)]
#[case::quota(Answer::failure(403, "pods \"x\" is forbidden: exceeded quota: q"), "quota")]
#[case::not_found(Answer::failure(404, "x"), "gone")]
#[case::conflict(Answer::failure(409, "x"), "stale")]
#[case::invalid(Answer::failure(422, "x"), "refused")]
#[case::too_many_requests(Answer::failure(429, "x"), "failed")]
#[case::internal(Answer::failure(500, "exceeded quota"), "failed")]
#[case::unavailable(Answer::failure(503, "x"), "failed")]
#[case::gateway_timeout(Answer::failure(504, "x"), "failed")]
#[case::no_status(Answer::Reply(409, "<html>".into()), "stale")]
#[case::timeout(Answer::Disconnect(io::ErrorKind::TimedOut), "failed")]
#[case::connection_reset(Answer::Disconnect(io::ErrorKind::ConnectionReset), "failed")]
#[tokio::test]
async fn an_error_has_one_class(#[case] given: Answer, #[case] expected: &str) {
    let (api, version) = server();
    let collection = PATH.trim_end_matches("/a");
    for (method, path) in [("POST", collection), ("PATCH", PATH), ("DELETE", PATH)] {
        api.answer_always(method, path, given.clone());
    }
    let client = api.client();
    let errors = [
        create(&claims(&api), &PersistentVolumeClaim::default()).await.err(),
        merge_patch(&claims(&api), &version, json!({})).await.err(),
        patch_claim(&version, json!({}), &client).await.err(),
        delete_version::<PersistentVolumeClaim>(&version, &client).await.err(),
    ];
    for error in errors {
        assert_eq!(class(&classify(error.unwrap())), expected);
    }
}

/// A write without an answer is ended by the timeout of its pass.
#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_has_no_end() {
    let (api, version) = server();
    api.answer_always("PATCH", PATH, Answer::Never);
    timeout(Duration::from_hours(1), patch_claim(&version, json!({}), &api.client())).await.unwrap_err();
}

/// The API server's message is kept for the user.
#[test]
fn a_refusal_quotes_the_api_server() {
    let status = |code| {
        let status = json!({"status": "Failure", "code": code, "message": "no room", "reason": "x"});
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    };
    assert!(matches!(classify(status(422)), Failure::Refused { message, .. } if message == "no room"));
    assert!(matches!(classify(status(404)), Failure::Gone(message) if message == "no room"));
}

/// Each verb sends one request with the preconditions in its body.
#[tokio::test]
async fn a_write_names_what_it_changes() {
    let (api, version) = server();
    let client = api.client();
    let (uid, read) = (version.uid.clone(), version.resource_version.clone());
    let exactly = json!({"uid": uid, "resourceVersion": read});
    let sent = |expected: &str| {
        let writes = api.take_writes();
        assert_eq!(lines(&writes), [expected]);
        let manager = format!("fieldManager={}", keys::CONTROLLER_MANAGER);
        assert_eq!(writes[0].query.contains(&manager), writes[0].method != "DELETE", "{}", writes[0].query);
        writes.into_iter().next().unwrap().body
    };
    let patch = format!("PATCH {PATH}");
    patch_claim(&version, json!({"metadata": {"labels": {"l": "1"}}}), &client).await.unwrap();
    let body = sent(&patch);
    assert_eq!(body, json!({"metadata": {"uid": uid, "resourceVersion": read, "labels": {"l": "1"}}}));
    // The same version is outdated at the second write.
    assert!(matches!(patch_claim(&version, json!({}), &client).await.map_err(classify), Err(Failure::Stale)));
    sent(&patch);
    assert!(matches!(release(&version, &["x".into()], &client).await.map_err(classify), Err(Failure::Stale)));
    assert_eq!(sent(&patch)["metadata"], json!({"uid": uid, "resourceVersion": read, "finalizers": ["x"]}));
    let deletion = delete_version::<PersistentVolumeClaim>(&version, &client).await.map_err(classify);
    assert!(matches!(deletion, Err(Failure::Stale)));
    assert_eq!(sent(&format!("DELETE {PATH}"))["preconditions"], exactly);
    // A deletion by UID succeeds, whatever the version.
    delete::<PersistentVolumeClaim>(&version, &client).await.unwrap();
    let body = sent(&format!("DELETE {PATH}"));
    assert_eq!((&body["preconditions"], &body["propagationPolicy"]), (&json!({"uid": uid}), &json!("Background")));
    assert!(api.get_at(PATH).unwrap()["metadata"]["deletionTimestamp"].is_string());
}

/// The UID in a deletion, the code of the answer, and the result.
#[rstest]
#[case::the_object("u", None, Ok(()))]
#[case::another_of_its_name("v", None, Ok(()))]
#[case::gone("u", Some(404), Ok(()))]
#[case::refused("u", Some(403), Err("refused"))]
#[case::failed("u", Some(500), Err("failed"))]
#[case::no_connection("u", Some(0), Err("failed"))]
#[tokio::test]
async fn what_is_deleted_is_ours(#[case] uid: &str, #[case] code: Option<u16>, #[case] expected: Result<(), &str>) {
    let api = FakeApi::default();
    let mut pod = put_version::<Pod>(&api, &json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}}));
    pod.uid = uid.to_owned();
    let path = path_of::<Pod>(Some("n"), "a");
    if let Some(code) = code {
        api.answer_next("DELETE", &path, answer(code));
    }
    let deleted = delete::<Pod>(&pod, &api.client()).await.map_err(|error| class(&classify(error)));
    assert_eq!(deleted, expected);
    assert_eq!(api.get_at(&path).is_none(), uid == "u" && code.is_none());
}

#[rstest]
#[case::gone(404, None)]
#[case::newer(409, Some("stale"))]
#[case::refused(422, Some("refused"))]
#[tokio::test]
async fn a_claim_that_is_gone_is_released(#[case] code: u16, #[case] expected: Option<&str>) {
    let (api, version) = server();
    api.answer_next("PATCH", PATH, answer(code));
    let released = release(&version, &[], &api.client()).await;
    assert_eq!(released.err().map(|error| class(&classify(error))), expected);
}

#[rstest]
#[case::absent(None, Ok(true))]
#[case::present(Some(409), Ok(false))]
#[case::refused(Some(403), Err("refused"))]
#[case::failed(Some(503), Err("failed"))]
#[tokio::test]
async fn an_object_that_exists_is_not_created(#[case] code: Option<u16>, #[case] expected: Result<bool, &str>) {
    let api = FakeApi::default();
    if let Some(code) = code {
        api.answer_next("POST", "/api/v1/namespaces/n/configmaps", answer(code));
    }
    let map = serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n"}})).unwrap();
    let created = create_if_absent(&Objects::<ConfigMap>::namespaced(api.client(), "n"), &map).await;
    assert_eq!(created.map_err(|error| class(&classify(error))), expected);
}

/// The result of the replacement of a status, after a change by somebody else or with a given answer.
#[rstest]
#[case::as_read(|_: &FakeApi| {}, None, Ok("written"))]
#[case::changed_since(|api: &FakeApi| drop(put::<StorageProfile>(api, &json!({"metadata": {"name": "fast", "uid": "u"}, "spec": {}}))), None, Ok("conflict"))]
#[case::gone(|api: &FakeApi| api.remove::<StorageProfile>(None, "fast"), None, Ok("gone"))]
#[case::refused(|_: &FakeApi| {}, Some(422), Err("refused"))]
#[case::failed(|_: &FakeApi| {}, Some(500), Err("failed"))]
#[case::no_connection(|_: &FakeApi| {}, Some(0), Err("failed"))]
#[tokio::test]
async fn a_status_replaces_that_of_the_version_that_was_read(
    #[case] change: fn(&FakeApi),
    #[case] code: Option<u16>,
    #[case] expected: Result<&str, &str>,
) {
    let api = FakeApi::default();
    let mut profile: StorageProfile = put(
        &api,
        &json!({
            "spec": StorageProfileSpec::default(), "metadata": {"name": "fast", "uid": "u", "managedFields": [{"manager": "m"}]},
        }),
    );
    profile.status = Some(StorageProfileStatus { provisioner: Some("p".into()), ..StorageProfileStatus::default() });
    let path = format!("{}/status", path_of::<StorageProfile>(None, "fast"));
    change(&api);
    if let Some(code) = code {
        api.answer_next("PUT", &path, answer(code));
    }
    let version = exact(&profile.metadata);
    let replaced = replace_status(&Objects::all(api.client()), profile).await;
    let replaced = replaced.map_err(|error| class(&classify(error))).map(|replaced| match replaced {
        StatusReplacement::Written => "written",
        StatusReplacement::Conflict(_) => "conflict",
        StatusReplacement::Gone => "gone",
    });
    assert_eq!(replaced, expected);
    let writes = api.take_writes();
    assert_eq!(lines(&writes), [format!("PUT {path}")]);
    let metadata = &writes[0].body["metadata"];
    let named = [&metadata["uid"], &metadata["resourceVersion"], &metadata["managedFields"]];
    assert_eq!(named, [&json!(version.uid), &json!(version.resource_version), &Value::Null]);
    let stored = api.get::<StorageProfile>(None, "fast").map(|it| it["status"]["provisioner"] == "p");
    assert_eq!(stored.unwrap_or_default(), expected == Ok("written"));
}
