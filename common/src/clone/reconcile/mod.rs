//! The next step of a clone. Every pass starts from the observed objects and derives the step anew, so a restart is just another pass.

pub(super) mod adopt;
mod expand;
pub(crate) mod fallback;
mod fill;
pub(super) mod finish;
mod hand_over;
mod host_copy;
mod make;
pub mod pending;
mod snapshot;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::Phase,
    clone::{
        beside::{self, Part, is_taken},
        claim::{Claim, Content},
        decide::{Chosen, Decision, Undecided, decide, pin},
        note::PastRefusal,
        observed::{Authorization, Observed},
        plan::Plan,
        reconcile::{
            adopt::{is_there, taken_over},
            expand::grown,
            fallback::failed,
            fill::driver_fills,
            finish::{after_failure, finished, leftover},
            hand_over::filled_elsewhere,
            pending::without_claim,
        },
        request::{Parsed, Request},
        wait::Waiting,
        write::{Kind, Pin, Write},
    },
    keys,
    lookup::Lookup,
    mode::Mode,
    object::ClaimPhase,
    storage::driver_error,
};

/// The interval after which the requester's access to the source is checked again, as long as temporary objects exist beside the source.
const RIGHTS_RECHECK: SignedDuration = SignedDuration::from_secs(5);

/// The next step of the observed DataVolume. `None` if it is not a clone and another controller runs, or if it is being deleted (the
/// garbage collector deletes its objects in the same namespace, the cleanup those in others).
pub fn step(seen: &Observed) -> Option<Plan> {
    if seen.volume.deleting || seen.parsed == Parsed::NotAClone && seen.mode != Mode::Alone {
        return None;
    }
    match beside::part(seen) {
        Part::All => {}
        Part::None => return None,
        Part::Pass(plan) => return Some(*plan),
    }
    let passive = match &seen.mode {
        Mode::Passive(operator) if !is_taken(&seen.volume) => Some(Waiting::AnotherController(operator.to_string())),
        Mode::Alone | Mode::Beside(_) | Mode::Passive(_) => None,
    };
    let mut plan = match &seen.parsed {
        // Two controllers of one kind would conflict.
        _ if passive.is_some() => Plan { waiting: passive, ..Plan::idle(seen, recorded(seen)) },
        Parsed::Wrong(errors) => Plan::wait(seen, Phase::Pending, Waiting::Invalid(errors.clone())),
        Parsed::Reference(name, _) => without_source(seen, || {
            let why = "it has not been looked at yet".to_owned();
            seen.unresolved.clone().unwrap_or(Waiting::DataSource { name: name.clone(), why })
        }),
        Parsed::Clone(request) if seen.volume.status.phase == Phase::Failed => after_failure(seen, request),
        Parsed::Clone(request) => match &seen.claim {
            Lookup::Unknown(why) => Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
            Lookup::Present(claim) => with_claim(seen, request, claim),
            Lookup::Absent => without_claim(seen, request),
        },
        Parsed::NotAClone => without_source(seen, || Waiting::NotAClone),
    };
    // No watch reports that access was revoked.
    if seen.request().is_some_and(Request::crosses) && is_beside_the_source(seen) && plan.phase != Phase::Succeeded {
        let recheck = seen.now.saturating_add(RIGHTS_RECHECK).ok();
        plan.look_again_at = [plan.look_again_at, recheck].into_iter().flatten().min();
    }
    if let Some(waiting) = &plan.waiting {
        let late = waiting_since(seen, waiting).saturating_add(waiting.expected()).ok();
        let late = late.filter(|late| *late > seen.now);
        plan.look_again_at = [plan.look_again_at, late].into_iter().flatten().min();
    }
    Some(beside::with_report(seen, plan))
}

/// The plan without a source to clone. An existing claim that is populated or adopted needs none; else `waiting` is the reason to wait.
fn without_source(seen: &Observed, waiting: impl FnOnce() -> Waiting) -> Plan {
    match &seen.claim {
        Lookup::Present(claim) if is_there(seen, claim) => finished(seen),
        Lookup::Present(claim) if seen.volume.has_taken_over(claim) && !claim.deleting => taken_over(seen, claim),
        Lookup::Present(_) | Lookup::Absent | Lookup::Unknown(_) => Plan::wait(seen, Phase::Pending, waiting()),
    }
}

