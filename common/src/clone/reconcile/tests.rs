use rstest::rstest;

use super::*;
use crate::{
    api::{CloneStrategy, DataVolume},
    clone::{
        data_mover::{Mover, MoverState},
        fixtures::{annotated, claim, exact, facts, now, observed, volume},
        shared_snapshot::{SharedSnapshot, SharedSnapshots},
    },
    keys,
    mover::Outcome,
    object::{ClaimPhase, ObjectVersion},
    pods::User,
    rebind,
};

fn decided_volume(strategy: &'static str) -> DataVolume {
    volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, strategy)(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
    })
}

/// A copy whose data mover is in `state`.
fn copying(state: MoverState) -> Observed {
    Observed {
        claim: Lookup::Present(Claim { phase: ClaimPhase::Pending, ..claim("clone", Content::HeldBack) }),
        temporary: Lookup::Present(claim("smartclone-pvc-dv", Content::Blank)),
        mover: Lookup::Present(Mover {
            exact: exact("smartclone-mover-dv"),
            ours: true,
            trusted: true,
            over: matches!(state, MoverState::Ended { .. }),
            deleting: false,
            fills: Some("smartclone-pvc-dv".to_owned()),
            state,
        }),
        ..observed(&decided_volume("copy"), facts())
    }
}

/// A complete copy into another namespace, whose temporary claim is being deleted if `deleting`.
fn copied(deleting: bool) -> Observed {
    let mut volume = decided_volume("copy");
    volume.spec.source.as_mut().unwrap().pvc.as_mut().unwrap().namespace = "gold".into();
    let temporary = Claim {
        copied: Some("digest".into()),
        deleting,
        deleted_at: deleting.then(now),
        ..claim("smartclone-pvc-dv", Content::Blank)
    };
    let owner =
        |exact: ObjectVersion| rebind::ClaimIdentity { namespace: exact.namespace, name: exact.name, uid: exact.uid };
    let target = Claim { phase: ClaimPhase::Pending, ..claim("clone", Content::HeldBack) };
    let rebind = rebind::Rebind {
        source: Lookup::Present(rebind::SourceClaim {
            exact: temporary.exact.clone(),
            deleting,
            kept: true,
            phase: rebind::ClaimPhase::Bound,
            volume_name: Some("pv".into()),
            nudged_at: None,
        }),
        volume: Lookup::Present(rebind::Volume {
            exact: exact("pv"),
            deleting: false,
            claim_ref: Some(owner(temporary.exact.clone())),
            handed_over_at: None,
        }),
        target: Lookup::Present(rebind::TargetClaim {
            exact: target.exact.clone(),
            deleting: false,
            phase: rebind::ClaimPhase::Pending,
            volume_name: None,
            held_back: true,
            nudged_at: None,
        }),
        now: now(),
    };
    Observed {
        authorized: Lookup::Present(Authorization::Allowed),
        temporary: Lookup::Present(temporary),
        claim: Lookup::Present(target),
        mover: copying(done()).mover,
        rebind,
        ..observed(&volume, facts())
    }
}

fn held() -> Lookup<Vec<String>> {
    Lookup::Present(vec!["pod \"gold/lurk\"".to_owned()])
}

fn denied() -> Lookup<Authorization> {
    Lookup::Present(Authorization::Denied("no".to_owned()))
}

/// Changes the temporary claim.
fn with_temporary(mut seen: Observed, change: impl FnOnce(&mut Claim)) -> Observed {
    if let Lookup::Present(claim) = &mut seen.temporary {
        change(claim);
    }
    seen
}

fn with_mover(mut seen: Observed, change: impl FnOnce(&mut Mover)) -> Observed {
    if let Lookup::Present(mover) = &mut seen.mover {
        change(mover);
    }
    seen
}

fn late(mut seen: Observed) -> Observed {
    seen.now = now() + SignedDuration::from_hours(24);
    seen
}

