//! Release of the claim that had the volume, where it is not a temporary one. A user's claim may be deleted only after Kubernetes has set
//! it to Lost (see [`crate::confinement`]).
//!
//! Kubernetes' controller processes a claim when the claim changes, and otherwise every 15 seconds. A rebind changes the volume and the
//! target claim, so the source claim is updated, too.

use crate::{
    lookup::Lookup,
    object::ClaimPhase,
    rebind::{Rebind, SourceClaim, Step, Volume, Waiting, named, nudge_due},
};

/// Returns the next step after [`Step::Moved`]: `Moved` again if the source has lost its volume, is being deleted, or does not exist.
pub fn empty_source(rebind: &Rebind) -> Step {
    let source = match &rebind.source {
        Lookup::Present(source) => source,
        Lookup::Absent => return Step::Moved,
        Lookup::Unknown(why) => return Step::Unknown(why.clone()),
    };
    if source.phase == ClaimPhase::Lost || source.deleting {
        return Step::Moved;
    }
    let volume = match &rebind.volume {
        Lookup::Present(volume) => volume,
        Lookup::Absent => return Step::Unknown("the volume does not exist any more".to_owned()),
        Lookup::Unknown(why) => return Step::Unknown(why.clone()),
    };
    match next_nudge(source, volume) {
        Some(at) if rebind.now < at => {
            Step::Wait { what: Waiting::Losing(named(&source.exact)), look_again_at: Some(at) }
        }
        Some(_) | None => Step::Nudge { claim: source.exact.clone(), at: rebind.now },
    }
}

/// Returns the time of the next nudge of the source, or `None` if it has not been nudged since the rebind.
fn next_nudge(source: &SourceClaim, volume: &Volume) -> Option<jiff::Timestamp> {
    let since = volume.handed_over_at;
    let nudged = source.nudged_at.filter(|nudged| since.is_none_or(|since| *nudged >= since))?;
    nudge_due(since, Some(nudged))
}
