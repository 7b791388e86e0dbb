//! Sources of every kind and in every namespace: the rights to clone them, and the resolution of DataSources.

use super::*;
use crate::fake_cluster::{GET_DATA_SOURCES, GOLD_CLAIM};

pub(super) fn from_gold(object: &mut Value) {
    object["spec"]["source"]["pvc"]["namespace"] = json!("gold");
}
pub(super) fn of_snapshot(object: &mut Value) {
    object["spec"]["source"] = json!({"snapshot": {"namespace": "ns", "name": "snap"}});
}
pub(super) fn snapshot_from_gold(object: &mut Value) {
    object["spec"]["source"] = json!({"snapshot": {"namespace": "gold", "name": "snap"}});
}
fn reference(object: &mut Value, namespace: Option<&str>) {
    let spec = object["spec"].as_object_mut().unwrap();
    spec.remove("source");
    spec.insert("sourceRef".to_owned(), json!({"kind": "DataSource", "namespace": namespace, "name": "image"}));
}
pub(super) fn by_reference(object: &mut Value) {
    reference(object, None);
}
pub(super) fn by_reference_to_gold(object: &mut Value) {
    reference(object, Some("gold"));
}
fn too_small_from_gold(object: &mut Value) {
    smaller(object);
    from_gold(object);
}
fn too_small_by_reference(object: &mut Value) {
    smaller(object);
    by_reference(object);
}
fn nonsense_by_reference(object: &mut Value) {
    nonsense_size(object);
    by_reference(object);
}
/// An object whose annotation claims that the DataSource leads to another source.
fn noted(object: &mut Value) {
    by_reference(object);
    let note = r#"{"chosenBy":"Default","source":{"kind":"PersistentVolumeClaim","namespace":"gold","name":"source"}}"#;
    object["metadata"]["annotations"] = json!({CLONE_TYPE: "snapshot", PLAN: note});
}

pub(super) const IMAGE: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/ns/datasources/image";
pub(super) const OTHER: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/ns/datasources/other";
pub(super) const GOLD_IMAGE: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/gold/datasources/image";

pub(super) fn data_source(kind: &str, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataSource", "metadata": {"name": "image"},
        "spec": {"source": {(kind): {"namespace": namespace, "name": name}}},
    })
}
pub(super) fn image(world: World) -> World {
    world.object(IMAGE, data_source("pvc", "ns", "source"))
}
fn image_of_snapshot(world: World) -> World {
    world.object(IMAGE, data_source("snapshot", "ns", "snap"))
}
fn image_of_image(world: World) -> World {
    world.object(IMAGE, data_source("dataSource", "ns", "other")).object(OTHER, data_source("snapshot", "ns", "snap"))
}
fn image_of_itself(world: World) -> World {
    world.object(IMAGE, data_source("dataSource", "ns", "image"))
}
fn image_from_gold(world: World) -> World {
    world.object(IMAGE, data_source("pvc", "gold", "source"))
}
fn gold_image(world: World) -> World {
    world.object(GOLD_IMAGE, data_source("snapshot", "gold", "snap"))
}
fn silent_image(world: World) -> World {
    world.silent(IMAGE)
}
fn no_gold(world: World) -> World {
    world.without(GOLD_CLAIM)
}

const PVC_NAMESPACE: &str = "spec.source.pvc.namespace";
const SNAPSHOT_NAMESPACE: &str = "spec.source.snapshot.namespace";

