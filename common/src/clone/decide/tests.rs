use jiff::Timestamp;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    super::fixtures::{annotated, class, facts, gi, request, sized, volume},
    *,
};

use crate::{
    api::Refusal,
    clone::{decide::size::SizePlan, note::PastRefusal},
    keys,
    lookup::Lookup::{Absent, Present, Unknown},
    quantity::Bytes,
    storage::{
        class::Class,
        driver_error::Scope,
        refusals::{ErrorSource, MetRefusal, NamespaceRefusal, NamespaceRefusals, RefusalKey, VolumeRequest},
        snapshot_class::SnapshotClass,
    },
};

type World = fn(&mut Facts);
type Wish = fn(&mut Value);

fn as_is(_: &mut Value) {}
fn usual(_: &mut Facts) {}
fn larger(object: &mut Value) {
    sized("2Gi")(object);
}
fn block(object: &mut Value) {
    object["spec"]["pvc"]["volumeMode"] = json!("Block");
}

fn chosen(wish: Wish, world: World) -> Chosen {
    let mut facts = facts();
    world(&mut facts);
    match decide(&request(&volume(wish)), &History::default(), &facts) {
        Decision::Chosen(chosen) => *chosen,
        other => panic!("not chosen: {other:?}"),
    }
}

/// The conditions of a snapshot, and the code of the fallback reason for a copy.
#[rstest]
#[case::everything_fits(as_is, usual, Ok(()))]
#[case::no_snapshot_api(as_is, |f: &mut Facts| f.snapshot_classes = Absent, Err("NoVolumeSnapshotClass"))]
#[case::no_snapshot_class(as_is, |f: &mut Facts| f.snapshot_classes = Present(vec![]), Err("NoVolumeSnapshotClass"))]
#[case::profile_names_a_wrong_class(
    as_is,
    |f: &mut Facts| f.profile = Present(Profile { snapshot_class: Some("gone".into()), ..Profile::default() }),
    Err("NoVolumeSnapshotClass")
)]
#[case::another_driver(as_is, |f: &mut Facts| f.target_class = Present(class("fast", "other")), Err("IncompatibleProvisioners"))]
#[case::another_class_of_the_driver(as_is, |f: &mut Facts| f.target_class = Present(class("fast", "driver")), Ok(()))]
#[case::other_parameters(as_is, other_pool, Err("IncompatibleStorageClasses"))]
#[case::other_parameters_declared_compatible(as_is, declared_compatible, Ok(()))]
#[case::other_secret_only(as_is, other_secret, Ok(()))]
#[case::not_csi(as_is, |f: &mut Facts| source(f).driver = Absent, Err("NoCsiDriver"))]
#[case::other_mode(block, usual, Err("IncompatibleVolumeModes"))]
#[case::larger(larger, usual, Ok(()))]
#[case::larger_exact_driver(larger, exact_driver, Ok(()))]
#[case::larger_exact_driver_no_expansion(larger, exact_driver_no_expansion, Err("NoVolumeExpansion"))]
fn snapshot_or_copy(#[case] wish: Wish, #[case] world: World, #[case] expected: Result<(), &str>) {
    let chosen = chosen(wish, world);
    let expected_strategy = if expected.is_ok() { CloneStrategy::Snapshot } else { CloneStrategy::Copy };
    assert_eq!(chosen.strategy, expected_strategy);
    assert_eq!(chosen.fallback.as_ref().map_or(Ok(()), |reason| Err(reason.code().as_str())), expected);
    assert_eq!(chosen.snapshot_class.is_some(), chosen.strategy == CloneStrategy::Snapshot);
    // All candidates have an outcome; exactly one is chosen.
    assert_eq!(chosen.verdicts.len(), 3);
    assert_eq!(chosen.verdicts.iter().filter(|v| v.outcome == Outcome::Chosen).count(), 1);
}

