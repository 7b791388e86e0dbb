//! Tests of the contract against status and events: samples here, and every pass of the model.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    api::{DataVolumeCondition, DataVolumeStatus},
    clone::{
        Observed, Plan, Waiting, Write,
        claim::{Claim, Content},
        events::{CloneEvent, events},
        fixtures::{annotated, beside_cdi, facts, now, observed, volume},
        ownership::Owner,
        status::status,
        step,
        write::Kind,
    },
    condition::types,
    field::FieldError,
    keys,
    lookup::Lookup::{Absent, Present},
    object::{ClaimPhase, ObjectName, SourceKind, SourceName},
};

/// The violations of the contract by a pass.
pub fn breaches(seen: &Observed, plan: &Plan) -> Vec<String> {
    let (next, told) = (status(seen, plan), events(seen, plan));
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(format!("{what}: {:?}, {:?}, {told:?}", next.phase, next.conditions));
        }
    };
    must(!next.phase.is_unset(), "conditions without a phase");
    let kinds: Vec<_> = next.conditions.iter().map(|condition| condition.type_.as_str()).collect();
    must(kinds == [types::BOUND, types::RUNNING, types::READY], "not the three conditions");
    let is_worded = |it: &DataVolumeCondition| it.reason.as_ref().is_some_and(|reason| !reason.is_empty());
    must(next.conditions.iter().all(is_worded), "a condition without a reason");
    must(is(&next, types::READY) == (next.phase == Succeeded), "Ready is not that the phase is Succeeded");
    let waits = plan.waiting.as_ref();
    if is(&next, types::RUNNING) {
        must(waits.is_none_or(|waiting| waiting.ends_by() == EndsBy::Work), "Running while nothing is at work");
        must(!matches!(next.phase, Pending | Succeeded | Failed), "Running in such a phase");
    }
    if let Some(waiting) = waits {
        let rows = || WAITS.iter().filter(|row| row.reason == waiting.reason() && row.ends_by == waiting.ends_by());
        must(rows().next().is_some(), "a wait without a row");
        must(rows().any(|row| row.phases.contains(&next.phase)), "a wait in a phase that its rows don't name");
        let is_told = |warns: bool| told.iter().any(|it| it.reason == waiting.reason() && it.is_warning == warns);
        let of_own_claim = matches!(waiting, Waiting::BeingDeleted { name, .. } if *name == seen.volume.name);
        must(
            waiting.ends_by() == EndsBy::Action || of_own_claim || !is_told(true),
            "a warning that nobody has to act on",
        );
    } else {
        must(STATES.iter().any(|row| row.phases.contains(&next.phase)), "a state without a row");
    }
    let before = seen.volume.status.phase;
    let is_made_again = seen.claim.present().is_none_or(|claim| claim.phase != ClaimPhase::Bound && claim.made_for_it);
    must(before != Succeeded || next.phase == Succeeded || is_made_again, "Succeeded goes back");
    must(before != Failed || next.phase == Failed, "Failed goes back");
    // A claim that is deleted is created again: its strategy was given up, or it is replaced by a held-back one after a failure.
    let own = seen.claim.present().filter(|claim| claim.ours);
    let is_taken = |it: &Write| {
        let Write::Delete { kind: Kind::PersistentVolumeClaim, what } = it else { return false };
        own.is_some_and(|claim| *what == claim.exact && claim.content == Content::HeldBack)
    };
    must(!plan.actions.iter().any(is_taken), "a claim is taken away under a pod that waits");
    found
}

