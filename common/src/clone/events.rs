//! The events of a clone, derived from the observations and the plan like [`status`](super::status). An event is published once, when the
//! status changes.

use super::{Observed, Plan, Waiting, Write, status::completed, wait::EndsBy};
use crate::api::Phase;

/// An event about the DataVolume, or about the claim that is populated without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneEvent {
    /// True for the type `Warning`, false for `Normal`.
    pub is_warning: bool,
    /// The reason.
    pub reason: String,
    /// The message.
    pub note: String,
}

impl CloneEvent {
    /// An event of the type `Warning`.
    pub fn warning(reason: &str, note: String) -> Self {
        Self { is_warning: true, reason: reason.to_owned(), note }
    }

    /// An event of the type `Normal`.
    pub fn normal(reason: &str, note: String) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), note }
    }
}

/// The events of a pass: a new phase, a new wait for a user or an admin, a fallback, the end.
pub fn events(seen: &Observed, plan: &Plan) -> Vec<CloneEvent> {
    let old = &seen.volume.status;
    let mut events = Vec::new();
    // Decided in this pass, or at admission: published once, when the decision is first observed.
    if let Some(Write::Pin(_)) = plan.actions.first() {
        if let Some(reason) = plan.chosen.as_ref().and_then(|c| c.fallback.as_ref()) {
            events.push(CloneEvent::warning(reason.code().as_str(), reason.to_string()));
        }
    } else if let (Some(reason), true) = (&seen.volume.fallback, old.phase.is_unset()) {
        let code = seen.volume.fallback_code.as_deref().unwrap_or("CloneFallback");
        events.push(CloneEvent::warning(code, reason.clone()));
    }
    if !plan.notes.is_empty() {
        events.push(CloneEvent::warning("CloneIncomplete", plan.notes.join("; ")));
    }
    // Beside CDI the phases of a DataVolume are told by CDI's controller, when it reports them.
    let is_told_by_cdi = seen.volume.reported_by_cdi.is_some() && plan.phase != Phase::Failed;
    if old.phase != plan.phase && !is_told_by_cdi {
        match plan.phase {
            Phase::Succeeded => {
                events.push(CloneEvent::normal("CloneSucceeded", completed(seen, plan)));
            }
            Phase::Failed => {
                events.push(CloneEvent::warning("CloneFailed", plan.failure.clone().unwrap_or_default()));
            }
            Phase::Pending => {}
            phase => {
                let what = plan.waiting.as_ref().map_or_else(|| "The clone is under way".to_owned(), Waiting::message);
                events.push(CloneEvent::normal(phase.as_str(), what));
            }
        }
    }
    if let Some(waiting) = plan.waiting.as_ref().filter(|waiting| is_new(seen, waiting)) {
        match waiting.ends_by() {
            EndsBy::Action => events.push(CloneEvent::warning(waiting.reason(), waiting.message())),
            // As CDI, warns of a claim in deletion that has the clone's name.
            EndsBy::Event if is_about_own_claim(seen, waiting) => {
                events.push(CloneEvent::warning(waiting.reason(), waiting.message()));
            }
            // The event about the phase has the same message.
            EndsBy::Event if old.phase == plan.phase || plan.phase == Phase::Pending => {
                events.push(CloneEvent::normal(waiting.reason(), waiting.message()));
            }
            EndsBy::Event | EndsBy::Work => {}
        }
    }
    events
}

/// True if the status does not report this wait yet.
fn is_new(seen: &Observed, waiting: &Waiting) -> bool {
    let known = seen.volume.status.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
    known.is_none_or(|known| {
        known.reason.as_deref() != Some(waiting.reason()) || known.message.as_deref() != Some(&waiting.message())
    })
}

fn is_about_own_claim(seen: &Observed, waiting: &Waiting) -> bool {
    matches!(waiting, Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name } if *name == seen.volume.name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::DataVolumeStatus,
        clone::{
            fixtures::{annotated, facts, observed, volume},
            status::status,
            step,
        },
        keys,
        lookup::Lookup::Absent,
    };

    fn reasons(events: &[CloneEvent]) -> Vec<(&str, bool)> {
        events.iter().map(|event| (event.reason.as_str(), event.is_warning)).collect()
    }

    /// A requested copy is no fallback; a missing VolumeSnapshotClass causes one.
    #[rstest]
    #[case::snapshot(|_: &mut Value| {}, true, &[])]
    #[case::wanted_copy(annotated(keys::CLONE_TYPE, "copy"), true, &[])]
    #[case::fallback(|_: &mut Value| {}, false, &["NoVolumeSnapshotClass"])]
    fn a_decision_is_told_once(
        #[case] change: impl FnOnce(&mut Value),
        #[case] has_snapshot_class: bool,
        #[case] expected: &[&str],
    ) {
        let mut facts = facts();
        if !has_snapshot_class {
            facts.snapshot_classes = Absent;
        }
        let mut seen = observed(&volume(change), facts);
        let plan = step(&seen).unwrap();
        let told = events(&seen, &plan);
        let warnings: Vec<_> =
            told.iter().filter(|event| event.is_warning).map(|event| event.reason.as_str()).collect();
        assert_eq!(warnings, expected);
        // The same plan, after its status is written.
        seen.volume.status = status(&seen, &plan);
        let again = Plan { actions: Vec::new(), ..plan };
        assert_eq!(events(&seen, &again), Vec::new());
    }

    /// A missing source is a new wait, reported when it changes and not in every pass.
    #[test]
    fn a_reason_to_wait_is_told_when_it_is_new() {
        let mut facts = facts();
        facts.source = Absent;
        let mut seen = observed(&volume(|_| {}), facts);
        let plan = step(&seen).unwrap();
        assert_eq!(reasons(&events(&seen, &plan)), [("CloneWithoutSource", true)]);
        seen.volume.status = status(&seen, &plan);
        assert_eq!(events(&seen, &plan), Vec::new());
        let other =
            json!({"phase": "Pending", "clone": {"waitingFor": {"reason": "CloneWithoutSource", "message": "other"}}});
        seen.volume.status = serde_json::from_value::<DataVolumeStatus>(other).unwrap();
        assert_eq!(reasons(&events(&seen, &plan)), [("CloneWithoutSource", true)]);
    }

    #[test]
    fn the_end_is_told() {
        let seen = observed(&volume(|_| {}), facts());
        let succeeded = Plan::idle(&seen, Phase::Succeeded);
        assert_eq!(reasons(&events(&seen, &succeeded)), [("CloneSucceeded", false)]);
        let failed = Plan { failure: Some("why".to_owned()), ..Plan::idle(&seen, Phase::Failed) };
        let told = events(&seen, &failed);
        assert_eq!((reasons(&told), told[0].note.as_str()), (vec![("CloneFailed", true)], "why"));
    }
}
