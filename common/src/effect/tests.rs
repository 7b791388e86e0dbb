use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Cdi, definitions},
    cdi_config::{Config, strategy_override},
    clone::{
        fixtures::volume,
        observed::{MoverSettings, Target},
        request::{Parsed, Request},
    },
};

/// Every field below `path`, and every field that has others below it.
fn fields(schema: &JSONSchemaProps, path: &str, leaves: &mut BTreeSet<String>, nodes: &mut BTreeSet<String>) {
    nodes.insert(path.to_owned());
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        return fields(items, path, leaves, nodes);
    }
    let Some(properties) = schema.properties.as_ref().filter(|all| !all.is_empty()) else {
        leaves.insert(path.to_owned());
        return;
    };
    for (name, property) in properties {
        fields(property, &format!("{path}.{name}"), leaves, nodes);
    }
}

/// The fields of `spec` of this kind: those with a value, and all.
fn spec_of(kind: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let definition = |it: &CustomResourceDefinition| it.spec.names.kind == kind;
    let definition = definitions().into_iter().find(definition).unwrap();
    let schema = definition.spec.versions[0].schema.as_ref().and_then(|it| it.open_api_v3_schema.as_ref()).unwrap();
    let (mut leaves, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    fields(&schema.properties.as_ref().unwrap()["spec"], "spec", &mut leaves, &mut nodes);
    (leaves, nodes)
}

/// No field is in no row or in two, and no row is without a field.
#[rstest]
#[case::data_volume("DataVolume", DATA_VOLUME.map(|field| field.path.to_owned()).to_vec())]
#[case::cdi("CDI", CDI.map(|field| field.path.to_owned()).to_vec())]
#[case::cdi_config("CDIConfig", cdi_config().map(|(path, _)| path).collect())]
#[case::volume_clone_source("VolumeCloneSource", VOLUME_CLONE_SOURCE.map(|field| field.path.to_owned()).to_vec())]
fn every_field_is_in_one_row(#[case] kind: &str, #[case] rows: Vec<String>) {
    let (leaves, nodes) = spec_of(kind);
    assert!(leaves.len() >= 4, "{leaves:?}");
    for leaf in &leaves {
        let covers = |row: &&String| leaf == *row || leaf.starts_with(&format!("{row}."));
        assert_eq!(rows.iter().filter(covers).count(), 1, "rows for {leaf}");
    }
    for row in &rows {
        assert!(nodes.contains(row), "{row} is no field");
    }
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut place = object;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = value;
}

/// A value for each row of a DataVolume; `null` where the row has no example, which fails.
fn example(path: &str) -> Value {
    let name = path.rsplit('.').next().unwrap_or_default();
    match name {
        "pvc" | "snapshot" => json!({"namespace": "there", "name": "other"}),
        "sourceRef" => json!({"kind": "DataSource", "name": "golden"}),
        "http" | "s3" | "gcs" => json!({"url": "https://images.example.org/x"}),
        "registry" | "upload" | "blank" | "vddk" => json!({}),
        "imageio" => json!({"url": "https://ovirt.example.org", "diskId": "1"}),
        "accessModes" => json!(["ReadWriteMany"]),
        "dataSource" | "dataSourceRef" => json!({"kind": "Image", "apiGroup": "example.org", "name": "x"}),
        "resources" => json!({"requests": {"storage": "2Gi"}, "limits": {"storage": "3Gi"}}),
        "selector" => json!({"matchLabels": {"tier": "a"}}),
        "storageClassName" | "volumeAttributesClassName" | "priorityClassName" | "serviceAccountName" => json!("gold"),
        "volumeName" => json!("pv-1"),
        "volumeMode" => json!("Block"),
        "contentType" => json!("archive"),
        "preallocation" | "finalCheckpoint" => json!(true),
        "checkpoints" => json!([{"previous": "", "current": "a"}]),
        _ => Value::Null,
    }
}

/// A clone that sets the field at `path`, and the same clone without it.
fn with_and_without(path: &str, value: &Value) -> [DataVolume; 2] {
    [Some(value), None].map(|value| {
        volume(|object| {
            if path.starts_with("spec.storage.") {
                set(object, "spec.pvc", Value::Null);
                set(object, "spec.storage", json!({}));
            }
            let Some(value) = value else { return };
            if ["spec.source.snapshot", "spec.sourceRef"].contains(&path) {
                set(object, "spec.source", Value::Null);
            }
            set(object, path, value.clone());
        })
    })
}

/// The parsed request of a clone and the fields that it does not contain, as text.
fn asked(volume: &DataVolume) -> String {
    let target = Target::of(volume);
    format!("{:?} {:?} {:?}", Request::parse_new(volume), target.priority_class, target.content_type)
}

/// Each row has the effect that it says.
#[test]
fn a_field_of_a_clone_has_its_effect() {
    for field in DATA_VOLUME {
        let (path, value) = (field.path, example(field.path));
        assert!(!value.is_null(), "no example of {path}");
        let [with, without] = with_and_without(path, &value);
        let parsed = Request::parse_new(&with);
        let told = warnings(&with).iter().any(|line| line.contains(path));
        match field.effect {
            Effect::Honoured => {
                assert!(!told && !matches!(parsed, Parsed::Wrong(_)), "{path}: {parsed:?}");
                assert_ne!(asked(&with), asked(&without), "{path} is dropped");
            }
            Effect::Unused(..) => {
                assert!(told, "{path} is dropped without a word");
                assert_eq!(asked(&with), asked(&without), "{path}");
            }
            Effect::Refused(..) => {
                let Parsed::Wrong(errors) = parsed else { panic!("{path} is admitted") };
                assert!(errors.iter().any(|error| error.field == path), "{path}: {errors:?}");
            }
        }
        assert_eq!(warnings(&without), Vec::<String>::new());
    }
}

/// Values that ask for nothing, and claims that are there already.
#[rstest]
#[case::no_name("spec.storage.volumeName", json!(""), json!({}))]
#[case::anything("spec.pvc.selector", json!({}), json!({}))]
#[case::no_preallocation("spec.preallocation", json!(false), json!({}))]
#[case::no_account("spec.serviceAccountName", json!(""), json!({}))]
#[case::static_name("spec.storage.volumeName", json!("pv-1"), json!({(keys::CHECK_STATIC_VOLUME): ""}))]
#[case::static_selector("spec.pvc.selector", json!({"matchLabels": {"a": "b"}}), json!({(keys::CHECK_STATIC_VOLUME): ""}))]
fn is_admitted_silently(#[case] path: &str, #[case] value: Value, #[case] annotations: Value) {
    let [mut volume, _] = with_and_without(path, &value);
    volume.metadata.annotations = serde_json::from_value(annotations).unwrap();
    assert!(matches!(Request::parse_new(&volume), Parsed::Clone(_)));
    assert_eq!(warnings(&volume), Vec::<String>::new());
}

/// Two of what there can be one of, and resources that a claim doesn't have.
#[rstest]
#[case::two_sources("spec.source.snapshot", json!({"source": {"pvc": {"namespace": "n", "name": "a"}, "snapshot": {"namespace": "n", "name": "b"}}}))]
#[case::source_and_reference("spec.sourceRef", json!({"sourceRef": {"kind": "DataSource", "name": "a"}}))]
#[case::cpu("spec.pvc.resources.requests[cpu]", json!({"pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"cpu": "1", "storage": "1Gi"}}}}))]
#[case::limit_of_cpu("spec.pvc.resources.limits[cpu]", json!({"pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"cpu": "1"}}}}))]
#[case::low_limit("spec.pvc.resources.limits.storage", json!({"pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "1Mi"}}}}))]
#[case::no_limit("spec.pvc.resources.limits.storage", json!({"pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}, "limits": {"storage": "lots"}}}}))]
fn is_refused_when_it_is_new(#[case] field: &str, #[case] change: Value) {
    let made = |phase: Option<&str>| {
        volume(|object| {
            for (key, value) in change.as_object().unwrap() {
                object["spec"][key] = value.clone();
            }
            if let Some(phase) = phase {
                object["status"] = json!({"phase": phase});
            }
        })
    };
    for phase in [None, Some("Pending")] {
        let Parsed::Wrong(errors) = Request::parse(&made(phase)) else { panic!("admitted") };
        assert!(errors.iter().any(|error| error.field == field), "{errors:?}");
    }
    // One that an earlier version has begun goes on.
    for phase in ["CloneScheduled", "Succeeded"] {
        assert!(matches!(Request::parse(&made(Some(phase))), Parsed::Clone(_)));
    }
}

/// A value of each setting that asks for something, and one that doesn't.
fn setting(path: &str) -> (Value, Value) {
    let name = path.rsplit('.').next().unwrap_or_default();
    let something = match name {
        "cloneStrategyOverride" => json!("copy"),
        "workload" | "infra" => json!({"nodeSelector": {"disk": "fast"}}),
        "imagePullPolicy" => json!("Always"),
        "filesystemOverhead" => json!({"global": "0.2"}),
        "imagePullSecrets" => json!([{"name": "registry"}]),
        "limits" | "requests" => json!({"memory": "1Gi"}),
        "claims" => json!([{"name": "gpu"}]),
        "importProxy" => json!({"HTTPProxy": "http://proxy"}),
        "featureGates" => return (json!(["DataVolumeClaimAdoption"]), json!(["HonorWaitForFirstConsumer"])),
        "preallocation" => return (json!(true), json!(false)),
        "insecureRegistries" => json!(["registry"]),
        "dataVolumeTTLSeconds" | "logVerbosity" => json!(3),
        "tlsSecurityProfile" => json!({"type": "Modern", "modern": {}}),
        "certConfig" => json!({"ca": {"duration": "48h"}}),
        "uninstallStrategy" => json!("RemoveWorkloads"),
        "customizeComponents" => json!({"flags": {"api": {"v": "5"}}}),
        "uploadProxyURLOverride" | "scratchSpaceStorageClass" | "webhookPvcRendering" | "priorityClass" => json!("x"),
        _ => Value::Null,
    };
    (something, Value::Null)
}

/// Each setting has the effect that its row says, on the decision and on the pods that copy.
#[test]
fn a_setting_has_its_effect() {
    let effects = |path: &str, value: Value| {
        let mut object =
            json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "metadata": {"name": "cdi"}, "spec": {}});
        set(&mut object, path, value);
        let cdi: Cdi = serde_json::from_value(object).unwrap();
        let settings = MoverSettings::of("cloner".into(), None, Some(&cdi));
        format!("{settings:?} {:?} {:?}", strategy_override([&cdi]), Config::of(None, Some(&cdi)).overhead("fast"))
    };
    for field in CDI {
        let (value, nothing) = setting(field.path);
        assert!(!value.is_null(), "no example of {}", field.path);
        let changes = effects(field.path, value) != effects(field.path, nothing);
        assert_eq!(changes, matches!(field.effect, Effect::Honoured), "{}", field.path);
    }
}
