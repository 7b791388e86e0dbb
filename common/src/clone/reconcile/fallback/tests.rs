use jiff::SignedDuration;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    api::DataVolume,
    clone::{
        Waiting,
        claim::Content,
        facts::Profile,
        fixtures::{self, annotated, exact, facts, gi, now, observed, volume},
        observed::Authorization,
        shared_snapshot::SharedSnapshots,
        step,
    },
    keys,
    lookup::Lookup,
    object::{ClaimPhase, ObjectVersion},
};

/// A DataVolume with the strategy snapshot, which has waited for `reason` for `minutes`.
fn waiting(reason: &str, minutes: i64, change: impl FnOnce(&mut serde_json::Value)) -> DataVolume {
    let since = now() - SignedDuration::from_mins(minutes);
    volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, "snapshot")(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
        object["status"]["clone"]["waitingFor"] = json!({"reason": reason, "since": since.to_string()});
        change(object);
    })
}

fn snapshot(ready: bool, minutes: i64) -> SharedSnapshot {
    let target = crate::object::ObjectName { namespace: "here".into(), name: "clone".into() };
    SharedSnapshot {
        exact: exact("smartclone-snapshot"),
        ours: true,
        deleting: false,
        created: Some(now() - SignedDuration::from_mins(minutes)),
        members: [("dv".to_owned(), target)].into(),
        ready,
        restore_size: Some(gi(1)),
        error: None,
    }
}

/// A claim without a volume, with a warning about it.
fn claim((name, namespace): (&str, &str), content: Content, complaint: &str) -> Claim {
    Claim {
        exact: ObjectVersion { namespace: namespace.to_owned(), ..exact(name) },
        kept: None,
        phase: ClaimPhase::Pending,
        capacity: None,
        complaint: Some(complaint.to_owned()),
        ..fixtures::claim(name, content)
    }
}

fn seen(volume: &DataVolume, snapshots: Vec<SharedSnapshot>) -> Observed {
    let group = Lookup::Present(SharedSnapshots { snapshots });
    Observed { group, ..observed(volume, facts()) }
}

/// Every wait before and after the snapshot has the attempt's deadline: ten minutes, unless another one is set. Then the next strategy is
/// used.
#[rstest]
#[case::turn(seen(&waiting("SnapshotShared", 9, |_| ()), vec![]), "SnapshotShared")]
#[case::turn_is_over(seen(&waiting("SnapshotShared", 10, |_| ()), vec![]), "copy")]
#[case::turn_of_a_short_deadline(seen(&waiting("SnapshotShared", 1, annotated(keys::DEADLINE, "1m")), vec![]), "copy")]
#[case::turn_of_a_far_deadline(seen(&waiting("SnapshotShared", 59, annotated(keys::DEADLINE, "87600h")), vec![]), "SnapshotShared")]
#[case::farther_than_allowed(seen(&waiting("SnapshotShared", 60, annotated(keys::DEADLINE, "87600h")), vec![]), "copy")]
#[case::taken(seen(&waiting("SnapshotNotReady", 9, |_| ()), vec![snapshot(false, 9)]), "SnapshotNotReady")]
#[case::never_ready(seen(&waiting("SnapshotNotReady", 1, |_| ()), vec![snapshot(false, 10)]), "copy")]
#[case::quota(seen(&waiting("ErrExceededQuota", 9, |_| ()), vec![snapshot(true, 20)]), "create_claim")]
#[case::quota_for_too_long(seen(&waiting("ErrExceededQuota", 10, |_| ()), vec![snapshot(true, 20)]), "copy")]
#[case::policy_for_too_long(seen(&waiting("ErrRefused", 10, |_| ()), vec![snapshot(true, 20)]), "copy")]
#[case::quota_was_before_the_snapshot(seen(&waiting("ErrExceededQuota", 90, |_| ()), vec![snapshot(true, 1)]), "create_claim")]
fn a_snapshot_is_held_for_a_bounded_time(#[case] seen: Observed, #[case] expected: &str) {
    let plan = step(&seen).unwrap();
    let does = match (plan.actions.first(), &plan.waiting) {
        (Some(Write::Pin(_)), _) => plan.chosen.as_ref().unwrap().strategy.as_str(),
        (Some(action), _) => action.verb(),
        (None, waiting) => waiting.as_ref().map(Waiting::reason).unwrap_or_default(),
    };
    assert_eq!(does, expected, "{plan:?}");
    assert_eq!(plan.wanted_snapshot.is_some(), expected == "SnapshotShared");
    assert_eq!(plan.refused.is_some(), expected == "copy");
    // A passed deadline is no refusal, and no evidence for other clones.
    assert!(plan.refused.is_none_or(|refused| refused.past.too_slow));
}

