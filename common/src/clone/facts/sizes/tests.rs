use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::CloneStrategy,
    clone::{
        Decision,
        decide::{Chosen, decide},
        facts::{Facts, Source},
        fixtures::{class, facts, gi, request, volume},
        note::{History, PastRefusal},
    },
    storage::{class::Class, restore::RestoreRule},
};

const fn mi(n: u64) -> Bytes {
    Bytes(n << 20)
}

fn read<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).unwrap()
}

/// A bound claim of these sizes; `status` is added to its status.
fn claim(uid: &str, request: &str, capacity: &str, status: &Value) -> PersistentVolumeClaim {
    let mut object = json!({
        "metadata": {"name": "disk", "uid": uid}, "spec": {"resources": {"requests": {"storage": request}}},
        "status": {"phase": "Bound", "capacity": {"storage": capacity}},
    });
    let more = status.as_object().cloned().unwrap_or_default();
    object["status"].as_object_mut().unwrap().extend(more);
    read(object)
}

fn pv(handle: &str, claim: &str, capacity: &str) -> PersistentVolume {
    read(json!({
        "metadata": {"name": "pv"},
        "spec": {
            "capacity": {"storage": capacity}, "claimRef": {"uid": claim},
            "csi": {"driver": "driver", "volumeHandle": handle},
        },
    }))
}

fn snapshot(restore_size: Option<&str>) -> VolumeSnapshot {
    let status = json!({"readyToUse": true, "restoreSize": restore_size, "boundVolumeSnapshotContentName": "content"});
    read(json!({
        "metadata": {"name": "snap", "uid": "snapshot"}, "spec": {"source": {"persistentVolumeClaimName": "disk"}}, "status": status,
    }))
}

/// The content of a snapshot of the volume with this handle; without a handle it was created outside of Kubernetes.
fn content(handle: Option<&str>, restore_size: Option<i64>) -> VolumeSnapshotContent {
    let source = handle.map_or_else(|| json!({"snapshotHandle": "s"}), |handle| json!({"volumeHandle": handle}));
    read(json!({
        "metadata": {"name": "content"},
        "spec": {
            "driver": "driver", "deletionPolicy": "Delete", "source": source, "sourceVolumeMode": "Block",
            "volumeSnapshotRef": {"uid": "snapshot"},
        },
        "status": {"restoreSize": restore_size},
    }))
}

fn expanding(word: &str) -> Value {
    json!({"allocatedResources": {"storage": "3Gi"}, "allocatedResourceStatuses": {"storage": word}})
}

/// Request, capacity and status of a claim, the capacity of its volume, and the expected size.
#[rstest]
#[case::plain("1Gi", "1Gi", json!({}), "1Gi", gi(1))]
#[case::rounded_up("1G", "1Gi", json!({}), "1Gi", gi(1))]
#[case::expansion_is_not_begun("3Gi", "1Gi", json!({}), "1Gi", gi(1))]
#[case::controller_at_work("3Gi", "1Gi", expanding("ControllerResizeInProgress"), "1Gi", gi(1))]
#[case::controller_never("3Gi", "1Gi", expanding("ControllerResizeInfeasible"), "1Gi", gi(1))]
#[case::volume_has_grown("3Gi", "1Gi", json!({}), "3Gi", gi(3))]
#[case::volume_has_grown_and_is_not_read("3Gi", "1Gi", expanding("NodeResizePending"), "1Gi", gi(3))]
#[case::node_at_work("3Gi", "1Gi", expanding("NodeResizeInProgress"), "3Gi", gi(3))]
#[case::node_never("3Gi", "1Gi", expanding("NodeResizeInfeasible"), "3Gi", gi(3))]
#[case::wish_was_lowered_again("2Gi", "1Gi", expanding("NodeResizePending"), "3Gi", gi(3))]
#[case::nothing_but_a_wish("3Gi", "0", json!({}), "1Gi", gi(1))]
#[case::volume_says_less("1Gi", "2Gi", json!({}), "1Gi", gi(2))]
fn a_claim_has_what_its_volume_has(
    #[case] request: &str,
    #[case] capacity: &str,
    #[case] status: Value,
    #[case] of_volume: &str,
    #[case] expected: Bytes,
) {
    let claim = claim("claim", request, capacity, &status);
    let sizes = |volume: &PersistentVolume| {
        let volume = capacity_of(claim.metadata.uid.as_ref(), Some(volume));
        SourceSizes::of_claim(&VolumeSizes::of(Some(&claim), volume))
    };
    let found = sizes(&pv("v", "claim", of_volume));
    assert_eq!((found.request, found.capacity), (Bytes::parse(request).ok(), Some(expected)));
    assert_eq!((found.cut_at, found.doubt), (None, None));
    // A volume of another claim is ignored.
    assert_eq!(sizes(&pv("v", "other", "9Gi")).capacity, sizes(&pv("v", "other", "8Gi")).capacity);
}

