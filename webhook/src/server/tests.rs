use axum::routing::get;
use common::keys::{
    ALLOW_ADOPTION, CLONE_FALLBACK_REASON, CLONE_TYPE, FALLBACK, OWNERSHIP_KEY, PLAN, POPULATED_FOR, PRE_POPULATED,
    REQUESTER,
};
use prometheus_client::{encoding::text, registry::Registry};
use rstest::rstest;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::fake_cluster::{
    CDIS, CLASSES, CONFIGS, CONTENT, CONTROLLER, NAMESAKE, PROFILES, REVIEWS, SNAPSHOT, SNAPSHOT_CLASSES, SOURCE, USER,
    VOLUME, World, creation, review,
};

mod beside_cdi;
mod claims;
mod fuzz;
mod labels;
mod limits;
mod privacy;
mod sources;

const PATHS: [&str; 5] = [MUTATE_PATH, VALIDATE_PATH, MUTATE_CLAIM_PATH, VALIDATE_CLAIM_PATH, TRANSFER_PATH];

type Change = fn(&mut Value);
type Setup = fn(World) -> World;

/// A clone of `source`, as a user writes it: without its namespace.
fn clone(change: Change) -> Value {
    let mut object = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
        "metadata": {"name": "clone", "labels": {"unknown/to-us": "kept"}},
        "spec": {
            "source": {"pvc": {"namespace": "ns", "name": "source"}},
            "pvc": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    });
    change(&mut object);
    object
}

const SIZE: &str = "spec.pvc.resources.requests.storage";

fn as_is(_: &mut Value) {}
fn size(object: &mut Value, size: &Value) {
    object["spec"]["pvc"]["resources"]["requests"]["storage"] = size.clone();
}
fn smaller(object: &mut Value) {
    size(object, &json!("512Mi"));
}
fn larger(object: &mut Value) {
    size(object, &json!("2Gi"));
}
fn nonsense_size(object: &mut Value) {
    size(object, &json!("a lot"));
}
fn many_mistakes(object: &mut Value) {
    nonsense_size(object);
    object["spec"]["pvc"]["accessModes"] = json!(["WriteMostly"]);
}
fn unknown_class(object: &mut Value) {
    object["spec"]["pvc"]["storageClassName"] = json!("fats");
}
fn no_class(object: &mut Value) {
    object["spec"]["pvc"]["storageClassName"] = Value::Null;
}
fn by_storage(object: &mut Value) {
    object["spec"] = json!({"source": object["spec"]["source"], "storage": {}});
}
fn wish_copy(object: &mut Value) {
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "copy", "mine": "kept"});
}
fn wish_snapshot(object: &mut Value) {
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "snapshot"});
}
fn wish_nonsense(object: &mut Value) {
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "teleport"});
}
fn no_fallback(object: &mut Value) {
    object["metadata"]["annotations"] = json!({FALLBACK: "Never"});
}
/// An object that was exported from another cluster, or forged.
fn annotated_already(object: &mut Value) {
    let note = r#"{"chosenBy":"Override"}"#;
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "copy", PLAN: note, CLONE_FALLBACK_REASON: "because"});
}
fn not_an_object(object: &mut Value) {
    object["spec"]["pvc"] = json!("1Gi");
}
fn import(object: &mut Value) {
    object["spec"]["source"] = json!({"http": {"url": "https://images.test/disk.img"}});
}
fn blank(object: &mut Value) {
    object["spec"]["source"] = json!({"blank": {}});
}
fn generated_name(object: &mut Value) {
    object["metadata"] = json!({"generateName": "clone-"});
}

