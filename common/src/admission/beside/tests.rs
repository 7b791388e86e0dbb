use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    admission::{Audience, carried_over, judge},
    clone::fixtures::{facts, request, volume},
    keys::{
        BESIDE_CDI, CLONE_FALLBACK_REASON, CLONE_PHASE, CLONE_TOKEN, CLONE_TYPE, EXTENDED_CLONE_TOKEN, OWNERSHIP_KEY,
        PLAN, PRE_POPULATED, REQUESTER, SENTINEL, USE_POPULATOR,
    },
};

const ALICE: &str = "alice";
const CDI: &str = "system:serviceaccount:cdi:cdi-sa";

fn with(annotations: Value) -> impl FnOnce(&mut Value) {
    move |object| object["metadata"]["annotations"] = annotations
}

fn class(annotations: &Value, provisioner: &str) -> StorageClass {
    let metadata = json!({"name": "cow", "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata, "provisioner": provisioner})).unwrap()
}

/// The object and its requester, in a cluster in which everything else is as it should be.
#[rstest]
#[case::plain(ALICE, json!({}), Ok(()))]
#[case::marked_before(ALICE, json!({PRE_POPULATED: SENTINEL}), Ok(()))]
#[case::restored(ALICE, json!({PRE_POPULATED: "clone"}), Err(LeaveToCdi::Restored))]
#[case::restored_by_kubevirt(ALICE, json!({PRE_POPULATED: "true"}), Err(LeaveToCdi::Restored))]
#[case::no_value(ALICE, json!({PRE_POPULATED: ""}), Err(LeaveToCdi::Restored))]
#[case::static_volume(ALICE, json!({keys::CHECK_STATIC_VOLUME: ""}), Err(LeaveToCdi::Restored))]
#[case::marked_and_static(ALICE, json!({PRE_POPULATED: SENTINEL, keys::CHECK_STATIC_VOLUME: ""}), Err(LeaveToCdi::Restored))]
#[case::no_populator(ALICE, json!({USE_POPULATOR: "false"}), Err(LeaveToCdi::NoPopulator))]
#[case::perhaps_a_populator(ALICE, json!({USE_POPULATOR: "maybe"}), Ok(()))]
#[case::opted_out(ALICE, json!({BESIDE_CDI: "false"}), Err(LeaveToCdi::OptOut))]
#[case::not_opted_out(ALICE, json!({BESIDE_CDI: "true"}), Ok(()))]
#[case::by_cdi(CDI, json!({}), Err(LeaveToCdi::CdiAccount))]
#[case::by_cdi_elsewhere("system:serviceaccount:openshift-cnv:cdi-sa", json!({}), Err(LeaveToCdi::CdiAccount))]
#[case::by_a_user_of_that_name("x:cdi-sa", json!({}), Ok(()))]
#[case::by_another_account("system:serviceaccount:cdi:not-cdi-sa", json!({}), Ok(()))]
#[case::adoptable(ALICE, json!({keys::ALLOW_ADOPTION: "true"}), Ok(()))]
fn objects_that_are_taken(#[case] user: &str, #[case] annotations: Value, #[case] expected: Result<(), LeaveToCdi>) {
    let volume = volume(with(annotations));
    assert_eq!(takes_object(&volume, user), expected);
    let facts = facts();
    let verdict = judge(&request(&volume), &facts, Audience::Person);
    let fine = Circumstances {
        is_controller_alive: true,
        namesake: Lookup::Absent,
        facts: &facts,
        class: None,
        verdict: &verdict,
    };
    assert_eq!(takes(&volume, user, &fine), expected);
}

#[rstest]
#[case::label(|object: &mut Value| object["metadata"]["labels"] = json!({keys::APPLY_STORAGE_PROFILE: "true"}), LeaveToCdi::StorageProfileLabel)]
#[case::archive(|object: &mut Value| object["spec"]["contentType"] = json!("archive"), LeaveToCdi::Archive)]
fn other_objects_are_left(#[case] change: fn(&mut Value), #[case] expected: LeaveToCdi) {
    assert_eq!(takes_object(&volume(change), ALICE), Err(expected));
}

/// The cluster, for an object that is taken if it permits that.
#[rstest]
#[case::fine(|_: &mut Circumstances<'_>| {}, Ok(()))]
#[case::controller_down(|it: &mut Circumstances<'_>| it.is_controller_alive = false, Err(LeaveToCdi::ControllerDown))]
#[case::claim_goes(|it: &mut Circumstances<'_>| it.namesake = Lookup::Present(Namesake::GivesWay), Ok(()))]
#[case::claim_is_offered(|it: &mut Circumstances<'_>| it.namesake = Lookup::Present(Namesake::TakenOver), Err(LeaveToCdi::ClaimExists))]
#[case::claim_of_another(|it: &mut Circumstances<'_>| it.namesake = Lookup::Present(Namesake::InTheWay), Err(LeaveToCdi::ClaimExists))]
#[case::claim_unread(|it: &mut Circumstances<'_>| it.namesake = Lookup::Unknown("busy".into()), Err(LeaveToCdi::Unknown))]
fn circumstances_in_which_a_clone_is_taken(
    #[case] change: fn(&mut Circumstances<'_>),
    #[case] expected: Result<(), LeaveToCdi>,
) {
    let (volume, facts) = (volume(|_| {}), facts());
    let verdict = judge(&request(&volume), &facts, Audience::Person);
    let mut circumstances = Circumstances {
        is_controller_alive: true,
        namesake: Lookup::Absent,
        facts: &facts,
        class: None,
        verdict: &verdict,
    };
    change(&mut circumstances);
    assert_eq!(takes(&volume, ALICE, &circumstances), expected);
}

/// The StorageClass, and the facts.
#[rstest]
#[case::fine(class(&json!({}), "csi.test"), |_: &mut Facts| {}, Ok(()))]
#[case::opted_out(class(&json!({BESIDE_CDI: "false"}), "csi.test"), |_: &mut Facts| {}, Err(LeaveToCdi::OptOut))]
#[case::in_tree(class(&json!({}), "kubernetes.io/no-provisioner"), |_: &mut Facts| {}, Err(LeaveToCdi::NoCsiDriver))]
#[case::source_missing(class(&json!({}), "csi.test"), |f: &mut Facts| f.source = Lookup::Absent, Err(LeaveToCdi::Undecided))]
#[case::source_unread(class(&json!({}), "csi.test"), |f: &mut Facts| f.source = Lookup::Unknown("busy".into()), Err(LeaveToCdi::Undecided))]
#[case::class_missing(class(&json!({}), "csi.test"), |f: &mut Facts| f.target_class = Lookup::Absent, Err(LeaveToCdi::Invalid))]
#[case::perhaps_no_csi_driver(class(&json!({}), "csi.test"), |f: &mut Facts| {
    f.snapshot_classes = Lookup::Absent;
    if let Lookup::Present(class) = &mut f.target_class {
        class.provisioner = "example.com/nfs".into();
    }
}, Err(LeaveToCdi::NoCsiDriver))]
fn classes_into_which_a_clone_is_taken(
    #[case] class: StorageClass,
    #[case] change: fn(&mut Facts),
    #[case] expected: Result<(), LeaveToCdi>,
) {
    let (volume, mut facts) = (volume(|_| {}), facts());
    change(&mut facts);
    let verdict = judge(&request(&volume), &facts, Audience::Person);
    let circumstances = Circumstances {
        is_controller_alive: true,
        namesake: Lookup::Absent,
        facts: &facts,
        class: Some(&class),
        verdict: &verdict,
    };
    assert_eq!(takes(&volume, ALICE, &circumstances), expected);
}

