use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::CloneStrategy,
    clone::{
        check::violations,
        claim::Content,
        events::events,
        fixtures::{beside_cdi, claim, exact, facts, now, observed, volume},
        step,
        write::Kind,
    },
    lookup::Lookup::{Absent, Present},
    mode::Operator,
};

/// A clone in the source's namespace with these annotations, in a cluster with CDI.
fn seen(annotations: &[(&str, &str)]) -> Observed {
    let volume = volume(|object| {
        for (key, value) in annotations {
            object["metadata"]["annotations"][*key] = json!(value);
        }
    });
    let mut facts = facts();
    facts.beside_cdi = Some(crate::clone::facts::BesideCdi { waits_for_consumers: true });
    let mut seen = Observed { mode: beside_cdi(), ..observed(&volume, facts) };
    if is_taken(&seen.volume) {
        seen.volume = seen.volume.clone().recorded_on_claim(&volume, None);
    }
    seen
}

const MARKED: &[(&str, &str)] =
    &[(keys::PRE_POPULATED, keys::SENTINEL), (keys::BESIDE_CDI, "true"), (keys::OWNERSHIP_KEY, "key")];
/// The mark was removed.
const UNMARKED: &[(&str, &str)] = &[(keys::BESIDE_CDI, "true"), (keys::OWNERSHIP_KEY, "key")];
/// It was given to CDI.
const RELEASED: &[(&str, &str)] = &[(keys::BESIDE_CDI, "false"), (keys::OWNERSHIP_KEY, "key")];
/// Admitted by smartclone when it was alone.
const FROM_BEFORE: &[(&str, &str)] = &[(keys::OWNERSHIP_KEY, "key")];
/// KubeVirt restores it in place.
const RESTORED: &[(&str, &str)] =
    &[(keys::PRE_POPULATED, "clone"), (keys::BESIDE_CDI, "true"), (keys::OWNERSHIP_KEY, "key")];

fn held_back(seen: &mut Observed) {
    seen.claim = Present(Claim { phase: ClaimPhase::Pending, ..claim("clone", Content::HeldBack) });
}

fn by_cdi(seen: &mut Observed) {
    seen.claim =
        Present(Claim { phase: ClaimPhase::Pending, waits_for_cdi: true, ..claim("clone", Content::HeldBack) });
}

fn bound(seen: &mut Observed) {
    seen.claim = Present(Claim { handed_over: true, ..claim("clone", Content::HeldBack) });
}

fn begun(seen: &mut Observed) {
    held_back(seen);
    seen.volume.status.phase = Phase::CloneInProgress;
}

fn succeeded(seen: &mut Observed) {
    bound(seen);
    seen.volume.status.phase = Phase::Succeeded;
}

