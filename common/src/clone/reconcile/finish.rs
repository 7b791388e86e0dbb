//! The end of a clone: the removal of what was made for it, and the final phase.

use crate::object::ClaimPhase;
use crate::{
    api::Phase,
    clone::{
        claim::{Claim, Content},
        objects::{self, DataSource},
        observed::Observed,
        plan::Plan,
        reconcile::{decided, removal},
        request::Request,
        write::{Kind, Write},
    },
    lookup::Lookup,
    object::TargetKind,
};

/// Failed is for ever; only what is left over is removed. The clone's claim stays, held back, as long as the DataVolume does: a pod that
/// waits for it shows that the DataVolume has failed, and not that a claim is missing (KubeVirt's `ErrorPvcNotFound`).
pub(crate) fn after_failure(seen: &Observed, request: &Request) -> Plan {
    let mut plan = Plan::idle(seen, Phase::Failed);
    plan.failure = failure_on_record(seen);
    let kept = || if seen.volume.kind == TargetKind::DataVolume { held_back(seen, request) } else { None };
    match leftover(seen).or_else(kept) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

/// Puts a claim that nobody fills in the place of one that the driver would fill some day: its content is not what the DataVolume says.
fn held_back(seen: &Observed, request: &Request) -> Option<Write> {
    match &seen.claim {
        Lookup::Present(claim) => {
            let is_to_be_filled = claim.phase == ClaimPhase::Pending && claim.content != Content::HeldBack;
            (claim.ours && claim.made_for_it && claim.deletable && !claim.deleting && is_to_be_filled)
                .then(|| removal(claim))
        }
        Lookup::Absent => {
            let chosen = decided(seen, request).ok()?;
            let claim = objects::claim(&seen.volume, &chosen, chosen.sizes.create_at, &DataSource::Later);
            Some(Write::CreateClaim(Box::new(claim)))
        }
        Lookup::Unknown(_) => None,
    }
}

fn failure_on_record(seen: &Observed) -> Option<String> {
    let conditions = &seen.volume.status.conditions;
    conditions.iter().find(|c| c.type_ == crate::condition::types::READY).and_then(|c| c.message.clone())
}

/// A temporary object that is still there, and ours. Shared snapshots aren't among them: see [`crate::clone::shared_snapshot`].
pub(crate) fn leftover(seen: &Observed) -> Option<Write> {
    let mut claims = [&seen.temporary, &seen.restored].into_iter().filter_map(Lookup::present).filter(|c| c.ours);
    pod_to_remove(seen)
        .or_else(|| claims.find_map(|claim| if claim.deleting { release(claim) } else { Some(removed(claim)) }))
}

/// Lets a claim go that is being deleted and kept by our finalizer; before that, its volume, if that would stay.
pub(crate) fn release(claim: &Claim) -> Option<Write> {
    let rest = claim.kept.clone()?;
    Some(discarded(claim).unwrap_or_else(|| Write::Release { claim: claim.exact.clone(), rest }))
}

/// Lets the volume of a temporary claim go with the claim: what was made for ourselves goes completely.
pub(crate) fn discarded(claim: &Claim) -> Option<Write> {
    claim.retained.clone().map(|volume| Write::DiscardVolume { volume })
}

/// Deletes a temporary claim. One that nothing keeps takes its volume along, so that has to be let go before.
fn removed(claim: &Claim) -> Write {
    discarded(claim).filter(|_| claim.kept.is_none()).unwrap_or_else(|| removal(claim))
}

/// A pod of ours that is still there.
pub(crate) fn pod_to_remove(seen: &Observed) -> Option<Write> {
    let pod = [&seen.mover, &seen.consumer].into_iter().filter_map(Lookup::present).find(|m| m.ours && !m.deleting);
    pod.map(|pod| Write::Delete { kind: Kind::Pod, what: pod.exact.clone() })
}

/// Deleting what is left is asked for, not waited for: with some drivers it takes for ever (trident#1134).
pub(crate) fn finished(seen: &Observed) -> Plan {
    let plan = Plan::idle(seen, Phase::Succeeded);
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}