fn source(facts: &mut Facts) -> &mut Source {
    match &mut facts.source {
        Present(source) => source,
        other => panic!("{other:?}"),
    }
}
fn pool(name: &str, pool: &str) -> Class {
    let mut class = class(name, "driver");
    class.parameters.insert("pool".into(), pool.into());
    class
}
fn other_pool(facts: &mut Facts) {
    facts.source_class = Present(pool("cow", "a"));
    facts.target_class = Present(pool("fast", "b"));
}
fn declared_compatible(facts: &mut Facts) {
    facts.source_class = Present(pool("cow", "a"));
    facts.target_class = Present(Class { compatible_with: vec!["cow".into()], ..pool("fast", "b") });
}
fn other_secret(facts: &mut Facts) {
    let mut target = class("fast", "driver");
    target.parameters.insert("csi.storage.k8s.io/node-stage-secret-name".into(), "mine".into());
    facts.target_class = Present(target);
}
fn exact_driver(facts: &mut Facts) {
    facts.target_class = Present(Class { restore: RestoreRule::SourceSizeOnly, ..class("cow", "driver") });
}
fn exact_driver_no_expansion(facts: &mut Facts) {
    exact_driver(facts);
    if let Present(class) = &mut facts.target_class {
        class.expands = false;
    }
}

/// Precedence of the wanted strategy: requester, CDI object, StorageProfile, StorageClass.
#[rstest]
#[case::nobody(as_is, usual, CloneStrategy::Snapshot, ChosenBy::Default)]
#[case::class(as_is, |f: &mut Facts| wish_of_class(f, "copy"), CloneStrategy::Copy, ChosenBy::StorageClass)]
#[case::class_with_an_unknown_word(as_is, |f: &mut Facts| wish_of_class(f, "smart"), CloneStrategy::Snapshot, ChosenBy::Default)]
#[case::profile_before_class(as_is, |f: &mut Facts| { wish_of_class(f, "copy"); wish_of_profile(f); }, CloneStrategy::CsiClone, ChosenBy::Profile)]
#[case::override_before_profile(as_is, |f: &mut Facts| { wish_of_profile(f); f.cluster_override = Present(CloneStrategy::Copy); }, CloneStrategy::Copy, ChosenBy::Override)]
#[case::override_snapshot(as_is, |f: &mut Facts| { wish_of_class(f, "copy"); f.cluster_override = Present(CloneStrategy::Snapshot); }, CloneStrategy::Snapshot, ChosenBy::Override)]
#[case::requester_before_override(wishes_snapshot, |f: &mut Facts| f.cluster_override = Present(CloneStrategy::Copy), CloneStrategy::Snapshot, ChosenBy::Requester)]
fn whose_wish(#[case] wish: Wish, #[case] world: World, #[case] strategy: CloneStrategy, #[case] by: ChosenBy) {
    let chosen = chosen(wish, world);
    assert_eq!((chosen.strategy, chosen.by, chosen.fallback), (strategy, by, None));
}

fn wish_of_class(facts: &mut Facts, word: &str) {
    facts.target_class = Present(Class { strategy: Some(word.into()), ..class("cow", "driver") });
}
fn wish_of_profile(facts: &mut Facts) {
    facts.profile = Present(Profile { strategy: Some(CloneStrategy::CsiClone), ..Profile::default() });
}
fn wishes_snapshot(object: &mut Value) {
    annotated(keys::CLONE_TYPE, "snapshot")(object);
}
fn never_falls_back(object: &mut Value) {
    annotated(keys::FALLBACK, "Never")(object);
}
fn no_snapshot_class(facts: &mut Facts) {
    facts.snapshot_classes =
        Present(vec![SnapshotClass { name: "x".into(), driver: "other".into(), is_default: true, retains: false }]);
}

