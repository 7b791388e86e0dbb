//! Reviews beside CDI: what smartclone takes, and what it leaves to CDI untouched.

use common::keys::{
    APPLY_STORAGE_PROFILE, BESIDE_CDI, CHECK_STATIC_VOLUME, CLONE_PHASE, CLONE_TOKEN, DEFAULT_INSTANCE_TYPE, SENTINEL,
    USE_POPULATOR,
};
use jiff::{SignedDuration, Timestamp};

use super::{
    claims::{at_home, claim, there},
    *,
};
use crate::fake_cluster::{GET_CLONE_SOURCES, Judged, LEASE, LEASES};

const CDI: &str = "system:serviceaccount:cdi:cdi-sa";

fn renewed(ago: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(ago)
}
fn fresh(world: World) -> World {
    world.beside_cdi(renewed(1))
}
fn stale(world: World) -> World {
    world.beside_cdi(renewed(3600))
}

fn annotate(object: &mut Value, annotations: &Value) {
    object["metadata"]["annotations"] = annotations.clone();
}
fn marked(object: &mut Value) {
    annotate(object, &json!({PRE_POPULATED: SENTINEL}));
}
fn static_volume(object: &mut Value) {
    annotate(object, &json!({CHECK_STATIC_VOLUME: ""}));
}
fn no_populator(object: &mut Value) {
    annotate(object, &json!({USE_POPULATOR: "false"}));
}
fn perhaps_a_populator(object: &mut Value) {
    annotate(object, &json!({USE_POPULATOR: "maybe"}));
}
fn opted_out(object: &mut Value) {
    annotate(object, &json!({BESIDE_CDI: "false"}));
}
fn archive(object: &mut Value) {
    object["spec"]["contentType"] = json!("archive");
}
fn profile_label(object: &mut Value) {
    object["metadata"]["labels"] = json!({APPLY_STORAGE_PROFILE: "true"});
}
fn no_size(object: &mut Value) {
    object["spec"]["pvc"]["resources"] = json!({});
}
/// Annotations by which CDI's controllers would work on a claim that had them.
fn hostile(object: &mut Value) {
    annotate(
        object,
        &json!({
            "k8s.io/CloneRequest": "ns/source", "cdi.kubevirt.io/storage.upload.target": "",
            "cdi.kubevirt.io/storage.import.endpoint": "http://x", "cdi.kubevirt.io/storage.pod.phase": "Succeeded",
            CLONE_PHASE: "Succeeded", "cdi.kubevirt.io/createdForDataVolume": "x", POPULATED_FOR: "clone",
            USE_POPULATOR: "maybe", BESIDE_CDI: "yes", REQUESTER: "{}", OWNERSHIP_KEY: "x",
        }),
    );
}

fn out_of_class(world: World) -> World {
    fresh(world).changed(CLASSES, |list| list["items"][0]["metadata"]["annotations"][BESIDE_CDI] = json!("false"))
}
fn in_tree(world: World) -> World {
    fresh(world).changed(CLASSES, |list| list["items"][0]["provisioner"] = json!("kubernetes.io/no-provisioner"))
}
fn other_provisioner(world: World) -> World {
    fresh(world).changed(CLASSES, |list| list["items"][0]["provisioner"] = json!("example.com/nfs"))
}
fn without_source(world: World) -> World {
    no_source(fresh(world))
}
fn unbound_source(world: World) -> World {
    source_unbound(fresh(world))
}
fn without_snapshots(world: World) -> World {
    no_snapshot_class(fresh(world))
}
fn with_claim(world: World, metadata: &Value) -> World {
    let mut metadata = metadata.clone();
    (metadata["name"], metadata["namespace"]) = (json!("clone"), json!("ns"));
    fresh(world).object(NAMESAKE, json!({"metadata": metadata, "spec": {}}))
}
fn claim_of_another(world: World) -> World {
    with_claim(world, &json!({}))
}
fn claim_in_deletion(world: World) -> World {
    with_claim(world, &json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))
}
fn leftover(world: World) -> World {
    with_claim(world, &json!({"ownerReferences": [owner("clone")]}))
}
fn filled_claim(world: World) -> World {
    with_claim(world, &json!({"annotations": {POPULATED_FOR: "clone"}}))
}
fn no_lease(world: World) -> World {
    fresh(world).without(LEASE).without(LEASES)
}
fn given_up(world: World) -> World {
    let give_up = |lease: &mut Value| lease["spec"]["holderIdentity"] = json!("");
    fresh(world).changed(LEASE, give_up).changed(LEASES, |list| give_up(&mut list["items"][0]))
}
fn allowed(world: World) -> World {
    fresh(world).allowing(&["datavolumes/source"])
}