/// What smartclone does with a DataVolume beside CDI: nothing, all of it, or one write or event before that.
#[rstest]
#[case::of_cdi(&[], |_: &mut Observed| {}, "nothing")]
#[case::of_cdi_with_its_claim(&[], by_cdi, "nothing")]
#[case::finished_by_cdi(&[], succeeded, "nothing")]
#[case::marked(MARKED, |_: &mut Observed| {}, "all")]
#[case::marked_and_begun(MARKED, held_back, "all")]
#[case::marked_and_bound(MARKED, bound, "all")]
#[case::marked_but_cdi_was_first(MARKED, by_cdi, "LeftToCDI")]
#[case::unmarked(UNMARKED, |_: &mut Observed| {}, "LeftToCDI")]
#[case::unmarked_when_begun(UNMARKED, held_back, "all")]
#[case::released(RELEASED, |_: &mut Observed| {}, "LeftToCDI")]
#[case::released_and_cdi_s(RELEASED, by_cdi, "LeftToCDI")]
#[case::released_when_begun(RELEASED, held_back, "all")]
#[case::released_when_bound(RELEASED, bound, "all")]
#[case::restored_by_kubevirt(RESTORED, |_: &mut Observed| {}, "nothing")]
#[case::restored_by_kubevirt_over_our_claim(RESTORED, held_back, "nothing")]
#[case::from_before_not_begun(FROM_BEFORE, |_: &mut Observed| {}, "nothing")]
#[case::from_before_begun(FROM_BEFORE, begun, "pin")]
#[case::from_before_taken_by_cdi(FROM_BEFORE, by_cdi, "nothing")]
#[case::from_before_finished(FROM_BEFORE, succeeded, "seal_claim")]
#[case::from_before_finished_and_sealed(FROM_BEFORE, |seen: &mut Observed| {
    succeeded(seen);
    seen.claim = seen.claim.clone().map(|claim| Claim { sealed: true, ..claim });
}, "nothing")]
#[case::from_before_finished_without_its_claim(FROM_BEFORE, |seen: &mut Observed| {
    seen.volume.status.phase = Phase::Succeeded;
}, "nothing")]
#[case::from_before_failed(FROM_BEFORE, |seen: &mut Observed| {
    held_back(seen);
    seen.volume.status.phase = Phase::Failed;
}, "nothing")]
#[case::opted_out(&[(keys::BESIDE_CDI, "false")], |_: &mut Observed| {}, "nothing")]
#[case::no_clone(MARKED, |seen: &mut Observed| seen.parsed = Parsed::NotAClone, "nothing")]
fn parts(#[case] annotations: &[(&str, &str)], #[case] state: fn(&mut Observed), #[case] expected: &str) {
    let mut seen = seen(annotations);
    state(&mut seen);
    assert_eq!(named(&part(&seen)), expected);
    if let Some(plan) = step(&seen) {
        assert_eq!(violations(&seen, &plan), vec![]);
    } else {
        assert_eq!(expected, "nothing");
    }
    // Alone, all of it is smartclone's.
    assert_eq!(part(&Observed { mode: Mode::Alone, ..seen.clone() }), Part::All);
    // Beside a CDI that can't be kept off, only what was taken before.
    let passive = Observed { mode: Mode::Passive(Operator { version: "v1.50.0".into() }), ..seen };
    let waiting = step(&passive).and_then(|plan| plan.waiting).map(|waiting| waiting.reason());
    let is_clone = passive.parsed != Parsed::NotAClone;
    assert_eq!(waiting == Some("AnotherController"), is_clone && !is_taken(&passive.volume), "{waiting:?}");
}

fn named(part: &Part) -> &'static str {
    match part {
        Part::All => "all",
        Part::None => "nothing",
        Part::Pass(plan) => match (plan.actions.first(), &plan.waiting) {
            (Some(write), _) => write.verb(),
            (None, Some(waiting)) => waiting.reason(),
            (None, None) => "no step",
        },
    }
}

/// A claim that names a VolumeCloneSource, without a DataVolume.
#[rstest]
#[case::ours(&[(keys::CLONE_PHASE, "Succeeded"), (keys::REQUESTER, "r"), (keys::OWNERSHIP_KEY, "k")], Phase::Unset, "all")]
#[case::of_cdi(&[], Phase::Unset, "nothing")]
#[case::admitted_before_and_not_begun(&[(keys::REQUESTER, "r"), (keys::OWNERSHIP_KEY, "k")], Phase::Unset, "nothing")]
#[case::begun_before(&[(keys::REQUESTER, "r"), (keys::OWNERSHIP_KEY, "k")], Phase::CloneInProgress, "pin")]
#[case::finished_before(&[(keys::REQUESTER, "r"), (keys::OWNERSHIP_KEY, "k")], Phase::Succeeded, "nothing")]
#[case::released(&[(keys::BESIDE_CDI, "true"), (keys::REQUESTER, "r"), (keys::OWNERSHIP_KEY, "k")], Phase::CloneInProgress, "LeftToCDI")]
#[case::forged(&[(keys::CLONE_PHASE, "Succeeded")], Phase::Unset, "nothing")]
fn parts_of_claims(#[case] annotations: &[(&str, &str)], #[case] phase: Phase, #[case] expected: &str) {
    let mut seen = seen(annotations);
    (seen.volume.kind, seen.volume.status.phase) = (TargetKind::Claim, phase);
    seen.volume.reported_by_cdi = None;
    assert_eq!(named(&part(&seen)), expected);
}

/// Beside CDI the clone's claim is the first object, of our own group, and says what CDI needs to know.
#[test]
fn the_claim_comes_first() {
    let mut seen = seen(MARKED);
    seen.volume.history.pinned = Some(CloneStrategy::Snapshot);
    seen.volume.history.decided_for = Some("source".to_owned());
    let plan = step(&seen).unwrap();
    let [Write::CreateClaim(made)] = &plan.actions[..] else { panic!("{plan:?}") };
    let (spec, annotations) = (made.spec.clone().unwrap(), made.metadata.annotations.clone().unwrap());
    let source = spec.data_source_ref.unwrap();
    assert_eq!((source.api_group.as_deref(), source.kind.as_str()), (Some("smartclone.dev"), "CloneRequest"));
    assert_eq!(annotations[keys::USE_POPULATOR], "true");
    assert_eq!(annotations[keys::CREATED_FOR_DATA_VOLUME], "dv");
    assert_eq!(annotations.get(keys::PRE_POPULATED), None);
    assert_eq!(annotations.get(keys::CLONE_PHASE), None);
}

