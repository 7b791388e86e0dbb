use rstest::rstest;
use tokio::join;

use super::*;

const DISKS: &str = "/api/v1/namespaces/n/disks";
const DISK: &str = "/api/v1/namespaces/n/disks/a";
const STATUS: &str = "/api/v1/namespaces/n/disks/a/status";

/// A server with one object: UID `u`, version 1.
fn server(finalizers: &[&str]) -> FakeApi {
    let api = FakeApi::default();
    let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "finalizers": finalizers});
    api.put_at(DISK, &json!({"metadata": metadata, "spec": {"size": 1, "mode": "x"}, "status": {"phase": "Bound"}}));
    api
}

/// Sends a request; returns the answer, or the code of the failure.
async fn send(api: &FakeApi, method: &str, path: &str, body: &Value) -> Result<Value, u16> {
    let kind = if body.is_array() { "application/json-patch+json" } else { "application/merge-patch+json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(serde_json::to_vec(body).unwrap()).unwrap();
    match api.client().request_text(request).await {
        Ok(text) => Ok(serde_json::from_str(&text).unwrap()),
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(error) => panic!("{error:?}"),
    }
}

/// The code of the answer to each write, and what the object is then: its version, size and phase, or nothing.
#[rstest]
#[case::create("POST", DISKS, json!({"metadata": {"name": "b"}}), 200, Some("1 1 Bound"))]
#[case::create_again("POST", DISKS, json!({"metadata": {"name": "a"}}), 409, Some("1 1 Bound"))]
#[case::create_without_a_name("POST", DISKS, json!({"metadata": {}}), 422, Some("1 1 Bound"))]
#[case::merge("PATCH", DISK, json!({"spec": {"size": 2}, "status": {"phase": "Lost"}}), 200, Some("2 2 Bound"))]
#[case::merge_of_nothing("PATCH", DISK, json!({"spec": {"size": 1}}), 200, Some("1 1 Bound"))]
#[case::merge_as_read("PATCH", DISK, json!({"metadata": {"uid": "u", "resourceVersion": "1"}, "spec": {"size": 2}}), 200, Some("2 2 Bound"))]
#[case::merge_of_another("PATCH", DISK, json!({"metadata": {"uid": "v"}, "spec": {"size": 2}}), 409, Some("1 1 Bound"))]
#[case::merge_too_late("PATCH", DISK, json!({"metadata": {"resourceVersion": "0"}, "spec": {"size": 2}}), 409, Some("1 1 Bound"))]
#[case::merge_of_the_status("PATCH", STATUS, json!({"spec": {"size": 2}, "status": {"phase": "Lost"}}), 200, Some("2 1 Lost"))]
#[case::json_patch("PATCH", DISK, json!([{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 3}]), 200, Some("2 3 Bound"))]
#[case::json_patch_that_fails("PATCH", DISK, json!([{"op": "test", "path": "/spec/size", "value": 2}]), 422, Some("1 1 Bound"))]
#[case::replace("PUT", DISK, json!({"metadata": {"resourceVersion": "1"}, "spec": {"size": 2}}), 200, Some("2 2 Bound"))]
#[case::replace_too_late("PUT", DISK, json!({"metadata": {"resourceVersion": "0"}, "spec": {"size": 2}}), 409, Some("1 1 Bound"))]
#[case::replace_the_status("PUT", STATUS, json!({"metadata": {"resourceVersion": "1"}, "spec": {"size": 2}, "status": {"phase": "Lost"}}), 200, Some("2 1 Lost"))]
#[case::delete("DELETE", DISK, json!({}), 200, None)]
#[case::delete_exactly("DELETE", DISK, json!({"preconditions": {"uid": "u", "resourceVersion": "1"}}), 200, None)]
#[case::delete_another("DELETE", DISK, json!({"preconditions": {"uid": "v"}}), 409, Some("1 1 Bound"))]
#[case::delete_too_late("DELETE", DISK, json!({"preconditions": {"resourceVersion": "0"}}), 409, Some("1 1 Bound"))]
#[tokio::test]
async fn a_write(
    #[case] method: &str,
    #[case] path: &str,
    #[case] body: Value,
    #[case] code: u16,
    #[case] after: Option<&str>,
) {
    let api = server(&[]);
    assert_eq!(send(&api, method, path, &body).await.err().unwrap_or(200), code);
    let object = api.get_at(DISK);
    let shown = object.map(|it| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        format!("{} {} {}", text(&it["metadata"]["resourceVersion"]), it["spec"]["size"], text(&it["status"]["phase"]))
    });
    assert_eq!(shown.as_deref(), after);
    let sent = api.take_writes();
    assert_eq!((sent.len(), sent[0].to_string(), &sent[0].body), (1, format!("{method} {path}"), &body));
}

