//! A requester who may not read an object in another namespace learns nothing about it: whatever exists there, the reply has the same bytes
//! and takes the same time, and nothing there is read.

use common::keys::{CHECK_STATIC_VOLUME, DATA_SOURCE_NAMESPACE};
use hostile::Dice;
use k8s_openapi::ByteString;
use tokio::time::Instant;

use super::{
    claims::{self, CLONE_SOURCE},
    sources::{self, GOLD_IMAGE, IMAGE, OTHER, data_source},
    *,
};
use crate::fake_cluster::{GET_CLONE_SOURCES, GET_DATA_SOURCES, GOLD_CLAIM, GOLD_SNAPSHOT, Webhook, review};

const GOLD_PODS: &str = "/api/v1/namespaces/gold/pods";
const GOLD_CONTENT: &str = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents/gold-content";
const GOLD_VOLUME: &str = "/api/v1/persistentvolumes/gold-pv";
const GOLD: [&str; 7] = [GOLD_CLAIM, GOLD_SNAPSHOT, GOLD_IMAGE, CLONE_SOURCE, GOLD_PODS, GOLD_CONTENT, GOLD_VOLUME];

const STAMP: &str = r#"{"username":"alice","groups":["system:authenticated"]}"#;

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "gold"},
        "spec": {
            "nodeName": "node",
            "containers": [{"name": "db", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "source"}}],
        },
        "status": {"phase": "Running"},
    })
}

/// A claim in `gold` with a volume of its own, so that a read of the volume counts as one of `gold`.
fn gold_claim(world: World, size: &str, phase: &str) -> World {
    let claim = json!({
        "metadata": {"name": "source", "namespace": "gold", "uid": "gold-uid"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "storageClassName": "fast",
            "volumeMode": "Filesystem", "volumeName": if phase == "Bound" { "gold-pv" } else { "" },
        },
        "status": {"phase": phase, "capacity": {"storage": size}},
    });
    let volume = json!({
        "metadata": {"name": "gold-pv"},
        "spec": {"claimRef": {"uid": "gold-uid"}, "csi": {"driver": "csi.test", "volumeHandle": "2"}},
    });
    world.object(GOLD_CLAIM, claim).object(GOLD_VOLUME, volume)
}
fn gold_snapshot(world: World, size: &str, ready: bool) -> World {
    let snapshot = json!({
        "metadata": {"name": "snap", "namespace": "gold", "uid": "gold-snap-uid"}, "spec": {"source": {}},
        "status": {
            "readyToUse": ready, "restoreSize": size, "boundVolumeSnapshotContentName": "gold-content",
            "error": {"message": "the driver's words"},
        },
    });
    let content = json!({
        "metadata": {"name": "gold-content"},
        "spec": {
            "volumeSnapshotRef": {"uid": "gold-snap-uid"}, "driver": "csi.test", "deletionPolicy": "Delete",
            "source": {}, "sourceVolumeMode": "Filesystem",
        },
    });
    world.object(GOLD_SNAPSHOT, snapshot).object(GOLD_CONTENT, content)
}
fn named(world: World) -> World {
    claims::there(world.object(GOLD_IMAGE, data_source("pvc", "gold", "source"))).list(GOLD_PODS, &[])
}