fn is(status: &DataVolumeStatus, kind: &str) -> bool {
    status.conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

fn source(kind: SourceKind) -> SourceName {
    SourceName { kind, object: ObjectName { namespace: "here".into(), name: "disk".into() } }
}

/// One wait for each row of [`WAITS`].
fn waits() -> Vec<Waiting> {
    let (text, error) = (|| "x".to_owned(), || FieldError::required("spec.pvc".to_owned(), "x"));
    let name = || ObjectName { namespace: "here".into(), name: "clone".into() };
    let some = || Some("rpc error: code = Internal desc = x".to_owned());
    let at_it = || Some("rpc error: code = Aborted desc = x".to_owned());
    vec![
        Waiting::DataSource { name: name(), why: text() },
        Waiting::SourceMissing(source(SourceKind::Claim)),
        Waiting::SourceDeleting { source: source(SourceKind::Claim), finalizers: vec![] },
        Waiting::SourceNotReady { source: source(SourceKind::Claim), driver_says: None },
        Waiting::SourceNotReady { source: source(SourceKind::Snapshot), driver_says: None },
        Waiting::SourceNotReady { source: source(SourceKind::Snapshot), driver_says: some() },
        Waiting::SourceNotPopulated(source(SourceKind::Claim)),
        Waiting::NotAuthorized(text()),
        Waiting::PrePopulated(name()),
        Waiting::SnapshotTurn,
        Waiting::HandOver(text()),
        Waiting::TransferImpossible(text()),
        Waiting::SourceInUse(crate::clone::wait::InUse { pods: vec![text()], elsewhere: false }),
        Waiting::VolumeInUse(vec![text()]),
        Waiting::Invalid(vec![error()]),
        Waiting::NoStorageClass(error()),
        Waiting::NotAClone,
        Waiting::CouldNotTell(text()),
        Waiting::SnapshotNotReady { driver_says: None },
        Waiting::SnapshotNotReady { driver_says: at_it() },
        Waiting::SnapshotNotReady { driver_says: some() },
        Waiting::ClaimNotBound { driver_says: None },
        Waiting::ClaimNotBound { driver_says: at_it() },
        Waiting::ClaimNotBound { driver_says: some() },
        Waiting::FirstConsumer,
        Waiting::NotExpanded { trouble: None },
        Waiting::NotExpanded { trouble: some() },
        Waiting::MoverNotRunning { pod_says: None },
        Waiting::MoverNotRunning { pod_says: Some("0/1 nodes are available".into()) },
        Waiting::MoverNotRunning { pod_says: Some("ImagePullBackOff: Back-off pulling image".into()) },
        Waiting::NoCommonNode(source(SourceKind::Claim)),
        Waiting::MoverFailed { message: text(), again_at: now() },
        Waiting::Foreign { kind: "PersistentVolumeClaim", name: "clone".into() },
        Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name: "clone".into() },
        Waiting::BeingDeleted { kind: "Pod", name: "x".into() },
        Waiting::Refused { quota: true, message: text() },
        Waiting::Refused { quota: false, message: text() },
        Waiting::AnotherController(text()),
        Waiting::LeftToCdi,
    ]
}

