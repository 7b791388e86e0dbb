//! The events of a clone, as they follow from what was observed and planned. Beside [`status`](super::status), which they repeat: an event
//! is published once, when the status changes.

use super::{Observed, Plan, Waiting, Write};
use crate::api::Phase;

/// An event about the DataVolume, or about the claim that is filled without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneEvent {
    /// Its type: `Warning`, else `Normal`.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence for the user.
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

/// The events of a pass: a new phase, a new reason to wait for a user or an admin, a fallback, the end.
pub fn events(seen: &Observed, plan: &Plan) -> Vec<CloneEvent> {
    let old = &seen.volume.status;
    let mut events = Vec::new();
    // Decided here, or at admission: told once, at the first sight of the decision.
    if let Some(Write::Pin(_)) = plan.actions.first() {
        if let Some(reason) = plan.chosen.as_ref().and_then(|c| c.fallback.as_ref()) {
            events.push(CloneEvent::warning(reason.code, reason.to_string()));
        }
    } else if let (Some(reason), true) = (&seen.volume.fallback, old.phase.is_unset()) {
        let code = seen.volume.fallback_code.as_deref().unwrap_or("CloneFallback");
        events.push(CloneEvent::warning(code, reason.clone()));
    }
    if !plan.notes.is_empty() {
        events.push(CloneEvent::warning("CloneIncomplete", plan.notes.join("; ")));
    }
    if old.phase != plan.phase {
        match plan.phase {
            Phase::Succeeded => {
                events.push(CloneEvent::normal("CloneSucceeded", "The clone is complete".to_owned()));
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
    if let Some(waiting) = plan.waiting.as_ref().filter(|w| w.needs_attention()) {
        let known = old.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
        if known.is_none_or(|known| {
            known.reason.as_deref() != Some(waiting.reason()) || known.message.as_deref() != Some(&waiting.message())
        }) {
            events.push(CloneEvent::warning(waiting.reason(), waiting.message()));
        }
    }
    events
}