/// A populated volume is rebound when its claim is being deleted, nobody else uses it, and access is still granted: the first write, and
/// the reason to wait.
#[rstest]
#[case::closed_first(copied(false), Some("delete_claim"), "RebindInProgress")]
#[case::then_handed_over(copied(true), Some("hand_over"), "RebindInProgress")]
#[case::somebody_has_it(Observed { holders: held(), ..copied(true) }, None, "CloneVolumeInUse")]
#[case::nobody_could_look(Observed { holders: Lookup::Unknown("x".into()), ..copied(true) }, None, "CouldNotTell")]
#[case::another_container_of_the_mover_runs(with_mover(copied(false), |mover| mover.over = false), Some("delete_pod"), "ErrResourceMarkedForDeletion")]
#[case::the_consumer_has_not_started(
    Observed { consumer: with_mover(copied(false), |pod| pod.over = false).mover, ..copied(false) },
    Some("delete_pod"),
    "ErrResourceMarkedForDeletion"
)]
#[case::without_the_right(Observed { authorized: denied(), ..copied(true) }, Some("delete_pod"), "CloneNotAuthorized")]
#[case::without_the_right_and_mover(Observed { authorized: denied(), mover: Lookup::Absent, ..copied(true) }, Some("release_claim"), "CloneNotAuthorized")]
#[case::without_the_right_from_the_start(Observed { authorized: denied(), mover: Lookup::Absent, ..copied(false) }, Some("delete_claim"), "CloneNotAuthorized")]
#[case::right_unknown(Observed { authorized: Lookup::Unknown("x".into()), ..copied(true) }, None, "CouldNotTell")]
#[case::claim_of_somebody_else(with_temporary(copied(true), |claim| (claim.ours, claim.trusted) = (false, false)), None, "ErrResourceExists")]
#[case::claim_that_took_the_place_of_ours(with_temporary(copied(false), |claim| claim.trusted = false), Some("delete_claim"), "ErrResourceMarkedForDeletion")]
#[case::finalizer_gone(with_temporary(Observed { mover: Lookup::Absent, ..copied(true) }, |claim| claim.kept = None), None, "ErrResourceMarkedForDeletion")]
#[case::deleted_before_it_is_complete(with_temporary(Observed { mover: Lookup::Absent, ..copied(true) }, |claim| claim.copied = None), Some("release_claim"), "ErrResourceMarkedForDeletion")]
fn hand_overs(#[case] seen: Observed, #[case] does: Option<&str>, #[case] waits_for: &str) {
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.first().map(Write::verb), does, "{plan:?}");
    assert_eq!(plan.waiting.as_ref().map(Waiting::reason), Some(waits_for), "{plan:?}");
    assert_eq!(crate::clone::check::violations(&seen, &plan), vec![]);
    // As long as temporary objects exist beside the source, access is checked again.
    assert!(plan.look_again_at.unwrap() <= seen.now + RIGHTS_RECHECK);
}

#[test]
fn a_volume_that_somebody_keeps_is_given_up_at_the_deadline() {
    let plan = step(&late(Observed { holders: held(), ..copied(true) })).unwrap();
    assert_eq!(plan.phase, Phase::Failed);
    assert!(plan.failure.unwrap().contains("gold/lurk"));
}

/// Without access to a source in another namespace, the result is the same whether or not the source exists.
#[test]
fn without_the_right_nothing_depends_on_the_source() {
    let asked = |source| {
        let mut seen =
            Observed { authorized: denied(), claim: Lookup::Absent, temporary: Lookup::Absent, ..copied(false) };
        (seen.mover, seen.facts.source) = (Lookup::Absent, source);
        step(&seen).unwrap()
    };
    let (there, absent) = (asked(facts().source), asked(Lookup::Absent));
    assert_eq!(there, absent);
    assert_eq!((there.actions.len(), there.chosen), (0, None));
}

/// A report counts only if it is from the pod that was created.
#[test]
fn a_mover_that_took_the_place_of_ours_is_deleted() {
    let plan = step(&with_mover(copying(done()), |mover| mover.trusted = false)).unwrap();
    assert_eq!(plan.actions.iter().map(Write::verb).collect::<Vec<_>>(), ["delete_pod"]);
}

fn writer() -> User {
    User { pod: "writer".into(), scheduled: true, started: Some(now()), writes: true }
}

fn done() -> MoverState {
    MoverState::Ended {
        at: now(),
        outcome: Outcome::Copied { total: 1, written: 1, digest: "digest".into(), notes: vec![] },
    }
}