/// Both webhooks give the same answer, so that the first one does not disclose what the second one would not.
#[rstest]
#[case::right_that_is_made_for_it(from_gold, usual, &["datavolumes/source"], None)]
#[case::or_to_make_pods(from_gold, usual, &["pods"], None)]
#[case::none(from_gold, usual, &[], Some(PVC_NAMESPACE))]
#[case::of_a_snapshot(snapshot_from_gold, usual, &["datavolumes/source"], None)]
#[case::or_to_make_pods_and_claims(snapshot_from_gold, usual, &["pods", "persistentvolumeclaims"], None)]
#[case::pods_alone(snapshot_from_gold, usual, &["pods"], Some(SNAPSHOT_NAMESPACE))]
#[case::claims_alone(snapshot_from_gold, usual, &["persistentvolumeclaims"], Some(SNAPSHOT_NAMESPACE))]
#[case::by_reference_to_there(by_reference_to_gold, gold_image, &[GET_DATA_SOURCES], Some("spec.sourceRef"))]
#[case::by_reference_that_leads_there(by_reference, image_from_gold, &[], Some("spec.sourceRef"))]
#[case::allowed_by_reference(by_reference_to_gold, gold_image, &[GET_DATA_SOURCES, "datavolumes/source"], None)]
#[case::nothing_else_is_told(too_small_from_gold, usual, &[], Some(PVC_NAMESPACE))]
#[case::not_even_that_there_is_none(from_gold, no_gold, &[], Some(PVC_NAMESPACE))]
#[tokio::test]
async fn a_source_elsewhere_takes_a_right(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] allowed: &[&str],
    #[case] forbidden: Option<&str>,
) {
    let webhook = setup(World::new()).allowing(allowed).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    assert_eq!(judged.allowed, forbidden.is_none(), "{judged:?}");
    let verdict = webhook.validate(&judged.on(&object)).await;
    assert_eq!((verdict.allowed, &verdict.status), (judged.allowed, &judged.status));
    if let Some(field) = forbidden {
        assert_eq!((judged.status["code"].as_i64(), judged.fields()), (Some(403), vec![field]));
        assert!(judged.message().contains("user \"alice\" may not clone"), "{}", judged.message());
        assert!(judged.message().contains("kubectl create rolebinding"), "{}", judged.message());
        assert!(judged.warnings.is_empty(), "{judged:?}");
    }
}

/// The own namespace needs no access check; for another one, no answer is no permission.
#[rstest]
#[case::no_answer(|w: World| w.silent(REVIEWS))]
#[case::an_error(|w: World| w.without(REVIEWS))]
#[tokio::test(start_paused = true)]
async fn without_an_answer_nobody_may(#[case] setup: Setup) {
    let webhook = setup(World::new()).webhook().await;
    for path in [MUTATE_PATH, VALIDATE_PATH] {
        let start = tokio::time::Instant::now();
        let (status, body) = webhook.post(path, creation(&clone(from_gold)).to_string()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
        assert!(body.contains("whether the user may clone the source could not be told"), "{body}");
        assert!(start.elapsed() < LIMIT);
    }
    let own = clone(as_is);
    assert!(webhook.validate(&webhook.mutate(&own).await.on(&own)).await.allowed);
}

/// The source is always resolved again, whatever the object says, and recorded.
#[rstest]
#[case::claim(by_reference, image, "ns/source")]
#[case::snapshot(by_reference, image_of_snapshot, "ns/snap")]
#[case::another_data_source(by_reference, image_of_image, "ns/snap")]
#[case::in_another_namespace(by_reference_to_gold, gold_image, "gold/snap")]
#[case::a_note_is_not_believed(noted, image, "ns/source")]
#[tokio::test]
async fn a_data_source_is_followed(#[case] change: Change, #[case] setup: Setup, #[case] source: &str) {
    let webhook = setup(World::new()).allowing(&[GET_DATA_SOURCES, "datavolumes/source"]).webhook().await;
    let object = clone(change);
    let written = webhook.mutate(&object).await.on(&object);
    let note: Value = serde_json::from_str(written["metadata"]["annotations"][PLAN].as_str().unwrap()).unwrap();
    let noted = ["namespace", "name"].map(|key| note["source"][key].as_str().unwrap_or_default()).join("/");
    assert_eq!(noted, source);
    assert!(webhook.validate(&written).await.allowed);
}

/// The source may appear later. Then the controller decides, and checks the requester's rights.
#[rstest]
#[case::missing(by_reference, usual, "DataSource ns/image doesn't exist")]
#[case::missing_elsewhere(by_reference_to_gold, usual, "DataSource gold/image doesn't exist")]
#[case::circle(by_reference, image_of_itself, "names itself")]
#[case::silent(by_reference, silent_image, "could not be read: no answer from the API server")]
#[case::a_note_is_removed(noted, usual, "doesn't exist")]
#[tokio::test(start_paused = true)]
async fn a_data_source_that_leads_nowhere_is_waited_for(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] why: &str,
) {
    let webhook = setup(World::new()).allowing(&[GET_DATA_SOURCES]).webhook().await;
    let object = clone(change);
    let judged = webhook.mutate(&object).await;
    let line = judged.warnings.first().map(String::as_str).unwrap_or_default();
    assert!(judged.allowed && line.starts_with("smartclone: spec.sourceRef: ") && line.contains(why), "{judged:?}");
    let written = judged.on(&object);
    assert_eq!(written["metadata"]["annotations"].get(PLAN), None);
    assert!(webhook.validate(&written).await.allowed);
}