/// The content of `gold`.
fn there(world: World) -> World {
    named(gold_snapshot(gold_claim(world, "1Gi", "Bound"), "1Gi", true))
}
fn absent(world: World) -> World {
    GOLD.iter().fold(world, |world, path| world.without(path))
}
fn not_ready(world: World) -> World {
    named(gold_snapshot(gold_claim(world, "1Gi", "Pending"), "1Gi", false))
}
fn of_another_size(world: World) -> World {
    named(gold_snapshot(gold_claim(world, "2Gi", "Bound"), "2Gi", true))
}
fn in_use(world: World) -> World {
    there(world).list(GOLD_PODS, &[pod("payroll-db-0"), pod("payroll-db-1")])
}
fn silent(world: World) -> World {
    GOLD.iter().fold(world, |world, path| world.silent(path))
}
fn unreadable(world: World) -> World {
    GOLD.iter().fold(world, |world, path| world.object(path, json!("an object")))
}
fn names_lead_elsewhere(world: World) -> World {
    let image = data_source("snapshot", "gold", "payroll-2026");
    claims::clone_source(there(world), "VolumeSnapshot").object(GOLD_IMAGE, image)
}
fn names_lead_nowhere(world: World) -> World {
    let image = data_source("dataSource", "gold", "payroll-2026");
    claims::clone_source(there(world), "ConfigMap").object(GOLD_IMAGE, image)
}

const CONTENTS: [(&str, Setup); 9] = [
    ("there", there),
    ("absent", absent),
    ("not ready", not_ready),
    ("of another size", of_another_size),
    ("in use", in_use),
    ("silent", silent),
    ("unreadable", unreadable),
    ("named elsewhere", names_lead_elsewhere),
    ("named nowhere", names_lead_nowhere),
];

/// A way to request something in `gold`.
struct Way {
    name: &'static str,
    /// The reviews of the API server, with their paths.
    reviews: Vec<(&'static str, Value)>,
    /// The objects in the requester's own namespace, and those in `gold` that the requester may read.
    own: Setup,
    /// The requester's rights, which do not suffice.
    rights: &'static [&'static str],
    /// The objects in `gold` that may be read.
    open: &'static [&'static str],
    /// The denial's field, or none if the object is admitted; and words of the reply.
    told: (Option<&'static str>, &'static str),
}

/// A creation with the requester annotation, sent to both webhooks.
fn volume(change: impl FnOnce(&mut Value)) -> Vec<(&'static str, Value)> {
    let object = stamped_volume(change);
    [MUTATE_PATH, VALIDATE_PATH].map(|path| (path, creation(&object))).into()
}
fn stamped_volume(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = clone(as_is);
    change(&mut object);
    object["metadata"]["annotations"][REQUESTER] = json!(STAMP);
    object
}
fn claim(change: Change) -> Vec<(&'static str, Value)> {
    let object = stamped_claim(change);
    [MUTATE_CLAIM_PATH, VALIDATE_CLAIM_PATH].map(|path| (path, creation(&object))).into()
}
fn stamped_claim(change: Change) -> Value {
    let mut object = claims::claim(change);
    object["metadata"]["annotations"][REQUESTER] = json!(STAMP);
    object
}
/// A clone from `gold` that is created with this annotation, which is removed afterwards.
fn annotated_for_a_while(key: &str) -> Vec<(&'static str, Value)> {
    let with = stamped_volume(|object| {
        sources::from_gold(object);
        object["metadata"]["annotations"][key] = json!("clone");
    });
    let without = stamped_volume(sources::from_gold);
    let mut reviews: Vec<_> = [MUTATE_PATH, VALIDATE_PATH].map(|path| (path, creation(&with))).into();
    reviews.push((VALIDATE_PATH, review("UPDATE", USER, &without, &with)));
    reviews
}

fn image_to_claim(world: World) -> World {
    world.object(IMAGE, data_source("pvc", "gold", "source"))
}
fn image_to_snapshot(world: World) -> World {
    world.object(IMAGE, data_source("snapshot", "gold", "snap"))
}
fn image_of_image_to_claim(world: World) -> World {
    world.object(IMAGE, data_source("dataSource", "ns", "other")).object(OTHER, data_source("pvc", "gold", "source"))
}
fn open_image_to_claim(world: World) -> World {
    world.object(GOLD_IMAGE, data_source("pvc", "gold", "source"))
}
fn open_clone_source(world: World) -> World {
    claims::there(world)
}
fn adoptable(world: World) -> World {
    let metadata = json!({"name": "clone", "namespace": "ns", "annotations": {ALLOW_ADOPTION: "true"}});
    world.object(NAMESAKE, json!({"metadata": metadata, "spec": {}}))
}

