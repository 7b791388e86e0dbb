//! The whole webhook without its socket, against a fake API server with a few objects.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
};
use config::{admin::Readiness, args::ShutdownArgs, shutdown::Shutdown};
use fake_api::{Answer, FakeApi};
use http::{Method, Request, StatusCode};
use json_patch::Patch;
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::MicroTime};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use tower::ServiceExt;

use crate::{
    body::Bodies,
    gather::cluster::Cluster,
    manifests::{MUTATE_CLAIM_PATH, MUTATE_PATH, VALIDATE_CLAIM_PATH, VALIDATE_PATH},
    metrics::Metrics,
    server::{Admission, router},
};

pub const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
pub const SNAPSHOT_CLASSES: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses";
pub const PROFILES: &str = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles";
pub const CDIS: &str = "/apis/cdi.kubevirt.io/v1beta1/cdis";
pub const CONFIGS: &str = "/apis/cdi.kubevirt.io/v1beta1/cdiconfigs";
pub const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
pub const SOURCE: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/source";
pub const NAMESAKE: &str = "/api/v1/namespaces/ns/persistentvolumeclaims/clone";
pub const VOLUME: &str = "/api/v1/persistentvolumes/pv";
pub const SNAPSHOT: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/ns/volumesnapshots/snap";
pub const CONTENT: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/content";
pub const GOLD_CLAIM: &str = "/api/v1/namespaces/gold/persistentvolumeclaims/source";
pub const GOLD_SNAPSHOT: &str = "/apis/snapshot.storage.k8s.io/v1/namespaces/gold/volumesnapshots/snap";
/// The Leases in smartclone's namespace, and the controller's.
pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/smartclone/leases";
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/smartclone/leases/smartclone-controller";
/// The right to get a DataSource.
pub const GET_DATA_SOURCES: &str = "get datasources";
/// The right to get a VolumeCloneSource.
pub const GET_CLONE_SOURCES: &str = "get volumeclonesources";
pub const CONTROLLER: &str = "system:serviceaccount:smartclone:smartclone-controller";