/// The state of a copy, the first write, and the reason to wait.
#[rstest]
#[case::runs(copying(MoverState::Running), None, None)]
#[case::done(copying(done()), Some("mark_copied"), None)]
#[case::spoiled_while_it_runs(Observed { source_users: vec![writer()], ..copying(MoverState::Running) }, Some("delete_pod"), Some("CloneSourceInUse"))]
#[case::spoiled_before_it_is_seen(Observed { source_users: vec![writer()], ..copying(done()) }, Some("delete_pod"), Some("CloneSourceInUse"))]
#[case::of_another_claim_of_the_name(
    Observed { temporary: Lookup::Present(Claim { exact: ObjectVersion { uid: "next".into(), ..exact("smartclone-pvc-dv") }, ..claim("", Content::Blank) }), ..copying(done()) },
    Some("delete_pod"),
    Some("ErrResourceMarkedForDeletion")
)]
#[case::started_once_more(
    Observed { temporary: Lookup::Present(Claim { copied: Some("digest".into()), ..claim("smartclone-pvc-dv", Content::Blank) }), ..copying(MoverState::Running) },
    Some("delete_pod"),
    Some("ErrResourceMarkedForDeletion")
)]
fn copies(#[case] seen: Observed, #[case] does: Option<&str>, #[case] waits_for: Option<&str>) {
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.first().map(Write::verb), does, "{plan:?}");
    assert_eq!(plan.waiting.map(|waiting| waiting.reason()), waits_for);
}

/// A source with another UID needs another decision.
#[test]
fn another_source_of_the_same_name_needs_another_decision() {
    let mut seen = observed(&decided_volume("copy"), facts());
    assert_eq!(step(&seen).unwrap().actions.first().map(Write::verb), Some("create_claim"));
    let Lookup::Present(source) = &mut seen.facts.source else { panic!() };
    source.uid = "the next one".to_owned();
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.first().map(Write::verb), Some("pin"));
    assert_eq!(plan.chosen.unwrap().strategy, CloneStrategy::Snapshot);
}

/// After an update conflict of sidecars a claim is annotated, at a time that differs between claims.
#[test]
fn a_claim_that_others_tripped_over_is_touched_after_a_while() {
    let mut seen = observed(&decided_volume("snapshot"), facts());
    let text =
        "Operation cannot be fulfilled on volumesnapshots.snapshot.storage.k8s.io \"s\": the object has been modified";
    let pending = claim("clone", Content::Snapshot("s".to_owned()));
    seen.claim = Lookup::Present(Claim { phase: ClaimPhase::Pending, complaint: Some(text.to_owned()), ..pending });
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions.len(), plan.waiting.as_ref().map(Waiting::reason)), (0, Some("ClaimNotBound")));
    seen.now = plan.look_again_at.unwrap();
    assert!(seen.now > now() && seen.now <= now() + SignedDuration::from_millis(1500));
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.first().map(Write::verb), Some("nudge"));
}

/// The data mover needs a node that can access both volumes; a missing one is reported, and the clone fails at its deadline.
#[test]
fn where_no_node_can_have_both_volumes_that_is_the_reason() {
    let unschedulable = "0/2 nodes are available: 2 node(s) had volume node affinity conflict.";
    let mut seen = copying(MoverState::Starting(Some(unschedulable.to_owned())));
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions.len(), plan.waiting.as_ref().map(Waiting::reason)), (0, Some("NoCommonNode")));
    seen.now = plan.look_again_at.unwrap();
    let plan = step(&seen).unwrap();
    assert_eq!((plan.phase, plan.actions.first().map(Write::verb)), (Phase::Failed, Some("delete_pod")));
    assert!(plan.failure.unwrap().contains("There is no node"));
}

/// After a refusal the new decision and its reason are reported.
#[test]
fn a_refused_snapshot_is_replaced_by_a_decision_that_tells_why() {
    let mut seen = observed(&decided_volume("snapshot"), facts());
    let refused = SharedSnapshot {
        exact: exact("smartclone-snapshot"),
        ours: true,
        deleting: false,
        created: Some(now()),
        members: [("dv".to_owned(), seen.request().unwrap().target.clone())].into(),
        ready: false,
        restore_size: None,
        error: Some("rpc error: code = FailedPrecondition desc = a thick pool".to_owned()),
    };
    seen.group = Lookup::Present(SharedSnapshots { snapshots: vec![refused] });
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.first().map(Write::verb), Some("pin"));
    let chosen = plan.chosen.unwrap();
    assert_eq!((chosen.strategy, chosen.fallback.unwrap().code().as_str()), (CloneStrategy::Copy, "DriverRefused"));
    assert_eq!(plan.refused.unwrap().met.code, "FailedPrecondition");
}