/// The restore size that the driver reports, the size of the volume if known, and the expected sizes.
#[rstest]
#[case::the_truth(Some(gi(1)), Some(gi(1)), Some(gi(1)), None)]
#[case::more_than_the_volume(Some(mi(1100)), Some(gi(1)), Some(mi(1100)), None)]
#[case::nothing(None, Some(gi(1)), Some(gi(1)), None)]
#[case::next_to_nothing(Some(Bytes(1805)), Some(gi(1)), Some(gi(1)), None)]
#[case::bytes_in_use(Some(Bytes((5 << 20) + 512)), Some(gi(1)), Some(gi(1)), None)]
#[case::has_grown_since(Some(gi(1)), Some(gi(2)), Some(gi(2)), Some(gi(1)))]
#[case::has_grown_from_megabytes(Some(Bytes(1_500_000_000)), Some(gi(2)), Some(gi(2)), Some(Bytes(1_500_000_000)))]
#[case::usual_and_alone(Some(gi(1)), None, Some(gi(1)), Some(gi(1)))]
#[case::bytes_in_use_alone(Some(Bytes((5 << 20) + 512)), None, Some(Bytes((5 << 20) + 512)), Some(Bytes((5 << 20) + 512)))]
#[case::next_to_nothing_alone(Some(Bytes(1805)), None, None, None)]
#[case::nothing_at_all(None, None, None, None)]
fn a_snapshot_has_what_its_volume_has(
    #[case] named: Option<Bytes>,
    #[case] known: Option<Bytes>,
    #[case] capacity: Option<Bytes>,
    #[case] cut_at: Option<Bytes>,
) {
    let sizes = |volume| VolumeSizes { volume, ..VolumeSizes::default() };
    let found = SourceSizes::of_restore(named, &known.map(|known| sizes(Some(known))).into());
    assert_eq!((found.capacity, found.cut_at), (capacity, cut_at));
    let is_doubtful = known.is_none() && named != Some(gi(1));
    assert_eq!(found.doubt, is_doubtful.then_some(Doubt::NotKnown));
    if known.is_none() {
        let unread = SourceSizes::of_restore(named, &Lookup::Unknown("why".into()));
        assert_eq!(unread.doubt, is_doubtful.then(|| Doubt::Unread("why".into())));
        assert_eq!((unread.capacity, unread.cut_at), (capacity, cut_at));
    }
}

/// The size of a volume counts only if the snapshot was taken from it.
#[rstest]
#[case::its_own(Some("v"), pv("v", "claim", "1Gi"), Some(gi(1)))]
#[case::claim_is_gone(Some("v"), pv("v", "gone", "1Gi"), Some(gi(1)))]
#[case::claim_says_more(Some("v"), pv("v", "claim", "1Mi"), Some(mi(512)))]
#[case::another_volume_by_now(Some("v"), pv("w", "claim", "1Gi"), None)]
#[case::made_outside(None, pv("v", "claim", "1Gi"), None)]
fn the_volume_of_a_snapshot_is_found_by_its_handle(
    #[case] taken_of: Option<&str>,
    #[case] volume: PersistentVolume,
    #[case] expected: Option<Bytes>,
) {
    let claim = claim("claim", "1Gi", "512Mi", &json!({}));
    let origin = Origin { volume: Lookup::Present(&volume), claim: Some(&claim), on_record: None };
    let content = content(taken_of, None);
    let sizes = |origin| SourceSizes::of_snapshot(&snapshot(Some("1805")), Some(&content), &origin);
    assert_eq!(sizes(origin.clone()).capacity, expected);
    assert_eq!(sizes(Origin::NOT_KNOWN).capacity, None);
    // The recorded size counts when the volume is no longer known.
    let on_record = |origin| sizes(Origin { on_record: Some(gi(2)), ..origin }).capacity;
    assert_eq!(on_record(origin), expected.or(Some(gi(2))));
    assert_eq!(on_record(Origin::NOT_KNOWN), Some(gi(2)));
    let unread = Origin { volume: Lookup::Unknown("why".into()), ..Origin::NOT_KNOWN };
    assert_eq!(sizes(unread).doubt, Some(Doubt::Unread("why".into())));
}