/// True if temporary objects exist for the clone beside the source.
fn is_beside_the_source(seen: &Observed) -> bool {
    let claims = [&seen.temporary, &seen.restored].into_iter().any(|claim| claim.present().is_some());
    let pods = [&seen.mover, &seen.consumer].into_iter().any(|pod| pod.present().is_some());
    claims || pods || seen.group.present().is_some_and(|group| group.of(&seen.volume.uid).is_some())
}

/// The time since which the status reports this wait; now if it does not report it yet.
pub(crate) fn waiting_since(seen: &Observed, waiting: &Waiting) -> Timestamp {
    let recorded = seen.volume.status.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
    recorded
        .filter(|recorded| recorded.reason.as_deref() == Some(waiting.reason()))
        .and_then(|recorded| recorded.since.as_ref())
        .map_or(seen.now, |since| since.0)
}

/// The recorded phase, for passes that can't determine a newer one.
pub(crate) fn recorded(seen: &Observed) -> Phase {
    match seen.volume.status.phase {
        Phase::Unset => Phase::Pending,
        phase => phase,
    }
}

/// The decision in force. A recorded one that is no longer possible has already been replaced.
pub(crate) fn decided(seen: &Observed, request: &Request) -> Result<Box<Chosen>, Waiting> {
    match decide(request, &seen.volume.history, &seen.facts) {
        Decision::Chosen(chosen) => Ok(chosen),
        Decision::Rejected(errors) => Err(Waiting::Invalid(errors)),
        Decision::Undecided(Undecided::SourceMissing) => Err(Waiting::SourceMissing(request.source.clone())),
        Decision::Undecided(Undecided::SourceDeleting { finalizers }) => {
            Err(Waiting::SourceDeleting { source: request.source.clone(), finalizers })
        }
        Decision::Undecided(Undecided::SourceNotReady { driver_says }) => {
            let driver_says = driver_says.map(|text| driver_error::redact(&text));
            Err(Waiting::SourceNotReady { source: request.source.clone(), driver_says })
        }
        Decision::Undecided(Undecided::NoStorageClass(error)) => Err(Waiting::NoStorageClass(error)),
        Decision::Undecided(Undecided::Unknown(why)) => Err(Waiting::CouldNotTell(why)),
    }
}

/// The plan after the claim of a succeeded clone was deleted: it is cloned again, as in CDI. The phase is written before anything is
/// created, or a crash would leave an unpopulated claim that is reported as complete. That the claim is missing or not bound was read from
/// the API server, not from a cache, which may be stale.
pub(crate) fn again(seen: &Observed) -> Plan {
    Plan::idle(seen, Phase::CloneScheduled)
}

/// True if the decision, or the ownership key, isn't recorded on the object yet.
pub(crate) fn is_unwritten(seen: &Observed, request: &Request, chosen: &Chosen) -> bool {
    seen.volume.key.is_none()
        || seen.volume.history.pinned_for(&chosen.source_uid) != Some(chosen.strategy)
        || request.by_reference && seen.volume.source.as_ref() != Some(&request.source)
}

/// The annotations that record the decision, a new ownership key for a clone without one, and the inherited labels.
pub(crate) fn pin_for(seen: &Observed, request: &Request, chosen: &Chosen, refused: &[PastRefusal]) -> Pin {
    let mut annotations = pin(request, chosen, refused);
    if seen.volume.key.is_none() {
        annotations.insert(keys::OWNERSHIP_KEY, seen.fresh_key.clone());
    }
    Pin { annotations, labels: seen.inherited.clone() }
}

