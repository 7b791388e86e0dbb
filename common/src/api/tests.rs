use rstest::rstest;
use serde_json::{Value, json};

use super::{snapshot::*, *};

/// Specs as users write them. Each survives reading and writing unchanged.
#[rstest]
#[case::import(json!({
    "source": {"http": {
        "url": "https://images.example.org/disk.qcow2", "secretRef": "endpoint", "certConfigMap": "authorities",
        "extraHeaders": ["X-Trace: 1"], "secretExtraHeaders": ["headers"], "checksum": "sha256:00", "insecureSkipVerify": false
    }},
    "pvc": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}},
    "contentType": "archive", "preallocation": true, "priorityClassName": "low"
}))]
#[case::blank(json!({"source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": "500Mi"}}}}))]
#[case::upload(json!({"source": {"upload": {}}, "storage": {"volumeMode": "Block"}}))]
#[case::clone_by_pvc(json!({
    "source": {"pvc": {"namespace": "golden", "name": "fedora"}},
    "pvc": {
        "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "fast",
        "resources": {"requests": {"storage": "10Gi"}}
    }
}))]
#[case::clone_by_storage(json!({"source": {"pvc": {"namespace": "golden", "name": "fedora"}}, "storage": {}}))]
#[case::restore(json!({"source": {"snapshot": {"namespace": "golden", "name": "fedora"}}, "storage": {"accessModes": ["ReadWriteMany"]}}))]
#[case::source_ref(json!({
    "sourceRef": {"kind": "DataSource", "namespace": "golden", "name": "fedora"},
    "storage": {"resources": {"requests": {"storage": "30Gi"}}, "storageClassName": "fast"}
}))]
#[case::populated_by_others(json!({
    "pvc": {"accessModes": ["ReadWriteOnce"], "dataSourceRef": {"apiGroup": "example.org", "kind": "Image", "name": "x"}}
}))]
#[case::registry(json!({
    "source": {"registry": {"url": "docker://quay.example.org/fedora", "pullMethod": "node", "platform": {"architecture": "arm64"}}},
    "storage": {}
}))]
#[case::multi_stage(json!({
    "source": {"vddk": {"url": "https://vcenter.example.org", "uuid": "u", "backingFile": "[ds] a.vmdk", "thumbprint": "20:6C", "initImageURL": "i", "extraArgs": "a"}},
    "storage": {}, "checkpoints": [{"previous": "", "current": "a"}, {"previous": "a", "current": "b"}], "finalCheckpoint": true
}))]
#[case::other_imports(json!({"source": {"imageio": {"url": "https://ovirt.example.org", "diskId": "1"}}, "storage": {}}))]
fn a_spec_survives_reading_and_writing(#[case] spec: Value) {
    let volume = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
        "metadata": {"name": "disk", "namespace": "vms", "annotations": {"cdi.kubevirt.io/storage.bind.immediate.requested": ""}},
        "spec": spec
    });
    let read: DataVolume = serde_json::from_value(volume.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), volume);
}

#[test]
fn a_status_survives_reading_and_writing() {
    let status = json!({
        "claimName": "disk", "phase": "CSICloneInProgress", "progress": "12.34%", "restartCount": 2,
        "conditions": [{
            "type": "Running", "status": "True", "reason": "Populator is running", "message": "",
            "lastTransitionTime": "2026-08-20T10:00:00Z", "lastHeartbeatTime": "2026-08-20T10:00:01Z"
        }],
        "clone": {
            "strategy": "csi-clone", "snapshotName": "smartclone-snapshot-1", "createSize": "1Gi", "finalSize": "2Gi",
            "waitingFor": {"reason": "CloneSourceInUse", "since": "2026-08-20T10:00:00Z"},
            "attempts": [{"strategy": "snapshot", "outcome": "Refused", "startedAt": "2026-08-20T10:00:00Z"}]
        }
    });
    let read: DataVolumeStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), status);
}