/// The clone's claim with the fields that a driver or controller sets.
fn claim(phase: ClaimPhase, change: impl FnOnce(&mut serde_json::Value)) -> Claim {
    let mut object = json!({
        "metadata": {
            "name": "clone", "namespace": "here", "uid": "c", "resourceVersion": "1", "annotations": {},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": phase.to_string()},
    });
    change(&mut object);
    Claim::of(&serde_json::from_value(object).unwrap(), Owner::Foreign, "dv", None, None)
}

fn mine(claim: Claim) -> Claim {
    Claim { ours: true, trusted: true, controlled: true, made_for_it: true, deletable: true, ..claim }
}

/// All waits, in all phases of their rows, with all possible claims: 38 waits, 5 claims.
#[test]
fn every_wait_keeps_the_contract() {
    let claims = [
        Absent,
        Present(mine(claim(ClaimPhase::Pending, |_| ()))),
        Present(mine(claim(ClaimPhase::Bound, |_| ()))),
        Present(mine(claim(ClaimPhase::Lost, |_| ()))),
        Present(claim(ClaimPhase::Pending, |_| ())),
    ];
    let mut used = BTreeSet::new();
    for waiting in waits() {
        let mut rows = WAITS.iter().enumerate().filter(|(_, row)| {
            row.reason == waiting.reason()
                && row.ends_by == waiting.ends_by()
                && row.running_reason.unwrap_or(row.reason) == waiting.running_reason()
        });
        let (at, row) = rows.next().unwrap_or_else(|| panic!("no row for {waiting:?}"));
        used.insert(at);
        for (phase, claim) in row.phases.iter().flat_map(|phase| claims.iter().map(move |claim| (phase, claim))) {
            let seen = Observed { claim: claim.clone(), ..observed(&volume(|_| {}), facts()) };
            let plan = Plan::wait(&seen, *phase, waiting.clone());
            assert_eq!(breaches(&seen, &plan), Vec::<String>::new(), "{waiting:?}, {phase}, {claim:?}");
        }
    }
    let unused: Vec<_> = (0..WAITS.len()).filter(|at| !used.contains(at)).map(|at| WAITS[at].reason).collect();
    assert_eq!(unused, Vec::<&str>::new(), "rows without a wait");
}

/// A refused write never leads to a status without a phase, even before the first status; an exceeded quota has the phase `Pending`, as
/// KubeVirt requires.
#[rstest]
#[case::quota_at_first(true, Phase::Unset, Pending)]
#[case::quota_later(true, CloneScheduled, Pending)]
#[case::policy_at_first(false, Phase::Unset, Pending)]
#[case::policy_later(false, CloneScheduled, CloneScheduled)]
#[case::quota_after_the_end(true, Succeeded, Succeeded)]
fn a_refused_write_has_a_phase(#[case] quota: bool, #[case] before: Phase, #[case] expected: Phase) {
    let mut seen = observed(&volume(|_| {}), facts());
    seen.volume.status.phase = before;
    let why = Waiting::Refused { quota, message: "exceeded quota".into() };
    let plan = Plan::idle(&seen, CloneScheduled).refused(why.clone(), &seen);
    let next = status(&seen, &plan);
    assert_eq!(next.phase, expected);
    let bound = next.conditions.iter().find(|condition| condition.type_ == types::BOUND).unwrap();
    assert_eq!((bound.status.as_str(), bound.reason.as_deref()), ("False", Some(why.reason())));
}

fn with(key: &'static str, value: &'static str) -> impl Fn(&mut serde_json::Value) {
    move |object| annotated(key, value)(object)
}

fn restored(object: &mut serde_json::Value) {
    object["metadata"]["annotations"][keys::POPULATED_FOR] = json!("clone");
    object["spec"]["dataSourceRef"] =
        json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "monday"});
}

fn plain(_: &mut serde_json::Value) {}

fn held_back(object: &mut serde_json::Value) {
    object["spec"]["dataSourceRef"] = json!({"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": "x"});
}