const PVC: Option<&str> = Some("spec.source.pvc.namespace");
const REFERENCE: Option<&str> = Some("spec.sourceRef");
const ANNOTATION: Option<&str> = Some("metadata.annotations[cdi.kubevirt.io/dataSourceNamespace]");
const NO_CLONE: &str = "user \\\"alice\\\" may not clone PersistentVolumeClaim gold/source: ";
const NO_IMAGE: &str = "user \\\"alice\\\" may not read DataSource gold/image: ";
const NO_CLONE_SOURCE: &str = "user \\\"alice\\\" may not read VolumeCloneSource gold/of-source: ";
const TAKEN_OVER: &str = "nothing was checked";

fn ways() -> Vec<Way> {
    let way = |name, reviews, told| Way { name, reviews, own: usual, rights: &[], open: &[], told };
    let clone_rights: &[&str] = &["datavolumes/source", "pods", "persistentvolumeclaims"];
    vec![
        way("claim", volume(sources::from_gold), (PVC, NO_CLONE)),
        way(
            "snapshot",
            volume(sources::snapshot_from_gold),
            (Some("spec.source.snapshot.namespace"), "may not clone VolumeSnapshot gold/snap: "),
        ),
        way("a size", volume(|object| (smaller(object), sources::from_gold(object)).1), (PVC, NO_CLONE)),
        Way { own: image_to_claim, ..way("own DataSource", volume(sources::by_reference), (REFERENCE, NO_CLONE)) },
        Way {
            own: image_to_snapshot,
            ..way(
                "own DataSource of a snapshot",
                volume(sources::by_reference),
                (REFERENCE, "VolumeSnapshot gold/snap"),
            )
        },
        Way {
            own: image_of_image_to_claim,
            ..way("own DataSources, two of them", volume(sources::by_reference), (REFERENCE, NO_CLONE))
        },
        way("DataSource", volume(sources::by_reference_to_gold), (REFERENCE, NO_IMAGE)),
        Way {
            rights: clone_rights,
            ..way("DataSource, by who may clone all", volume(sources::by_reference_to_gold), (REFERENCE, NO_IMAGE))
        },
        Way {
            own: open_image_to_claim,
            rights: &[GET_DATA_SOURCES],
            open: &[GOLD_IMAGE],
            ..way("DataSource that is open", volume(sources::by_reference_to_gold), (REFERENCE, NO_CLONE))
        },
        way("VolumeCloneSource", claim(as_is), (ANNOTATION, NO_CLONE_SOURCE)),
        Way {
            rights: clone_rights,
            ..way("VolumeCloneSource, by who may clone all", claim(as_is), (ANNOTATION, NO_CLONE_SOURCE))
        },
        Way {
            own: open_clone_source,
            rights: &[GET_CLONE_SOURCES],
            open: &[CLONE_SOURCE],
            ..way("VolumeCloneSource that is open", claim(as_is), (ANNOTATION, NO_CLONE))
        },
        Way { own: adoptable, ..way("claim taken over", volume(sources::from_gold), (None, TAKEN_OVER)) },
        Way {
            own: adoptable,
            ..way("claim taken over, DataSource", volume(sources::by_reference_to_gold), (None, TAKEN_OVER))
        },
        way("said to be filled", annotated_for_a_while(PRE_POPULATED), (None, TAKEN_OVER)),
        way("said to be static", annotated_for_a_while(CHECK_STATIC_VOLUME), (None, TAKEN_OVER)),
        Way {
            own: adoptable,
            ..way("said to be taken over", annotated_for_a_while(ALLOW_ADOPTION), (None, TAKEN_OVER))
        },
        way(
            "VolumeCloneSource, said later",
            vec![(VALIDATE_CLAIM_PATH, review("UPDATE", USER, &stamped_claim(as_is), &stamped_claim(claims::at_home)))],
            (ANNOTATION, "is said at its creation"),
        ),
    ]
}