fn usual(world: World) -> World {
    world
}
fn no_snapshot_class(world: World) -> World {
    world.list(SNAPSHOT_CLASSES, &[])
}
fn no_snapshot_api(world: World) -> World {
    world.without(SNAPSHOT_CLASSES)
}
fn override_copy(world: World) -> World {
    world.list(CDIS, &[json!({"metadata": {"name": "cdi"}, "spec": {"cloneStrategyOverride": "copy"}})])
}
fn profile_csi_clone(world: World) -> World {
    world.list(PROFILES, &[json!({"metadata": {"name": "fast"}, "spec": {"cloneStrategy": "csi-clone"}})])
}
fn no_source(world: World) -> World {
    world.without(SOURCE)
}
fn source_unbound(world: World) -> World {
    world.object(
        SOURCE,
        json!({
            "metadata": {"name": "source", "namespace": "ns", "uid": "source-uid"},
            "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"},
        }),
    )
}
fn volume_gone(world: World) -> World {
    world.without(VOLUME)
}
fn cdi_operator(world: World) -> World {
    world.list(CDIS, &[json!({"metadata": {"name": "cdi"}, "spec": {}, "status": {"operatorVersion": "1.60"}})])
}

/// The annotation and the warning that the user sees.
#[rstest]
#[case::annotated_by_default(as_is, usual, Some("snapshot"), "by snapshot, with VolumeSnapshotClass \"snap\"")]
#[case::by_storage(by_storage, usual, Some("snapshot"), "by snapshot")]
#[case::default_class(no_class, usual, Some("snapshot"), "by snapshot")]
#[case::larger(larger, usual, Some("snapshot"), "by snapshot")]
#[case::name_to_come(generated_name, usual, Some("snapshot"), "by snapshot")]
#[case::fallback(as_is, no_snapshot_class, Some("copy"), "NoVolumeSnapshotClass")]
#[case::no_snapshot_api(as_is, no_snapshot_api, Some("copy"), "the cluster has no snapshot API")]
#[case::override_of_the_cluster(as_is, override_copy, Some("copy"), "wanted by cloneStrategyOverride")]
#[case::profile(as_is, profile_csi_clone, Some("csi-clone"), "wanted by the StorageProfile")]
#[case::wish(wish_copy, usual, Some("copy"), "wanted by the annotation")]
#[case::wish_before_override(wish_snapshot, override_copy, Some("snapshot"), "wanted by the annotation")]
#[case::an_earlier_decision_is_no_wish(annotated_already, usual, Some("snapshot"), "by snapshot")]
#[case::missing_source(as_is, no_source, None, "does not exist yet")]
#[case::missing_source_forgets_an_earlier_decision(annotated_already, no_source, None, "does not exist yet")]
#[case::missing_source_keeps_the_wish(wish_copy, no_source, Some("copy"), "does not exist yet")]
#[case::source_unbound(as_is, source_unbound, None, "has no volume yet")]
#[case::lost_volume(as_is, volume_gone, None, "could not be decided yet")]
#[tokio::test]
async fn admits(#[case] change: Change, #[case] setup: Setup, #[case] strategy: Option<&str>, #[case] warning: &str) {
    let webhook = setup(World::new()).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    assert!(judged.allowed, "{judged:?}");
    assert!(judged.warnings.iter().any(|line| line.contains(warning)), "{:?}", judged.warnings);

    let written = judged.on(&object);
    let annotation = |key: &str| written["metadata"]["annotations"].get(key).and_then(Value::as_str);
    assert_eq!(annotation(CLONE_TYPE), strategy);
    assert!(annotation(REQUESTER).is_some_and(|stamp| stamp.contains(USER)), "{written}");
    assert_eq!(
        annotation(CLONE_FALLBACK_REASON).is_some(),
        warning == "NoVolumeSnapshotClass" || warning.contains("no snapshot API")
    );
    // All other fields are unchanged.
    let theirs = |object: &Value| {
        let mut object = object.clone();
        let mut annotations = object["metadata"]["annotations"].take();
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.retain(|key, _| {
                ![CLONE_TYPE, CLONE_FALLBACK_REASON, PLAN, REQUESTER, OWNERSHIP_KEY].contains(&key.as_str())
            });
        }
        (object, annotations.as_object().cloned().unwrap_or_default())
    };
    assert_eq!(theirs(&written), theirs(&object));
}