fn meta(annotations: &Value) -> ObjectMeta {
    serde_json::from_value(json!({"name": "clone", "annotations": annotations})).unwrap()
}

fn applied(metadata: &ObjectMeta, changes: keys::Annotations) -> Value {
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    for (key, value) in changes {
        match value {
            Some(value) => annotations.insert(key.to_owned(), value),
            None => annotations.remove(key),
        };
    }
    json!(annotations)
}

/// What an object has, and what is left of it when CDI gets it: an object that smartclone never had stays untouched.
#[rstest]
#[case::nothing(json!({}), json!({}))]
#[case::of_the_user(json!({"a": "b", CLONE_TYPE: "copy", USE_POPULATOR: "false"}), json!({"a": "b", CLONE_TYPE: "copy", USE_POPULATOR: "false"}))]
#[case::opted_out(json!({BESIDE_CDI: "false"}), json!({BESIDE_CDI: "false"}))]
#[case::restored(json!({PRE_POPULATED: "clone", keys::FALLBACK: "Never"}), json!({PRE_POPULATED: "clone", keys::FALLBACK: "Never"}))]
#[case::taken_before(
    json!({PRE_POPULATED: SENTINEL, BESIDE_CDI: "true", REQUESTER: "r", OWNERSHIP_KEY: "k", PLAN: "{}", CLONE_TYPE: "copy", CLONE_FALLBACK_REASON: "f", "a": "b"}),
    json!({"a": "b"})
)]
#[case::complete_before(
    json!({PRE_POPULATED: "clone", BESIDE_CDI: "true", REQUESTER: "r", OWNERSHIP_KEY: "k"}),
    json!({PRE_POPULATED: "clone"})
)]
fn what_is_left_to_cdi(#[case] annotations: Value, #[case] expected: Value) {
    let metadata = meta(&annotations);
    let changes = unmarked(&metadata);
    assert_eq!(changes.is_empty(), annotations == expected, "{changes:?}");
    assert_eq!(applied(&metadata, changes), expected);
}