fn annotations(object: &Value) -> serde_json::Map<String, Value> {
    object["metadata"]["annotations"].as_object().cloned().unwrap_or_default()
}

fn assert_untouched(judged: &Judged) {
    assert!(judged.allowed && judged.patch.is_none() && judged.warnings.is_empty(), "{judged:?}");
}

/// The reason for which a clone is left to CDI, untouched and without a word; none if it is taken.
#[rstest]
#[case::plain(as_is, fresh, None)]
#[case::by_storage(by_storage, fresh, None)]
#[case::name_to_come(generated_name, fresh, None)]
#[case::wish(wish_copy, fresh, None)]
#[case::fallback(as_is, without_snapshots, None)]
#[case::perhaps_a_populator(perhaps_a_populator, fresh, None)]
#[case::marked(marked, fresh, None)]
#[case::hostile(hostile, fresh, None)]
#[case::elsewhere(sources::from_gold, allowed, None)]
#[case::claim_in_deletion(as_is, claim_in_deletion, None)]
#[case::leftover(as_is, leftover, None)]
#[case::restored(pre_populated, fresh, Some("restored"))]
#[case::static_volume(static_volume, fresh, Some("restored"))]
#[case::no_populator(no_populator, fresh, Some("no-populator"))]
#[case::opted_out(opted_out, fresh, Some("opt-out"))]
#[case::class_opted_out(as_is, out_of_class, Some("opt-out"))]
#[case::archive(archive, fresh, Some("archive"))]
#[case::profile_label(profile_label, fresh, Some("storage-profile-label"))]
#[case::nonsense(nonsense_size, fresh, Some("invalid"))]
#[case::not_an_object(not_an_object, fresh, Some("invalid"))]
#[case::no_size(no_size, fresh, Some("invalid"))]
#[case::smaller(smaller, fresh, Some("invalid"))]
#[case::unknown_class(unknown_class, fresh, Some("invalid"))]
#[case::unknown_wish(wish_nonsense, fresh, Some("invalid"))]
#[case::no_fallback(no_fallback, without_snapshots, Some("invalid"))]
#[case::no_right(sources::from_gold, fresh, Some("not-allowed"))]
#[case::no_source(as_is, without_source, Some("undecided"))]
#[case::source_unbound(as_is, unbound_source, Some("undecided"))]
#[case::in_tree(as_is, in_tree, Some("no-csi-driver"))]
#[case::perhaps_no_csi_driver(as_is, other_provisioner, Some("no-csi-driver"))]
#[case::claim_of_another(as_is, claim_of_another, Some("claim-exists"))]
#[case::adoption(adopting, claim_of_another, Some("claim-exists"))]
#[case::filled_claim(as_is, filled_claim, Some("claim-exists"))]
#[case::stale_lease(as_is, stale, Some("controller-down"))]
#[case::no_lease(as_is, no_lease, Some("controller-down"))]
#[case::given_up(as_is, given_up, Some("controller-down"))]
#[tokio::test]
async fn a_clone_is_taken_or_left(#[case] change: Change, #[case] setup: Setup, #[case] reason: Option<&str>) {
    let webhook = setup(World::new()).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    if let Some(reason) = reason {
        assert_untouched(&judged);
        let metrics = webhook.metrics();
        assert!(metrics.contains(&format!("left_to_cdi_total{{reason=\"{reason}\"}} 1")), "{metrics}");
        webhook.asked();
        assert_untouched(&webhook.validate(&object).await);
        return;
    }
    assert!(judged.allowed, "{judged:?}");
    let written = judged.on(&object);
    let all = annotations(&written);
    for (key, value) in [(PRE_POPULATED, SENTINEL), (USE_POPULATOR, "true"), (BESIDE_CDI, "true")] {
        assert_eq!(all[key], value, "{all:?}");
    }
    for key in [CLONE_TYPE, PLAN, OWNERSHIP_KEY] {
        assert!(all.contains_key(key), "{key}: {all:?}");
    }
    assert!(all[REQUESTER].as_str().unwrap().contains(USER));
    assert_eq!(written["metadata"].get("finalizers"), None);
    // Deciding twice is deciding once, and the other webhook agrees.
    assert_eq!(webhook.mutate(&written).await.patch, None);
    let verdict = webhook.validate(&written).await;
    assert!(verdict.allowed, "{verdict:?}");
}

