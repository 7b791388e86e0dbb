use std::{fmt::Debug, time::Duration};

use common::api::{
    VolumeCloneSource,
    snapshot::{VolumeSnapshot, VolumeSnapshotContent},
};
use config::{args::ShutdownArgs, shutdown::Shutdown};
use fake_api::{FakeApi, path_of};
use futures::future::join4;
use hostile::{Dice, TIMES, Vocabulary};
use k8s_openapi::api::{
    core::v1::{Event, PersistentVolume},
    storage::v1::VolumeAttachment,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant as Clock, timeout};

use super::*;
use crate::context::name_of;

const VOCABULARY: Vocabulary = Vocabulary {
    words: &["", "..", "a/b", "\u{202e}", "1e99"],
    keys: &["metadata", "spec", "status", "managedFields", "creationTimestamp", "labels"],
    doublings: 12,
    fields: 100,
};

/// The fields of a typical object of a kind besides its metadata. A test of another kind adds them here.
fn fields(plural: &str) -> Value {
    match plural {
        "volumeattachments" => json!({"spec": {"attacher": "d", "nodeName": "n", "source": {}}}),
        "datavolumes"
        | "nodes"
        | "cdis"
        | "cdiconfigs"
        | "storageprofiles"
        | "resourcequotas"
        | "persistentvolumeclaims" => {
            json!({"spec": {}})
        }
        "persistentvolumes" => json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}}),
        "pods" => json!({"spec": {"containers": [{"name": "c"}]}}),
        "volumesnapshots" => json!({"spec": {"source": {}}}),
        "volumesnapshotcontents" => {
            json!({"spec": {"volumeSnapshotRef": {}, "driver": "d", "deletionPolicy": "Delete", "source": {}}})
        }
        "volumesnapshotclasses" => json!({"driver": "d", "deletionPolicy": "Delete"}),
        "storageclasses" => json!({"provisioner": "p"}),
        "datasources" => json!({"spec": {"source": {"pvc": {"namespace": "n", "name": "x"}}}}),
        "volumeclonesources" => json!({"spec": {"source": {"kind": "PersistentVolumeClaim", "name": "x"}}}),
        "events" => json!({"involvedObject": {"namespace": "n", "name": "x"}, "lastTimestamp": "2026-01-01T00:00:00Z"}),
        "objecttransfers" => {
            json!({"spec": {"source": {"kind": "DataVolume", "namespace": "n", "name": "x"}, "target": {"name": "y"}}})
        }
        other => panic!("there is no usual object of {other}"),
    }
}

fn object(plural: &str, name: &str) -> Value {
    let mut object = fields(plural);
    object["metadata"] = json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"});
    object
}

/// Objects with hostile content between two typical ones.
fn items(plural: &str) -> Vec<Value> {
    let mut items = vec![object(plural, "first")];
    for (number, time) in TIMES.iter().enumerate() {
        let mut odd = object(plural, &format!("time-{number}"));
        odd["metadata"]["managedFields"] = json!([{"manager": "x", "time": time, "fieldsV1": {"f:spec": {}}}]);
        odd["metadata"]["creationTimestamp"] = json!(time);
        odd["lastTimestamp"] = json!(time);
        items.push(odd);
    }
    let mut large = object(plural, "large");
    large["metadata"]["annotations"] = json!({"a": "x".repeat(1 << 20)});
    items.push(large);
    for field in ["spec", "status", "provisioner", "driver", "involvedObject", "lastTimestamp"] {
        let mut odd = object(plural, &format!("no-{}", field.to_lowercase()));
        odd[field] = json!([["odd"]]);
        items.push(odd);
    }
    for number in 0..100 {
        let mut dice = Dice::of(number);
        let mut odd = object(plural, "");
        odd["metadata"]["managedFields"] = hostile::managed_fields(&mut dice);
        for _ in 0..=dice.roll(3) {
            VOCABULARY.spoil(&mut odd, &mut dice);
        }
        if !odd["metadata"].is_object() {
            odd = json!({"metadata": {}});
        }
        odd["metadata"]["name"] = json!(format!("spoilt-{number}"));
        odd["metadata"]["resourceVersion"] = json!("1");
        items.push(odd);
    }
    items.push(object(plural, "last"));
    items
}

/// Creates such objects of a kind in the server.
fn put<K: Resource<DynamicType = ()>>(api: &FakeApi) {
    for item in items(&K::plural(&())) {
        api.put_at(&path_of::<K>(None, item["metadata"]["name"].as_str().unwrap()), &item);
    }
}

/// A server with such objects of every kind.
fn api_server() -> FakeApi {
    let api = FakeApi::default();
    put::<DataVolume>(&api);
    put::<PersistentVolumeClaim>(&api);
    put::<PersistentVolume>(&api);
    put::<Pod>(&api);
    put::<VolumeSnapshot>(&api);
    put::<VolumeSnapshotContent>(&api);
    put::<StorageClass>(&api);
    put::<VolumeSnapshotClass>(&api);
    put::<StorageProfile>(&api);
    put::<Cdi>(&api);
    put::<CdiConfig>(&api);
    put::<DataSource>(&api);
    put::<VolumeCloneSource>(&api);
    put::<Event>(&api);
    put::<ResourceQuota>(&api);
    put::<VolumeAttachment>(&api);
    put::<Node>(&api);
    put::<ObjectTransfer>(&api);
    api
}

/// True if both typical objects are in the cache.
fn knows<K>(cache: &Cache<K>)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let all = cache.all().present().cloned().unwrap_or_default();
    let usual = all.iter().filter(|object| matches!(name_of(&***object).name.as_str(), "first" | "last")).count();
    assert_eq!(usual, 2, "of {} {}", all.len(), K::kind(&()));
}

/// Whatever tenants write into objects of any watched kind: all others are known, and the controller becomes ready without a back-off.
#[tokio::test(start_paused = true)]
async fn odd_objects_keep_no_watch_from_its_work() {
    let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
    let readiness = Readiness::new(Shutdown::new(&args));
    let client = api_server().client();
    let (caches, streams, _triggered) = start(&client, &readiness, &PeriodicTriggers::default(), &Indexes::default());
    let start = Clock::now();
    let all = join4(
        streams.volumes.for_each(|_| ready(())),
        streams.claims.for_each(|_| ready(())),
        streams.sources.for_each(|_| ready(())),
        stream::select(streams.others, streams.transfers.map(drop)).for_each(ready),
    );
    // The clock stands still while a task is busy. It advances to the next event or to the end of a back-off.
    timeout(Duration::from_millis(1), all).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(readiness.missing(), Vec::<&str>::new());
    knows(&caches.data_volumes);
    knows(&caches.claims);
    knows(&caches.volumes);
    knows(&caches.pods);
    knows(&caches.snapshots);
    knows(&caches.contents);
    knows(&caches.classes);
    knows(&caches.snapshot_classes);
    knows(&caches.profiles);
    knows(&caches.cdis);
    knows(&caches.configs);
    knows(&caches.data_sources);
    knows(&caches.clone_sources);
    knows(&caches.events);
    knows(&caches.attachments);
    knows(&caches.nodes);
}