/// One object with unknown values must not break a watch over all others.
#[test]
fn what_nobody_knows_is_read_all_the_same() {
    let volume: DataVolume = serde_json::from_value(json!({
        "metadata": {"name": "disk"},
        "spec": {
            "source": {"tape": {"label": "x"}}, "contentType": "parchment",
            "storage": {"volumeMode": "Cube", "resources": {"requests": {"storage": "a lot"}}}
        },
        "status": {
            "phase": "Dreaming", "restartCount": null, "clone": {"strategy": "magic"},
            "conditions": [{"type": "Ready", "status": "Perhaps", "lastTransitionTime": null}]
        }
    }))
    .unwrap();
    let status = volume.status.unwrap();
    assert_eq!(status.phase, Phase::Unknown);
    assert_eq!(status.clone.unwrap().strategy, None);

    let profile: StorageProfile = serde_json::from_value(json!({
        "metadata": {"name": "fast"},
        "spec": {"cloneStrategy": "", "claimPropertySets": [{"accessModes": ["ReadWriteOnce"]}]},
        "status": {"cloneStrategy": ""}
    }))
    .unwrap();
    assert_eq!(profile.spec.clone_strategy, None);

    let cdi: Cdi = serde_json::from_value(json!({
        "metadata": {"name": "cdi"},
        "spec": {"cloneStrategyOverride": "magic", "infra": {"nodeSelector": {"a": "b"}, "deploymentReplicas": 2}}
    }))
    .unwrap();
    assert_eq!(cdi.spec.clone_strategy_override, None);
    assert_eq!(cdi.spec.infra.unwrap().placement.node_selector.unwrap()["a"], "b");
}

#[test]
fn snapshots_are_read_with_fields_that_are_not_ours() {
    let snapshot: VolumeSnapshot = serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "vms"},
        "spec": {"source": {"persistentVolumeClaimName": "disk"}, "volumeSnapshotClassName": "fast"},
        "status": {
            "boundVolumeSnapshotContentName": "c", "creationTime": "2026-08-20T10:00:00Z", "readyToUse": true, "restoreSize": 0,
            "error": {"message": "slow", "time": "2026-08-20T10:00:00Z"}, "volumeGroupSnapshotName": "g"
        }
    }))
    .unwrap();
    let status = snapshot.status.unwrap();
    assert_eq!((status.ready_to_use, status.restore_size.unwrap().0.as_str()), (Some(true), "0"));

    let class: VolumeSnapshotClass = serde_json::from_value(json!({
        "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass",
        "metadata": {"name": "fast"}, "driver": "csi.example.org", "deletionPolicy": "Delete", "parameters": {"a": "b"}
    }))
    .unwrap();
    assert_eq!((class.driver.as_str(), class.deletion_policy.as_str()), ("csi.example.org", "Delete"));

    let content: VolumeSnapshotContent = serde_json::from_value(json!({
        "metadata": {"name": "c"},
        "spec": {
            "driver": "csi.example.org", "deletionPolicy": "Delete", "source": {"volumeHandle": "v"}, "sourceVolumeMode": "Block",
            "volumeSnapshotRef": {"name": "s", "namespace": "vms", "uid": "u"}
        },
        "status": {"snapshotHandle": "h", "creationTime": 1_755_684_000_000_000_000_i64, "readyToUse": true, "restoreSize": 1_073_741_824}
    }))
    .unwrap();
    assert_eq!(content.spec.volume_snapshot_ref.uid.as_deref(), Some("u"));
}

#[test]
fn every_word_is_read_as_it_is_written() {
    for phase in Phase::ALL {
        assert_eq!(phase.to_string().parse(), Ok(*phase));
        assert_eq!(serde_json::from_value::<Phase>(serde_json::to_value(phase).unwrap()).unwrap(), *phase);
    }
    for strategy in CloneStrategy::ALL {
        assert_eq!(strategy.to_string().parse(), Ok(*strategy));
        assert_eq!(
            serde_json::from_value::<CloneStrategy>(serde_json::to_value(strategy).unwrap()).unwrap(),
            *strategy
        );
    }
}