/// The reply without the random ownership key, which admission writes on admitted clones.
fn settled(body: &str) -> String {
    let mut reply: Value = serde_json::from_str(body).unwrap();
    let response = reply["response"].as_object_mut().unwrap();
    if let Some(patch) = response.remove("patch") {
        let ByteString(patch) = serde_json::from_value(patch).unwrap();
        let mut operations: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        operations.retain(|operation| !operation["path"].as_str().is_some_and(|path| path.ends_with("ownership-key")));
        if operations.is_empty() {
            response.remove("patchType");
        } else {
            response.insert("patch".to_owned(), json!(operations));
        }
    }
    reply.to_string()
}

/// The replies, each with the requests to the API server.
async fn replies(webhook: &Webhook, way: &Way) -> Vec<(String, Vec<String>)> {
    let mut replies = Vec::new();
    for (path, review) in &way.reviews {
        webhook.asked();
        let start = Instant::now();
        let (status, body) = webhook.post(path, review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{}: {body}", way.name);
        // The clock stands still unless a task waits.
        assert!(start.elapsed().is_zero(), "{}: answered after {:?}", way.name, start.elapsed());
        // Concurrent requests have no order.
        let mut asked = webhook.asked();
        asked.sort();
        replies.push((settled(&body), asked));
    }
    replies
}

async fn replies_without_the_right(content: impl FnOnce(World) -> World, way: &Way) -> Vec<(String, Vec<String>)> {
    let world = (way.own)(content(World::new())).allowing(way.rights);
    replies(&world.webhook().await, way).await
}

/// The requests about `gold`.
fn looks(asked: &[String]) -> Vec<&str> {
    let path = |asked: &str| asked.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    asked.iter().filter(|asked| path(asked).contains("gold")).map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn without_the_right_the_reply_is_the_same_whatever_is_there() {
    for way in ways() {
        let first = replies_without_the_right(there, &way).await;
        let (field, words) = way.told;
        for (body, asked) in &first {
            let closed: Vec<_> = looks(asked).into_iter().filter(|a| !way.open.iter().any(|o| a.contains(o))).collect();
            assert_eq!(closed, Vec::<&str>::new(), "{}", way.name);
            // A handler that only writes the requester annotation discloses nothing else.
            let reply: Value = serde_json::from_str(body).unwrap();
            if reply["response"] == json!({"uid": "review-uid", "allowed": true}) {
                continue;
            }
            let told = reply.pointer("/response/status/details/causes/0/field").and_then(Value::as_str);
            assert_eq!(told, field, "{}: {body}", way.name);
            assert!(body.contains(words) && !body.contains(PLAN), "{}: {body}", way.name);
            assert_eq!(reply["response"].get("warnings").is_some(), field.is_none(), "{}: {body}", way.name);
        }
        assert!(first.iter().any(|(body, _)| body.contains(words)), "{}: {first:?}", way.name);
        for (what, content) in CONTENTS {
            assert_eq!(replies_without_the_right(content, &way).await, first, "{}: {what}", way.name);
        }
    }
}

/// The same for random content there; each case can be repeated by its number.
#[tokio::test(start_paused = true)]
async fn without_the_right_the_reply_is_the_same_whatever_could_be_there() {
    const CASES: u64 = 100;
    let usual = [
        claims::claim(as_is),
        clone(sources::of_snapshot),
        data_source("pvc", "gold", "source"),
        pod("payroll-db-0"),
        json!({"spec": {"source": {"kind": "PersistentVolumeClaim", "name": "source"}}, "metadata": {"name": "x"}}),
    ];
    let anything = |number: u64| {
        let usual = usual.clone();
        move |world: World| {
            let mut dice = Dice::of(number);
            GOLD.iter().fold(world, |world, path| match dice.roll(6) {
                0 => world.without(path),
                1 => world.silent(path),
                2 => world,
                _ => {
                    let mut object = usual[dice.roll(usual.len())].clone();
                    fuzz::VOCABULARY.spoil(&mut object, &mut dice);
                    world.object(path, object)
                }
            })
        }
    };
    for way in ways() {
        let first = replies_without_the_right(there, &way).await;
        for number in 0..CASES {
            let others = replies_without_the_right(anything(number), &way).await;
            assert_eq!(others, first, "{}: case {number}", way.name);
        }
    }
}

/// A requester who may read it is told about it after the access check; about pods only their number.
#[tokio::test(start_paused = true)]
async fn with_the_right_what_is_there_is_told() {
    let by_claim = [
        "cloned by snapshot",
        "does not exist yet",
        "has no volume yet",
        "at least 2Gi",
        "the clone waits until 2 pods no longer use the source",
    ];
    let by_snapshot = [
        "cloned by restoring the snapshot",
        "does not exist yet",
        "is not ready to be restored yet",
        "at least 2Gi",
        "cloned by restoring the snapshot",
    ];
    let ways: [(&str, Change, Setup, [&str; 5]); 5] = [
        ("claim", sources::from_gold, usual, by_claim),
        ("snapshot", sources::snapshot_from_gold, usual, by_snapshot),
        ("own DataSource", sources::by_reference, image_to_claim, by_claim),
        ("own DataSource of a snapshot", sources::by_reference, image_to_snapshot, by_snapshot),
        ("DataSource", sources::by_reference_to_gold, open_image_to_claim, by_claim),
    ];
    for (name, change, own, told) in ways {
        for ((what, content), words) in CONTENTS.iter().zip(told) {
            let world = own(content(World::new())).allowing(&[GET_DATA_SOURCES, "datavolumes/source"]);
            let webhook = world.webhook().await;
            webhook.asked();
            let (_, body) = webhook.post(MUTATE_PATH, creation(&clone(change)).to_string()).await;
            assert!(body.contains(words), "{name}, {what}: {body}");
            assert!(!body.contains("payroll"), "{name}, {what}: {body}");
            let asked = webhook.asked();
            let first = |wanted: &dyn Fn(&String) -> bool| asked.iter().position(wanted).unwrap();
            let right = first(&|asked| asked.contains(REVIEWS));
            let look = first(&|asked| !looks(std::slice::from_ref(asked)).is_empty());
            assert!(right < look, "{name}, {what}: {asked:?}");
        }
    }
}

/// A recent allowed answer is reused, by the other webhook and for the next clone.
#[tokio::test]
async fn a_right_is_asked_for_once_in_a_burst() {
    let world = open_image_to_claim(there(World::new())).allowing(&[GET_DATA_SOURCES, "datavolumes/source"]);
    let webhook = world.webhook().await;
    let object = clone(sources::by_reference_to_gold);
    webhook.asked();
    let written = webhook.mutate(&object).await.on(&object);
    assert!(webhook.validate(&written).await.allowed);
    assert!(webhook.mutate(&object).await.allowed);
    let reviews = webhook.asked().iter().filter(|asked| asked.contains(REVIEWS)).count();
    assert_eq!(reviews, 2, "one for the DataSource and one for what it stands for");
}

/// Not even an invalid name is looked up before the access check.
#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_is_refused_like_any_other() {
    let webhook = World::new().webhook().await;
    for namespace in ["..", "gold/../ns", "gold?watch=true", "a b"] {
        let mut object = stamped_claim(as_is);
        object["metadata"]["annotations"][DATA_SOURCE_NAMESPACE] = json!(namespace);
        let judged = webhook.validate_claim(USER, &object).await;
        assert_eq!(
            (judged.status["code"].as_i64(), judged.fields()),
            (Some(403), vec![ANNOTATION.unwrap()]),
            "{judged:?}"
        );
    }
}
