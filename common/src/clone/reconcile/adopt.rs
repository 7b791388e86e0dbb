//! Claims that exist and are filled already: the DataVolume takes them over.

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

/// A claim that was there before: taken over if somebody says that it is filled for us, else left alone.
///
/// It needs no work, so the DataVolume succeeds at once, although the claim may be bound later: on a class that binds late it is bound
/// when a pod uses it, and KubeVirt starts no pod before the DataVolume has succeeded (CDI does the same).
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

/// A claim that was taken over needs no work: it is bound, or whoever made it says where its volume comes from. One that waits for a
/// VolumeCloneSource is still to be filled.
pub(crate) fn is_complete(claim: &Claim) -> bool {
    match claim.phase {
        ClaimPhase::Bound => true,
        ClaimPhase::Pending => claim.content != Content::HeldBack,
        ClaimPhase::Lost => false,
    }
}

/// The claim is complete: by us, or since it was taken over. What is blank wasn't made by us.
pub(crate) fn is_there(seen: &Observed, claim: &Claim) -> bool {
    let taken_over = seen.volume.has_taken_over(claim) && is_complete(claim);
    let complete = seen.volume.status.phase == Phase::Succeeded || taken_over;
    claim.ours && !claim.deleting && complete && claim.phase != ClaimPhase::Lost
}