#[test]
fn where_no_fallback_is_allowed_a_turn_that_does_not_come_is_the_end() {
    let never = seen(&waiting("SnapshotShared", 10, annotated(keys::FALLBACK, "Never")), vec![]);
    let plan = step(&never).unwrap();
    assert_eq!(plan.phase, Phase::Failed);
    assert!(plan.failure.unwrap().contains("other clones of the source"));
}

/// The requester's deadline, the admin's maximum, the StorageClass's time limit, and the expected one; in minutes.
#[rstest]
#[case::nobody_says(None, 60, None, 10)]
#[case::class(None, 60, Some(20), 20)]
#[case::class_beyond_the_ceiling(None, 60, Some(90), 90)]
#[case::requester(Some("5m"), 60, Some(20), 5)]
#[case::longer_than_the_class(Some("30m"), 60, Some(20), 30)]
#[case::too_long(Some("87600h"), 60, None, 60)]
#[case::longer_than_anything(Some("2562047788015215h"), 60, None, 60)]
#[case::low_ceiling(Some("30m"), 15, None, 15)]
#[case::the_class_needs_more_than_the_ceiling(Some("87600h"), 60, Some(90), 90)]
fn limits(
    #[case] asked: Option<&'static str>,
    #[case] allowed: u64,
    #[case] class: Option<u64>,
    #[case] expected: u64,
) {
    let volume = volume(|object| asked.into_iter().for_each(|asked| annotated(keys::DEADLINE, asked)(object)));
    let deadline = class.map(Duration::from_mins);
    let facts = Facts {
        profile: Lookup::Present(Profile { deadline, ..Profile::default() }),
        max_deadline: Duration::from_mins(allowed),
        beside_cdi: None,
        ..facts()
    };
    let request = crate::clone::fixtures::request(&volume);
    assert_eq!(time_limit(&request, &facts), Duration::from_mins(expected));
    let warned = crate::admission::warnings(&request, &decide(&request, &History::default(), &facts), &facts);
    let shortened = asked.is_some() && expected < 100 && request.deadline > Some(Duration::from_mins(expected));
    assert_eq!(warned.iter().any(|line| line.contains(keys::MAX_DEADLINE)), shortened, "{warned:?}");
}