/// Refusals by both webhooks alike: the field, and the cure.
#[rstest]
#[case::smaller(smaller, usual, SIZE, "at least 1Gi")]
#[case::smaller_than_an_unbound_source(smaller, source_unbound, SIZE, "at least 1Gi")]
#[case::nonsense_size(nonsense_size, usual, SIZE, "a lot")]
#[case::unknown_class(unknown_class, usual, "spec.pvc.storageClassName", "kubectl get storageclass")]
#[case::no_default_class(no_class, |w: World| w.list(CLASSES, &[]), "spec.pvc.storageClassName", "name one")]
#[case::impossible_wish(
    wish_snapshot,
    no_snapshot_class,
    "metadata.annotations[cdi.kubevirt.io/cloneType]",
    "create a VolumeSnapshotClass"
)]
#[case::unknown_wish(wish_nonsense, usual, "metadata.annotations[cdi.kubevirt.io/cloneType]", "supported values")]
#[case::no_fallback(
    no_fallback,
    no_snapshot_class,
    "metadata.annotations[smartclone.dev/fallback]",
    "create a VolumeSnapshotClass"
)]
#[case::not_what_the_schema_says(not_an_object, usual, "spec.pvc", "invalid type: string")]
#[tokio::test]
async fn refuses(#[case] change: Change, #[case] setup: Setup, #[case] field: &str, #[case] cure: &str) {
    let webhook = setup(World::new()).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    assert!(!judged.allowed && judged.patch.is_none(), "{judged:?}");
    assert_eq!((judged.status["code"].as_i64(), judged.status["reason"].as_str()), (Some(422), Some("Invalid")));
    assert_eq!(judged.status["details"]["kind"], "DataVolume");
    assert_eq!(judged.fields(), [field]);
    assert!(judged.message().starts_with(field) && judged.message().contains(cure), "{}", judged.message());
    assert_eq!(webhook.validate(&object).await, judged);
}

#[tokio::test]
async fn every_mistake_is_told_at_once() {
    let judged = World::new().webhook().await.mutate(&clone(many_mistakes)).await;
    assert_eq!(judged.fields(), [SIZE, "spec.pvc.accessModes[0]"]);
    let cause = &judged.status["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldValueInvalid");
    assert!(cause["message"].as_str().unwrap().starts_with("Invalid value: \"a lot\": "), "{cause}");
}

/// Includes mistakes that are visible only in the cluster.
#[tokio::test]
async fn every_mistake_about_the_cluster_is_told_at_once() {
    let webhook = namesake(json!({})).webhook().await;
    let judged = webhook.mutate(&clone(|object| (unknown_class(object), smaller(object)).1)).await;
    assert_eq!(judged.fields(), ["metadata.name", "spec.pvc.storageClassName", SIZE]);
}

/// In every world, for every request: deciding twice equals deciding once. One webhook accepts what the other writes, and refuses what the
/// other refuses.
#[tokio::test]
async fn both_webhooks_agree() {
    let worlds: [Setup; 9] = [
        usual,
        no_snapshot_class,
        no_snapshot_api,
        override_copy,
        profile_csi_clone,
        no_source,
        source_unbound,
        volume_gone,
        cdi_operator,
    ];
    let changes: [Change; 14] = [
        as_is,
        smaller,
        larger,
        nonsense_size,
        unknown_class,
        no_class,
        by_storage,
        wish_copy,
        wish_snapshot,
        wish_nonsense,
        no_fallback,
        annotated_already,
        import,
        generated_name,
    ];
    for (i, setup) in worlds.iter().enumerate() {
        let webhook = setup(World::new()).webhook().await;
        for (j, change) in changes.iter().enumerate() {
            let object = clone(*change);
            let first = webhook.mutate(&object).await;
            let written = first.on(&object);
            let second = webhook.mutate(&written).await;
            assert_eq!(second.patch, None, "world {i}, change {j}: {second:?}");
            assert_eq!((second.allowed, &second.warnings), (first.allowed, &first.warnings), "world {i}, change {j}");
            let verdict = webhook.validate(&written).await;
            assert_eq!((verdict.allowed, &verdict.status), (first.allowed, &first.status), "world {i}, change {j}");
            assert_eq!(verdict.warnings, Vec::<String>::new(), "told twice: world {i}, change {j}");
        }
    }
}

