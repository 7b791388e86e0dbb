use std::fmt::Debug;

use hostile::{Dice, TIMES, Vocabulary};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota},
    storage::v1::StorageClass,
};
use kube::core::WatchEvent;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::{
    Cdi, CdiConfig, DataSource, DataVolume, ObjectTransfer, StorageProfile, VolumeCloneSource,
    snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
};

const CASES: u64 = 400;

const VOCABULARY: Vocabulary = Vocabulary {
    words: &["", " ", "0", "-1", "1Gi", "1e99", "Ω≈ç√∫", "\u{202e}gnp.exe", "\0", "..", "a/b", "null", "{"],
    keys: &["metadata", "spec", "status", "managedFields", "creationTimestamp", "time", "annotations", "name"],
    doublings: 12,
    fields: 100,
};

fn metadata() -> Value {
    json!({
        "name": "odd", "namespace": "n", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e"],
        "managedFields": [{"manager": "x", "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {}}}],
    })
}

/// An object with these additional top-level fields.
fn object(fields: &Value) -> Value {
    let mut object = json!({"metadata": metadata()});
    for (key, value) in fields.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

/// Decodes `object` with other managed fields, and corrupted in various ways: it is decoded, or reported with its name only.
fn read_spoilt<K: Resource<DynamicType = ()> + DeserializeOwned + Debug>(fields: &Value) {
    let usual = object(fields);
    assert!(Decoded::<K>::from_json(&usual.to_string()).0.is_ok(), "{}: {usual}", K::kind(&()));
    let mut readable = 0;
    for number in 0..CASES {
        let mut dice = Dice::of(number);
        let mut odd = usual.clone();
        odd["metadata"]["managedFields"] = hostile::managed_fields(&mut dice);
        let read = Decoded::<K>::from_json(&odd.to_string());
        assert!(read.0.is_ok(), "{} {number}: {odd}", K::kind(&()));
        assert_eq!(read.meta().managed_fields, None, "{} {number}", K::kind(&()));
        for _ in 0..=dice.roll(3) {
            VOCABULARY.spoil(&mut odd, &mut dice);
        }
        if odd["metadata"].is_object() {
            (odd["metadata"]["name"], odd["metadata"]["resourceVersion"]) = (json!("odd"), json!("7"));
        }
        let read = Decoded::<K>::from_json(&odd.to_string());
        readable += u64::from(read.0.is_ok());
        if odd["metadata"].is_object() {
            let meta = read.meta();
            let known = (meta.name.as_deref(), meta.resource_version.as_deref());
            assert_eq!(known, (Some("odd"), Some("7")), "{} {number}: {odd}", K::kind(&()));
        }
        if let Err(unreadable) = read.0 {
            let length = unreadable.error.chars().count();
            assert!(length <= 11 * MAX_QUOTED && !unreadable.error.contains('\n'), "{number}: {unreadable:?}");
        }
    }
    assert!(readable > CASES / 10, "of {CASES} of {} only {readable} were read", K::kind(&()));
}

/// All kinds that either process watches or reads.
#[test]
fn whatever_an_object_holds_it_is_read_or_told() {
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    read_spoilt::<DataVolume>(&json!({
        "spec": {"source": {"pvc": {"namespace": "a", "name": "b"}}, "storage": {"resources": {"requests": {"storage": "1Gi"}}}},
        "status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }));
    read_spoilt::<PersistentVolumeClaim>(&template);
    read_spoilt::<PersistentVolume>(
        &json!({"spec": {"capacity": {"storage": "1Gi"}, "csi": {"driver": "d", "volumeHandle": "h"}}}),
    );
    read_spoilt::<Pod>(&json!({
        "spec": {"containers": [{"name": "c", "env": [{"name": "P", "value": "hunter2"}]}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
    }));
    read_spoilt::<ResourceQuota>(&json!({"spec": {"hard": {"pods": "1"}}}));
    read_spoilt::<StorageClass>(&json!({"provisioner": "p", "parameters": {"a": "b"}}));
    read_spoilt::<Event>(&json!({
        "involvedObject": {"kind": "PersistentVolumeClaim", "name": "a"}, "message": "m", "type": "Warning", "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z", "eventTime": "2026-01-01T00:00:00.000001Z",
    }));
    read_spoilt::<VolumeSnapshot>(
        &json!({"spec": {"source": {"persistentVolumeClaimName": "a"}}, "status": {"readyToUse": true}}),
    );
    read_spoilt::<VolumeSnapshotContent>(&json!({
        "spec": {"volumeSnapshotRef": {"name": "a"}, "driver": "d", "deletionPolicy": "Delete", "source": {}},
    }));
    read_spoilt::<VolumeSnapshotClass>(&json!({"driver": "d", "deletionPolicy": "Delete"}));
    read_spoilt::<StorageProfile>(&json!({"spec": {}, "status": {"provisioner": "p"}}));
    read_spoilt::<Cdi>(&json!({"spec": {}}));
    read_spoilt::<CdiConfig>(&json!({"spec": {}}));
    read_spoilt::<DataSource>(&json!({"spec": {"source": {"pvc": {"namespace": "a", "name": "b"}}}}));
    read_spoilt::<VolumeCloneSource>(&json!({"spec": {"source": {"kind": "PersistentVolumeClaim", "name": "a"}}}));
    read_spoilt::<ObjectTransfer>(
        &json!({"spec": {"source": {"kind": "DataVolume", "namespace": "a", "name": "b"}, "target": {"name": "c"}}}),
    );
    read_spoilt::<SubjectAccessReview>(&json!({"spec": {"user": "u"}, "status": {"allowed": true}}));
}

/// All times that the API server stores are decoded, in every field of a type; a word in their place is not.
#[test]
fn times_are_clamped_wherever_they_are() {
    for time in TIMES.iter().filter(|time| time.contains(':')) {
        let event = object(&json!({
            "involvedObject": {}, "firstTimestamp": time, "lastTimestamp": time, "eventTime": time,
            "series": {"count": 1, "lastObservedTime": time},
        }));
        let mut event = event;
        event["metadata"]["creationTimestamp"] = json!(time);
        event["metadata"]["deletionTimestamp"] = json!(time);
        let event = decode::<Event>(&event.to_string()).unwrap();
        let times = (event.first_timestamp.is_some(), event.last_timestamp.is_some(), event.event_time.is_some());
        assert_eq!(times, (true, true, true), "{time}");
        assert!(event.metadata.deletion_timestamp.is_some(), "{time}");
    }
    let error =
        decode::<Event>(&object(&json!({"involvedObject": {}, "lastTimestamp": "now"})).to_string()).unwrap_err();
    assert_eq!((error.path.as_str(), error.value.as_str()), ("lastTimestamp", "\"now\""));
}

#[test]
fn clamping_has_an_end() {
    let conditions = |count: usize| {
        let one = json!({"type": "A", "status": "True", "lastTransitionTime": "9999-12-31T23:59:59Z"});
        object(&json!({"spec": {"containers": []}, "status": {"conditions": vec![one; count]}})).to_string()
    };
    assert!(decode::<Pod>(&conditions(MAX_CLAMPED_TIMES)).is_ok());
    let error = decode::<Pod>(&conditions(MAX_CLAMPED_TIMES + 1)).unwrap_err();
    assert!(error.path.starts_with("status.conditions[16]"), "{error}");
}

#[rstest]
#[case::of_a_type(json!({"spec": {"containers": "hunter2".repeat(1 << 20)}}), "spec.containers")]
#[case::with_lines(json!({"spec": {"containers": "\n\u{1b}[31m\u{202e}"}}), "spec.containers")]
#[case::in_a_long_field(json!({"spec": {"nodeSelector": {"x".repeat(1 << 20): 1}}}), "spec.nodeSelector.x")]
#[case::too_deep(json!({"spec": {"containers": (0..500).fold(json!(1), |inner, _| json!([inner]))}}), "spec.containers[0]")]
fn an_error_is_short_and_fit_for_a_log(#[case] fields: Value, #[case] beginning: &str) {
    let Err(unreadable) = Decoded::<Pod>::from_json(&object(&fields).to_string()).0 else { panic!("read") };
    let error = &unreadable.error;
    assert!(error.starts_with(beginning), "{error}");
    assert!(error.chars().all(|c| c == '…' || !c.is_control() && c != '\u{202e}'), "{error:?}");
    assert!(error.chars().count() < 10 * MAX_QUOTED && format!("{unreadable:?}").len() < 20 * MAX_QUOTED, "{error}");
    assert_eq!((unreadable.metadata.uid.as_deref(), unreadable.metadata.name.as_deref()), (Some("u"), Some("odd")));
}

#[rstest]
#[case::labels(json!({"labels": 7}))]
#[case::owners(json!({"ownerReferences": [{}], "labels": ["a"]}))]
#[case::no_time(json!({"creationTimestamp": "tomorrow"}))]
fn metadata_that_cannot_be_read_still_has_a_name(#[case] fields: Value) {
    let mut odd = object(&json!({"spec": {"containers": []}}));
    for (key, value) in fields.as_object().unwrap() {
        odd["metadata"][key] = value.clone();
    }
    let read = Decoded::<Pod>::from_json(&odd.to_string());
    assert!(read.0.is_err());
    let ObjectMeta { name, namespace, uid, resource_version, .. } = read.meta();
    let known = [name, namespace, uid, resource_version].map(|text| text.as_deref().unwrap_or_default());
    assert_eq!(known, ["odd", "n", "u", "7"]);
}

/// The objects that kube decodes from the lines of a watch.
#[test]
fn a_watch_tells_of_what_cannot_be_read() {
    let event = |kind: &str, object: &Value| {
        let line = format!(r#"{{"type":"{kind}","object":{object}}}"#);
        serde_json::from_str::<WatchEvent<Decoded<Pod>>>(&line).unwrap()
    };
    let odd = object(&json!({"spec": {"containers": 1}}));
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) = event(kind, &odd) else {
            panic!("{kind} is told as something else");
        };
        assert_eq!((pod.0.is_err(), pod.meta().resource_version.as_deref()), (true, Some("7")));
    }
    let bookmark = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": "7"}});
    assert!(matches!(event("BOOKMARK", &bookmark), WatchEvent::Bookmark(_)));
    assert!(matches!(event("ERROR", &json!({"status": "Failure", "code": 410})), WatchEvent::Error(_)));
}

#[test]
fn managed_fields_are_dropped_and_nothing_else() {
    let annotation = "\"managedFields\":[{\"time\":1}]".repeat(1 << 15);
    for text in [
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": [{"name": "c", "image": "{\"metadata\":{\"managedFields\":[]}}"}]}}),
    ] {
        let mut text = object(&text);
        text["metadata"]["annotations"]["a"] = json!(annotation);
        let read: Pod = decode(&text.to_string()).unwrap();
        let mut expected: Pod = serde_json::from_value(text).unwrap();
        assert!(expected.metadata.managed_fields.take().is_some());
        assert_eq!(read, expected);
    }
}