/// A rejected request, the field of the error, and the cure in its message.
#[rstest]
#[case::too_small(|o: &mut Value| sized("512Mi")(o), usual, "spec.pvc.resources.requests.storage", "ask for at least 1Gi")]
#[case::too_small_for_an_unbound_source(|o: &mut Value| sized("512Mi")(o), |f: &mut Facts| unbound(f), "spec.pvc.resources.requests.storage", "ask for at least 1Gi")]
#[case::impossible_wish(
    wishes_snapshot,
    no_snapshot_class,
    "metadata.annotations[cdi.kubevirt.io/cloneType]",
    "create a VolumeSnapshotClass with driver: driver"
)]
#[case::no_fallback_wanted(
    never_falls_back,
    no_snapshot_class,
    "metadata.annotations[smartclone.dev/fallback]",
    "create a VolumeSnapshotClass"
)]
#[case::files_of_a_device(
    |o: &mut Value| { larger(o); o["spec"]["contentType"] = json!("archive"); },
    |f: &mut Facts| source(f).mode = Some(VolumeMode::Block),
    "spec.pvc.volumeMode",
    "clone it as contentType kubevirt"
)]
#[case::no_class_restores_the_snapshot(
    of_a_snapshot,
    no_class_of_its_driver,
    "spec.pvc.storageClassName",
    "NoProvisionerMatch: no StorageClass has the driver of the snapshot"
)]
#[case::no_class_restores_the_snapshot_for_a_copy(
    |o: &mut Value| { of_a_snapshot(o); annotated(keys::CLONE_TYPE, "copy")(o); },
    no_class_of_its_driver,
    "metadata.annotations[cdi.kubevirt.io/cloneType]",
    "create a StorageClass for the snapshot's driver"
)]
fn rejects(#[case] wish: Wish, #[case] world: World, #[case] field: &str, #[case] cure: &str) {
    let mut facts = facts();
    world(&mut facts);
    match decide(&request(&volume(wish)), &History::default(), &facts) {
        Decision::Rejected(errors) => {
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].field, field);
            assert!(errors[0].detail.contains(cure), "{}", errors[0]);
        }
        other => panic!("not rejected: {other:?}"),
    }
}

