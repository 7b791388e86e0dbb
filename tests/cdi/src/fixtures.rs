//! Objects of the unit tests.

use common::api::DataVolume;
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use serde_json::{Value, json};

use crate::{
    settings::Settings,
    source::{Source, SourceKind},
    version::Version,
};

/// The present time.
pub const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// The settings of a version, with the classes `now` and `late`.
pub fn settings(version: &str) -> Settings {
    let class = |name: &str, mode: &str| {
        let class = json!({"metadata": {"name": name}, "provisioner": "p", "volumeBindingMode": mode});
        serde_json::from_value::<StorageClass>(class).unwrap()
    };
    let classes = [class("now", "Immediate"), class("late", "WaitForFirstConsumer")];
    let version: Version = version.parse().unwrap();
    Settings { gates: vec!["HonorWaitForFirstConsumer".to_owned()], ..Settings::new(version, None, &classes, []) }
}

/// The source `golden/disk`.
pub fn source() -> Source {
    Source::new(SourceKind::Claim, "golden", "disk")
}

/// The DataVolume `n/d` with this phase.
pub fn data_volume(annotations: &Value, phase: &str) -> DataVolume {
    serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": "d", "uid": "dv", "annotations": annotations},
        "spec": {
            "source": {"pvc": {"namespace": "golden", "name": "disk"}},
            "storage": {"accessModes": ["ReadWriteOnce"], "storageClassName": "now", "resources": {"requests": {"storage": "1Gi"}}},
        },
        "status": {"phase": phase},
    }))
    .unwrap()
}

/// The claim `n/d` of the DataVolume, with a data source of a foreign kind if `source`.
pub fn claim(annotations: &Value, phase: &str, class: &str, source: bool) -> PersistentVolumeClaim {
    let reference = json!({"apiGroup": "smartclone.dev", "kind": "CloneRequest", "name": "dv"});
    let owner = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "d", "uid": "dv", "controller": true,
    });
    serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": "d", "uid": "c", "annotations": annotations, "ownerReferences": [owner]},
        "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "dataSourceRef": if source { reference } else { Value::Null },
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "status": {"phase": phase},
    }))
    .unwrap()
}