/// `CloneStrategy` itself is strict; a lenient field says so in its attributes.
#[test]
fn an_unknown_strategy_is_told_with_those_that_exist() {
    let error = "magic".parse::<CloneStrategy>().unwrap_err().to_string();
    assert_eq!(error, r#""magic" is none of "snapshot", "csi-clone", "copy""#);
    assert!(serde_json::from_value::<CloneStrategy>(json!("magic")).is_err());
}

mod schema {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
    };

    use super::*;

    fn at<'a>(crd: &'a CustomResourceDefinition, path: &str) -> &'a JSONSchemaProps {
        let root = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        path.split('.').fold(root, |schema, name| match (name, &schema.items) {
            ("[]", Some(JSONSchemaPropsOrArray::Schema(items))) => items,
            _ => schema.properties.as_ref().and_then(|p| p.get(name)).unwrap_or_else(|| panic!("{name} of {path}")),
        })
    }

    fn definition(plural: &str) -> CustomResourceDefinition {
        definitions().into_iter().find(|crd| crd.spec.names.plural == plural).unwrap()
    }

    #[test]
    fn names_are_those_of_cdi() {
        let names: Vec<_> = definitions()
            .into_iter()
            .map(|crd| (crd.metadata.name.unwrap(), crd.spec.names.kind, crd.spec.scope))
            .collect();
        let expected = [
            ("datavolumes.cdi.kubevirt.io", "DataVolume", "Namespaced"),
            ("datasources.cdi.kubevirt.io", "DataSource", "Namespaced"),
            ("volumeclonesources.cdi.kubevirt.io", "VolumeCloneSource", "Namespaced"),
            ("objecttransfers.cdi.kubevirt.io", "ObjectTransfer", "Cluster"),
            ("storageprofiles.cdi.kubevirt.io", "StorageProfile", "Cluster"),
            ("cdis.cdi.kubevirt.io", "CDI", "Cluster"),
            ("cdiconfigs.cdi.kubevirt.io", "CDIConfig", "Cluster"),
        ];
        assert_eq!(names, expected.map(|(name, kind, scope)| (name.into(), kind.into(), scope.into())));
        let volumes = definition("datavolumes").spec;
        assert_eq!(volumes.names.short_names.unwrap(), ["dv", "dvs"]);
        assert_eq!(volumes.names.categories.unwrap(), ["all"]);
        let columns = volumes.versions[0].additional_printer_columns.as_ref().unwrap();
        assert_eq!(
            columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
            ["Phase", "Progress", "Restarts", "Age"]
        );
    }

    #[test]
    fn nothing_is_nullable_and_everything_is_explained() {
        fn check(path: &str, schema: &JSONSchemaProps) {
            assert_eq!(schema.nullable, None, "{path}");
            for (name, property) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                assert!(property.description.as_ref().is_some_and(|d| !d.is_empty()) || name == "metadata", "{path}");
                check(&path, property);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                check(&format!("{path}[]"), items);
            }
        }
        for crd in definitions() {
            check(&crd.spec.names.kind, at(&crd, "spec"));
            if crd.spec.versions[0].subresources.is_some() {
                check(&crd.spec.names.kind, at(&crd, "status"));
            }
        }
    }

    #[test]
    fn quantities_strategies_and_lists_are_described_for_the_server() {
        let volumes = definition("datavolumes");
        let size = at(&volumes, "status.clone.createSize");
        assert_eq!((size.x_kubernetes_int_or_string, size.any_of.as_ref().map(Vec::len)), (Some(true), Some(2)));
        assert!(size.pattern.is_some());
        let conditions = at(&volumes, "status.conditions");
        assert_eq!(conditions.x_kubernetes_list_type.as_deref(), Some("map"));
        assert_eq!(conditions.x_kubernetes_list_map_keys.as_ref().unwrap(), &["type"]);
        let strategy = at(&definition("cdis"), "spec.cloneStrategyOverride").enum_.clone().unwrap();
        assert_eq!(strategy.into_iter().map(|s| s.0).collect::<Vec<_>>(), ["snapshot", "csi-clone", "copy"]);
        assert!(at(&volumes, "spec.source").x_kubernetes_validations.is_some());
        assert!(at(&volumes, "spec").x_kubernetes_validations.as_ref().unwrap().len() > 8);
    }
}
