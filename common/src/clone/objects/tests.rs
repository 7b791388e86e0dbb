use crate::keys;
use proptest::{collection::btree_map, prop_assert_eq, proptest};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::Cdi;
use crate::clone::{
    Decision, decide,
    fixtures::{facts, request, volume},
    note::History,
    observed::MoverSettings,
    ownership::{Owner, Ownership},
};

fn chosen(request: &Request) -> Box<Chosen> {
    match decide(request, &History::default(), &facts()) {
        Decision::Chosen(chosen) => chosen,
        other => panic!("{other:?}"),
    }
}

/// A user's labels and annotations on a DataVolume never mark its claim as ours, and objects beside the source prove their owner without
/// revealing the key.
#[test]
fn a_user_s_labels_and_annotations_mark_nothing() {
    let written = volume(|object| {
        for key in keys::EVIDENCE.into_iter().chain([keys::OWNED_BY_UID, keys::OWNERSHIP_KEY, keys::NUDGED]) {
            object["metadata"]["annotations"][key] = "mine".into();
            object["metadata"]["labels"][key] = "mine".into();
        }
        object["metadata"]["annotations"]["example.com/note"] = "kept".into();
    });
    let (target, request) = (Target::of(&written), request(&written));
    let chosen = chosen(&request);
    let claim = claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later);
    let labels = claim.metadata.labels.unwrap_or_default();
    let annotations = claim.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("example.com/note").map(String::as_str), Some("kept"));
    assert!(labels.keys().chain(annotations.keys()).all(|key| !keys::is_reserved(key)), "{labels:?} {annotations:?}");

    let mut beside = temporary(&target, "gold", &ClaimTemplate::of(&chosen, chosen.sizes.create_at), None);
    assert!(!serde_json::to_string(&beside).unwrap().contains("mine"), "{beside:?}");
    beside.metadata.uid = Some("1".to_owned());
    let owners = Ownership { uid: &target.uid, key: target.key.as_deref(), created: &target.created };
    assert_eq!(owners.of(Kind::PersistentVolumeClaim, &beside.metadata), Owner::Ours);
}

/// The user's labels win over smartclone's.
#[test]
fn a_claim_is_found_by_the_labels_of_its_user() {
    let labels = |written: &[(&str, &str)]| {
        let volume = volume(|object| {
            for (key, value) in written {
                object["metadata"]["labels"][key] = (*value).into();
            }
        });
        let (target, request) = (Target::of(&volume), request(&volume));
        let chosen = chosen(&request);
        claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later).metadata.labels.unwrap_or_default()
    };
    let ours = labels(&[]);
    assert_eq!((ours[keys::APP_LABEL].as_str(), ours[keys::FILLING_UP_ALERT].as_str()), (keys::APP, "disabled"));
    let written = [(keys::APP_LABEL, "shop"), (keys::FILLING_UP_ALERT, "enabled"), ("team", "x")];
    for (key, value) in written {
        assert_eq!(labels(&written)[key], value);
    }
}

/// Data movers and consumers have the CDI object's settings for workloads, and CDI's defaults for the rest.
#[test]
fn pods_carry_what_the_cdi_object_says_about_workloads() {
    let cdi: Cdi = serde_json::from_value(json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "metadata": {},
        "spec": {
            "imagePullPolicy": "Always",
            "workload": {
                "nodeSelector": {"disk": "fast"},
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
            },
            "config": {
                "podResourceRequirements": {"limits": {"memory": "200Mi"}, "requests": {"example.com/disk": "1"}},
                "imagePullSecrets": [{"name": "registry"}],
            },
        },
    }))
    .unwrap();
    let made = volume(|_| {});
    let (target, request) = (Target::of(&made), request(&made));
    let pods = |cdi: Option<&Cdi>| {
        let settings = MoverSettings::of("cloner".into(), None, cdi);
        let claim = crate::clone::claim::Claim::of(&PersistentVolumeClaim::default(), Owner::Ours, "dv", None, None);
        let chosen = chosen(&request);
        let mover = MoverPod { volume: &target, request: &request, chosen: &chosen, source: "disk", target: &claim };
        [mover.build(&settings), consumer(&target, &claim.exact, chosen.mode, &settings)].map(|pod| {
            let labels = pod.metadata.labels.unwrap_or_default();
            let annotations = pod.metadata.annotations.unwrap_or_default();
            for key in ["sidecar.istio.io/inject", "linkerd.io/inject"] {
                assert!(labels.contains_key(key) && annotations.contains_key(key), "{key}");
            }
            serde_json::to_value(pod.spec).unwrap()
        })
    };
    for spec in pods(None) {
        let resources = &spec["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "750m", "memory": "600M"}));
        assert_eq!(resources["requests"], json!({"cpu": "100m", "memory": "60M"}));
        assert_eq!(spec["containers"][0]["imagePullPolicy"], json!("IfNotPresent"));
        assert!(["nodeSelector", "tolerations", "affinity", "imagePullSecrets"].iter().all(|key| spec[key].is_null()));
    }
    for spec in pods(Some(&cdi)) {
        let resources = &spec["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"cpu": "750m", "memory": "200Mi", "example.com/disk": "1"}));
        assert_eq!(resources["requests"], json!({"cpu": "100m", "memory": "60M", "example.com/disk": "1"}));
        assert_eq!(spec["containers"][0]["imagePullPolicy"], json!("Always"));
        assert_eq!(spec["nodeSelector"], json!({"disk": "fast"}));
        assert_eq!(spec["tolerations"], json!([{"key": "dedicated", "operator": "Exists"}]));
        assert!(spec["affinity"]["nodeAffinity"].is_object());
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
    }
}

/// The request is on the clone's claim, and on the temporary claim whose volume it gets.
#[rstest]
#[case::size("/resources/requests/storage", json!("2Gi"), json!("2Gi"))]
#[case::limit("/resources/limits/storage", json!("3Gi"), json!("3Gi"))]
#[case::attributes("/volumeAttributesClassName", json!("gold"), json!("gold"))]
#[case::mode("/volumeMode", json!("Block"), json!("Block"))]
#[case::access_modes("/accessModes", json!(["ReadWriteMany"]), json!(["ReadWriteMany"]))]
fn what_is_asked_for_is_on_the_claims(#[case] path: &str, #[case] asked: Value, #[case] expected: Value) {
    let made = volume(|object| {
        object["spec"]["pvc"]["resources"]["limits"] = json!({"storage": "2Gi"});
        object["spec"]["pvc"]["volumeAttributesClassName"] = Value::Null;
        object["spec"]["pvc"]["volumeMode"] = Value::Null;
        *object["spec"]["pvc"].pointer_mut(path).unwrap() = asked;
    });
    let (target, request) = (Target::of(&made), request(&made));
    let chosen = chosen(&request);
    let own = claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later);
    let beside = temporary(&target, "gold", &ClaimTemplate::of(&chosen, chosen.sizes.create_at), None);
    for claim in [own, beside] {
        let spec = serde_json::to_value(claim.spec).unwrap();
        assert_eq!(spec.pointer(path), Some(&expected), "{spec}");
    }
}