/// Names are parts of request paths; these would lead elsewhere, or nowhere. Only the owner of a DataSource can correct the names in it.
#[rstest]
#[case::parent("..")]
#[case::sibling("../persistentvolumeclaims/source")]
#[case::part("source/status")]
#[case::question("source?watch=true")]
#[case::end("source#")]
#[case::code("%73ource")]
#[case::space("a source")]
#[case::longer_than_any(&"x".repeat(254))]
#[tokio::test(start_paused = true)]
async fn a_source_of_a_name_that_cannot_be_does_not_exist(#[case] name: &str) {
    let webhook = World::new().object(IMAGE, data_source("pvc", "ns", name)).webhook().await;
    let start = tokio::time::Instant::now();
    let object = clone(by_reference);
    let judged = webhook.mutate(&object).await;
    assert!(judged.allowed && judged.warnings[0].contains("does not exist yet"), "{judged:?}");
    assert!(webhook.validate(&judged.on(&object)).await.allowed);
    assert!(start.elapsed().is_zero(), "{:?}", start.elapsed());
}

/// An object with an invalid name can never appear, so nobody waits for it.
#[rstest]
#[case::source(json!({"source": {"pvc": {"namespace": "ns", "name": "a source"}}}), &["spec.source.pvc.name"])]
#[case::snapshot(json!({"source": {"snapshot": {"namespace": "ns", "name": "Source"}}}), &["spec.source.snapshot.name"])]
#[case::namespace(json!({"source": {"pvc": {"namespace": "go.ld", "name": "source"}}}), &["spec.source.pvc.namespace"])]
#[case::both(
    json!({"source": {"pvc": {"namespace": "..", "name": "../.."}}}),
    &["spec.source.pvc.name", "spec.source.pvc.namespace"]
)]
#[case::data_source(
    json!({"sourceRef": {"kind": "DataSource", "namespace": "gold?", "name": "image#"}}),
    &["spec.sourceRef.name", "spec.sourceRef.namespace"]
)]
#[tokio::test]
async fn a_name_that_cannot_be_is_refused(#[case] spec: Value, #[case] fields: &[&str]) {
    let webhook = World::new().webhook().await;
    let mut object = clone(nonsense_size);
    let pvc = object["spec"]["pvc"].take();
    object["spec"] = spec;
    object["spec"]["pvc"] = pvc;
    let judged = webhook.mutate(&object).await;
    assert_eq!(judged.status["code"].as_i64(), Some(422), "{judged:?}");
    assert_eq!(judged.fields(), [fields, &[SIZE]].concat());
    assert!(judged.message().contains("lower case letters"), "{}", judged.message());
    assert_eq!(webhook.validate(&object).await, judged);
}

#[rstest]
#[case::too_small(too_small_by_reference, image)]
#[case::nonsense(nonsense_by_reference, image)]
#[case::nonsense_before_it_is_followed(nonsense_by_reference, usual)]
#[tokio::test]
async fn a_mistake_is_told_by_reference_too(#[case] change: Change, #[case] setup: Setup) {
    let judged = setup(World::new()).webhook().await.mutate(&clone(change)).await;
    assert_eq!((judged.allowed, judged.fields()), (false, vec![SIZE]));
}