/// The answer at each path; 404 at all others. `None`: the request is never answered. At [`REVIEWS`]: the resources that everybody may
/// create, or `verb resource` for another verb; or a boolean for all rights of everybody.
#[derive(Clone)]
pub struct World(BTreeMap<&'static str, Option<Value>>);

impl World {
    /// A bound source and a snapshot of 1 GiB, each in `ns` and in `gold`, on a driver with all capabilities. Nobody may clone from `gold`.
    pub fn new() -> Self {
        let source = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "source", "namespace": "ns", "uid": "source-uid"},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "storageClassName": "fast", "volumeMode": "Filesystem", "volumeName": "pv",
            },
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
        });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
            "spec": {"claimRef": {"uid": "source-uid"}, "csi": {"driver": "csi.test", "volumeHandle": "1"}},
        });
        let snapshot = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshot",
            "metadata": {"name": "snap", "uid": "snap-uid"}, "spec": {"source": {}},
            "status": {"readyToUse": true, "restoreSize": "1Gi", "boundVolumeSnapshotContentName": "content"},
        });
        let content = json!({
            "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotContent", "metadata": {"name": "content"},
            "spec": {
                "volumeSnapshotRef": {"uid": "snap-uid"}, "driver": "csi.test", "deletionPolicy": "Delete",
                "source": {}, "sourceVolumeMode": "Filesystem",
            },
        });
        let class = json!({
            "metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "csi.test", "allowVolumeExpansion": true,
        });
        let snapshot_class = json!({"metadata": {"name": "snap"}, "driver": "csi.test", "deletionPolicy": "Delete"});
        Self(BTreeMap::new())
            .object(SOURCE, source.clone())
            .object(GOLD_CLAIM, source)
            .object(VOLUME, volume)
            .object(SNAPSHOT, snapshot.clone())
            .object(GOLD_SNAPSHOT, snapshot)
            .object(CONTENT, content)
            .allowing(&[])
            .list(CLASSES, &[class])
            .list(SNAPSHOT_CLASSES, &[snapshot_class])
            .list(PROFILES, &[])
            .list(CDIS, &[])
            .list(CONFIGS, &[])
    }

    /// The same with a CDI beside which smartclone works, and a controller that has renewed its Lease at this time.
    pub fn beside_cdi(self, renewed: jiff::Timestamp) -> Self {
        let cdi = json!({"metadata": {"name": "cdi"}, "spec": {}, "status": {"operatorVersion": "v1.66.0"}});
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "smartclone-controller", "namespace": "smartclone"},
            "spec": {"holderIdentity": "pod", "renewTime": MicroTime(renewed)},
        });
        self.list(CDIS, &[cdi]).list(LEASES, std::slice::from_ref(&lease)).object(LEASE, lease)
    }

    /// Everybody may create `resources` (or use the verb before them), and nothing else.
    pub fn allowing(self, resources: &[&str]) -> Self {
        self.object(REVIEWS, json!(resources))
    }

    pub fn list(self, path: &'static str, items: &[Value]) -> Self {
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": items});
        self.object(path, list)
    }

    /// The list with `items` before the others.
    pub fn with_items(mut self, path: &'static str, items: &[Value]) -> Self {
        if let Some(Value::Array(all)) = self.0.get_mut(path).and_then(|list| list.as_mut()?.get_mut("items")) {
            all.splice(0..0, items.iter().cloned());
        }
        self
    }

    pub fn object(mut self, path: &'static str, object: Value) -> Self {
        self.0.insert(path, Some(object));
        self
    }

    /// The object at this path with `change`.
    pub fn changed(mut self, path: &'static str, change: impl FnOnce(&mut Value)) -> Self {
        if let Some(object) = self.0.get_mut(path).and_then(Option::as_mut) {
            change(object);
        }
        self
    }

    pub fn without(mut self, path: &'static str) -> Self {
        self.0.remove(path);
        self
    }

    pub fn silent(mut self, path: &'static str) -> Self {
        self.0.insert(path, None);
        self
    }

    /// Makes `api` answer accordingly.
    fn prescribe(&self, api: &FakeApi) {
        api.withdraw_answers();
        api.answer_otherwise(Answer::failure(404, "none"));
        for (path, object) in &self.0 {
            match object {
                None => ["GET", "POST"].iter().for_each(|method| api.answer_always(method, path, Answer::Never)),
                Some(allowed) if *path == REVIEWS => {
                    let allowed = allowed.clone();
                    api.review_with(move |review| is_allowed(review, &allowed));
                }
                Some(object) => api.answer_always("GET", path, Answer::json(200, object)),
            }
        }
        if !self.0.contains_key(REVIEWS) {
            api.answer_always("POST", REVIEWS, Answer::failure(404, "none"));
        }
    }

    /// The webhook with synced caches.
    pub async fn webhook(self) -> Webhook {
        self.webhook_missing(&[]).await
    }

    /// The webhook with synced caches, except those of `kinds`.
    pub async fn webhook_missing(self, kinds: &[&str]) -> Webhook {
        self.start(kinds, Bodies::default()).await
    }

    /// The webhook with synced caches and these limits of bodies.
    pub async fn webhook_with(self, bodies: Bodies) -> Webhook {
        self.start(&[], bodies).await
    }

    async fn start(self, kinds: &[&str], bodies: Bodies) -> Webhook {
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let readiness = Readiness::new(Shutdown::new(&args));
        let api = FakeApi::default();
        self.prescribe(&api);
        let client = api.client();
        let (cluster, kept) = Cluster::new(client.clone(), &client, &readiness);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let admission = Arc::new(Admission { cluster, controller: CONTROLLER.into(), metrics, bodies });
        let router = router(Arc::clone(&admission));
        let kept = kept.into_iter().map(|(_, watch)| watch).collect();
        let filled = async {
            while readiness.missing() != kinds {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), filled).await.expect("the caches did not fill");
        Webhook { admission, router, registry, world: Mutex::new(self), api, _kept: kept }
    }
}

/// True if a SubjectAccessReview is about one of the rights of everybody.
fn is_allowed(review: &Value, allowed: &Value) -> bool {
    if let Some(allowed) = allowed.as_bool() {
        return allowed;
    }
    assert_eq!((&review["spec"]["user"], &review["spec"]["groups"]), (&json!(USER), &json!(["system:authenticated"])));
    let what = &review["spec"]["resourceAttributes"];
    let resource = [&what["resource"], &what["subresource"]].map(|part| part.as_str().unwrap_or_default());
    let resource = resource.join("/");
    let resource = resource.trim_end_matches('/');
    let right = match what["verb"].as_str() {
        Some("create") => resource.to_owned(),
        verb => format!("{} {resource}", verb.unwrap_or_default()),
    };
    allowed.as_array().unwrap().iter().any(|allowed| *allowed == right)
}

pub struct Webhook {
    pub admission: Arc<Admission>,
    router: Router,
    pub registry: Registry,
    world: Mutex<World>,
    api: FakeApi,
    _kept: JoinSet<()>,
}