fn controlled(object: &mut serde_json::Value) {
    restored(object);
    object["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "x", "controller": true}]);
}

/// Restores, adoption and restores in place: an existing claim that is declared populated is adopted at once, and complete even if it is
/// bound later, with both binding modes; one that is still to be populated, or belongs to others, causes a wait.
#[rstest]
#[case::restored_by_both(
    with(keys::PRE_POPULATED, "clone"),
    restored,
    ClaimPhase::Pending,
    Some("adopt_claim"),
    Succeeded
)]
#[case::restored_by_its_own(plain, restored, ClaimPhase::Pending, Some("adopt_claim"), Succeeded)]
#[case::called_filled(with(keys::PRE_POPULATED, "clone"), plain, ClaimPhase::Pending, Some("adopt_claim"), Succeeded)]
#[case::may_be_adopted(with(keys::ALLOW_ADOPTION, "true"), plain, ClaimPhase::Pending, Some("adopt_claim"), Succeeded)]
#[case::bound(with(keys::ALLOW_ADOPTION, "true"), plain, ClaimPhase::Bound, Some("adopt_claim"), Succeeded)]
#[case::still_to_be_filled(with(keys::ALLOW_ADOPTION, "true"), held_back, ClaimPhase::Pending, None, Pending)]
#[case::filled_by_now(with(keys::ALLOW_ADOPTION, "true"), held_back, ClaimPhase::Bound, Some("adopt_claim"), Succeeded)]
#[case::somebody_controls_it(with(keys::PRE_POPULATED, "clone"), controlled, ClaimPhase::Pending, None, Pending)]
#[case::nobody_says_so(plain, plain, ClaimPhase::Pending, None, Pending)]
#[case::lost(with(keys::ALLOW_ADOPTION, "true"), plain, ClaimPhase::Lost, None, Failed)]
fn adoption(
    #[case] of_volume: impl Fn(&mut serde_json::Value),
    #[case] of_claim: impl Fn(&mut serde_json::Value),
    #[case] phase: ClaimPhase,
    #[case] does: Option<&str>,
    #[case] expected: Phase,
    #[values(false, true)] is_a_clone: bool,
) {
    let volume = volume(|object| {
        of_volume(object);
        if !is_a_clone {
            object["spec"]["source"] = json!({"blank": {}});
        }
    });
    let mut seen = Observed { claim: Present(claim(phase, of_claim)), ..observed(&volume, facts()) };
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions.first().map(Write::verb), plan.phase), (does, expected));
    assert_eq!((breaches(&seen, &plan), crate::clone::check::violations(&seen, &plan)), (vec![], vec![]));
    if expected != Succeeded {
        return;
    }
    // Adopted, and final, whatever the claim's phase.
    seen.volume.status = status(&seen, &plan);
    let owned = |claim: Claim| Claim { ours: true, trusted: true, controlled: true, ..claim };
    seen.claim = seen.claim.map(owned);
    let again = step(&seen).unwrap();
    assert_eq!((again.phase, again.actions.is_empty(), again.waiting.clone()), (Succeeded, true, None));
    assert_eq!(
        (status(&seen, &again).conditions, breaches(&seen, &again)),
        (seen.volume.status.conditions.clone(), vec![])
    );
    // A restore in place deletes the claim and creates another one.
    seen.claim = Absent;
    seen.now = now() + SignedDuration::from_secs(1);
    let missing = step(&seen).unwrap();
    if seen.request().is_some_and(|request| request.pre_populated) {
        assert_eq!((missing.phase, missing.actions.is_empty()), (Succeeded, true));
        assert_eq!(breaches(&seen, &missing), Vec::<String>::new());
    }
}

/// A failed clone keeps its unpopulated claim as long as the DataVolume exists.
#[rstest]
#[case::held_back(Present(held_back as fn(&mut serde_json::Value)), None)]
#[case::filled_by_the_driver(Present(restored as fn(&mut serde_json::Value)), Some("delete_claim"))]
#[case::and_in_its_place(Absent, Some("create_claim"))]
fn a_failed_clone_has_a_claim_that_nobody_fills(
    #[case] found: crate::lookup::Lookup<fn(&mut serde_json::Value)>,
    #[case] does: Option<&str>,
) {
    let claim = found.map(|change| {
        let claim = mine(claim(ClaimPhase::Pending, change));
        Claim { populated: false, ..claim }
    });
    let mut seen = Observed { claim, ..observed(&volume(|_| {}), facts()) };
    seen.volume.status.phase = Failed;
    let plan = step(&seen).unwrap();
    assert_eq!((plan.phase, plan.actions.first().map(Write::verb)), (Failed, does));
    assert_eq!(breaches(&seen, &plan), Vec::<String>::new());
    if let Some(Write::CreateClaim(claim)) = plan.actions.first() {
        assert_eq!(Content::of(claim), Content::HeldBack);
    }
}

/// An unsupported source is reported; CDI serves it if its operator is installed.
#[rstest]
fn another_source_is_told_once(#[values(false, true)] has_cdi: bool) {
    let mut seen = observed(&volume(|object| object["spec"]["source"] = json!({"blank": {}})), facts());
    if has_cdi {
        seen.mode = beside_cdi();
    }
    let Some(plan) = step(&seen) else { return assert!(has_cdi, "no word") };
    assert!(!has_cdi, "{plan:?}");
    let told: Vec<CloneEvent> = events(&seen, &plan);
    assert_eq!(
        told.iter().map(|it| (it.reason.as_str(), it.is_warning)).collect::<Vec<_>>(),
        [("SourceNotSupported", true)]
    );
    seen.volume.status = status(&seen, &plan);
    assert_eq!((seen.volume.status.phase, events(&seen, &plan)), (Pending, vec![]));
}