/// When CDI's gate for late binding is closed, the volume is made at once, and the claim says so to CDI.
#[rstest]
#[case::waits(true, false)]
#[case::at_once(false, true)]
fn late_binding_follows_cdi_s_gate(#[case] gate: bool, #[case] expected: bool) {
    let mut seen = seen(MARKED);
    seen.facts.beside_cdi = Some(crate::clone::facts::BesideCdi { waits_for_consumers: gate });
    seen.facts.target_class =
        seen.facts.target_class.map(|class| crate::storage::class::Class { waits_for_consumer: true, ..class });
    seen.volume.history.pinned = Some(CloneStrategy::Snapshot);
    seen.volume.history.decided_for = Some("source".to_owned());
    let plan = step(&seen).unwrap();
    let [Write::CreateClaim(made)] = &plan.actions[..] else { panic!("{plan:?}") };
    assert_eq!(made.metadata.annotations.as_ref().unwrap().contains_key(keys::IMMEDIATE_BINDING), expected);
}

/// A complete clone: what CDI has reported, how long ago it was completed, and what smartclone does.
#[rstest]
#[case::cdi_has_reported(Phase::Succeeded, false, 60, None, false)]
#[case::cdi_has_time(Phase::RebindInProgress, false, 1, Some(4), false)]
#[case::cdi_is_late(Phase::RebindInProgress, false, 5, None, true)]
#[case::cdi_never_looked(Phase::Unset, false, 60, None, true)]
#[case::said_already(Phase::RebindInProgress, true, 60, None, false)]
fn cdi_is_replaced_once_and_late(
    #[case] phase: Phase,
    #[case] is_replaced: bool,
    #[case] seconds: i64,
    #[case] again_in: Option<i64>,
    #[case] reports: bool,
) {
    let mut seen = seen(MARKED);
    succeeded(&mut seen);
    let at = now() - SignedDuration::from_secs(seconds);
    seen.volume.status.conditions =
        serde_json::from_value(json!([{"type": "Ready", "status": "True", "lastTransitionTime": at.to_string()}]))
            .unwrap();
    seen.volume.reported_by_cdi = Some(ReportedByCdi { phase, is_replaced, is_misled: false });
    let plan = step(&seen).unwrap();
    assert_eq!(plan.look_again_at, again_in.map(|seconds| now() + SignedDuration::from_secs(seconds)));
    assert_eq!(plan.actions.iter().any(|it| matches!(it, Write::ReportForCdi { .. })), reports);
    assert_eq!(violations(&seen, &plan), vec![]);
    let early = Write::ReportForCdi { claim: exact("clone") };
    // Before the end nothing is reported in CDI's place.
    seen.volume.status.phase = Phase::RebindInProgress;
    assert!(step(&seen).unwrap().actions.iter().all(|it| !matches!(it, Write::ReportForCdi { .. })));
    assert!(!violations(&seen, &Plan::act(&seen, Phase::Succeeded, early)).is_empty());
}

