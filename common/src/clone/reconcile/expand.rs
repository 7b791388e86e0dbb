//! The phase of expansion to the final size.

use crate::{
    api::Phase,
    clone::{
        claim::Claim, observed::Observed, plan::Plan, reconcile::finish::finished, request::Request, wait::Waiting,
        write::Write,
    },
    object::TargetKind,
};

/// The volume has its content. See that it has its size; then it is done. The source may be gone by now, so its size is not asked for:
/// what the requester asked for is in the DataVolume, and what the source had, the claim has had from the start.
pub(crate) fn grown(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    // A claim that somebody made himself has the size that he wants.
    let asked = if request.made_for == TargetKind::Claim { None } else { request.size };
    let on_record = seen.volume.status.clone.as_ref().and_then(|c| c.final_size.as_ref());
    let on_record = on_record.and_then(|size| crate::quantity::Bytes::of(size).ok());
    let wanted = on_record.or(asked).unwrap_or_default().max(claim.request);
    if claim.request < wanted {
        let grow = Write::GrowClaim { claim: claim.exact.clone(), to: wanted };
        return Plan::act(seen, Phase::ExpansionInProgress, grow).with_waiting(Waiting::NotExpanded);
    }
    if claim.capacity.is_none_or(|has| has < wanted) && !claim.file_system_grows_at_mount {
        return Plan::wait(seen, Phase::ExpansionInProgress, Waiting::NotExpanded);
    }
    finished(seen)
}