/// Annotations that another webhook writes, or a user who bypasses ours.
#[rstest]
#[case::strategy(CLONE_TYPE, json!("copy"))]
#[case::removed_strategy(CLONE_TYPE, Value::Null)]
#[case::reason(CLONE_FALLBACK_REASON, json!("because"))]
#[case::plan(PLAN, json!(r#"{"chosenBy":"Override"}"#))]
#[tokio::test]
async fn a_forged_annotation_is_refused(#[case] key: &str, #[case] value: Value) {
    let webhook = World::new().webhook().await;
    let object = clone(as_is);
    let mut forged = webhook.mutate(&object).await.on(&object);
    assert!(webhook.validate(&forged).await.allowed);
    let annotations = forged["metadata"]["annotations"].as_object_mut().unwrap();
    match value {
        Value::Null => annotations.remove(key),
        value => annotations.insert(key.to_owned(), value),
    };
    let judged = webhook.validate(&forged).await;
    assert!(!judged.allowed);
    assert_eq!(judged.status["code"], 422);
    assert_eq!(judged.fields(), [format!("metadata.annotations[{key}]")]);
}

/// A difference between the two reviews is no forgery, and an outdated cache is no reason to report one.
#[rstest]
#[case::wanted(profile_csi_clone)]
#[case::forced(override_copy)]
#[case::possible(no_snapshot_class)]
#[case::source(no_source)]
#[tokio::test]
async fn who_gets_an_outdated_decision_may_ask_again(#[case] change: Setup) {
    let object = clone(as_is);
    let webhook = World::new().webhook().await;
    let outdated = webhook.mutate(&object).await.on(&object);
    webhook.unseen(|_| change(World::new()));
    assert!(webhook.validate(&outdated).await.allowed, "decided by the same caches");
    let changed = change(World::new()).webhook().await;
    let judged = changed.validate(&outdated).await;
    assert_eq!(
        (judged.allowed, &judged.status["code"], &judged.status["reason"]),
        (false, &json!(409), &json!("Conflict"))
    );
    assert!(judged.message().ends_with("has changed since; try again"), "{judged:?}");
    let newest = changed.mutate(&object).await.on(&object);
    assert!(webhook.validate(&newest).await.allowed, "what the watches have not told is looked for");
}

#[tokio::test]
async fn a_source_that_appears_between_the_two_webhooks_does_no_harm() {
    let object = clone(as_is);
    let undecided = no_source(World::new()).webhook().await.mutate(&object).await.on(&object);
    assert!(World::new().webhook().await.validate(&undecided).await.allowed);
}

#[rstest]
#[case::import(import, usual)]
#[case::under_cdi(as_is, cdi_operator)]
#[case::wrong_under_cdi(nonsense_size, cdi_operator)]
#[case::unreadable_under_cdi(not_an_object, cdi_operator)]
#[tokio::test]
async fn what_is_not_ours_is_left_alone(#[case] change: Change, #[case] setup: Setup) {
    let webhook = setup(World::new()).webhook().await;
    let object = clone(change);
    for judged in [webhook.mutate(&object).await, webhook.validate(&object).await] {
        assert!(judged.allowed && judged.patch.is_none() && judged.warnings.is_empty(), "{judged:?}");
    }
}

/// Changes of other programs' DataVolumes are not judged by our rules; turning one into a clone is.
#[rstest]
#[case::import_to_blank(import, blank, true)]
#[case::import_to_clone(import, as_is, false)]
#[case::clone_to_import(as_is, import, false)]
#[tokio::test]
async fn only_changes_of_clones_are_judged(#[case] before: Change, #[case] after: Change, #[case] allowed: bool) {
    let (before, after) = (clone(before), clone(after));
    assert_eq!(World::new().webhook().await.update("alice", &before, &after).await.allowed, allowed);
    assert!(cdi_operator(World::new()).webhook().await.update("alice", &before, &after).await.allowed);
}

fn namesake(metadata: Value) -> World {
    let mut metadata = metadata;
    metadata["name"] = json!("clone");
    metadata["namespace"] = json!("ns");
    World::new().object(NAMESAKE, json!({"metadata": metadata, "spec": {}}))
}

