//! The end of a clone: deletion of its temporary objects, and the final phase.

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

/// The plan after a failure, which is final; only temporary objects are deleted. The clone's claim stays, held back, as long as the
/// DataVolume exists: a pod that waits for it reports that the DataVolume has failed, not that a claim is missing (KubeVirt's
/// `ErrorPvcNotFound`).
pub(crate) fn after_failure(seen: &Observed, request: &Request) -> Plan {
    let mut plan = Plan::idle(seen, Phase::Failed);
    plan.failure = failure_on_record(seen);
    let kept = || if seen.volume.kind == TargetKind::DataVolume { held_back(seen, request) } else { None };
    match leftover(seen).or_else(kept) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

/// Replaces a claim that the driver might still populate by one that is held back, since its content would contradict the DataVolume's
/// failure.
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

/// Deletes a remaining temporary object of ours. Shared snapshots are not included: see [`crate::clone::shared_snapshot`].
pub(crate) fn leftover(seen: &Observed) -> Option<Write> {
    let mut claims = [&seen.temporary, &seen.restored].into_iter().filter_map(Lookup::present).filter(|c| c.ours);
    pod_to_remove(seen)
        .or_else(|| claims.find_map(|claim| if claim.deleting { release(claim) } else { Some(removed(claim)) }))
}

/// Releases a claim that is being deleted and kept by our finalizer; first changes the reclaim policy of a volume that would be kept.
pub(crate) fn release(claim: &Claim) -> Option<Write> {
    let rest = claim.kept.clone()?;
    Some(discarded(claim).unwrap_or_else(|| Write::Release { claim: claim.exact.clone(), rest }))
}

/// Changes the reclaim policy of a temporary claim's retained volume, so that the volume is deleted with the claim.
pub(crate) fn discarded(claim: &Claim) -> Option<Write> {
    claim.retained.clone().map(|volume| Write::DiscardVolume { volume })
}

/// Deletes a temporary claim. Without our finalizer its volume is released at once, so the reclaim policy is changed first.
fn removed(claim: &Claim) -> Write {
    discarded(claim).filter(|_| claim.kept.is_none()).unwrap_or_else(|| removal(claim))
}

/// Deletes a remaining pod of ours.
pub(crate) fn pod_to_remove(seen: &Observed) -> Option<Write> {
    let pod = [&seen.mover, &seen.consumer].into_iter().filter_map(Lookup::present).find(|m| m.ours && !m.deleting);
    pod.map(|pod| Write::Delete { kind: Kind::Pod, what: pod.exact.clone() })
}

/// The plan for a complete clone: deletes temporary objects without waiting for the deletion, which some drivers never finish
/// (trident#1134).
pub(crate) fn finished(seen: &Observed) -> Plan {
    let plan = Plan::idle(seen, Phase::Succeeded);
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}
