//! The end of an attempt: gives up on a strategy when the driver refused it or its deadline passed, and falls back.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{CloneStrategy, Phase},
    clone::{
        claim::Claim,
        decide::{Chosen, Decision, decide},
        facts::{Facts, Source},
        note::{History, PastRefusal},
        observed::Observed,
        plan::{Plan, Refused},
        reconcile::{pin_for, recorded},
        request::Request,
        shared_snapshot::SharedSnapshot,
        wait::Waiting,
        write::Write,
    },
    field,
    object::{SourceKind, TargetKind},
    storage::{
        driver_error::{self, Scope},
        profile,
        refusals::{ErrorSource, MetRefusal, RefusalKey, VolumeRequest},
    },
};

/// An attempt to clone by one strategy, and what is known of it.
pub(super) struct Attempt<'a> {
    pub(super) strategy: CloneStrategy,
    /// When it began.
    pub(super) since: Option<Timestamp>,
    /// What the driver reports.
    pub(super) error: Option<&'a str>,
    /// Where the driver's report was read.
    pub(super) read_in: ErrorSource,
    /// What to say when its time is over and the driver has reported nothing.
    pub(super) without_error: &'static str,
}

impl<'a> Attempt<'a> {
    /// The driver fills `claim`. What it reports is an Event.
    pub(super) fn to_fill(seen: &Observed, claim: &'a Claim, strategy: CloneStrategy) -> Self {
        Self {
            strategy,
            since: claim.created,
            error: claim.complaint.as_deref(),
            read_in: read_in(seen, claim),
            without_error: SILENT,
        }
    }

    /// The driver takes the snapshot. What it reports is the snapshot's status.
    pub(super) fn to_snapshot(snapshot: &'a SharedSnapshot) -> Self {
        Self {
            strategy: CloneStrategy::Snapshot,
            since: snapshot.created,
            error: snapshot.error.as_deref(),
            read_in: ErrorSource::Status,
            without_error: SILENT,
        }
    }

    /// The clone waits since then for something that others have.
    pub(super) fn to_go_on(strategy: CloneStrategy, since: Timestamp, without_error: &'static str) -> Self {
        Self { strategy, since: Some(since), error: None, read_in: ErrorSource::Status, without_error }
    }
}

impl Attempt<'_> {
    /// When it is over. A driver that says that it is at work has more time, unless somebody has said how much.
    pub(super) fn deadline(&self, seen: &Observed, request: &Request) -> Option<Timestamp> {
        let end = deadline(seen, request, self.since)?;
        let given = request.deadline.is_some() || seen.facts.profile.present().is_some_and(|it| it.deadline_is_given);
        if given || !self.error.is_some_and(driver_error::is_progress) {
            return Some(end);
        }
        Some(end.max(self.since?.checked_add(PROGRESS_LIMIT).ok()?))
    }
}

/// The longest time for an attempt while the driver says that it is at work. As long as the slowest driver that is known needs: a clone of
/// CephFS is a full copy.
const PROGRESS_LIMIT: SignedDuration = SignedDuration::from_hours(4);

/// When the driver reports nothing.
const SILENT: &str = "it did not say why";

/// An Event in another namespace may be written by people who have no business with the clone.
fn read_in(seen: &Observed, claim: &Claim) -> ErrorSource {
    if claim.exact.namespace == seen.volume.namespace { ErrorSource::Event } else { ErrorSource::ForeignEvent }
}

/// What is told of the warning about `claim`: its words in the clone's own namespace; of those in another one only what they mean.
pub(super) fn reported(seen: &Observed, claim: &Claim) -> Option<String> {
    claim.complaint.as_deref().map(|text| shown(text, read_in(seen, claim)))
}

fn shown(text: &str, read_in: ErrorSource) -> String {
    match read_in {
        ErrorSource::Status | ErrorSource::Event => driver_error::redact(text),
        ErrorSource::ForeignEvent => {
            format!("{} (its words are in the Events of the source's namespace)", driver_error::classify(text).code)
        }
    }
}

