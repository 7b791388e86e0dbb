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

/// An attempt to clone by one strategy, with its observed state.
pub(super) struct Attempt<'a> {
    pub(super) strategy: CloneStrategy,
    /// The start of the attempt.
    pub(super) since: Option<Timestamp>,
    /// The driver's error.
    pub(super) error: Option<&'a str>,
    /// The place where the error was read.
    pub(super) read_in: ErrorSource,
    /// The message for a passed deadline without an error of the driver.
    pub(super) without_error: &'static str,
}

impl<'a> Attempt<'a> {
    /// The driver populates `claim`, and reports by Events.
    pub(super) fn to_fill(seen: &Observed, claim: &'a Claim, strategy: CloneStrategy) -> Self {
        Self {
            strategy,
            since: claim.created,
            error: claim.complaint.as_deref(),
            read_in: read_in(seen, claim),
            without_error: SILENT,
        }
    }

    /// The driver takes the snapshot, and reports in its status.
    pub(super) fn to_snapshot(snapshot: &'a SharedSnapshot) -> Self {
        Self {
            strategy: CloneStrategy::Snapshot,
            since: snapshot.created,
            error: snapshot.error.as_deref(),
            read_in: ErrorSource::Status,
            without_error: SILENT,
        }
    }

    /// The clone has waited since `since` for a resource that others have.
    pub(super) fn to_go_on(strategy: CloneStrategy, since: Timestamp, without_error: &'static str) -> Self {
        Self { strategy, since: Some(since), error: None, read_in: ErrorSource::Status, without_error }
    }
}

impl Attempt<'_> {
    /// The end of the attempt. A driver that reports progress gets more time, unless requester or admin have set the time.
    pub(super) fn deadline(&self, seen: &Observed, request: &Request) -> Option<Timestamp> {
        let end = deadline(seen, request, self.since)?;
        let given = request.deadline.is_some() || seen.facts.profile.present().is_some_and(|it| it.deadline_is_given);
        if given || !self.error.is_some_and(driver_error::is_progress) {
            return Some(end);
        }
        Some(end.max(self.since?.checked_add(PROGRESS_LIMIT).ok()?))
    }
}

/// The maximum time of an attempt while the driver reports progress: the time of the slowest known driver, as a clone of CephFS is a full
/// copy.
const PROGRESS_LIMIT: SignedDuration = SignedDuration::from_hours(4);

/// The message if the driver reports nothing.
const SILENT: &str = "it did not say why";

/// The place where the warning about `claim` was read. An Event in another namespace may be written by users who are not entitled to affect
/// the clone.
fn read_in(seen: &Observed, claim: &Claim) -> ErrorSource {
    if claim.exact.namespace == seen.volume.namespace { ErrorSource::Event } else { ErrorSource::ForeignEvent }
}

/// The warning about `claim` for users: redacted in the clone's own namespace; for another namespace only its code.
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
    // Classified before it is redacted.
    let understood = attempt.error.map(driver_error::classify);
    let terminal = understood.filter(|it| it.class == driver_error::Class::Terminal);
    let over = attempt.deadline(seen, request).is_some_and(|end| end <= seen.now);
    (terminal.is_some() || over).then(|| {
        let message =
            attempt.error.map_or_else(|| attempt.without_error.to_owned(), |text| shown(text, attempt.read_in));
        let (code, scope) = understood.map_or(("Unknown", Scope::Object), |it| (it.code, it.scope));
        let restored = seen.facts.source.present().filter(|_| attempt.strategy == CloneStrategy::Snapshot);
        let restored_at = restored.and_then(|source| source.refused_at(chosen.sizes.create_at, code));
        // The size of the snapshot was uncertain, so a clone with a larger request may succeed.
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

/// The end of an attempt that started at `since`.
pub(super) fn deadline(seen: &Observed, request: &Request, since: Option<Timestamp>) -> Option<Timestamp> {
    since?.checked_add(time_limit(request, &seen.facts)).ok()
}

/// The time limit of one strategy: the requester's, up to the admin's maximum; otherwise the StorageClass's.
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
        // After a copy that was chosen only because of others' refusals, the wanted strategy is tried.
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

/// The cure for a snapshot that can't be restored at its known size.
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
mod tests;