/// An annotation or label of a DataVolume: whether its claim gets it, alone and beside CDI, whose controllers act on their own keys.
#[rstest]
#[case("example.com/note", [true, true])]
#[case("kubevirt.io/created-by", [true, true])]
#[case(keys::IMMEDIATE_BINDING, [true, true])]
#[case("cdi.kubevirt.io/unknown", [true, false])]
#[case(keys::ALLOW_ADOPTION, [true, false])]
#[case("kubectl.kubernetes.io/last-applied-configuration", [false, false])]
#[case("k8s.io/CloneRequest", [false, false])]
#[case("k8s.io/CloneOf", [false, false])]
#[case("cdi.kubevirt.io/storage.import.endpoint", [false, false])]
#[case("cdi.kubevirt.io/storage.import.source", [false, false])]
#[case("cdi.kubevirt.io/storage.upload.target", [false, false])]
#[case("cdi.kubevirt.io/storage.pod.phase", [false, false])]
#[case("cdi.kubevirt.io/storage.condition.bound", [false, false])]
#[case("cdi.kubevirt.io/storage.condition.running.reason", [false, false])]
#[case("cdi.kubevirt.io/storage.populator.progress", [false, false])]
#[case("cdi.kubevirt.io/storage.clone.token", [false, false])]
#[case("cdi.kubevirt.io/storage.extended.clone.token", [false, false])]
#[case("cdi.kubevirt.io/externalPopulation", [false, false])]
#[case("cdi.kubevirt.io/persistentVolumeList", [false, false])]
#[case("cdi.kubevirt.io/applyStorageProfile", [false, false])]
#[case(keys::PRE_POPULATED, [false, false])]
#[case(keys::POPULATED_FOR, [false, false])]
#[case(keys::CHECK_STATIC_VOLUME, [false, false])]
#[case(keys::CLONE_PHASE, [false, false])]
#[case(keys::CDI_OWNED_BY_UID, [false, false])]
#[case(keys::BESIDE_CDI, [false, false])]
#[case(keys::STATUS, [false, false])]
fn keys_for_claims(#[case] key: &str, #[case] expected: [bool; 2]) {
    assert_eq!([false, true].map(|beside_cdi| is_for_claims(key, beside_cdi)), expected);
}

proptest! {
    /// All labels and annotations are copied to the claim, except reserved keys.
    #[test]
    fn labels_and_annotations_reach_the_claim(
        labels in btree_map("[a-z]{1,8}(\\.example\\.com/[a-z]{1,8})?", "[a-z0-9]{0,8}", 0..4),
        annotations in btree_map("([a-z]{1,8}|cdi\\.kubevirt\\.io|kubevirt\\.io)/[a-z]{1,8}", ".{0,16}", 0..4),
    ) {
        let made = volume(|object| {
            object["metadata"]["labels"] = json!(labels);
            object["metadata"]["annotations"] = json!(annotations);
        });
        let (target, request) = (Target::of(&made), request(&made));
        let chosen = chosen(&request);
        let claim = claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later);
        let (on_labels, on_annotations) =
            (claim.metadata.labels.unwrap_or_default(), claim.metadata.annotations.unwrap_or_default());
        for (key, value) in &labels {
            prop_assert_eq!(on_labels.get(key), Some(value));
        }
        for (key, value) in &annotations {
            prop_assert_eq!(on_annotations.get(key), Some(value));
        }
    }
}