/// The larger of the two sizes counts; 0 counts as missing.
#[rstest]
#[case::both(Some("1Gi"), Some(1 << 30), Some(gi(1)))]
#[case::snapshot_first(Some("1Gi"), None, Some(gi(1)))]
#[case::content_first(None, Some(1 << 30), Some(gi(1)))]
#[case::one_is_zero(Some("0"), Some(1 << 30), Some(gi(1)))]
#[case::zero(Some("0"), Some(0), None)]
#[case::negative(None, Some(-1), None)]
fn what_the_driver_names_is_in_two_places(
    #[case] of_snapshot: Option<&str>,
    #[case] of_content: Option<i64>,
    #[case] expected: Option<Bytes>,
) {
    let content = content(Some("v"), of_content);
    let found = SourceSizes::of_snapshot(&snapshot(of_snapshot), Some(&content), &Origin::NOT_KNOWN);
    assert_eq!(found.capacity, expected);
}

/// The reference driver's `restoreSize`, with two kinds of bytes in use.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RestoreSize {
    Capacity,
    Absent,
    NextToNothing,
    OddReferenced,
    WholeReferenced,
}

/// The reference driver's `largerRestore`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum LargerRestore {
    Grow,
    GrowDeviceOnly,
    OutOfRange,
    InvalidArgument,
    KeepSmall,
}
use self::{
    LargerRestore::{Grow, GrowDeviceOnly, InvalidArgument, KeepSmall, OutOfRange},
    RestoreSize::{Absent, Capacity, NextToNothing, OddReferenced, WholeReferenced},
};

/// The change of the volume since a snapshot of 1Gi was taken from it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Since {
    Nothing,
    HasGrown,
    AnotherClaim,
    Gone,
}

/// The size of the snapshot in the driver.
const SNAPSHOT: Bytes = gi(1);

impl RestoreSize {
    fn named(self) -> Option<&'static str> {
        match self {
            Capacity => Some("1Gi"),
            Absent => None,
            NextToNothing => Some("1805"),
            OddReferenced => Some("5243392"),
            WholeReferenced => Some("128Mi"),
        }
    }
}

impl LargerRestore {
    fn refuses(self) -> bool {
        matches!(self, OutOfRange | InvalidArgument)
    }

    /// Restores as the reference driver does: the size of the volume, or the gRPC code.
    fn restore(self, asked: Bytes) -> Result<Bytes, &'static str> {
        match self {
            _ if asked < SNAPSHOT => Err("OutOfRange"),
            _ if asked == SNAPSHOT => Ok(asked),
            Grow | GrowDeviceOnly => Ok(asked),
            OutOfRange => Err("OutOfRange"),
            InvalidArgument => Err("InvalidArgument"),
            KeepSmall => Ok(SNAPSHOT),
        }
    }
}

fn facts_of(source: Source, rule: RestoreRule, expands: bool) -> Facts {
    let class = Class { restore: rule, expands, ..class("cow", "driver") };
    Facts {
        source: Lookup::Present(source),
        source_class: Lookup::Present(class.clone()),
        target_class: Lookup::Present(class),
        ..facts()
    }
}

fn wanted(size: Option<Bytes>) -> crate::clone::request::Request {
    request(&volume(|object| {
        let spec = object["spec"].as_object_mut().unwrap();
        spec.remove("pvc");
        spec.insert("source".into(), json!({"snapshot": {"namespace": "here", "name": "snap"}}));
        let size = size.map(|size| json!({"requests": {"storage": size.to_string()}}));
        spec.insert("storage".into(), json!({"storageClassName": "cow", "volumeMode": "Block", "resources": size}));
    }))
}

/// Carries a decision out: by restoring, then by a copy. Returns the chosen strategy, or the error.
fn carried_out(larger: LargerRestore, given: Option<Bytes>, facts: &Facts) -> Result<Box<Chosen>, String> {
    let request = wanted(given);
    let mut history = History::default();
    loop {
        let chosen = match decide(&request, &history, facts) {
            Decision::Chosen(chosen) => chosen,
            other => return Err(format!("{other:?}")),
        };
        let asked = if chosen.strategy == CloneStrategy::Copy { chosen.restore_at } else { chosen.sizes.create_at };
        match larger.restore(asked) {
            Ok(_) => return Ok(chosen),
            Err(code) if chosen.strategy == CloneStrategy::Copy => return Err(format!("{code} at {asked}")),
            Err(code) => history.refused.push(PastRefusal {
                strategy: chosen.strategy,
                too_slow: false,
                message: code.to_owned(),
                restored_at: facts.source.present().unwrap().refused_at(asked, code),
            }),
        }
    }
}

