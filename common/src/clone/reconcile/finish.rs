//! The end of a clone: the removal of what was made for it, and the final phase.

use crate::object::ClaimPhase;
use crate::{
    api::Phase,
    clone::{
        claim::Claim,
        observed::Observed,
        plan::Plan,
        reconcile::removal,
        write::{Kind, Write},
    },
    lookup::Lookup,
    object::TargetKind,
};

/// Failed is for ever; only what is left over is removed. A claim that never got its volume is left over, too: the driver would try for ever.
pub(crate) fn after_failure(seen: &Observed) -> Plan {
    let mut plan = Plan::idle(seen, Phase::Failed);
    plan.failure = failure_on_record(seen);
    let empty = |claim: &&Claim| {
        claim.ours && !claim.deleting && claim.phase == ClaimPhase::Pending && !claim.populated && claim.deletable
    };
    let claim = seen.claim.present().filter(empty).filter(|_| seen.volume.kind == TargetKind::DataVolume);
    match leftover(seen).or(claim.map(removal)) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

fn failure_on_record(seen: &Observed) -> Option<String> {
    let conditions = &seen.volume.status.conditions;
    conditions.iter().find(|c| c.type_ == crate::condition::types::READY).and_then(|c| c.message.clone())
}

/// A temporary object that is still there, and ours. SharedSnapshot snapshots aren't among them: see [`crate::clone::group`].
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
