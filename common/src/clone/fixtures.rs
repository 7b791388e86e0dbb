//! A small cluster for tests: one source of 1Gi in StorageClass `cow`, one DataVolume that clones it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    claim::{Claim, Content},
    facts::{Facts, Source},
    request::{Parsed, Request},
    shared_snapshot::SharedSnapshots,
};
use crate::{
    api::DataVolume,
    clone::observed::{MoverSettings, Observed, Target},
    lookup::Lookup::{Absent, Present},
    mode::{Mode, Operator},
    object::{ClaimPhase, ObjectVersion, SourceKind, VolumeMode},
    quantity::Bytes,
    rebind::Rebind,
    storage::{class::Class, overhead::Overhead, restore::RestoreRule, snapshot_class::SnapshotClass},
};

pub const fn gi(n: u64) -> Bytes {
    Bytes(n << 30)
}

pub fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// The first version of the object `name`.
pub fn exact(name: &str) -> ObjectVersion {
    let (namespace, resource_version) = ("here".to_owned(), "1".to_owned());
    ObjectVersion { namespace, name: name.to_owned(), uid: name.to_owned(), resource_version }
}

/// A bound claim of ours with this content.
pub fn claim(name: &str, content: Content) -> Claim {
    Claim {
        exact: exact(name),
        ours: true,
        trusted: true,
        kept: name.starts_with("smartclone-pvc").then(Vec::new),
        deleted_at: None,
        deletable: true,
        controlled: true,
        made_for_it: true,
        populated: false,
        waits_for_cdi: false,
        sealed: false,
        deleting: false,
        created: Some(now()),
        phase: ClaimPhase::Bound,
        content,
        attributes_class: None,
        selected_node: None,
        handed_over: false,
        request: gi(1),
        capacity: Some(gi(1)),
        volume_capacity: None,
        expansion: None,
        copied: None,
        complaint: None,
        retained: None,
        nudged_at: None,
    }
}

/// A clone of `disk` in the same namespace, changed by `change`.
pub fn volume(change: impl FnOnce(&mut Value)) -> DataVolume {
    let mut object = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
        "metadata": { "name": "clone", "namespace": "here", "uid": "dv", "resourceVersion": "1", "annotations": {} },
        "spec": {
            "source": { "pvc": { "namespace": "here", "name": "disk" } },
            "pvc": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "cow",
                "resources": { "requests": { "storage": "1Gi" } },
            },
        },
    });
    change(&mut object);
    serde_json::from_value(object).unwrap()
}

pub fn sized(size: &'static str) -> impl FnOnce(&mut Value) {
    move |object| object["spec"]["pvc"]["resources"]["requests"]["storage"] = json!(size)
}

pub fn annotated(key: &'static str, value: &'static str) -> impl FnOnce(&mut Value) {
    move |object| object["metadata"]["annotations"][key] = json!(value)
}

pub fn request(volume: &DataVolume) -> Request {
    match Request::parse(volume) {
        Parsed::Clone(request) => *request,
        other => panic!("not a clone: {other:?}"),
    }
}

pub fn class(name: &str, provisioner: &str) -> Class {
    Class {
        name: name.into(),
        provisioner: provisioner.into(),
        parameters: BTreeMap::new(),
        expands: true,
        waits_for_consumer: false,
        strategy: None,
        restore: RestoreRule::Larger,
        compatible_with: Vec::new(),
    }
}

pub fn source() -> Source {
    Source {
        kind: SourceKind::Claim,
        uid: "source".into(),
        class: "cow".into(),
        mode: Some(VolumeMode::Filesystem),
        access_modes: vec!["ReadWriteOnce".into()],
        request: Some(gi(1)),
        capacity: Some(gi(1)),
        cut_at: None,
        doubt: None,
        ready: true,
        deleting: None,
        complaint: None,
        driver: Present("driver".into()),
        machine_defaults: BTreeMap::new(),
    }
}

/// Facts that allow a clone by snapshot.
pub fn facts() -> Facts {
    Facts {
        source: Present(source()),
        source_class: Present(class("cow", "driver")),
        target_class: Present(class("cow", "driver")),
        snapshot_classes: Present(vec![SnapshotClass {
            name: "snap".into(),
            driver: "driver".into(),
            is_default: false,
            retains: false,
        }]),
        cluster_override: Absent,
        profile: Absent,
        overhead: Overhead::DEFAULT,
        max_deadline: crate::storage::profile::MAX_DEADLINE.unsigned_abs(),
        beside_cdi: None,
    }
}

/// A DataVolume that has not been reconciled yet.
pub fn observed(volume: &DataVolume, facts: Facts) -> Observed {
    Observed {
        now: now(),
        parsed: Request::parse(volume),
        volume: Target::of(volume),
        unresolved: None,
        facts,
        authorized: Absent,
        source_populated: None,
        source_users: Vec::new(),
        target_users: Vec::new(),
        claim: Absent,
        temporary: Absent,
        restored: Absent,
        rebind: Rebind { source: Absent, volume: Absent, target: Absent, now: now() },
        group: Present(SharedSnapshots::default()),
        mover: Absent,
        consumer: Absent,
        progress: None,
        mode: Mode::Alone,
        mover_settings: MoverSettings::of("cloner".into(), None, None),
        holders: Present(Vec::new()),
        fresh_key: Some("fresh".into()),
        inherited: BTreeMap::new(),
    }
}

/// A cluster in which CDI's operator runs, and can be kept off a clone.
pub fn beside_cdi() -> Mode {
    Mode::Beside(Operator { version: "v1.66.0".into() })
}
