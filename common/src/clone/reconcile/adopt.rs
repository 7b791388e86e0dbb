//! Adoption of claims that exist and are populated already.

use crate::object::ClaimPhase;
use crate::{
    api::Phase,
    clone::{
        claim::{Claim, Content},
        observed::Observed,
        plan::Plan,
        reconcile::{fallback::failed, finish::finished, foreign, recorded},
        wait::Waiting,
        write::Write,
    },
    object::ObjectName,
};

/// The plan for a claim that existed before: adopts it if it is declared populated, and leaves it alone otherwise.
///
/// It needs no work, so the DataVolume succeeds at once, although the claim may be bound later: with late binding it is bound when a pod
/// uses it, and KubeVirt starts no pod before the DataVolume has succeeded (as with CDI).
pub(crate) fn taken_over(seen: &Observed, claim: &Claim) -> Plan {
    if !seen.volume.has_taken_over(claim) {
        return Plan::wait(seen, Phase::Pending, foreign(claim));
    }
    if claim.phase == ClaimPhase::Lost {
        return failed(seen, format!("PersistentVolumeClaim {:?} has lost its volume", claim.exact.name));
    }
    if !is_complete(claim) {
        let name = ObjectName { namespace: seen.volume.namespace.clone(), name: claim.exact.name.clone() };
        return Plan::wait(seen, recorded(seen), Waiting::PrePopulated(name));
    }
    if claim.ours { finished(seen) } else { Plan::idle(seen, Phase::Succeeded).and(Write::Adopt(claim.exact.clone())) }
}

/// True if an adopted claim needs no work: it is bound, or its creator has specified its volume or data source. A claim that waits for a
/// VolumeCloneSource is still to be populated.
pub(crate) fn is_complete(claim: &Claim) -> bool {
    match claim.phase {
        ClaimPhase::Bound => true,
        ClaimPhase::Pending => claim.content != Content::HeldBack,
        ClaimPhase::Lost => false,
    }
}

/// True if the claim is ours and complete: cloned, or adopted.
pub(crate) fn is_there(seen: &Observed, claim: &Claim) -> bool {
    let taken_over = seen.volume.has_taken_over(claim) && is_complete(claim);
    let complete = seen.volume.status.phase == Phase::Succeeded || taken_over;
    claim.ours && !claim.deleting && complete && claim.phase != ClaimPhase::Lost
}