/// The record counts only on the claim that was created for the DataVolume and belongs to it: the change of an annotation there, or of
/// the owner; the phase on record, and whether CDI is misled.
#[rstest]
#[case::its_own("/metadata/annotations/other", json!("x"), Phase::CloneInProgress, false)]
#[case::made_for_another("/metadata/annotations/cdi.kubevirt.io~1createdForDataVolume", json!("other"), Phase::Unset, false)]
#[case::of_another_owner("/metadata/ownerReferences/0/uid", json!("other"), Phase::Unset, false)]
#[case::without_a_record("/metadata/annotations/smartclone.dev~1status", json!("?"), Phase::Unset, false)]
#[case::told_otherwise("/metadata/annotations/cdi.kubevirt.io~1clonePhase", json!("Succeeded"), Phase::CloneInProgress, true)]
#[case::told_nothing("/metadata/annotations/cdi.kubevirt.io~1clonePhase", json!(""), Phase::CloneInProgress, true)]
#[case::not_by_a_populator("/metadata/annotations/cdi.kubevirt.io~1storage.usePopulator", json!("no"), Phase::CloneInProgress, true)]
fn records(#[case] field: &str, #[case] value: Value, #[case] expected: Phase, #[case] is_misled: bool) {
    let mut object = json!({"metadata": {
        "name": "clone", "namespace": "here", "uid": "claim",
        "annotations": {
            "other": "", (keys::CREATED_FOR_DATA_VOLUME): "dv", (keys::CLONE_PHASE): "HostClone", (keys::USE_POPULATOR): "true",
            (keys::STATUS): json!({"phase": "CloneInProgress", "clone": {"temporaryObjects": {"a": "1"}}}).to_string(),
        },
        "ownerReferences": [{"apiVersion": "x", "kind": "DataVolume", "name": "clone", "uid": "dv", "controller": true}],
    }});
    *object.pointer_mut(field).unwrap() = value;
    let claim = serde_json::from_value(object).unwrap();
    let mut volume = volume(|object| object["metadata"]["annotations"][keys::PRE_POPULATED] = json!(keys::SENTINEL));
    volume.status = Some(serde_json::from_value(json!({"phase": "Pending"})).unwrap());
    let target = Target::of(&volume).recorded_on_claim(&volume, Some(&claim));
    assert_eq!(target.status.phase, expected);
    assert_eq!(target.created.contains_key("a"), expected != Phase::Unset);
    let reported = ReportedByCdi { phase: Phase::Pending, is_replaced: false, is_misled };
    assert_eq!(target.reported_by_cdi, Some(reported));
}

/// A claim whose record was removed: the end of the clone stays known as long as CDI is told of it.
#[rstest]
#[case::complete("Succeeded", "Bound", Phase::Succeeded)]
#[case::said_early("Succeeded", "Pending", Phase::Unset)]
#[case::unfinished("Rebind", "Bound", Phase::Unset)]
fn a_lost_record(#[case] told: &str, #[case] phase: &str, #[case] expected: Phase) {
    let claim = serde_json::from_value(json!({
        "metadata": {
            "name": "clone", "annotations": {(keys::CREATED_FOR_DATA_VOLUME): "dv", (keys::CLONE_PHASE): told},
            "ownerReferences": [{"apiVersion": "x", "kind": "DataVolume", "name": "clone", "uid": "dv", "controller": true}],
        },
        "status": {"phase": phase},
    }));
    let volume = volume(|_| {});
    let target = Target::of(&volume).recorded_on_claim(&volume, Some(&claim.unwrap()));
    assert_eq!(target.status.phase, expected);
}

/// CDI's phases have CDI's own events; a failure has none there.
#[rstest]
#[case::phase(Phase::SnapshotForSmartCloneInProgress, false)]
#[case::end(Phase::Succeeded, false)]
#[case::failure(Phase::Failed, true)]
fn events_are_not_told_twice(#[case] phase: Phase, #[case] expected: bool) {
    let seen = seen(MARKED);
    let plan = Plan { failure: Some("why".into()), ..Plan::idle(&seen, phase) };
    assert_eq!(!events(&seen, &plan).is_empty(), expected);
}

/// What CDI would write; an object that CDI has never looked at has no conditions.
#[test]
fn the_end_is_reported_as_cdi_does() {
    let status = succeeded_as_cdi(&volume(|_| {}), "clone", now());
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|it| (it.type_.as_str(), it.status.as_str(), it.reason.as_deref(), it.message.as_deref()))
        .collect();
    assert_eq!(
        conditions,
        [
            ("Bound", "True", Some("Bound"), Some("PVC clone Bound")),
            ("Ready", "True", Some(""), Some("")),
            ("Running", "False", Some("Completed"), Some("")),
        ]
    );
    assert_eq!((status.phase, status.progress.as_deref()), (Phase::Succeeded, Some("100.0%")));
    assert_eq!(status.claim_name.as_deref(), Some("clone"));
}

/// A finished claim of an earlier time is declared populated only when it is complete.
#[test]
fn an_unfinished_claim_is_not_sealed() {
    let mut seen = seen(FROM_BEFORE);
    begun(&mut seen);
    let seal = Write::Seal { claim: exact("clone") };
    assert!(!violations(&seen, &Plan::act(&seen, Phase::CloneInProgress, seal)).is_empty());
    let delete = Write::Delete { kind: Kind::PersistentVolumeClaim, what: exact("clone") };
    assert!(violations(&seen, &Plan::act(&seen, Phase::CloneInProgress, delete)).is_empty());
    seen.claim = Absent;
    assert_eq!(part(&seen), Part::None);
}