/// The clone's claim needs the DataVolume's name.
#[rstest]
#[case::taken(as_is, json!({}), false)]
#[case::taken_by_another_data_volume(as_is, json!({"ownerReferences": [owner("other")]}), false)]
#[case::soon_free(as_is, json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), true)]
#[case::follows_its_data_volume_or_shows_that_it_exists(as_is, json!({"ownerReferences": [owner("clone")]}), true)]
#[case::filled_for_it(as_is, json!({"annotations": {POPULATED_FOR: "clone"}}), true)]
#[case::filled_for_another(as_is, json!({"annotations": {POPULATED_FOR: "other"}}), false)]
#[case::offered(as_is, json!({"annotations": {ALLOW_ADOPTION: "true"}}), true)]
#[case::not_offered(as_is, json!({"annotations": {ALLOW_ADOPTION: "false"}}), false)]
#[case::asked_for(adopting, json!({}), true)]
#[case::offered_by_whom_it_does_not_belong_to(
    adopting,
    json!({"ownerReferences": [owner("other")], "annotations": {ALLOW_ADOPTION: "true"}}),
    false
)]
#[case::said_to_be_filled(pre_populated, json!({}), true)]
#[tokio::test]
async fn the_claims_name_has_to_be_free(#[case] change: Change, #[case] metadata: Value, #[case] allowed: bool) {
    let webhook = namesake(metadata).webhook().await;
    let object = clone(change);
    let written = webhook.mutate(&object).await.on(&object);
    let judged = webhook.validate(&written).await;
    assert_eq!(judged.allowed, allowed, "{judged:?}");
    if !allowed {
        assert_eq!(judged.fields(), ["metadata.name"]);
        assert!(judged.message().contains("rename the DataVolume or delete the claim"), "{}", judged.message());
    }
    assert!(webhook.update("alice", &written, &written).await.allowed, "the clone itself has the name by then");
}

/// A mistake that can be cured in the cluster without a new object is admitted with a warning if a controller asks, also in a dry run:
/// after a denial it would wait for minutes after the cure. A mistake that no later event cures is denied to everybody.
#[rstest]
#[case::class_to_come(unknown_class, usual, "Not found: \"fats\"", None)]
#[case::default_class_to_come(no_class, |w: World| w.list(CLASSES, &[]), "name one", None)]
#[case::name_taken(as_is, |_| namesake(json!({})), "there is a PersistentVolumeClaim of that name", Some("snapshot"))]
#[tokio::test]
async fn a_controller_s_object_waits(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] warning: &str,
    #[case] strategy: Option<&str>,
    #[values(None, Some("system:serviceaccount:kubevirt:kubevirt-controller"))] account: Option<&str>,
    #[values(false, true)] is_dry_run: bool,
) {
    let webhook = setup(World::new()).webhook().await;
    let mut object = clone(change);
    // A person's object that a controller owns, or a service account's.
    if account.is_none() {
        object["metadata"]["ownerReferences"] = json!([owner("machine")]);
    }
    let mut question = review("CREATE", account.unwrap_or("alice"), &object, &Value::Null);
    question["request"]["dryRun"] = json!(is_dry_run);
    let judged = webhook.judged(MUTATE_PATH, &question).await;
    assert!(judged.allowed && judged.warnings.iter().any(|line| line.contains(warning)), "{judged:?}");
    let written = judged.on(&object);
    assert_eq!(written["metadata"]["annotations"].get(CLONE_TYPE).and_then(Value::as_str), strategy);
    question["request"]["object"] = written;
    assert!(webhook.judged(VALIDATE_PATH, &question).await.allowed);
    smaller(&mut object);
    question["request"]["object"] = object;
    let denied = webhook.judged(VALIDATE_PATH, &question).await;
    assert!(!denied.allowed && denied.fields().contains(&SIZE), "{denied:?}");
}

/// Restored from a backup, or applied once more: nothing is copied, so the state and the owner of the source do not matter.
#[rstest]
#[case::said_by_the_data_volume(pre_populated, usual)]
#[case::said_by_the_claim(as_is, |_| namesake(json!({"annotations": {POPULATED_FOR: "clone"}})))]
#[tokio::test]
async fn what_is_filled_needs_no_source(#[case] change: Change, #[case] setup: Setup) {
    let kinds: [Change; 4] = [as_is, sources::from_gold, sources::by_reference, smaller];
    for kind in kinds {
        let webhook = setup(World::new()).without(SOURCE).webhook().await;
        let mut object = clone(change);
        kind(&mut object);
        let judged = webhook.mutate(&object).await;
        assert!(judged.warnings.iter().any(|line| line.contains("nothing is cloned")), "{judged:?}");
        let written = judged.on(&object);
        assert_eq!(written["metadata"]["annotations"].get(PLAN), None);
        assert!(webhook.validate(&written).await.allowed);
    }
}