#[tokio::test]
async fn the_labels_of_the_source_are_inherited() {
    let label = |source: &mut Value| source["metadata"]["labels"] = json!({DEFAULT_INSTANCE_TYPE: "u1.large"});
    let webhook = fresh(World::new()).changed(SOURCE, label).webhook().await;
    let object = clone(as_is);
    let written = webhook.mutate(&object).await.on(&object);
    assert_eq!(written["metadata"]["labels"][DEFAULT_INSTANCE_TYPE], "u1.large");
}

/// A DataVolume that CDI moves to another namespace has the annotations of the old one; nothing else of CDI's is touched.
#[tokio::test]
async fn what_cdi_creates_is_left() {
    let webhook = fresh(World::new()).object(REVIEWS, json!(true)).webhook().await;
    let object = clone(as_is);
    let question = |object: &Value| review("CREATE", CDI, object, &Value::Null);
    assert_untouched(&webhook.judged(MUTATE_PATH, &question(&object)).await);
    let moved = webhook.mutate(&object).await.on(&object);
    let written = webhook.judged(MUTATE_PATH, &question(&moved)).await.on(&moved);
    let all = annotations(&written);
    assert_eq!(all[PRE_POPULATED], "clone");
    for key in [REQUESTER, PLAN, OWNERSHIP_KEY, BESIDE_CDI] {
        assert!(!all.contains_key(key), "{key}: {all:?}");
    }
    assert_untouched(&webhook.judged(VALIDATE_PATH, &question(&written)).await);
}

/// An object that arrives with the mark: CDI has not asked about the requester's right. Not taken, it loses the mark.
#[rstest]
#[case::no_right(sources::from_gold, fresh, Err(()))]
#[case::no_right_and_the_controller_is_down(sources::from_gold, stale, Err(()))]
#[case::no_right_and_opted_out(|object: &mut Value| {
    sources::from_gold(object);
    annotate(object, &json!({BESIDE_CDI: "false"}));
}, fresh, Err(()))]
#[case::no_source(as_is, without_source, Ok(None))]
#[case::controller_down(as_is, stale, Ok(None))]
#[case::nonsense(nonsense_size, fresh, Ok(None))]
#[case::import(import, fresh, Ok(None))]
#[case::claim_of_another(as_is, claim_of_another, Ok(None))]
#[case::filled_claim(as_is, filled_claim, Ok(Some("clone")))]
#[case::filled_claim_and_no_right(sources::from_gold, filled_claim, Ok(Some("clone")))]
#[tokio::test]
async fn a_mark_gives_no_right(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] expected: Result<Option<&str>, ()>,
) {
    let webhook = setup(World::new()).webhook().await;
    let mut object = clone(change);
    let mut all = annotations(&object);
    all.extend([(PRE_POPULATED.to_owned(), json!(SENTINEL)), (REQUESTER.to_owned(), json!("{}"))]);
    object["metadata"]["annotations"] = all.into();
    let judged = webhook.mutate(&object).await;
    let Ok(value) = expected else {
        assert_eq!((judged.allowed, judged.status["code"].as_i64()), (false, Some(403)), "{judged:?}");
        assert_eq!(judged.fields(), ["spec.source.pvc.namespace"]);
        assert!(judged.message().contains("remove it or ask for the right"), "{}", judged.message());
        return;
    };
    assert!(judged.allowed && judged.warnings.is_empty(), "{judged:?}");
    let all = annotations(&judged.on(&object));
    assert_eq!(all.get(PRE_POPULATED).and_then(Value::as_str), value);
    assert!(!all.contains_key(REQUESTER), "{all:?}");
}

