//! The end of the claim that had the volume, where it isn't a temporary one: a user's claim may be deleted only when Kubernetes itself says
//! that it has lost its volume (see [`crate::confinement`]).
//!
//! Kubernetes looks at a claim when that changes, and else every quarter of a minute. A hand-over changes the volume and the claim that
//! gets it, so the claim that had it is touched.

use crate::{
    lookup::Lookup,
    object::ClaimPhase,
    rebind::{Rebind, SourceClaim, Step, Volume, Waiting, named, nudge_due},
};

/// The next step after [`Step::Moved`]; `Moved` again, when the source has lost its volume, is on its way out, or doesn't exist.
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

/// When the source is touched again; nothing, if it has not been touched since the hand-over.
fn next_nudge(source: &SourceClaim, volume: &Volume) -> Option<jiff::Timestamp> {
    let since = volume.handed_over_at;
    let nudged = source.nudged_at.filter(|nudged| since.is_none_or(|since| *nudged >= since))?;
    nudge_due(since, Some(nudged))
}