#[rstest]
#[case::get("GET")]
#[case::patch("PATCH")]
#[case::put("PUT")]
#[case::delete("DELETE")]
#[tokio::test]
async fn nothing_is_at_another_path(#[case] method: &str) {
    for path in ["/api/v1/namespaces/m/disks/a", "/apis/g/v1/namespaces/n/disks/a", "/api/v1/namespaces/n/disks/b"] {
        assert_eq!(send(&server(&[]), method, path, &json!({})).await, Err(404), "{path}");
    }
}

#[tokio::test]
async fn an_object_stays_until_its_last_finalizer_goes() {
    let api = server(&["x"]);
    send(&api, "DELETE", DISK, &json!({})).await.unwrap();
    assert!(api.get_at(DISK).unwrap()["metadata"]["deletionTimestamp"].is_string());
    send(&api, "PATCH", DISK, &json!({"metadata": {"finalizers": [], "deletionTimestamp": null}})).await.unwrap();
    assert_eq!(api.get_at(DISK), None);
}

#[tokio::test]
async fn a_collection_is_of_one_kind_and_of_one_or_all_namespaces() {
    let api = server(&[]);
    for path in ["/api/v1/namespaces/m/disks/b", "/api/v1/disks/c", "/apis/g/v1/disks/d", "/api/v1/namespaces/n/pods/e"]
    {
        api.put_at(path, &json!({"metadata": {"name": path.rsplit_once('/').unwrap().1}}));
    }
    for (collection, expected) in [
        (DISKS, vec!["a"]),
        ("/api/v1/disks", vec!["c", "b", "a"]),
        ("/apis/g/v1/disks", vec!["d"]),
        ("/api/v1/x", vec![]),
    ] {
        let list = send(&api, "GET", collection, &json!({})).await.unwrap();
        let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
        assert_eq!(names, expected, "{collection}");
        assert_eq!(list["metadata"]["resourceVersion"], "5");
    }
}

#[tokio::test]
async fn a_watch_tells_what_comes_after_a_version() {
    let api = server(&[]);
    let watch = async |version: u64| {
        let uri = format!("{DISKS}?watch=true&resourceVersion={version}");
        api.client().request_text(http::Request::get(uri).body(Vec::new()).unwrap()).await.unwrap()
    };
    let types = |events: &str| {
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.map(|event| event["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(&watch(0).await), ["ADDED"]);
    let (events, ()) = join!(watch(1), async {
        api.put_at("/api/v1/namespaces/m/disks/b", &json!({}));
        api.remove_at(DISKS);
    });
    assert_eq!(types(&events), ["DELETED"]);
    assert!(api.take_requests().iter().all(|request| request.method == "WATCH" && !request.is_write()));
}

#[tokio::test]
async fn answers_are_prescribed_once_or_for_all_times() {
    let api = server(&[]);
    let get = async |api: &FakeApi| send(api, "GET", DISK, &json!({})).await.map(drop);
    api.answer_always("GET", DISK, Answer::failure(500, "x"));
    api.answer_next("GET", DISK, Answer::failure(429, "x"));
    assert_eq!([get(&api).await, get(&api).await, get(&api).await], [Err(429), Err(500), Err(500)]);
    api.withdraw_answers();
    api.answer_otherwise(Answer::failure(418, "x"));
    assert_eq!(get(&api).await, Err(418));
    let api = server(&[]);
    api.before_next("GET", DISK, |api| api.remove_at(DISK));
    assert_eq!(get(&api).await, Err(404));
    api.answer_next("GET", DISK, Answer::Disconnect(io::ErrorKind::ConnectionReset));
    let request = http::Request::get(DISK).body(Vec::new()).unwrap();
    assert!(matches!(api.client().request_text(request).await, Err(kube::Error::Service(_))));
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_ends() {
    let api = server(&[]);
    api.end_namespace("n");
    assert_eq!(send(&api, "POST", DISKS, &json!({"metadata": {"name": "b"}})).await, Err(403));
    assert_eq!(send(&api, "PATCH", DISK, &json!({"spec": {}})).await.map(drop), Ok(()));
}

#[tokio::test]
async fn rights_are_what_the_test_says() {
    let api = FakeApi::default();
    let ask = || async {
        let review = json!({"spec": {"user": "alice"}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        send(&api, "POST", path, &review).await.unwrap()["status"]["allowed"] == true
    };
    assert!(!ask().await);
    api.review_with(|review| review["spec"]["user"] == "alice");
    assert!(ask().await);
    assert!(api.take_writes().is_empty());
}