/// Objects as they would be stored without our mutating webhook, or with another one after it.
#[rstest]
#[case::stamp(|object: &mut Value| object["metadata"]["annotations"][REQUESTER] = json!(r#"{"username":"admin"}"#))]
#[case::plan(|object: &mut Value| object["metadata"]["annotations"][PLAN] = json!(r#"{"chosenBy":"Override"}"#))]
#[case::strategy(|object: &mut Value| object["metadata"]["annotations"][CLONE_TYPE] = json!("copy"))]
#[case::populator(|object: &mut Value| object["metadata"]["annotations"][USE_POPULATOR] = json!("maybe"))]
#[case::record(|object: &mut Value| object["metadata"]["annotations"][BESIDE_CDI] = json!("yes"))]
#[case::opted_out(|object: &mut Value| object["metadata"]["annotations"][BESIDE_CDI] = json!("false"))]
#[case::mark_alone(|object: &mut Value| {
    let stamp = object["metadata"]["annotations"][REQUESTER].take();
    annotate(object, &json!({PRE_POPULATED: SENTINEL, REQUESTER: stamp}));
})]
#[case::source(|object: &mut Value| object["spec"]["source"]["pvc"]["namespace"] = json!("gold"))]
#[tokio::test]
async fn a_forged_mark_is_refused(#[case] forge: Change) {
    let webhook = fresh(World::new()).webhook().await;
    let object = clone(as_is);
    let mut written = webhook.mutate(&object).await.on(&object);
    assert!(webhook.validate(&written).await.allowed);
    forge(&mut written);
    assert!(!webhook.validate(&written).await.allowed);
}

