use std::time::Duration;

use common::{
    api::VolumeCloneSource,
    keys::{CLONE_PHASE, CREATED_FOR_DATA_VOLUME, PRE_POPULATED},
};
use fake_api::FakeApi;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::*;
use crate::{keys::USE_POPULATOR, shell::cache::Watches};

/// A controller at work on a server in memory.
struct Fixture {
    api: FakeApi,
    _tasks: JoinSet<()>,
}

impl Fixture {
    async fn new(version: &str) -> Self {
        let api = FakeApi::default();
        api.put::<StorageClass>(&json!({"metadata": {"name": "c"}, "provisioner": "p"}));
        let source = json!({
            "metadata": {"namespace": "n", "name": "source"}, "spec": {"storageClassName": "c"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        });
        api.put::<PersistentVolumeClaim>(&source);
        let queues = Arc::new(Queues::default());
        let (mut watches, caches, triggers) = Watches::start(api.client(), queues.clone()).await.unwrap();
        let version: Version = version.parse().unwrap();
        let controller = Controller {
            caches,
            queues,
            writer: Writer::new(api.client(), version),
            recorder: Recorder::new(api.client()),
            tokens: Tokens::new("s"),
            version,
            limiter: Limiter::unlimited(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            tokio::select! { () = controller.run() => {}, () = triggers.run() => {}, () = watches.ended() => {} }
        });
        Self { api, _tasks: tasks }
    }

    fn put_data_volume(&self, annotations: &Value) -> String {
        let spec = json!({
            "source": {"pvc": {"namespace": "n", "name": "source"}},
            "storage": {"accessModes": ["ReadWriteOnce"], "storageClassName": "c"},
        });
        let object = json!({"metadata": {"namespace": "n", "name": "d", "annotations": annotations}, "spec": spec});
        self.api.put::<DataVolume>(&object)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    fn put_claim(&self, uid: &str, phase: &str, clone_phase: &str) {
        let owner = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": "d", "uid": uid, "controller": true,
        });
        self.api.put::<PersistentVolumeClaim>(&json!({
            "metadata": {"namespace": "n", "name": "d", "ownerReferences": [owner], "annotations": {
                USE_POPULATOR: "true", CREATED_FOR_DATA_VOLUME: uid, CLONE_PHASE: clone_phase,
            }},
            "spec": {"storageClassName": "c", "dataSourceRef": {"apiGroup": "smartclone.dev", "kind": "X", "name": "x"}},
            "status": {"phase": phase},
        }));
    }

    async fn phase(&self, wanted: &str) {
        for _ in 0..1000 {
            let object = self.api.get::<DataVolume>(Some("n"), "d").unwrap();
            if object["status"]["phase"] == wanted {
                // What else it does at this point.
                return sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("not {wanted}: {:?}", self.api.get::<DataVolume>(Some("n"), "d"));
    }
}

#[tokio::test]
async fn only_the_status_of_a_data_volume_in_other_hands_is_written() {
    let fixture = Fixture::new("1.66.0").await;
    let uid = fixture.put_data_volume(&json!({PRE_POPULATED: "smartclone.dev", USE_POPULATOR: "true"}));
    fixture.phase("Pending").await;
    fixture.put_claim(&uid, "Pending", "Snapshot");
    fixture.phase("SnapshotForSmartCloneInProgress").await;
    fixture.put_claim(&uid, "Bound", "Succeeded");
    fixture.phase("Succeeded").await;
    let writes = fixture.api.take_writes();
    let others: Vec<_> = writes.iter().map(ToString::to_string).filter(|it| !it.contains("/events")).collect();
    assert!(others.iter().all(|it| it.starts_with("PATCH") && it.ends_with("/datavolumes/d/status")), "{others:?}");
    assert_eq!(others.len(), 6, "each patch twice: {others:?}");
    let events = fixture.api.get_at("/api/v1/namespaces/n/events");
    assert!(events.is_none());
    let reasons: Vec<_> = writes.iter().filter_map(|it| it.body["reason"].as_str()).collect();
    assert_eq!(reasons, ["NotFound", "SnapshotForSmartCloneInProgress", "Pending", "CloneSucceeded", "Bound"]);
}

#[tokio::test]
async fn an_older_version_puts_its_status() {
    let fixture = Fixture::new("1.59.2").await;
    fixture.put_data_volume(&json!({PRE_POPULATED: "smartclone.dev", USE_POPULATOR: "true"}));
    fixture.phase("Pending").await;
    let writes = fixture.api.take_writes();
    assert!(
        writes.iter().any(|it| it.to_string() == "PUT /apis/cdi.kubevirt.io/v1beta1/namespaces/n/datavolumes/d/status")
    );
}

/// Without the sentinel it clones: claim, VolumeCloneSource, temporary claim, rebound volume, cleanup.
#[tokio::test]
async fn it_clones_by_itself() {
    let fixture = Fixture::new("1.66.0").await;
    let api = &fixture.api;
    let uid = fixture.put_data_volume(&json!({}));
    fixture.phase("CSICloneInProgress").await;
    let clone_source = format!("volume-clone-source-{uid}");
    assert!(api.get::<VolumeCloneSource>(Some("n"), &clone_source).is_some());
    let target = api.get::<PersistentVolumeClaim>(Some("n"), "d").unwrap();
    let target_uid = target["metadata"]["uid"].as_str().unwrap();
    let temporary = format!("tmp-pvc-{target_uid}");
    let mut claim = api.get::<PersistentVolumeClaim>(Some("n"), &temporary).unwrap();
    assert_eq!(claim["spec"]["dataSource"]["name"], "source");
    // The driver.
    let reference = json!({"namespace": "n", "name": temporary, "uid": claim["metadata"]["uid"]});
    api.put::<PersistentVolume>(&json!({"metadata": {"name": "pv"}, "spec": {"claimRef": reference}}));
    claim["spec"]["volumeName"] = json!("pv");
    claim["status"] = json!({"phase": "Bound"});
    api.put::<PersistentVolumeClaim>(&claim);
    fixture.phase("RebindInProgress").await;
    let volume = api.get::<PersistentVolume>(None, "pv").unwrap();
    assert_eq!(volume["spec"]["claimRef"]["uid"], *target_uid);
    // The volume controller.
    let mut target = api.get::<PersistentVolumeClaim>(Some("n"), "d").unwrap();
    target["spec"]["volumeName"] = json!("pv");
    target["status"] = json!({"phase": "Bound"});
    api.put::<PersistentVolumeClaim>(&target);
    fixture.phase("Succeeded").await;
    assert!(api.get::<PersistentVolumeClaim>(Some("n"), &temporary).is_none());
    assert!(api.get::<VolumeCloneSource>(Some("n"), &clone_source).is_none());
    let target = api.get::<PersistentVolumeClaim>(Some("n"), "d").unwrap();
    assert_eq!(target["metadata"]["annotations"][CLONE_PHASE], "Succeeded");
    assert!(target["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty));
}
