//! Changes each object of a cluster and reads the triggered objects from the streams of the controllers.

use std::collections::BTreeSet;

use common::{
    api::{Cdi, CdiConfig, StorageProfile, snapshot::VolumeSnapshotClass},
    keys,
    storage::volume_handle::VolumeHandle,
};
use fake_api::{FakeApi, path_of};
use k8s_openapi::api::{core::v1::Node, storage::v1::StorageClass};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::fixture::Fixture;

/// The clones `clones/by-…`, each of which depends on the object in its name, and all their dependencies, in `gold`.
fn cluster() -> FakeApi {
    let api = FakeApi::default();
    for name in ["by-claim", "by-snapshot", "by-data-source", "by-nodes", "independent"] {
        api.put::<DataVolume>(&json!({"metadata": meta("clones", name), "spec": {}}));
    }
    api.put::<PersistentVolumeClaim>(&json!({"metadata": meta("clones", "populated"), "spec": {
        "dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": "vcs"},
    }}));
    api.put::<VolumeCloneSource>(&json!({
        "metadata": meta("clones", "vcs"), "spec": {"source": {"kind": "PersistentVolumeClaim", "name": "disk"}},
    }));
    for name in ["disk", "other"] {
        api.put::<PersistentVolumeClaim>(&json!({"metadata": meta("gold", name), "spec": {"volumeName": name}}));
        api.put::<PersistentVolume>(&json!({"metadata": {"name": name}, "spec": {
            "claimRef": {"namespace": "gold", "name": name}, "csi": {"driver": "d", "volumeHandle": "h"},
        }}));
        api.put::<VolumeSnapshot>(&json!({"metadata": meta("gold", name), "spec": {"source": {}}}));
        api.put::<VolumeSnapshotContent>(&json!({"metadata": {"name": name}, "spec": {
            "volumeSnapshotRef": {"namespace": "gold", "name": name},
            "driver": "d", "deletionPolicy": "Delete", "source": {},
        }}));
        api.put::<VolumeAttachment>(&json!({"metadata": {"name": name}, "spec": {
            "attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": name},
        }}));
        let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": name}});
        api.put::<Pod>(&json!({"metadata": meta("gold", name), "spec": {"containers": [], "volumes": [volume]}}));
        let pvc = json!({"pvc": {"namespace": "gold", "name": name}});
        api.put::<DataSource>(&json!({"metadata": meta("gold", name), "spec": {"source": pvc}}));
        api.put::<DataVolume>(&json!({"metadata": meta("gold", name), "spec": {}}));
        let source = json!({"kind": "PersistentVolumeClaim", "namespace": "gold", "name": name});
        api.put::<ObjectTransfer>(&json!({
            "metadata": {"name": name}, "spec": {"source": source, "target": {"name": format!("{name}-moved")}},
        }));
    }
    let refers = json!({"dataSource": {"namespace": "gold", "name": "disk"}});
    api.put::<DataSource>(&json!({"metadata": meta("gold", "refers"), "spec": {"source": refers}}));
    // Temporary objects of the clone that depends on the claim.
    let mut temporary = meta("gold", "temporary");
    temporary["labels"] = json!({(keys::OWNED_BY_UID): "uid-of-by-claim"});
    temporary["annotations"] = json!({
        (keys::OWNED_BY_DATA_VOLUME): "clones/by-claim", (keys::MEMBERS): r#"{"1": "clones/independent"}"#,
    });
    api.put::<PersistentVolumeClaim>(&json!({"metadata": temporary, "spec": {}}));
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "temporary"}});
    api.put::<Pod>(&json!({"metadata": temporary, "spec": {"containers": [], "volumes": [volume]}}));
    let source = json!({"persistentVolumeClaimName": "disk"});
    api.put::<VolumeSnapshot>(&json!({"metadata": temporary, "spec": {"source": source}}));
    let about = json!({"namespace": "gold", "name": "smartclone-snapshot-1"});
    api.put::<VolumeSnapshotContent>(&json!({"metadata": {"name": "temporary"}, "spec": {
        "volumeSnapshotRef": about, "driver": "d", "deletionPolicy": "Retain", "source": {},
    }}));
    let mut restored = meta("gold", "restored");
    restored["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "disk", "uid": "1", "controller": true,
    }]);
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "disk"});
    api.put::<PersistentVolumeClaim>(&json!({"metadata": restored, "spec": {"dataSourceRef": source}}));
    let mut owned = meta("clones", "owned");
    owned["ownerReferences"] = json!([{
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "by-claim", "uid": "1", "controller": true,
    }]);
    api.put::<PersistentVolumeClaim>(&json!({"metadata": owned, "spec": {}}));
    let mut former = meta("gold", "former");
    former["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    former["finalizers"] = json!([keys::CLONE_POPULATOR_FINALIZER]);
    api.put::<PersistentVolumeClaim>(&json!({"metadata": former, "spec": {}}));
    for (namespace, claim) in [("gold", "temporary"), ("gold", "disk"), ("clones", "by-claim")] {
        let about = json!({"namespace": namespace, "name": claim});
        api.put::<Event>(&json!({"metadata": meta(namespace, claim), "involvedObject": about}));
    }
    for namespace in ["gold", "clones", "elsewhere"] {
        api.put::<ResourceQuota>(&json!({"metadata": meta(namespace, "quota"), "spec": {}}));
    }
    api.put::<StorageClass>(&json!({"metadata": {"name": "fast"}, "provisioner": "d"}));
    api.put::<VolumeSnapshotClass>(&json!({"metadata": {"name": "fast"}, "driver": "d", "deletionPolicy": "Delete"}));
    api.put::<StorageProfile>(&json!({"metadata": {"name": "fast"}, "spec": {}}));
    api.put::<Cdi>(&json!({"metadata": {"name": "cdi"}, "spec": {}}));
    api.put::<CdiConfig>(&json!({"metadata": {"name": "config"}, "spec": {}}));
    api.put::<Node>(&json!({"metadata": {"name": "n"}, "spec": {}}));
    api
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "uid": format!("uid-of-{name}")})
}