/// The watch may lag behind a renewal; without CDI nobody looks at the Lease.
#[tokio::test]
async fn the_lease_is_read_where_it_counts() {
    let object = clone(as_is);
    let webhook = stale(World::new()).webhook().await;
    webhook.unseen(|world| world.beside_cdi(renewed(1)));
    assert!(annotations(&webhook.mutate(&object).await.on(&object)).contains_key(PRE_POPULATED));
    // A clone that was taken is not revoked.
    let written = webhook.mutate(&object).await.on(&object);
    webhook.unseen(|world| world.beside_cdi(renewed(3600)));
    assert!(webhook.validate(&written).await.allowed);

    let alone = World::new().webhook().await;
    let written = alone.mutate(&object).await.on(&object);
    assert!(!annotations(&written).contains_key(PRE_POPULATED), "{written}");
    assert!(alone.asked().iter().all(|line| !line.contains("leases")));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_in_time_is_left() {
    let webhook = fresh(World::new()).silent(SOURCE).silent(NAMESAKE).webhook().await;
    assert_untouched(&webhook.mutate(&clone(as_is)).await);
}

/// Updates: by users, and by the controller, which may remove what it likes.
#[tokio::test]
async fn what_an_update_loses_is_put_back() {
    let webhook = fresh(World::new()).webhook().await;
    let object = clone(as_is);
    let mut old = webhook.mutate(&object).await.on(&object);
    old["metadata"]["annotations"][CLONE_TOKEN] = json!("token");
    for user in [USER, CDI, "system:admin"] {
        let judged = webhook.mutate_update(user, &old, &object).await;
        assert_eq!(annotations(&judged.on(&object)), annotations(&old), "{user}");
    }
    assert_untouched(&webhook.mutate_update(CONTROLLER, &old, &object).await);
    let mut filled = old.clone();
    filled["metadata"]["annotations"][PRE_POPULATED] = json!("clone");
    assert_untouched(&webhook.mutate_update(CDI, &old, &filled).await);
    // CDI writes its decisions on a clone that is its own again.
    let mut released = old.clone();
    released["metadata"]["annotations"].as_object_mut().unwrap().remove(PRE_POPULATED);
    let mut decided = released.clone();
    decided["metadata"]["annotations"][CLONE_TYPE] = json!("copy");
    assert!(webhook.update(CDI, &released, &decided).await.allowed);
    assert!(!webhook.update(USER, &old, &decided).await.allowed);
}

#[tokio::test]
async fn transfers_are_cdis() {
    let webhook = fresh(World::new()).webhook().await;
    let mut question = creation(&json!({"metadata": {"name": "t"}, "spec": {}}));
    question["request"]["kind"] = json!({"group": "cdi.kubevirt.io", "version": "v1beta1", "kind": "ObjectTransfer"});
    assert_untouched(&webhook.judged(TRANSFER_PATH, &question).await);
}

fn claim_of_a_data_volume(object: &mut Value) {
    object["metadata"]["ownerReferences"] = json!([owner("clone")]);
}
fn bound_claim(object: &mut Value) {
    object["spec"]["volumeName"] = json!("pv");
}
fn claim_opted_out(object: &mut Value) {
    object["metadata"]["annotations"][BESIDE_CDI] = json!("false");
}
fn may_follow(world: World) -> World {
    there(fresh(world)).allowing(&[GET_CLONE_SOURCES, "datavolumes/source"])
}

/// Claims that name a VolumeCloneSource: the reason for which one is left to CDI; none if it is taken.
#[rstest]
#[case::elsewhere(USER, as_is, may_follow, None)]
#[case::at_home(USER, at_home, fresh, None)]
#[case::by_cdi(CDI, as_is, may_follow, Some("cdi-account"))]
#[case::of_a_data_volume(USER, claim_of_a_data_volume, may_follow, Some("not-a-clone"))]
#[case::bound(USER, bound_claim, may_follow, Some("restored"))]
#[case::opted_out(USER, claim_opted_out, may_follow, Some("opt-out"))]
#[case::class_opted_out(USER, at_home, out_of_class, Some("opt-out"))]
#[case::no_right(USER, as_is, |world| there(fresh(world)), Some("not-allowed"))]
#[case::controller_down(USER, at_home, stale, Some("controller-down"))]
#[tokio::test]
async fn a_claim_is_taken_or_left(
    #[case] user: &str,
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] reason: Option<&str>,
) {
    let webhook = setup(World::new()).webhook().await;
    let object = claim(change);
    let judged = webhook.mutate_claim(user, &object).await;
    if let Some(reason) = reason {
        assert_untouched(&judged);
        let metrics = webhook.metrics();
        assert!(metrics.contains(&format!("left_to_cdi_total{{reason=\"{reason}\"}} 1")), "{metrics}");
        assert_untouched(&webhook.validate_claim(user, &object).await);
        return;
    }
    let written = judged.on(&object);
    let all = annotations(&written);
    assert_eq!((&all[CLONE_PHASE], &all[BESIDE_CDI]), (&json!("Succeeded"), &json!("true")));
    assert!(all.contains_key(OWNERSHIP_KEY) && all[REQUESTER].as_str().unwrap().contains(USER), "{all:?}");
    assert!(webhook.validate_claim(user, &written).await.allowed);
    let mut forged = written;
    forged["metadata"]["annotations"][REQUESTER] = json!(r#"{"username":"admin"}"#);
    assert!(!webhook.validate_claim(user, &forged).await.allowed);
}

#[tokio::test]
async fn the_controllers_claims_are_left() {
    let webhook = fresh(World::new()).webhook().await;
    assert_untouched(&webhook.mutate_claim(CONTROLLER, &claim(at_home)).await);
    assert_untouched(&webhook.update_claim(CDI, &claim(at_home), &claim(as_is)).await);
}

/// CDI copies the annotations of a DataVolume to the claim that it makes, where they would be those of another requester.
#[tokio::test]
async fn copied_annotations_are_taken_off() {
    let webhook = fresh(World::new()).object(REVIEWS, json!(true)).webhook().await;
    let object = claim(at_home);
    let copied = webhook.mutate_claim(USER, &object).await.on(&object);
    let written = webhook.mutate_claim(CDI, &copied).await.on(&copied);
    assert_eq!(annotations(&written).into_iter().collect::<Vec<_>>(), [(CLONE_PHASE.to_owned(), json!("Succeeded"))]);
}
