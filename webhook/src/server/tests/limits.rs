//! Objects of hostile size and content: each is answered, with a short reply.

use k8s_openapi::ByteString;

use super::*;

/// The maximum length of a line of a reply, and of a reply without its patch.
const LINE: usize = 8 << 10;
const REPLY: usize = 64 << 10;

/// Reverses the following text, starts a colour, ends a line and ends a text.
const UNREADABLE: &str = "\u{202e}gnp\u{1b}[31m\n\0";

fn annotation(key: &str, value: impl Into<Value>) -> Value {
    json!({"metadata": {"annotations": {key: value.into()}}})
}
fn label(key: &str, value: impl Into<Value>) -> Value {
    json!({"metadata": {"labels": {key: value.into()}}})
}
fn labels(count: usize) -> Value {
    let labels: serde_json::Map<_, _> = (0..count).map(|n| (format!("label-{n}"), json!("x"))).collect();
    json!({"metadata": {"labels": labels}})
}
/// The only place in a DataVolume that accepts any content, and that nobody reads.
fn nested(depth: usize) -> Value {
    json!({"metadata": {"managedFields": [{"fieldsV1": (0..depth).fold(json!({}), |inner, _| json!({"f:spec": inner}))}]}})
}
fn managed_at(time: &str) -> Value {
    json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Update", "time": time}]}})
}
fn of_size(size: &str) -> Value {
    json!({"spec": {"pvc": {"resources": {"requests": {"storage": size}}}}})
}
fn source(namespace: &str, name: &str) -> Value {
    json!({"spec": {"source": {"pvc": {"namespace": namespace, "name": name}}}})
}
fn named(name: &str) -> Value {
    json!({"name": name, "object": {"metadata": {"name": name}}})
}
fn many(bytes: usize) -> String {
    "x".repeat(bytes)
}

const OBJECT: &str = "/request/object";
const ASKER: &str = "/request/userInfo";

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;