fn named(namespace: &str, name: &str) -> ObjectName {
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Records the dependencies of each clone, as its passes do.
fn record_dependencies(indexes: &Indexes) {
    let source = |kind| Dependency::Source(SourceName { kind, object: named("gold", "disk") });
    for (clone, dependency) in [
        ("by-claim", source(SourceKind::Claim)),
        ("by-snapshot", source(SourceKind::Snapshot)),
        ("by-data-source", Dependency::DataSource(named("gold", "refers"))),
        ("by-nodes", Dependency::Nodes),
        // It is over, and of a kind that is not cloned.
        ("gone", source(SourceKind::Claim)),
    ] {
        indexes.dependents.record(&named("clones", clone), vec![dependency]);
    }
    let source = Dependency::CloneSource(named("clones", "vcs"));
    indexes.claims_by_clone_source.record(&named("clones", "populated"), vec![source]);
}

type Change = fn(&FakeApi, &str);

/// Changes the object at the path `name`.
fn touched<K: Resource<DynamicType = ()>>(api: &FakeApi, name: &str) {
    let path = path(name, path_of::<K>);
    let mut object = api.get_at(&path).unwrap_or_else(|| panic!("there is no {path}"));
    object["metadata"]["annotations"]["touched"] = json!("yes");
    api.put_at(&path, &object);
}

/// Deletes the object at the path `name`.
fn deleted<K: Resource<DynamicType = ()>>(api: &FakeApi, name: &str) {
    let path = path(name, path_of::<K>);
    assert!(api.get_at(&path).is_some(), "there is no {path}");
    api.remove_at(&path);
}

/// `NAME` or `NAMESPACE/NAME` as a path.
fn path(name: &str, path_of: fn(Option<&str>, &str) -> String) -> String {
    name.split_once('/').map_or_else(|| path_of(None, name), |(namespace, name)| path_of(Some(namespace), name))
}

const ALL: &[&str] = &[
    "DataVolume clones/by-claim",
    "DataVolume clones/by-data-source",
    "DataVolume clones/by-nodes",
    "DataVolume clones/by-snapshot",
];

/// The triggers that all objects with the name of the claim `gold/disk` have in common.
const OF_DISK: &[&str] = &[
    "DataSource gold/disk",
    "DataSource gold/refers",
    "DataVolume clones/by-claim",
    "DataVolume gold/disk",
    "ObjectTransfer disk",
];

/// A change, the name of the object, and the expected triggers.
#[rstest]
#[case::source(touched::<PersistentVolumeClaim>, "gold/disk", "OF_DISK")]
#[case::source_is_gone(deleted::<PersistentVolumeClaim>, "gold/disk", "OF_DISK")]
#[case::another_claim(touched::<PersistentVolumeClaim>, "gold/other", "DataSource gold/other, DataVolume gold/other, ObjectTransfer other")]
#[case::claim_of_a_data_volume(touched::<PersistentVolumeClaim>, "clones/owned", "DataVolume clones/by-claim")]
#[case::claim_that_is_populated(touched::<PersistentVolumeClaim>, "clones/populated", "PersistentVolumeClaim clones/populated")]
#[case::claim_that_is_populated_is_gone(deleted::<PersistentVolumeClaim>, "clones/populated", "")]
#[case::temporary_claim(touched::<PersistentVolumeClaim>, "gold/temporary", "DataVolume clones/by-claim, cleanup")]
#[case::temporary_claim_is_gone(deleted::<PersistentVolumeClaim>, "gold/temporary", "DataVolume clones/by-claim, cleanup")]
#[case::claim_restored_from_a_snapshot(touched::<PersistentVolumeClaim>, "gold/restored", "DataVolume gold/disk, cleanup")]
#[case::claim_kept_by_cdi(touched::<PersistentVolumeClaim>, "gold/former", "cleanup")]
#[case::data_volume(touched::<DataVolume>, "clones/independent", "cleanup")]
#[case::data_volume_of_the_source(touched::<DataVolume>, "gold/disk", "DataSource gold/disk, DataSource gold/refers, DataVolume clones/by-claim, ObjectTransfer disk, cleanup")]
#[case::volume(touched::<PersistentVolume>, "disk", "DataVolume clones/by-claim, DataVolume gold/disk, ObjectTransfer disk")]
#[case::another_volume(touched::<PersistentVolume>, "other", "DataVolume gold/other, ObjectTransfer other")]
#[case::user_of_the_source(touched::<Pod>, "gold/disk", "DataVolume clones/by-claim, DataVolume gold/disk, ObjectTransfer disk")]
#[case::user_of_the_source_is_gone(deleted::<Pod>, "gold/disk", "DataVolume clones/by-claim, DataVolume gold/disk, ObjectTransfer disk")]
#[case::data_mover(touched::<Pod>, "gold/temporary", "DataVolume clones/by-claim, cleanup")]
#[case::snapshot(touched::<VolumeSnapshot>, "gold/disk", "DataSource gold/disk, DataSource gold/refers, DataVolume clones/by-snapshot")]
#[case::another_snapshot(touched::<VolumeSnapshot>, "gold/other", "DataSource gold/other")]
#[case::shared_snapshot(touched::<VolumeSnapshot>, "gold/temporary", "DataVolume clones/by-claim, DataVolume clones/independent, cleanup")]
#[case::shared_snapshot_is_gone(deleted::<VolumeSnapshot>, "gold/temporary", "DataVolume clones/by-claim, DataVolume clones/independent, cleanup")]
#[case::content(touched::<VolumeSnapshotContent>, "disk", "DataVolume clones/by-snapshot")]
#[case::another_content(touched::<VolumeSnapshotContent>, "other", "")]
#[case::content_of_a_shared_snapshot(touched::<VolumeSnapshotContent>, "temporary", "cleanup")]
#[case::data_source(touched::<DataSource>, "gold/refers", "DataVolume clones/by-data-source")]
#[case::data_source_that_is_named(touched::<DataSource>, "gold/disk", "DataSource gold/refers, DataVolume clones/by-data-source")]
#[case::clone_source(touched::<VolumeCloneSource>, "clones/vcs", "PersistentVolumeClaim clones/populated")]
#[case::clone_source_is_gone(deleted::<VolumeCloneSource>, "clones/vcs", "PersistentVolumeClaim clones/populated")]
#[case::attachment(touched::<VolumeAttachment>, "disk", "DataVolume clones/by-claim, DataVolume gold/disk, ObjectTransfer disk")]
#[case::node(touched::<Node>, "n", "DataVolume clones/by-nodes")]
#[case::event_about_a_temporary_claim(touched::<Event>, "gold/temporary", "DataVolume clones/by-claim, cleanup")]
#[case::event_about_a_claim(touched::<Event>, "clones/by-claim", "DataVolume clones/by-claim")]
#[case::quota_beside_a_source(touched::<ResourceQuota>, "gold/quota", "DataVolume clones/by-claim, DataVolume clones/by-snapshot")]
#[case::quota_of_clones(touched::<ResourceQuota>, "clones/quota", "ALL")]
#[case::quota_elsewhere(touched::<ResourceQuota>, "elsewhere/quota", "")]
#[case::class(touched::<StorageClass>, "fast", "ALL, config, profiles")]
#[case::snapshot_class(touched::<VolumeSnapshotClass>, "fast", "ALL, profiles")]
#[case::profile(touched::<StorageProfile>, "fast", "ALL, profiles")]
#[case::cdi(touched::<Cdi>, "cdi", "ALL, cdi, cleanup, config, mode, profiles")]
#[case::config(touched::<CdiConfig>, "config", "ALL, config")]
#[case::transfer(touched::<ObjectTransfer>, "disk", "")]
#[tokio::test(start_paused = true)]
async fn a_change_triggers(#[case] change: Change, #[case] name: &str, #[case] expected: &str) {
    let api = cluster();
    let mut fixture = Fixture::start(&api).await;
    record_dependencies(&fixture.reconciler.indexes);
    change(&api, name);
    fixture.settle().await;
    let expected = expected.split(", ").flat_map(|name| match name {
        "" => Vec::new(),
        "ALL" => ALL.to_vec(),
        "OF_DISK" => OF_DISK.to_vec(),
        name => vec![name],
    });
    let expected: BTreeSet<_> = expected.map(str::to_owned).collect();
    assert_eq!(fixture.take_triggered(), expected);
}

/// The recorded UIDs of a clone are removed once it is gone.
#[tokio::test(start_paused = true)]
async fn a_clone_that_is_gone_is_forgotten() {
    let api = cluster();
    let fixture = Fixture::start(&api).await;
    let created = &fixture.reconciler.indexes.created;
    for clone in ["by-claim", "independent"] {
        created.record(&format!("uid-of-{clone}"), "tmp".into(), "1".into());
    }
    touched::<DataVolume>(&api, "clones/by-claim");
    deleted::<DataVolume>(&api, "clones/independent");
    fixture.settle().await;
    assert!(created.of("uid-of-by-claim", "tmp").is_some());
    assert!(created.of("uid-of-independent", "tmp").is_none());
}

/// The index of pods by claim follows the watch of pods.
#[tokio::test(start_paused = true)]
async fn the_index_of_pods_follows_the_watch() {
    let api = cluster();
    let fixture = Fixture::start(&api).await;
    let users = |claim: &str| fixture.reconciler.indexes.pods_by_claim.of(&named("gold", claim));
    assert_eq!((users("disk"), users("other")), (vec!["disk".to_owned()], vec!["other".to_owned()]));
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "disk"}});
    api.put::<Pod>(&json!({"metadata": meta("gold", "second"), "spec": {"containers": [], "volumes": [volume]}}));
    fixture.settle().await;
    assert_eq!(users("disk"), ["disk", "second"]);
}

/// The index of volumes by handle follows the watch of volumes.
#[tokio::test(start_paused = true)]
async fn the_index_of_volumes_follows_the_watch() {
    let api = cluster();
    let fixture = Fixture::start(&api).await;
    let handle = |handle: &str| VolumeHandle { driver: "d".into(), handle: handle.into() };
    let volumes = |of: &str| fixture.reconciler.indexes.volumes_by_handle.of(&handle(of));
    assert_eq!((volumes("h"), volumes("late")), (vec!["disk".to_owned(), "other".to_owned()], vec![]));
    let csi = json!({"driver": "d", "volumeHandle": "late"});
    api.put::<PersistentVolume>(&json!({"metadata": {"name": "late"}, "spec": {"csi": csi}}));
    fixture.settle().await;
    assert_eq!(volumes("late"), ["late"]);
}