/// A forged record is refused; one that can't be checked now is not treated as forged.
#[tokio::test(start_paused = true)]
async fn a_note_about_a_data_source_is_checked() {
    let object = clone(noted);
    let real = image(World::new()).webhook().await.mutate(&object).await.on(&object);
    let mut forged = real.clone();
    forged["metadata"]["annotations"][PLAN] = object["metadata"]["annotations"][PLAN].clone();
    let judged = image(World::new()).webhook().await.validate(&forged).await;
    assert_eq!(judged.fields(), ["metadata.annotations[smartclone.dev/plan]"]);
    let silent = silent_image(World::new()).webhook().await;
    let (status, _) = silent.post(VALIDATE_PATH, creation(&real).to_string()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[rstest]
#[case::unstamped(as_is)]
#[case::forged(stamped_anew)]
#[tokio::test]
async fn who_asks_is_written_whatever_stands_there(#[case] change: Change) {
    let webhook = World::new().webhook().await;
    let object = clone(change);
    let written = webhook.mutate(&object).await.on(&object);
    let stamp: Value = serde_json::from_str(written["metadata"]["annotations"][REQUESTER].as_str().unwrap()).unwrap();
    assert_eq!(stamp, json!({"username": "alice", "groups": ["system:authenticated"]}));
    assert!(webhook.validate(&written).await.allowed);
}

#[rstest]
#[case::none("")]
#[case::nonsense("alice")]
#[case::another(r#"{"username":"admin","groups":["system:authenticated"]}"#)]
#[case::of_more_groups(r#"{"username":"alice","groups":["system:authenticated","system:masters"]}"#)]
#[tokio::test]
async fn a_forged_stamp_is_refused(#[case] stamp: &str) {
    let webhook = World::new().webhook().await;
    let object = clone(as_is);
    let mut forged = webhook.mutate(&object).await.on(&object);
    forged["metadata"]["annotations"][REQUESTER] = json!(stamp);
    let judged = webhook.validate(&forged).await;
    assert_eq!((judged.allowed, judged.fields()), (false, vec!["metadata.annotations[smartclone.dev/requester]"]));
}

#[tokio::test]
async fn a_user_of_too_many_groups_is_told_so() {
    let webhook = World::new().webhook().await;
    let mut review = creation(&clone(as_is));
    review["request"]["userInfo"]["groups"] = json!(vec!["g".repeat(64); 1100]);
    let judged = webhook.judged(MUTATE_PATH, &review).await;
    assert_eq!((judged.allowed, judged.status["code"].as_i64()), (false, Some(403)));
    assert!(judged.message().contains("use an account with fewer groups"), "{}", judged.message());
}

fn of_snapshot_without_a_size(object: &mut Value) {
    of_snapshot(object);
    let spec = object["spec"].as_object_mut().unwrap();
    spec.remove("pvc");
    spec.insert("storage".to_owned(), json!({"storageClassName": "fast"}));
}
fn of_snapshot_with_a_size(object: &mut Value) {
    of_snapshot_without_a_size(object);
    object["spec"]["storage"]["resources"] = json!({"requests": {"storage": "1Gi"}});
}
/// A snapshot of the volume `handle`, taken of the claim `source`, for which the driver reports almost no restore size.
fn next_to_nothing(world: World, handle: &str) -> World {
    let snapshot = json!({
        "metadata": {"name": "snap", "uid": "snap-uid"}, "spec": {"source": {"persistentVolumeClaimName": "source"}},
        "status": {"readyToUse": true, "restoreSize": "1805", "boundVolumeSnapshotContentName": "content"},
    });
    let content = json!({
        "metadata": {"name": "content"},
        "spec": {
            "volumeSnapshotRef": {"uid": "snap-uid"}, "driver": "csi.test", "deletionPolicy": "Delete",
            "source": {"volumeHandle": handle}, "sourceVolumeMode": "Filesystem",
        },
    });
    let volume = json!({
        "metadata": {"name": "pv"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "claimRef": {"uid": "source-uid"},
            "csi": {"driver": "csi.test", "volumeHandle": "1"},
        },
    });
    world.object(SNAPSHOT, snapshot).object(CONTENT, content).object(VOLUME, volume)
}

/// The driver's restore size may be almost zero. Then the size is that of the volume, as long as the claim that the snapshot names still
/// has it, or the requested size. If it could not be read, the controller decides.
#[rstest]
#[case::known(of_snapshot_without_a_size, |w: World| next_to_nothing(w, "1"), None, "by restoring the snapshot")]
#[case::claim_is_gone(of_snapshot_without_a_size, |w: World| next_to_nothing(w, "1").without(SOURCE), Some("spec.storage.resources.requests.storage"), "give the size of that volume")]
#[case::claim_is_another(of_snapshot_without_a_size, |w: World| next_to_nothing(w, "2"), Some("spec.storage.resources.requests.storage"), "give the size of that volume")]
#[case::size_is_given(of_snapshot_with_a_size, |w: World| next_to_nothing(w, "2"), None, "by restoring the snapshot")]
#[case::claim_is_not_read(of_snapshot_without_a_size, |w: World| next_to_nothing(w, "1").silent(SOURCE), None, "could not be decided yet")]
#[case::volume_is_not_read(of_snapshot_without_a_size, |w: World| next_to_nothing(w, "1").silent(VOLUME), None, "could not be decided yet")]
#[tokio::test(start_paused = true)]
async fn a_snapshot_has_the_size_of_its_volume(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] field: Option<&str>,
    #[case] words: &str,
) {
    let webhook = setup(World::new()).webhook().await;
    let judged = webhook.mutate(&clone(change)).await;
    assert_eq!(judged.allowed, field.is_none(), "{judged:?}");
    if let Some(field) = field {
        assert_eq!(judged.fields(), [field]);
        assert!(judged.message().contains(words), "{}", judged.message());
    } else {
        assert!(judged.warnings.iter().any(|line| line.contains(words)), "{:?}", judged.warnings);
    }
}