#[test]
fn the_mark_of_a_filled_claim_becomes_its_name() {
    let marked = meta(&json!({PRE_POPULATED: SENTINEL, REQUESTER: "r"}));
    assert_eq!(applied(&marked, unmarked_for_filled(&marked)), json!({PRE_POPULATED: "clone"}));
    let plain = meta(&json!({"a": "b"}));
    assert!(unmarked_for_filled(&plain).is_empty());
}

/// A claim that smartclone had taken is filled by CDI, and one that CDI writes has no annotation that only smartclone may write.
#[test]
fn claims_that_are_left_to_cdi() {
    let taken = meta(&json!({CLONE_PHASE: "Succeeded", BESIDE_CDI: "true", REQUESTER: "r", "a": "b"}));
    assert_eq!(applied(&taken, unmarked_claim(&taken)), json!({"a": "b"}));
    let foreign = meta(&json!({CLONE_PHASE: "Succeeded"}));
    assert!(unmarked_claim(&foreign).is_empty());
    let copied =
        meta(&json!({CLONE_PHASE: "Succeeded", REQUESTER: "r", keys::COPIED: "c", keys::STATUS: "{}", "a": "b"}));
    assert_eq!(applied(&copied, unmarked_copy(&copied)), json!({CLONE_PHASE: "Succeeded", "a": "b"}));
}

const TAKEN: [(&str, &str); 9] = [
    (PRE_POPULATED, SENTINEL),
    (USE_POPULATOR, "true"),
    (BESIDE_CDI, "true"),
    (CLONE_TOKEN, "t"),
    (EXTENDED_CLONE_TOKEN, "e"),
    (REQUESTER, "r"),
    (PLAN, "p"),
    (OWNERSHIP_KEY, "k"),
    (CLONE_TYPE, "copy"),
];

fn all_of(annotations: &[(&str, &str)]) -> Value {
    annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}