/// For all reported sizes and refusals, a snapshot is cloned at its size or larger, unless its size is neither recorded nor requested.
#[rstest]
fn every_snapshot_is_cloned_with_every_driver(
    #[values(Capacity, Absent, NextToNothing, OddReferenced, WholeReferenced)] named: RestoreSize,
    #[values(Grow, GrowDeviceOnly, OutOfRange, InvalidArgument, KeepSmall)] larger: LargerRestore,
    #[values(RestoreRule::Larger, RestoreRule::SourceSizeOnly)] rule: RestoreRule,
    #[values(Since::Nothing, Since::HasGrown, Since::AnotherClaim, Since::Gone)] since: Since,
    #[values(None, Some(gi(1)), Some(gi(3)))] given: Option<Bytes>,
) {
    let present = if since == Since::HasGrown { "2Gi" } else { "1Gi" };
    let (its, other) = (claim("claim", "1Gi", present, &json!({})), claim("next", "9Gi", "9Gi", &json!({})));
    let (its_volume, others) = (pv("v", "claim", present), pv("w", "next", "9Gi"));
    let (claim, volume) = match since {
        Since::Nothing | Since::HasGrown => (Some(&its), Lookup::Present(&its_volume)),
        Since::AnotherClaim => (Some(&other), Lookup::Present(&its_volume)),
        Since::Gone => (Some(&other), Lookup::Present(&others)),
    };
    let content = Lookup::Present(content(Some("v"), None));
    let source = Source::of_snapshot(&snapshot(named.named()), &content, &Origin { volume, claim, on_record: None });
    let has = (since != Since::Gone).then(|| Bytes::parse(present).unwrap());
    let outcome = carried_out(larger, given, &facts_of(source, rule, true));

    let is_known = named == Capacity || matches!(since, Since::Nothing | Since::AnotherClaim);
    let is_given = since == Since::Gone && given == Some(SNAPSHOT);
    let has_larger = !larger.refuses() && (since == Since::HasGrown || given > Some(SNAPSHOT));
    // Two sizes are plausible, and a third one was refused.
    let is_a_guess =
        larger.refuses() && named == WholeReferenced && rule == RestoreRule::Larger && given > Some(SNAPSHOT);
    match outcome {
        Ok(chosen) => {
            let least = [Some(SNAPSHOT), given, has].into_iter().max().flatten().unwrap();
            assert!(chosen.sizes.finally >= least, "{:?}", chosen.sizes);
            // A pod copies into a volume of the final size.
            assert!(chosen.strategy != CloneStrategy::Copy || chosen.sizes.create_at >= least, "{:?}", chosen.sizes);
        }
        Err(why) => assert!(!is_known && !is_given && !has_larger || is_a_guess, "{why}"),
    }
}

prop_compose! {
    fn volume_sizes()(
        sizes in prop::array::uniform4(prop::option::of(prop_oneof![1u64..1 << 12, (1u64..64).prop_map(|n| n << 30), 1u64..1 << 50])),
    ) -> VolumeSizes {
        let [request, capacity, allocated, volume] = sizes.map(|size| size.map(Bytes));
        VolumeSizes { request, capacity, allocated, volume }
    }
}

proptest! {
    /// For all recorded and reported sizes, a clone of a volume or its snapshot is at least as large as every known size of the volume and
    /// as the request.
    #[test]
    fn a_clone_is_never_smaller_than_any_known_size(
        volume in volume_sizes(),
        named in prop::option::of(prop_oneof![0u64..1 << 21, (0u64..64).prop_map(|n| n << 30), 0u64..1 << 51]),
        given in prop::option::of((1u64..1 << 31).prop_map(|n| n << 20)),
        is_snapshot: bool, exact: bool, expands: bool,
    ) {
        let SourceSizes { request, capacity, cut_at, doubt } = if is_snapshot {
            SourceSizes::of_restore(named.map(Bytes).filter(|size| size.0 > 0), &Lookup::Present(volume))
        } else {
            SourceSizes::of_claim(&volume)
        };
        let known = [volume.capacity, volume.allocated, volume.volume].into_iter().flatten().max();
        prop_assert!(known <= capacity);
        prop_assert!(cut_at.is_none_or(|cut_at| is_usual_size(cut_at) || known.is_none()));
        let content = Lookup::Present(content(Some("v"), None));
        let source = Source::of_snapshot(&snapshot(None), &content, &Origin::NOT_KNOWN);
        let source = Source { request, capacity, cut_at, doubt, ..source };
        let rule = if exact { RestoreRule::SourceSizeOnly } else { RestoreRule::Larger };
        if let Decision::Chosen(chosen) = decide(&wanted(given.map(Bytes)), &History::default(), &facts_of(source, rule, expands)) {
            prop_assert!(Some(chosen.sizes.finally) >= known && Some(chosen.sizes.finally.0) >= given);
            prop_assert!(Some(chosen.sizes.create_at.min(chosen.restore_at)) >= known || cut_at.is_some() && exact);
            prop_assert!(chosen.strategy == CloneStrategy::Snapshot || Some(chosen.sizes.create_at) >= known);
        } else {
            // The request is too small, or neither a size is known nor one requested.
            prop_assert!(given.map(Bytes) < request.or(known).or(Some(Bytes(1))) || exact && !expands);
        }
    }
}