fn adopting(object: &mut Value) {
    object["metadata"]["annotations"] = json!({ALLOW_ADOPTION: "true"});
}
fn pre_populated(object: &mut Value) {
    object["metadata"]["annotations"] = json!({PRE_POPULATED: "clone"});
}

fn owner(name: &str) -> Value {
    json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume", "name": name, "uid": "u", "controller": true})
}

fn relabelled(object: &mut Value) {
    object["metadata"]["labels"] = json!({"new": "label"});
}
fn respelled(object: &mut Value) {
    size(object, &json!("1024Mi"));
}
fn decided_anew(object: &mut Value) {
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "copy", PLAN: "{}"});
}
fn stamped(object: &mut Value, stamp: &str) {
    object["metadata"]["annotations"] = json!({REQUESTER: stamp});
}
fn stamped_anew(object: &mut Value) {
    stamped(object, r#"{"username":"admin"}"#);
}
fn deleted_and_changed(object: &mut Value) {
    larger(object);
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
}

#[rstest]
#[case::labels("alice", relabelled, &[])]
#[case::spec("alice", larger, &["spec"])]
#[case::spec_by_controller(CONTROLLER, larger, &["spec"])]
#[case::spelling_of_a_quantity("alice", respelled, &[])]
#[case::decision("alice", decided_anew, &["metadata.annotations[cdi.kubevirt.io/cloneType]", "metadata.annotations[smartclone.dev/plan]"])]
#[case::decision_by_controller(CONTROLLER, decided_anew, &[])]
#[case::decision_by_a_namesake_of_the_controller("system:serviceaccount:ns:smartclone-controller", decided_anew, &["metadata.annotations[cdi.kubevirt.io/cloneType]", "metadata.annotations[smartclone.dev/plan]"])]
#[case::stamp("alice", stamped_anew, &["metadata.annotations[smartclone.dev/requester]"])]
#[case::stamp_by_controller(CONTROLLER, stamped_anew, &["metadata.annotations[smartclone.dev/requester]"])]
#[case::on_its_way_out("alice", deleted_and_changed, &[])]
#[tokio::test]
async fn changes(#[case] user: &str, #[case] change: Change, #[case] forbidden: &[&str]) {
    let webhook = World::new().webhook().await;
    let judged = webhook.update(user, &clone(as_is), &clone(change)).await;
    assert_eq!(judged.allowed, forbidden.is_empty(), "{judged:?}");
    assert_eq!(judged.fields(), forbidden);
    if !judged.allowed {
        assert_eq!((judged.status["code"].as_i64(), judged.status["reason"].as_str()), (Some(403), Some("Forbidden")));
    }
}

#[tokio::test]
async fn the_mutating_webhook_leaves_changes_alone() {
    let webhook = World::new().webhook().await;
    let mut review = creation(&clone(as_is));
    review["request"]["operation"] = json!("UPDATE");
    review["request"]["oldObject"] = clone(as_is);
    let judged = webhook.judged(MUTATE_PATH, &review).await;
    assert!(judged.allowed && judged.patch.is_none());
}

/// Allowed or denied; newer API servers may send fields that we do not know.
#[rstest]
#[case::current("admission.k8s.io/v1")]
#[case::older("admission.k8s.io/v1beta1")]
#[tokio::test]
async fn a_review_is_answered_in_its_version_whatever_else_it_holds(#[case] version: &str) {
    let webhook = World::new().webhook().await;
    for (change, code) in [(as_is as Change, None), (smaller, Some(422)), (sources::from_gold, Some(403))] {
        let mut review = creation(&clone(change));
        review["apiVersion"] = json!(version);
        for at in ["", "/request", "/request/kind", "/request/userInfo", "/request/object/spec"] {
            review.pointer_mut(at).unwrap()["newer"] = json!({"than": ["us"]});
        }
        let judged = webhook.judged(MUTATE_PATH, &review).await;
        assert_eq!((judged.allowed, judged.status["code"].as_i64()), (code.is_none(), code), "{judged:?}");
    }
}

/// Until the caches are synced, an unknown class may only be missing in the cache.
#[rstest]
#[case::classes(CLASSES, "storageclasses", "StorageClass")]
#[case::snapshot_classes(SNAPSHOT_CLASSES, "volumesnapshotclasses", "VolumeSnapshotClass")]
#[case::profiles(PROFILES, "storageprofiles", "StorageProfile")]
#[case::cdis(CDIS, "cdis", "CDI")]
#[case::configs(CONFIGS, "cdiconfigs", "CDIConfig")]
#[tokio::test]
async fn an_empty_cache_decides_nothing(#[case] path: &'static str, #[case] plural: &str, #[case] kind: &str) {
    let webhook = World::new().silent(path).webhook_missing(&[plural]).await;
    for path in [MUTATE_PATH, VALIDATE_PATH] {
        let (status, body) = webhook.post(path, creation(&clone(unknown_class)).to_string()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
        assert!(body.contains(&format!("{kind} objects have not been listed yet")), "{body}");
        assert!(webhook.judged(path, &creation(&clone(import))).await.allowed, "imports don't depend on us");
    }
}

/// `kubectl apply` of a class and a clone in it, or of a snapshot class that a clone waits for: our watches may lag behind.
#[rstest]
#[case::class(as_is, |w: World| w.list(CLASSES, &[]), usual, Some("snapshot"))]
#[case::source(as_is, no_source, usual, Some("snapshot"))]
#[case::source_bound(as_is, source_unbound, usual, Some("snapshot"))]
#[case::snapshot_class(as_is, no_snapshot_class, usual, Some("snapshot"))]
#[case::wish(wish_snapshot, no_snapshot_class, usual, Some("snapshot"))]
#[case::snapshot_class_gone(as_is, usual, no_snapshot_class, Some("snapshot"))]
#[case::class_gone(unknown_class, usual, |w: World| w.list(CLASSES, &[]), None)]
#[tokio::test]
async fn what_has_just_been_made_is_not_missing(
    #[case] change: Change,
    #[case] seen: Setup,
    #[case] now: Setup,
    #[case] strategy: Option<&str>,
) {
    let webhook = seen(World::new()).webhook().await;
    webhook.unseen(|_| now(World::new()));
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    assert_eq!(judged.allowed, strategy.is_some(), "{judged:?}");
    if judged.allowed {
        let written = judged.on(&object);
        assert_eq!(written["metadata"]["annotations"].get(CLONE_TYPE).and_then(Value::as_str), strategy);
        assert_eq!(written["metadata"]["annotations"].get(CLONE_FALLBACK_REASON), None);
        assert!(webhook.validate(&written).await.allowed);
    }
}

/// A revoked right takes effect almost at once: an allowed answer is cached for a moment, a denied one never.
#[tokio::test]
async fn a_right_that_is_given_counts_at_once() {
    let webhook = World::new().webhook().await;
    let object = clone(sources::from_gold);
    assert!(!webhook.mutate(&object).await.allowed);
    webhook.unseen(|world| world.allowing(&["pods"]));
    assert!(webhook.mutate(&object).await.allowed);
}

/// A slow API server delays a decision, but never longer than the API server waits for the webhook.
#[rstest]
#[case::source(as_is, SOURCE)]
#[case::volume(as_is, VOLUME)]
#[case::snapshot(sources::of_snapshot, SNAPSHOT)]
#[case::content(sources::of_snapshot, CONTENT)]
#[tokio::test(start_paused = true)]
async fn a_source_that_could_not_be_read_is_decided_about_later(#[case] change: Change, #[case] path: &'static str) {
    let webhook = World::new().silent(path).silent(NAMESAKE).webhook().await;
    let start = tokio::time::Instant::now();
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    let written = judged.on(&object);
    assert!(judged.allowed && written["metadata"]["annotations"].get(PLAN).is_none(), "{judged:?}");
    assert!(judged.warnings[0].contains("could not be decided yet"), "{:?}", judged.warnings);
    let second = tokio::time::Instant::now();
    let verdict = webhook.validate(&written).await;
    assert!(verdict.allowed);
    assert!(verdict.warnings[0].contains("whether the clone's name is free"), "{:?}", verdict.warnings);
    assert!(second - start < LIMIT && second.elapsed() < LIMIT);

    // Decided when the source could be read; the decision can't be checked now.
    let decided = World::new().webhook().await.mutate(&object).await.on(&object);
    let (status, _) = webhook.post(VALIDATE_PATH, creation(&decided).to_string()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

#[rstest]
#[case::nothing("")]
#[case::no_json("{")]
#[case::no_text(b"\xff")]
#[case::another_kind(r#"{"apiVersion":"v1","kind":"Pod"}"#)]
#[case::no_request(r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#)]
#[case::another_version(creation(&clone(as_is)).to_string().replace("admission.k8s.io/v1", "admission.k8s.io/v2"))]
#[tokio::test]
async fn malformed(#[case] body: impl AsRef<[u8]>) {
    let webhook = World::new().webhook().await;
    for path in PATHS {
        let (status, text) = webhook.post(path, body.as_ref().to_vec()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
        assert!(text.starts_with("not an AdmissionReview: "), "{text}");
        assert!(webhook.metrics().contains(&counted(path, "", "malformed")));
    }
}

#[tokio::test]
async fn a_review_may_be_large_but_not_endless() {
    let webhook = World::new().webhook().await;
    let padded = |bytes: usize| {
        let mut object = clone(as_is);
        object["metadata"]["annotations"] = json!({"pad": "x".repeat(bytes)});
        creation(&object)
    };
    assert!(webhook.judged(MUTATE_PATH, &padded(5 << 20)).await.patch.is_some());
    for path in PATHS {
        let (status, _) = webhook.post(path, padded(7 << 20).to_string()).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn reviews_are_counted_by_outcome() {
    let webhook = World::new().webhook().await;
    webhook.mutate(&clone(smaller)).await;
    webhook.mutate(&clone(as_is)).await;
    let metrics = webhook.metrics();
    for outcome in ["invalid", "patched"] {
        assert!(metrics.contains(&counted(MUTATE_PATH, "CREATE", outcome)), "{metrics}");
    }
}

/// The metric line that counts one such review.
fn counted(path: &str, operation: &str, outcome: &str) -> String {
    let labels = format!("path=\"{path}\",operation=\"{operation}\",outcome=\"{outcome}\"");
    format!("admission_duration_seconds_count{{{labels}}} 1\n")
}

/// The API server's error leads to the lines in our log.
#[tokio::test]
async fn a_review_that_panics_is_named_and_counted_and_the_next_one_is_answered() {
    async fn slips(_: &Request) -> Result<Answer, Stop> {
        panic!("of all things")
    }
    let webhook = World::new().webhook().await;
    let body = creation(&clone(as_is)).to_string();
    let response = answer(&webhook.admission, MUTATE_PATH, body.as_bytes(), slips).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let text = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert_eq!(text, "internal error in smartclone's webhook (review review-uid); see its log\n");
    let metrics = webhook.metrics();
    assert!(metrics.contains("admission_panics_total 1\n"), "{metrics}");
    assert!(metrics.contains(&counted(MUTATE_PATH, "CREATE", "panicked")), "{metrics}");
    assert!(webhook.mutate(&clone(as_is)).await.allowed);
}

#[tokio::test]
async fn a_panic_costs_one_answer_and_is_counted() {
    fn slips() -> &'static str {
        panic!("of all things")
    }
    let mut registry = Registry::default();
    let routes = panics_caught(Router::new().route("/", get(async || slips())), Metrics::register(&mut registry));
    for _ in 0..2 {
        let request = http::Request::get("/").body(axum::body::Body::empty()).unwrap();
        assert_eq!(routes.clone().oneshot(request).await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let mut metrics = String::new();
    text::encode(&mut metrics, &registry).unwrap();
    assert!(metrics.contains("admission_panics_total 2\n"), "{metrics}");
}