/// The value that is merged into the review of a clone, its place, and the code of the denial (or of HTTP).
#[rstest]
#[case::annotations(OBJECT, annotation("pad", many(256 * KIB)), 200)]
#[case::labels(OBJECT, labels(10_000), 200)]
#[case::nested(OBJECT, nested(120), 200)]
#[case::nested_deeper_than_can_be_read(OBJECT, nested(130), 200)]
#[case::nested_without_end(OBJECT, nested(1_000), 200)]
#[case::nested_where_somebody_looks(OBJECT, json!({"spec": {"pvc": nested(1_000)["metadata"]["managedFields"]}}), 422)]
#[case::time_of_a_manager(OBJECT, managed_at("9999-12-31T23:59:59Z"), 200)]
#[case::no_time_of_a_manager(OBJECT, managed_at("tomorrow"), 200)]
#[case::no_managers(OBJECT, json!({"metadata": {"managedFields": "x"}}), 200)]
#[case::last_year(OBJECT, json!({"metadata": {"creationTimestamp": "9999-12-31T23:59:59Z"}}), 200)]
#[case::year_10000(OBJECT, json!({"metadata": {"creationTimestamp": "10000-01-01T00:00:00Z"}}), 200)]
#[case::first_year(OBJECT, json!({"metadata": {"creationTimestamp": "0000-01-01T00:00:00+14:00"}}), 200)]
#[case::leap_second(OBJECT, json!({"metadata": {"creationTimestamp": "2026-12-31T23:59:60Z"}}), 200)]
#[case::no_time(OBJECT, json!({"metadata": {"creationTimestamp": "tomorrow"}}), 422)]
#[case::times_of_a_status(OBJECT, json!({"status": {"conditions": [{"type": "A", "status": "B", "lastTransitionTime": "9999-12-31T23:59:59-12:00"}]}}), 200)]
#[case::nested_where_nobody_looks(OBJECT, json!({"spec": {"unknown": nested(1_000)}}), 200)]
#[case::large(OBJECT, annotation("pad", many(3 * MIB)), 200)]
#[case::huge_size(OBJECT, of_size("1e99"), 422)]
#[case::tiny_size(OBJECT, of_size("0.0000000001"), 422)]
#[case::endless_size(OBJECT, of_size("9223372036854775807Ei"), 422)]
#[case::negative_size(OBJECT, of_size("-1"), 422)]
#[case::size_of_many_digits(OBJECT, of_size(&"9".repeat(MIB)), 422)]
#[case::unreadable_name("/request", named(UNREADABLE), 200)]
#[case::unreadable_source(OBJECT, source("ns", UNREADABLE), 422)]
#[case::unreadable_source_elsewhere(OBJECT, source(UNREADABLE, UNREADABLE), 422)]
#[case::unreadable_annotation(OBJECT, annotation("mine", UNREADABLE), 200)]
#[case::unreadable_wish(OBJECT, annotation(CLONE_TYPE, UNREADABLE), 422)]
#[case::unreadable_label(OBJECT, label(UNREADABLE, 1), 422)]
#[case::long_name("/request", named(&many(MIB)), 200)]
#[case::long_source(OBJECT, source("ns", &many(3 * MIB)), 422)]
#[case::long_source_elsewhere(OBJECT, source("gold", &many(MIB)), 422)]
#[case::long_wish(OBJECT, annotation(CLONE_TYPE, many(3 * MIB)), 422)]
#[case::long_label(OBJECT, label(&many(3 * MIB), 1), 422)]
#[case::long_text_for_an_object(OBJECT, json!({"spec": {"pvc": many(3 * MIB)}}), 422)]
#[case::unreadable_text_for_an_object(OBJECT, json!({"spec": {"pvc": UNREADABLE.repeat(100 * KIB)}}), 422)]
#[case::many_mistakes(OBJECT, json!({"spec": {"pvc": {"accessModes": vec!["\"'\\"; 10_000]}}}), 422)]
#[case::long_version("", json!({"apiVersion": many(3 * MIB)}), 400)]
#[case::many_groups(ASKER, json!({"groups": vec!["a-group-of-some-length"; 5_000]}), 403)]
#[case::long_extra(ASKER, json!({"extra": {"scopes": [many(64 * KIB)]}}), 403)]
#[tokio::test]
async fn what_is_hostile_is_answered_in_few_words(#[case] at: &str, #[case] change: Value, #[case] expected: u16) {
    let webhook = World::new().webhook().await;
    let mut review = creation(&clone(as_is));
    json_patch::merge(review.pointer_mut(at).unwrap(), &change);
    for path in [MUTATE_PATH, VALIDATE_PATH] {
        let (status, text) = webhook.post(path, review.to_string()).await;
        if status != StatusCode::OK {
            assert_eq!((status.as_u16(), text.lines().count()), (expected, 1), "{text}");
            assert!(text.len() <= LINE, "{} bytes", text.len());
            continue;
        }
        let mut response: Value = serde_json::from_str::<Value>(&text).unwrap()["response"].take();
        let code = response["status"]["code"].as_u64().unwrap_or(200);
        assert_eq!(code, u64::from(expected), "{response}");
        if let Some(ByteString(patch)) = serde_json::from_value(response["patch"].take()).unwrap() {
            let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
            json_patch::patch(&mut review["request"]["object"], &patch).unwrap();
        }
        assert!(response.to_string().len() <= REPLY, "{} bytes", response.to_string().len());
        orderly(&response);
    }
}

/// Checks that every text is a short and readable line.
fn orderly(reply: &Value) {
    match reply {
        Value::String(line) => {
            assert!(line.len() <= LINE, "{} bytes: {}", line.len(), &line[..100]);
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
        Value::Array(items) => items.iter().for_each(orderly),
        Value::Object(map) => map.values().for_each(orderly),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Watches read the settings, and a denial lists them once more; a warning lists the pods.
#[tokio::test]
async fn odd_objects_beside_those_that_are_looked_at_change_nothing() {
    let odd = |name: &str| json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": 1, "provisioner": 1, "driver": 1});
    let later = |name: &str| {
        let fields = json!([{"manager": "x", "operation": "Update", "time": "9999-12-31T23:59:59Z"}]);
        json!({
            "metadata": {"name": name, "resourceVersion": "1", "managedFields": fields, "creationTimestamp": "10000-01-01T00:00:00Z"},
            "spec": {}, "provisioner": "p", "driver": "p", "deletionPolicy": "Delete",
        })
    };
    let pod = json!({
        "metadata": {"name": "writer", "namespace": "ns"}, "status": {"phase": "Running"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "source"}}]},
    });
    let mut world = World::new().list("/api/v1/namespaces/ns/pods", &[odd("odd"), pod]);
    for path in [CLASSES, SNAPSHOT_CLASSES, PROFILES, CDIS, CONFIGS] {
        world = world.with_items(path, &[odd("odd"), later("later")]);
    }
    let webhook = world.webhook().await;
    let judged = webhook.mutate(&clone(as_is)).await;
    assert!(judged.allowed && judged.warnings.iter().any(|line| line.contains("writer")), "{judged:?}");
    let denied = webhook.mutate(&clone(smaller)).await;
    assert_eq!(denied.fields(), [SIZE]);
}