/// Gives up on a strategy when the driver refused it or its deadline passed, and falls back. `None` while the attempt may still succeed.
pub(super) fn attempt(seen: &Observed, request: &Request, chosen: &Chosen, attempt: &Attempt<'_>) -> Option<Plan> {
    // Before the text is made fit to be shown.
    let understood = attempt.error.map(driver_error::classify);
    let terminal = understood.filter(|it| it.class == driver_error::Class::Terminal);
    let over = attempt.deadline(seen, request).is_some_and(|end| end <= seen.now);
    (terminal.is_some() || over).then(|| {
        let message =
            attempt.error.map_or_else(|| attempt.without_error.to_owned(), |text| shown(text, attempt.read_in));
        let (code, scope) = understood.map_or(("Unknown", Scope::Object), |it| (it.code, it.scope));
        let restored = seen.facts.source.present().filter(|_| attempt.strategy == CloneStrategy::Snapshot);
        let restored_at = restored.and_then(|source| source.refused_at(chosen.sizes.create_at, code));
        // A snapshot whose size was a guess; a clone that asks for more may well be made.
        let is_a_guess = restored_at.is_some() && restored.is_some_and(Source::has_guessed_size);
        let scope = if is_a_guess { Scope::Object } else { scope };
        let past = PastRefusal { strategy: attempt.strategy, too_slow: terminal.is_none(), message, restored_at };
        let met = MetRefusal {
            key: RefusalKey {
                strategy: attempt.strategy,
                driver: chosen.driver.clone(),
                source_class: chosen.source_class.clone(),
                class: chosen.class.clone(),
            },
            request: VolumeRequest {
                size: chosen.sizes.create_at,
                mode: chosen.mode,
                access_modes: chosen.access_modes.clone(),
                attributes_class: chosen.attributes_class.clone(),
            },
            code,
            scope,
            read_in: attempt.read_in,
            message: past.message.clone(),
        };
        give_up(seen, request, Refused { past, since: attempt.since, met })
    })
}

/// When an attempt that began at `since` is over.
pub(super) fn deadline(seen: &Observed, request: &Request, since: Option<Timestamp>) -> Option<Timestamp> {
    since?.checked_add(time_limit(request, &seen.facts)).ok()
}

/// How long one strategy may take: what the requester asks for, at most as long as the admin allows; else what is known of the class.
pub fn time_limit(request: &Request, facts: &Facts) -> Duration {
    let of_class = facts.profile.present().and_then(|profile| profile.deadline);
    let longest = facts.max_deadline.max(of_class.unwrap_or_default());
    let asked = request.deadline.map(|asked| asked.min(longest));
    asked.or(of_class).unwrap_or(profile::DEADLINE.unsigned_abs())
}

/// Falls back to the next strategy if there is one and a fallback is allowed; else the clone fails.
fn give_up(seen: &Observed, request: &Request, failed_attempt: Refused) -> Plan {
    let past = &failed_attempt.past;
    let mut refused = seen.volume.history.refused.clone();
    refused.push(past.clone());
    let history = History { refused, ..History::default() };
    let is_last = past.strategy.spec().fallback.is_none();
    let plan = match decide(request, &history, &seen.facts) {
        // After a copy that was made only because of what others met, what was wanted first.
        Decision::Chosen(next) if next.strategy != past.strategy && request.fallback_allowed => {
            let pin = pin_for(seen, request, &next, &history.refused);
            Plan { chosen: Some(next), ..Plan::act(seen, Phase::CloneScheduled, Write::Pin(pin)) }
        }
        Decision::Undecided(_) if !is_last => {
            return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(past.message.clone()));
        }
        Decision::Rejected(errors) if !is_last => failed(seen, field::joined(&errors)),
        Decision::Chosen(_) | Decision::Undecided(_) | Decision::Rejected(_) => {
            let cure = size_cure(request, failed_attempt.met.code).unwrap_or_default();
            failed(seen, format!("\"{}\" did not work: {}{cure}", past.strategy, past.message))
        }
    };
    Plan { refused: Some(failed_attempt), ..plan }
}

/// What to do about a snapshot that can't be restored at the size that is known of it.
fn size_cure(request: &Request, code: &str) -> Option<String> {
    let is_cure = request.source.kind == SourceKind::Snapshot && driver_error::is_about_size(code);
    let field = match request.made_for {
        TargetKind::DataVolume => request.form.size_path(),
        TargetKind::Claim => "spec.resources.requests.storage".to_owned(),
    };
    is_cure.then(|| {
        format!("; the size of the snapshot isn't known, so create the clone again with the size of the volume that it was taken of in {field}")
    })
}

pub(super) fn failed(seen: &Observed, why: String) -> Plan {
    Plan { failure: Some(why), ..Plan::idle(seen, Phase::Failed) }
}