/// While the driver reports progress an attempt continues for up to four hours, unless requester or admin have set a time limit. The
/// minutes since its start, the driver's message, and the time limits.
#[rstest]
#[case::silent(11, "", None, false, true)]
#[case::busy(11, "rpc error: code = Aborted desc = a clone is under way", None, false, false)]
#[case::busy_for_hours(239, "rpc error: code = Aborted desc = a clone is under way", None, false, false)]
#[case::busy_for_too_long(240, "rpc error: code = Aborted desc = a clone is under way", None, false, true)]
#[case::other_trouble(11, "rpc error: code = Unavailable desc = no answer", None, false, true)]
#[case::busy_beyond_the_requester_s_time(21, "rpc error: code = Aborted desc = x", Some("20m"), false, true)]
#[case::busy_beyond_the_admin_s_time(11, "rpc error: code = Aborted desc = x", None, true, true)]
fn a_driver_that_is_at_work_has_time(
    #[case] minutes: i64,
    #[case] text: &str,
    #[case] asked: Option<&'static str>,
    #[case] given: bool,
    #[case] over: bool,
) {
    let made = volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, "csi-clone")(object);
        if let Some(asked) = asked {
            annotated(keys::DEADLINE, asked)(object);
        }
    });
    let created = Some(now() - SignedDuration::from_mins(minutes));
    let complaint = Some(text.to_owned()).filter(|text| !text.is_empty());
    let filled = Claim { created, complaint, ..claim(("clone", "here"), Content::Claim("disk".into()), "") };
    let mut facts = facts();
    facts.profile = Lookup::Present(Profile { deadline_is_given: given, ..Profile::default() });
    let plan = step(&Observed { claim: Lookup::Present(filled), ..observed(&made, facts) }).unwrap();
    assert_eq!(plan.refused.is_some(), over, "{plan:?}");
}

/// Users who are unknown to the clone's owner may write an Event beside the source: its code counts, its text is not reported.
#[test]
fn words_of_another_namespace_are_not_repeated() {
    let text = "rpc error: code = InvalidArgument desc = call +1-555";
    for (namespace, told) in [("here", true), ("there", false)] {
        let made = volume(|object| {
            annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
            annotated(keys::CLONE_TYPE, "csi-clone")(object);
            object["metadata"]["namespace"] = json!(namespace);
        });
        let seen = Observed {
            authorized: Lookup::Present(Authorization::Allowed),
            claim: Lookup::Present(claim(("clone", namespace), Content::HeldBack, text)),
            temporary: Lookup::Present(claim(("smartclone-pvc-dv", "here"), Content::Claim("disk".into()), text)),
            ..observed(&made, facts())
        };
        let plan = step(&seen).unwrap();
        assert_eq!(plan.actions.first().map(Write::verb), Some("pin"), "{plan:?}");
        assert_eq!(format!("{plan:?}").contains("555"), told, "{plan:?}");
        let met = plan.refused.unwrap().met;
        assert_eq!((met.code, met.read_in == ErrorSource::Event), ("InvalidArgument", told));
    }
}

/// After the failure of a copy that was chosen only because of others' refusals, the wanted strategy is tried.
#[test]
fn what_others_met_is_never_the_end() {
    let text = "rpc error: code = InvalidArgument desc = no";
    let made = volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, "copy")(object);
    });
    for remembered in [true, false] {
        let refusal = crate::api::Refusal {
            strategy: Some(CloneStrategy::Snapshot),
            source_class: Some("cow".into()),
            driver: Some("driver".into()),
            namespaces: 3,
            ..crate::api::Refusal::default()
        };
        let refused = remembered.then_some(refusal).into_iter().collect();
        let mut facts = facts();
        facts.profile = Lookup::Present(Profile { refused, ..Profile::default() });
        let past =
            r#"{"chosenBy": "Default", "sourceUid": "source", "refused": [{"strategy": "snapshot", "message": "no"}]}"#;
        let mut volume = made.clone();
        if !remembered {
            let annotations = volume.metadata.annotations.get_or_insert_default();
            annotations.insert(keys::PLAN.to_owned(), past.to_owned());
        }
        let seen = Observed {
            claim: Lookup::Present(claim(("clone", "here"), Content::HeldBack, text)),
            temporary: Lookup::Present(claim(("smartclone-pvc-dv", "here"), Content::Blank, text)),
            ..observed(&volume, facts)
        };
        let plan = step(&seen).unwrap();
        let next = plan.chosen.filter(|_| plan.failure.is_none()).map(|chosen| chosen.strategy);
        assert_eq!(next, remembered.then_some(CloneStrategy::Snapshot));
    }
}