/// A missing StorageClass may be created later, so the DataVolume is not rejected. Other errors are reported at once.
#[rstest]
#[case::unknown(as_is, "kubectl get storageclass")]
#[case::no_default(|o: &mut Value| o["spec"]["pvc"]["storageClassName"] = Value::Null, "name one")]
fn a_class_that_may_come_is_waited_for(#[case] wish: Wish, #[case] cure: &str) {
    let facts = Facts { target_class: Absent, ..facts() };
    match decide(&request(&volume(wish)), &History::default(), &facts) {
        Decision::Undecided(Undecided::NoStorageClass(error)) => {
            assert_eq!(error.field, "spec.pvc.storageClassName");
            assert!(error.detail.contains(cure), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

fn of_a_snapshot(object: &mut Value) {
    object["spec"]["source"] = json!({"snapshot": {"namespace": "here", "name": "monday"}});
}

fn no_class_of_its_driver(facts: &mut Facts) {
    source(facts).kind = SourceKind::Snapshot;
    facts.source_class = Absent;
    facts.target_class = Present(class("fast", "other"));
}

fn unbound(facts: &mut Facts) {
    let source = source(facts);
    source.ready = false;
    source.capacity = None;
}

/// An unknown fact leads to a wait, and never counts as absent.
#[rstest]
#[case::source_missing(|f: &mut Facts| f.source = Absent)]
#[case::source_unknown(|f: &mut Facts| f.source = Unknown("x".into()))]
#[case::source_unbound(unbound)]
#[case::volume_unknown(|f: &mut Facts| source(f).driver = Unknown("x".into()))]
#[case::class_unknown(|f: &mut Facts| f.target_class = Unknown("x".into()))]
#[case::override_unknown(|f: &mut Facts| f.cluster_override = Unknown("x".into()))]
#[case::profile_unknown(|f: &mut Facts| f.profile = Unknown("x".into()))]
#[case::snapshot_classes_unknown(|f: &mut Facts| f.snapshot_classes = Unknown("x".into()))]
fn undecided_until_known(#[case] world: World) {
    let mut facts = facts();
    world(&mut facts);
    assert!(matches!(decide(&request(&volume(as_is)), &History::default(), &facts), Decision::Undecided(_)));
}

#[test]
fn the_sizes_follow_what_the_driver_says_of_the_snapshot() {
    let chosen = chosen(larger, exact_driver);
    assert_eq!(chosen.sizes, SizePlan { create_at: gi(1), finally: gi(2) });
    assert_eq!(chosen.sizes_for(Some(Bytes(128 << 20))), Ok(chosen.sizes));
    assert_eq!(chosen.sizes_for(Some(gi(3))), Ok(SizePlan::exactly(gi(3))));
}

const EVERY: [CloneStrategy; 3] = [CloneStrategy::Snapshot, CloneStrategy::CsiClone, CloneStrategy::Copy];

/// Refusals for the source's class that count for all namespaces and sizes.
fn refused_for_all(strategies: &[CloneStrategy]) -> Vec<Refusal> {
    let refusal = |strategy: &CloneStrategy| Refusal {
        strategy: Some(*strategy),
        source_class: Some("cow".into()),
        driver: Some("driver".into()),
        reason: Some("FailedPrecondition".into()),
        namespaces: 3,
        ..Refusal::default()
    };
    strategies.iter().map(refusal).collect()
}

fn refused_here(strategies: &[CloneStrategy], size: Bytes) -> Vec<NamespaceRefusal> {
    let mut known = NamespaceRefusals::default();
    for strategy in strategies {
        let key = RefusalKey {
            strategy: *strategy,
            driver: "driver".into(),
            source_class: "cow".into(),
            class: "cow".into(),
        };
        let access_modes = vec!["ReadWriteOnce".into()];
        let request = VolumeRequest { size, mode: VolumeMode::Filesystem, access_modes, attributes_class: None };
        let met = MetRefusal {
            key,
            request,
            code: "OutOfRange",
            scope: Scope::Request,
            read_in: ErrorSource::Event,
            message: "call +1-555".into(),
        };
        known.record("here", &met, Timestamp::UNIX_EPOCH);
    }
    known.in_force("here", "cow", Timestamp::UNIX_EPOCH)
}

fn remembering(refused: Vec<Refusal>, refused_here: Vec<NamespaceRefusal>) -> Facts {
    Facts { profile: Present(Profile { refused, refused_here, ..Profile::default() }), ..facts() }
}

/// The chosen strategy if these are remembered as refused, with and without a requested strategy and a fallback.
#[rstest]
#[case::a_copy_is_left(as_is, &[CloneStrategy::Snapshot], CloneStrategy::Copy)]
#[case::wished(wishes_snapshot, &[CloneStrategy::Snapshot], CloneStrategy::Copy)]
#[case::no_fallback(never_falls_back, &[CloneStrategy::Snapshot], CloneStrategy::Snapshot)]
#[case::all_of_them(as_is, &EVERY, CloneStrategy::Snapshot)]
#[case::all_of_them_wished(wishes_snapshot, &EVERY, CloneStrategy::Snapshot)]
#[case::another_one(as_is, &[CloneStrategy::CsiClone], CloneStrategy::Snapshot)]
fn what_others_met_moves_a_strategy_down(
    #[case] wish: Wish,
    #[case] refused: &[CloneStrategy],
    #[case] expected: CloneStrategy,
) {
    match decide(&request(&volume(wish)), &History::default(), &remembering(refused_for_all(refused), vec![])) {
        Decision::Chosen(chosen) => {
            assert_eq!(chosen.strategy, expected);
            assert_eq!(chosen.fallback.is_some(), expected == CloneStrategy::Copy);
        }
        other => panic!("not chosen: {other:?}"),
    }
}

/// Refusals of other namespaces don't change a recorded decision; a refusal in the own namespace replaces it before the clone has started.
#[test]
fn a_decision_is_replaced_by_what_the_own_namespace_met_only() {
    let wanted = request(&volume(as_is));
    let pinned = CloneStrategy::Snapshot;
    let history = History { pinned: Some(pinned), decided_for: Some("source".into()), ..History::default() };
    let strategy = |facts: &Facts| match decide(&wanted, &history, facts) {
        Decision::Chosen(chosen) => (chosen.strategy, chosen.by, chosen.fallback.map(|reason| reason.to_string())),
        other => panic!("not chosen: {other:?}"),
    };
    let others = remembering(refused_for_all(&[pinned]), vec![]);
    assert_eq!(strategy(&others), (pinned, ChosenBy::Pinned, None));
    let larger = remembering(vec![], refused_here(&[pinned], gi(900 << 10)));
    assert_eq!(strategy(&larger), (pinned, ChosenBy::Pinned, None));
    let (next, by, why) = strategy(&remembering(vec![], refused_here(&[pinned], gi(1))));
    assert_eq!((next, by), (CloneStrategy::Copy, ChosenBy::Default));
    assert!(why.unwrap().contains("call +1-555"), "its own namespace may read it");
}

/// Refusals of other namespaces are reported by code and time only.
#[test]
fn what_others_met_is_told_without_their_words() {
    let known = remembering(refused_for_all(&[CloneStrategy::Snapshot]), vec![]);
    match decide(&request(&volume(as_is)), &History::default(), &known) {
        Decision::Chosen(chosen) => {
            let reason = chosen.fallback.unwrap();
            assert_eq!(reason.code(), FallbackCode::DriverRefused);
            assert!(reason.message().contains("several namespaces (FailedPrecondition)"), "{reason}");
        }
        other => panic!("not chosen: {other:?}"),
    }
}

proptest! {
    /// For all remembered refusals, every rejected request is rejected without them, too.
    #[test]
    fn a_memory_never_rejects(
        shared in prop::collection::vec(prop::sample::select(EVERY.to_vec()), 0..4),
        own in prop::collection::vec(prop::sample::select(EVERY.to_vec()), 0..4),
        size in 0u64..4,
        wish in prop::option::of(prop::sample::select(vec!["snapshot", "csi-clone", "copy"])),
        never in any::<bool>(),
        pinned in prop::option::of(prop::sample::select(EVERY.to_vec())),
        past in prop::option::of(prop::sample::select(EVERY.to_vec())),
        world in 0usize..5,
    ) {
        let wanted = request(&volume(|object| {
            if let Some(wish) = wish { annotated(keys::CLONE_TYPE, wish)(object); }
            if never { never_falls_back(object); }
        }));
        let refused = past.map(|strategy| PastRefusal { strategy, too_slow: false, message: "no".into(), restored_at: None });
        let history =
            History { pinned, decided_for: Some("source".into()), refused: refused.into_iter().collect() };
        let change: World = [usual, no_snapshot_class, other_pool, exact_driver_no_expansion, unbound][world];
        let decide_with = |mut facts: Facts| { change(&mut facts); decide(&wanted, &history, &facts) };
        let without = decide_with(remembering(vec![], vec![]));
        let with = decide_with(remembering(refused_for_all(&shared), refused_here(&own, gi(size))));
        prop_assert_eq!(matches!(with, Decision::Rejected(_)), matches!(without, Decision::Rejected(_)));
    }
}

/// A limit below the clone's size is an error; the size includes the file system overhead.
#[rstest]
#[case::none("pvc", None, true)]
#[case::equal("pvc", Some("1Gi"), true)]
#[case::more("storage", Some("2Gi"), true)]
#[case::less_than_with_the_file_system("storage", Some("1Gi"), false)]
fn a_limit_is_kept(#[case] form: &str, #[case] limit: Option<&str>, #[case] admitted: bool) {
    let volume = volume(|object| {
        let mut spec = object["spec"]["pvc"].take();
        if let Some(limit) = limit {
            spec["resources"]["limits"] = serde_json::json!({ "storage": limit });
        }
        object["spec"][form] = spec;
    });
    match decide(&request(&volume), &History::default(), &facts()) {
        Decision::Chosen(chosen) => assert!(admitted && chosen.limit.is_some() == limit.is_some()),
        Decision::Rejected(errors) => {
            assert!(!admitted && errors[0].field == "spec.storage.resources.limits.storage", "{errors:?}");
        }
        Decision::Undecided(_) => panic!("undecided"),
    }
}