#[cfg(test)]
mod tests {
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
            fixtures::{annotated, facts, gi, now, observed, volume},
            observed::Authorization,
            shared_snapshot::SharedSnapshots,
            step,
        },
        keys,
        lookup::Lookup,
        object::{ClaimPhase, ObjectVersion},
    };

    /// Decided for a snapshot; it has waited for `reason` since `minutes`.
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
        let exact = |name: &str| ObjectVersion {
            namespace: "here".into(),
            name: name.into(),
            uid: name.into(),
            resource_version: "1".into(),
        };
        let target = crate::object::ObjectName { namespace: "here".into(), name: "clone".into() };
        SharedSnapshot {
            exact: exact("tmp-snapshot"),
            ours: true,
            deleting: false,
            created: Some(now() - SignedDuration::from_mins(minutes)),
            members: [("dv".to_owned(), target)].into(),
            ready,
            restore_size: Some(gi(1)),
            error: None,
        }
    }

    /// A claim without a volume, about which there is a warning.
    fn claim((name, namespace): (&str, &str), content: Content, complaint: &str) -> Claim {
        let text = |text: &str| text.to_owned();
        Claim {
            exact: ObjectVersion {
                namespace: text(namespace),
                name: text(name),
                uid: text(name),
                resource_version: text("1"),
            },
            ours: true,
            trusted: true,
            kept: None,
            deleted_at: None,
            deletable: true,
            controlled: true,
            made_for_it: true,
            populated: false,
            deleting: false,
            created: Some(now()),
            phase: ClaimPhase::Pending,
            content,
            attributes_class: None,
            selected_node: None,
            handed_over: false,
            request: gi(1),
            capacity: None,
            volume_capacity: None,
            expansion: None,
            copied: None,
            complaint: Some(text(complaint)),
            retained: None,
            nudged_at: None,
        }
    }

    fn seen(volume: &DataVolume, snapshots: Vec<SharedSnapshot>) -> Observed {
        let group = Lookup::Present(SharedSnapshots { snapshots });
        Observed { group, ..observed(volume, facts()) }
    }

    /// Whatever keeps a clone from its snapshot, or with one from going on, has the attempt's deadline: ten minutes, unless it is asked for
    /// otherwise. Then the next strategy is taken.
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
        // Slow is not refused, and says nothing about others.
        assert!(plan.refused.is_none_or(|refused| refused.past.too_slow));
    }

    #[test]
    fn where_no_fallback_is_allowed_a_turn_that_does_not_come_is_the_end() {
        let never = seen(&waiting("SnapshotShared", 10, annotated(keys::FALLBACK, "Never")), vec![]);
        let plan = step(&never).unwrap();
        assert_eq!(plan.phase, Phase::Failed);
        assert!(plan.failure.unwrap().contains("other clones of the source"));
    }

    /// What is asked for, what the admin allows, what the class needs; in minutes.
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
            ..facts()
        };
        let request = crate::clone::fixtures::request(&volume);
        assert_eq!(time_limit(&request, &facts), Duration::from_mins(expected));
        let warned = crate::admission::warnings(&request, &decide(&request, &History::default(), &facts), &facts);
        let shortened = asked.is_some() && expected < 100 && request.deadline > Some(Duration::from_mins(expected));
        assert_eq!(warned.iter().any(|line| line.contains(keys::MAX_DEADLINE)), shortened, "{warned:?}");
    }

    /// As long as the driver says that it is at work, an attempt goes on, for four hours at the longest; unless somebody has said how long it
    /// may take. By minutes since it began, what the driver says, and who has said.
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

    /// An Event beside the source is the word of people whom the clone's owner need not know: what it means counts, its words are not told.
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
                temporary: Lookup::Present(claim(("tmp-pvc-dv", "here"), Content::Claim("disk".into()), text)),
                ..observed(&made, facts())
            };
            let plan = step(&seen).unwrap();
            assert_eq!(plan.actions.first().map(Write::verb), Some("pin"), "{plan:?}");
            assert_eq!(format!("{plan:?}").contains("555"), told, "{plan:?}");
            let met = plan.refused.unwrap().met;
            assert_eq!((met.code, met.read_in == ErrorSource::Event), ("InvalidArgument", told));
        }
    }

    /// A copy that is made only because of what others met is not the end when it doesn't work: what was wanted first is tried.
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
            let past = r#"{"chosenBy": "Default", "sourceUid": "source", "refused": [{"strategy": "snapshot", "message": "no"}]}"#;
            let mut volume = made.clone();
            if !remembered {
                let annotations = volume.metadata.annotations.get_or_insert_default();
                annotations.insert(keys::PLAN.to_owned(), past.to_owned());
            }
            let seen = Observed {
                claim: Lookup::Present(claim(("clone", "here"), Content::HeldBack, text)),
                temporary: Lookup::Present(claim(("tmp-pvc-dv", "here"), Content::Blank, text)),
                ..observed(&volume, facts)
            };
            let plan = step(&seen).unwrap();
            let next = plan.chosen.filter(|_| plan.failure.is_none()).map(|chosen| chosen.strategy);
            assert_eq!(next, remembered.then_some(CloneStrategy::Snapshot));
        }
    }
}
