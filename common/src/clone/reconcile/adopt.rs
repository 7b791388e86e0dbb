//! Claims that exist and are filled already: the DataVolume takes them over.

use crate::object::ClaimPhase;
use crate::{
    api::Phase,
    clone::{
        claim::{Claim, Content},
        observed::Observed,
        plan::Plan,
        reconcile::{fallback::failed, foreign},
        wait::Waiting,
        write::Write,
    },
    object::ObjectName,
};

/// A claim that was there before: taken over if somebody says that it is filled for us, else left alone.
pub(crate) fn taken_over(seen: &Observed, claim: &Claim) -> Plan {
    if !seen.volume.takes_over(claim) {
        return Plan::wait(seen, Phase::Pending, foreign(claim));
    }
    match claim.phase {
        ClaimPhase::Bound => Plan::idle(seen, Phase::Succeeded).and(Write::Adopt(claim.exact.clone())),
        ClaimPhase::Lost => failed(seen, format!("PersistentVolumeClaim {:?} has lost its volume", claim.exact.name)),
        ClaimPhase::Pending => {
            let name = ObjectName { namespace: seen.volume.namespace.clone(), name: claim.exact.name.clone() };
            Plan::wait(seen, Phase::Pending, Waiting::PrePopulated(name))
        }
    }
}

/// The claim is complete: by us, or since it was taken over. What is blank wasn't made by us.
pub(crate) fn is_there(seen: &Observed, claim: &Claim) -> bool {
    let taken_over = claim.populated || claim.content == Content::Blank && seen.volume.offers_to_take_over();
    let complete = seen.volume.status.phase == Phase::Succeeded || taken_over && claim.phase == ClaimPhase::Bound;
    claim.ours && !claim.deleting && complete && claim.phase != ClaimPhase::Lost
}