/// Updates of a clone that smartclone has taken: what the client sends, and what it had lost (test 24 of real CDI).
#[rstest]
#[case::the_whole_map(json!({}), Some(all_of(&TAKEN)))]
#[case::all_but_the_mark(json!({PRE_POPULATED: SENTINEL}), Some(all_of(&TAKEN)))]
#[case::the_mark_alone(
    all_of(&TAKEN[1..]),
    Some(all_of(&TAKEN))
)]
#[case::another_value(
    json!({PRE_POPULATED: "clone"}),
    Some(json!({PRE_POPULATED: "clone", BESIDE_CDI: "true", REQUESTER: "r", PLAN: "p", OWNERSHIP_KEY: "k", CLONE_TYPE: "copy"}))
)]
#[case::released(
    json!({BESIDE_CDI: "false"}),
    Some(json!({BESIDE_CDI: "false", REQUESTER: "r", PLAN: "p", OWNERSHIP_KEY: "k", CLONE_TYPE: "copy"}))
)]
#[case::nothing(all_of(&TAKEN), None)]
fn what_an_update_has_lost_is_put_back(#[case] new: Value, #[case] expected: Option<Value>) {
    let old = meta(&all_of(&TAKEN));
    let new = meta(&new);
    let changes = carried_over(&old, &new);
    assert_eq!(changes.is_empty(), expected.is_none(), "{changes:?}");
    if let Some(expected) = expected {
        assert_eq!(applied(&new, changes), expected);
    }
}

/// What CDI's own clones lose is not put back, nor the mark of a clone that was released.
#[rstest]
#[case::of_cdi(json!({CLONE_TOKEN: "t", USE_POPULATOR: "true"}), json!({}))]
#[case::complete(json!({PRE_POPULATED: "clone", USE_POPULATOR: "true"}), json!({}))]
#[case::released(json!({BESIDE_CDI: "true", USE_POPULATOR: "true"}), json!({BESIDE_CDI: "true"}))]
#[case::claim(json!({BESIDE_CDI: "true", CLONE_PHASE: "Succeeded"}), json!({BESIDE_CDI: "true", CLONE_PHASE: "Succeeded"}))]
fn other_losses(#[case] old: Value, #[case] expected: Value) {
    let new = meta(&json!({}));
    assert_eq!(applied(&new, carried_over(&meta(&old), &new)), expected);
}

fn taken(change: fn(&mut Value)) -> DataVolume {
    volume(|object| {
        object["metadata"]["annotations"] = all_of(&TAKEN);
        change(object);
    })
}
fn annotate(object: &mut Value, key: &str, value: &str) {
    object["metadata"]["annotations"][key] = json!(value);
}

/// Changes of a marked clone by a user, by the controller, and the same changes of a clone of CDI.
#[rstest]
#[case::none(|_: &mut Value| {}, [0, 0, 0])]
#[case::decision(|object: &mut Value| annotate(object, CLONE_TYPE, "snapshot"), [1, 0, 0])]
#[case::requester(|object: &mut Value| annotate(object, REQUESTER, "x"), [1, 1, 1])]
#[case::released(|object: &mut Value| annotate(object, BESIDE_CDI, "false"), [0, 0, 0])]
#[case::other_word(|object: &mut Value| annotate(object, BESIDE_CDI, "no"), [1, 0, 0])]
#[case::filled(|object: &mut Value| annotate(object, PRE_POPULATED, "clone"), [0, 0, 0])]
#[case::spec(|object: &mut Value| object["spec"]["priorityClassName"] = json!("x"), [1, 1, 0])]
#[case::ending(|object: &mut Value| {
    annotate(object, REQUESTER, "x");
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
}, [0, 0, 0])]
fn changes_that_are_errors(#[case] change: fn(&mut Value), #[case] expected: [usize; 3]) {
    let new = taken(change);
    let mut of_cdi = taken(|_| {});
    if let Some(annotations) = &mut of_cdi.metadata.annotations {
        annotations.remove(PRE_POPULATED);
    }
    let count = |old, by_controller| changes(old, &new, by_controller).len();
    let marked = taken(|_| {});
    assert_eq!([count(&marked, false), count(&marked, true), count(&of_cdi, false)], expected);
}