/// The plan when access is missing or was revoked: deletes the temporary objects, and neither creates nor reports anything more.
pub(crate) fn withdrawn(seen: &Observed, phase: Phase, waiting: Waiting) -> Plan {
    let plan = Plan::wait(seen, phase, waiting);
    // An access check that ended with an error is no refusal.
    if matches!(plan.waiting, Some(Waiting::CouldNotTell(_))) {
        return plan;
    }
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

/// The reason to wait if the requester lacks access to a source in another namespace.
pub(crate) fn unauthorized(seen: &Observed, request: &Request) -> Option<Waiting> {
    if request.crosses() { missing_right(&seen.authorized) } else { None }
}

/// The reason to wait that follows from the access check.
pub fn missing_right(answer: &Lookup<Authorization>) -> Option<Waiting> {
    match answer {
        Lookup::Present(Authorization::Allowed) => None,
        Lookup::Present(Authorization::Denied(why)) => Some(Waiting::NotAuthorized(why.clone())),
        Lookup::Absent => Some(Waiting::NotAuthorized(format!(
            "nobody knows who asked for it, as the annotation {} is missing; create it again, with smartclone's webhook in place",
            keys::REQUESTER
        ))),
        Lookup::Unknown(why) => Some(Waiting::CouldNotTell(why.clone())),
    }
}

/// The plan for an existing claim: populate it, expand it, and delete temporary objects.
fn with_claim(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let name = seen.volume.name.clone();
    if claim.deleting {
        return Plan::wait(seen, recorded(seen), Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name });
    }
    if !claim.ours || seen.volume.has_taken_over(claim) {
        return taken_over(seen, claim);
    }
    if claim.phase == ClaimPhase::Lost {
        return failed(seen, format!("PersistentVolumeClaim {name:?} has lost its volume"));
    }
    if seen.volume.status.phase == Phase::Succeeded {
        // Complete; changes of the source, the classes or the settings don't matter any more. An unbound claim is a new one of the same
        // name, after the first was deleted.
        return if claim.phase == ClaimPhase::Bound { finished(seen) } else { again(seen) };
    }
    let bound = claim.phase == ClaimPhase::Bound;
    match &claim.content {
        Content::Snapshot(_) | Content::Claim(_) if bound => grown(seen, request, claim),
        Content::HeldBack if bound && claim.handed_over => grown(seen, request, claim),
        Content::HeldBack if bound => {
            let why = "the clone's claim is bound to a volume that was not filled for it".to_owned();
            Plan::wait(seen, recorded(seen), Waiting::TransferImpossible(why))
        }
        Content::HeldBack => filled_elsewhere(seen, request, claim),
        content if given_up(seen, content) && !claim.deletable => {
            let why = format!(
                "PersistentVolumeClaim {name:?} was made for a strategy that the driver refused, and lacks the annotation {}; delete it",
                keys::CREATED_FOR_DATA_VOLUME
            );
            Plan::wait(seen, recorded(seen), Waiting::TransferImpossible(why))
        }
        content if given_up(seen, content) => {
            Plan::act(seen, Phase::CloneScheduled, removal(claim)).with_waiting(being_deleted(claim))
        }
        Content::Snapshot(_) | Content::Claim(_) => driver_fills(seen, request, claim),
        Content::Blank => {
            let why = "the clone's claim waits for nothing; delete it".to_owned();
            Plan::wait(seen, recorded(seen), Waiting::TransferImpossible(why))
        }
    }
}

/// True if the claim was created for a strategy that the driver refused. Refusals are never withdrawn, so a stale DataVolume can't cause a
/// false positive; comparing with the current strategy could.
pub(crate) fn given_up(seen: &Observed, content: &Content) -> bool {
    seen.volume.history.refused.iter().any(|past| Some(past.strategy) == content.strategy())
}

pub(crate) fn removal(claim: &Claim) -> Write {
    Write::Delete { kind: Kind::PersistentVolumeClaim, what: claim.exact.clone() }
}

pub(crate) fn foreign(claim: &Claim) -> Waiting {
    Waiting::Foreign { kind: "PersistentVolumeClaim", name: claim.exact.name.clone() }
}

pub(crate) fn being_deleted(claim: &Claim) -> Waiting {
    Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name: claim.exact.name.clone() }
}

#[cfg(test)]
mod tests;
