//! Claims that are populated without a DataVolume.

use super::*;
use crate::fake_cluster::GET_CLONE_SOURCES;

pub(super) const CLONE_SOURCE: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/gold/volumeclonesources/of-source";

pub(super) fn claim(change: Change) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "claim", "annotations": {"cdi.kubevirt.io/dataSourceNamespace": "gold"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}},
            "dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": "of-source"},
        },
    });
    change(&mut object);
    object
}
pub(super) fn at_home(object: &mut Value) {
    object["metadata"]["annotations"] = json!({});
}
fn forged(object: &mut Value) {
    object["metadata"]["annotations"][REQUESTER] = json!(r#"{"username":"admin"}"#);
}
/// An owner reference can be removed later; a forged annotation that was accepted because of it would remain.
fn forged_and_owned(object: &mut Value) {
    forged(object);
    object["metadata"]["ownerReferences"] = json!([owner("clone")]);
}
fn filled_by_the_driver(object: &mut Value) {
    object["spec"]["dataSourceRef"] =
        json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "of-source"});
}
fn grown(object: &mut Value) {
    object["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
}

pub(super) fn clone_source(world: World, kind: &str) -> World {
    let object = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "VolumeCloneSource",
        "metadata": {"name": "of-source", "namespace": "gold"},
        "spec": {"source": {"kind": kind, "name": "source"}},
    });
    world.object(CLONE_SOURCE, object)
}
pub(super) fn there(world: World) -> World {
    clone_source(world, "PersistentVolumeClaim")
}
fn senseless(world: World) -> World {
    clone_source(world, "ConfigMap")
}
fn silent(world: World) -> World {
    world.silent(CLONE_SOURCE)
}

#[rstest]
#[case::plain(at_home)]
#[case::forged(forged)]
#[case::forged_and_owned(forged_and_owned)]
#[tokio::test]
async fn who_asks_is_written(#[case] change: Change) {
    let webhook = there(World::new()).allowing(&[GET_CLONE_SOURCES, "pods"]).webhook().await;
    let object = claim(change);
    let written = webhook.mutate_claim(USER, &object).await.on(&object);
    let stamp: Value = serde_json::from_str(written["metadata"]["annotations"][REQUESTER].as_str().unwrap()).unwrap();
    assert_eq!(stamp, json!({"username": "alice", "groups": ["system:authenticated"]}));
    assert!(webhook.validate_claim(USER, &written).await.allowed);
    let refused = webhook.validate_claim(USER, &object).await;
    assert_eq!(refused.fields(), ["metadata.annotations[smartclone.dev/requester]"]);
}

const FIELD: &str = "metadata.annotations[cdi.kubevirt.io/dataSourceNamespace]";

#[rstest]
#[case::allowed(as_is, there, &[GET_CLONE_SOURCES, "datavolumes/source"], Ok(None))]
#[case::denied(as_is, there, &[], Err("user \"alice\" may not read VolumeCloneSource gold/of-source"))]
#[case::right_to_the_source_alone(as_is, there, &["datavolumes/source"], Err("may not read VolumeCloneSource"))]
#[case::right_to_its_name_alone(as_is, there, &[GET_CLONE_SOURCES], Err("may not clone PersistentVolumeClaim gold/source"))]
#[case::at_home(at_home, there, &[], Ok(None))]
#[case::missing(as_is, usual, &[GET_CLONE_SOURCES], Ok(Some("it does not exist yet")))]
#[case::senseless(as_is, senseless, &[GET_CLONE_SOURCES], Ok(Some("spec.source.pvc.name")))]
#[case::silent(as_is, silent, &[GET_CLONE_SOURCES], Ok(Some("could not be read")))]
#[tokio::test(start_paused = true)]
async fn a_source_elsewhere_takes_a_right(
    #[case] change: Change,
    #[case] setup: Setup,
    #[case] allowed: &[&str],
    #[case] expected: Result<Option<&str>, &str>,
) {
    let webhook = setup(World::new()).allowing(allowed).webhook().await;
    let object = claim(change);
    let judged = webhook.validate_claim(USER, &webhook.mutate_claim(USER, &object).await.on(&object)).await;
    match expected {
        Err(why) => {
            assert_eq!((judged.fields(), judged.status["code"].as_i64()), (vec![FIELD], Some(403)));
            assert!(judged.message().contains(why), "{}", judged.message());
            assert_eq!(judged.status["details"]["kind"], "PersistentVolumeClaim");
        }
        Ok(warning) => {
            assert!(judged.allowed, "{judged:?}");
            assert_eq!(judged.warnings.len(), usize::from(warning.is_some()), "{judged:?}");
            assert!(judged.warnings.iter().all(|line| line.contains(warning.unwrap_or_default())), "{judged:?}");
        }
    }
}

#[tokio::test]
async fn without_an_answer_nobody_may() {
    let webhook = there(World::new()).without(REVIEWS).webhook().await;
    let object = claim(as_is);
    let written = webhook.mutate_claim(USER, &object).await.on(&object);
    let (status, body) = webhook.post(VALIDATE_CLAIM_PATH, creation(&written).to_string()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
}

#[rstest]
#[case::of_the_controller(CONTROLLER, as_is, usual)]
#[case::filled_by_the_driver(USER, filled_by_the_driver, usual)]
#[case::under_cdi(USER, forged, cdi_operator)]
#[tokio::test]
async fn other_claims_are_left_alone(#[case] user: &str, #[case] change: Change, #[case] setup: Setup) {
    let webhook = setup(World::new()).webhook().await;
    let object = claim(change);
    for judged in [webhook.mutate_claim(user, &object).await, webhook.validate_claim(user, &object).await] {
        assert!(judged.allowed && judged.patch.is_none() && judged.warnings.is_empty(), "{judged:?}");
    }
}

#[rstest]
#[case::anything_else(USER, grown, true)]
#[case::written_later(USER, forged, false)]
#[case::by_the_controller(CONTROLLER, forged, false)]
#[tokio::test]
async fn who_asked_is_never_changed(#[case] user: &str, #[case] change: Change, #[case] allowed: bool) {
    let webhook = World::new().webhook().await;
    for (old, new) in [(claim(as_is), claim(change)), (claim(change), claim(as_is))] {
        let judged = webhook.update_claim(user, &old, &new).await;
        assert_eq!(judged.allowed, allowed, "{judged:?}");
    }
}

/// The source of a claim is immutable for every user, and the check reads nothing.
#[rstest]
#[case::said_later(USER, at_home, as_is, &[FIELD])]
#[case::taken_back(USER, as_is, at_home, &[FIELD])]
#[case::by_the_controller(CONTROLLER, at_home, as_is, &[FIELD])]
#[case::with_the_stamp(USER, at_home, forged, &["metadata.annotations[smartclone.dev/requester]", FIELD])]
#[case::grown(USER, as_is, grown, &[])]
#[tokio::test]
async fn what_a_claim_is_filled_from_is_never_changed(
    #[case] user: &str,
    #[case] old: Change,
    #[case] new: Change,
    #[case] fields: &[&str],
) {
    let webhook = there(World::new()).object(REVIEWS, json!(true)).webhook().await;
    webhook.asked();
    let judged = webhook.update_claim(user, &claim(old), &claim(new)).await;
    assert_eq!((judged.allowed, judged.fields()), (fields.is_empty(), fields.to_vec()), "{judged:?}");
    assert_eq!(webhook.asked(), Vec::<String>::new());
}