/// The answer to a review that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub allowed: bool,
    pub patch: Option<Patch>,
    pub status: Value,
    pub warnings: Vec<String>,
}

impl Judged {
    /// `object` with the patch applied.
    pub fn on(&self, object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(patch) = &self.patch {
            json_patch::patch(&mut object, patch).unwrap();
        }
        object
    }

    /// The invalid fields.
    pub fn fields(&self) -> Vec<&str> {
        let causes = self.status.pointer("/details/causes").and_then(Value::as_array);
        causes.into_iter().flatten().filter_map(|cause| cause["field"].as_str()).collect()
    }

    pub fn message(&self) -> &str {
        self.status["message"].as_str().unwrap_or_default()
    }
}

impl Webhook {
    /// The routes of its port.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Changes the world without an event of a watch.
    pub fn unseen(&self, change: impl FnOnce(World) -> World) {
        let mut world = self.world.lock().unwrap();
        *world = change(world.clone());
        world.prescribe(&self.api);
    }

    /// The method and the URI of each request to the API server since the last call.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.api.take_requests();
        requests.into_iter().map(|request| format!("{request}?{}", request.query)).collect()
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> (StatusCode, String) {
        let request = Request::builder().method(Method::POST).uri(path).body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub async fn judged(&self, path: &str, review: &Value) -> Judged {
        let (status, body) = self.post(path, review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let mut reply: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(reply["apiVersion"], review["apiVersion"]);
        assert_eq!(reply["kind"], "AdmissionReview");
        let response = &mut reply["response"];
        assert_eq!(response["uid"], review["request"]["uid"]);
        assert_eq!(response.get("patch").is_some(), response["patchType"] == "JSONPatch");
        let changes: Option<ByteString> = serde_json::from_value(response["patch"].take()).unwrap();
        Judged {
            allowed: response["allowed"].as_bool().unwrap(),
            patch: changes.map(|changes| serde_json::from_slice(&changes.0).unwrap()),
            status: response["status"].take(),
            warnings: serde_json::from_value(response["warnings"].take()).unwrap_or_default(),
        }
    }

    pub async fn mutate(&self, object: &Value) -> Judged {
        self.judged(MUTATE_PATH, &creation(object)).await
    }

    pub async fn validate(&self, object: &Value) -> Judged {
        self.judged(VALIDATE_PATH, &creation(object)).await
    }

    pub async fn update(&self, user: &str, old: &Value, new: &Value) -> Judged {
        self.judged(VALIDATE_PATH, &review("UPDATE", user, new, old)).await
    }

    pub async fn mutate_update(&self, user: &str, old: &Value, new: &Value) -> Judged {
        self.judged(MUTATE_PATH, &review("UPDATE", user, new, old)).await
    }

    pub async fn mutate_claim(&self, user: &str, claim: &Value) -> Judged {
        self.judged(MUTATE_CLAIM_PATH, &review("CREATE", user, claim, &Value::Null)).await
    }

    pub async fn validate_claim(&self, user: &str, claim: &Value) -> Judged {
        self.judged(VALIDATE_CLAIM_PATH, &review("CREATE", user, claim, &Value::Null)).await
    }

    pub async fn update_claim(&self, user: &str, old: &Value, new: &Value) -> Judged {
        self.judged(VALIDATE_CLAIM_PATH, &review("UPDATE", user, new, old)).await
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// The requester.
pub const USER: &str = "alice";

pub fn creation(object: &Value) -> Value {
    review("CREATE", USER, object, &Value::Null)
}

pub fn review(operation: &str, user: &str, object: &Value, old_object: &Value) -> Value {
    let of_claim = object["kind"] == "PersistentVolumeClaim";
    let (kind, resource) = if of_claim {
        let kind = json!({"group": "", "version": "v1", "kind": "PersistentVolumeClaim"});
        (kind, json!({"group": "", "version": "v1", "resource": "persistentvolumeclaims"}))
    } else {
        let kind = json!({"group": "cdi.kubevirt.io", "version": "v1beta1", "kind": "DataVolume"});
        (kind, json!({"group": "cdi.kubevirt.io", "version": "v1beta1", "resource": "datavolumes"}))
    };
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "review-uid",
            "kind": kind,
            "resource": resource,
            "name": "clone",
            "namespace": "ns",
            "operation": operation,
            "userInfo": {"username": user, "groups": ["system:authenticated"]},
            "object": object,
            "oldObject": old_object,
            "dryRun": false,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    })
}