/// A missing source is reported by its name.
#[test]
fn a_source_that_vanishes_is_waited_for_by_name() {
    let mut seen = observed(&decided_volume("snapshot"), facts());
    seen.facts.source = Lookup::Absent;
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions, vec![]);
    let waiting = plan.waiting.unwrap();
    assert_eq!(waiting.reason(), "CloneWithoutSource");
    assert!(waiting.message().contains("here/disk"));
}

/// Foreign objects are neither adopted nor changed, whatever their names.
#[test]
fn a_strangers_objects_are_left_alone() {
    let mut seen = observed(&decided_volume("snapshot"), facts());
    seen.claim = Lookup::Present(Claim { ours: false, ..claim("clone", Content::Blank) });
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));
    for (temporary, mover) in [(false, true), (true, false)] {
        let mut seen = copying(MoverState::Running);
        if let (Lookup::Present(claim), Lookup::Present(pod)) = (&mut seen.temporary, &mut seen.mover) {
            (claim.ours, pod.ours) = (temporary, mover);
            (claim.trusted, pod.trusted) = (temporary, mover);
        }
        let plan = step(&seen).unwrap();
        assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));
    }
}

/// A snapshot that is foreign, or not for this clone, is not restored.
#[test]
fn a_snapshot_that_was_not_taken_for_it_is_not_restored() {
    let mut seen = observed(&decided_volume("snapshot"), facts());
    let shared = |ours, member: &str| SharedSnapshot {
        exact: exact("smartclone-snapshot"),
        ours,
        deleting: false,
        created: None,
        members: [(member.to_owned(), seen.request().unwrap().target.clone())].into(),
        ready: true,
        restore_size: None,
        error: None,
    };
    let snapshots = vec![shared(false, "dv"), shared(true, "other")];
    seen.group = Lookup::Present(SharedSnapshots { snapshots });
    let plan = step(&seen).unwrap();
    assert!(plan.wanted_snapshot.is_some() && plan.actions.is_empty());
}

/// Any pod that may write to the source, now or once scheduled, causes a wait; `CrashConsistent` tolerates it for a snapshot only.
#[rstest]
fn a_pod_that_may_write_is_waited_for(
    #[values("snapshot", "csi-clone", "copy")] strategy: &'static str,
    #[values("Offline", "CrashConsistent")] consistency: &'static str,
    #[values(true, false)] scheduled: bool,
    #[values(true, false)] writes: bool,
) {
    let volume = volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, strategy)(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
        annotated(keys::CONSISTENCY, consistency)(object);
    });
    let mut seen = observed(&volume, facts());
    if strategy == "copy" {
        seen.claim = Lookup::Present(Claim { phase: ClaimPhase::Pending, ..claim("clone", Content::HeldBack) });
    }
    let user = User { pod: "writer".into(), scheduled, started: None, writes };
    let plan = step(&Observed { source_users: vec![user], ..seen }).unwrap();
    let tolerated = consistency == "CrashConsistent" && strategy == "snapshot";
    let waits = matches!(&plan.waiting, Some(Waiting::SourceInUse(users)) if users.pods == ["writer"]);
    assert_eq!(waits, writes && !tolerated, "{plan:?}");
}

/// A retained volume of a temporary claim gets its reclaim policy changed before the claim is released. As long as our finalizer keeps the
/// claim, it keeps the volume.
#[rstest]
#[case::kept(true, false, false, "delete_claim")]
#[case::kept_and_deleted(true, true, false, "discard_volume")]
#[case::kept_deleted_and_let_go(true, true, true, "release_claim")]
#[case::restored(false, false, false, "discard_volume")]
#[case::restored_and_let_go(false, false, true, "delete_claim")]
fn a_temporary_volume_goes_whatever_its_class_says(
    #[case] is_kept: bool,
    #[case] deleting: bool,
    #[case] is_let_go: bool,
    #[case] expected: &str,
) {
    let mut seen = observed(&decided_volume("copy"), facts());
    seen.volume.status.phase = Phase::Failed;
    let claim = Claim {
        kept: is_kept.then(Vec::new),
        deleting,
        retained: (!is_let_go).then(|| exact("pv")),
        ..claim("tmp", Content::Blank)
    };
    *(if is_kept { &mut seen.temporary } else { &mut seen.restored }) = Lookup::Present(claim);
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions.iter().map(Write::verb).collect::<Vec<_>>(), [expected]);
    assert_eq!(crate::clone::check::violations(&seen, &plan), vec![]);
}

mod pods;
mod policy;
mod retained;
