//! The claim that gets the content: where it is made, what it is made from, and what it waits for until it is bound.

use crate::{
    api::Phase,
    clone::{
        claim::Claim,
        decide::Chosen,
        objects::{self, ClaimTemplate, DataSource},
        observed::Observed,
        plan::Plan,
        reconcile::fallback::reported,
        wait::Waiting,
        write::Write,
    },
    storage::driver_error,
};

/// Where the content is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// In the clone's claim itself.
    Clone,
    /// In a temporary claim beside the source, in this namespace.
    BesideSource(&'a str),
}

/// Creates the claim in `place`, to be filled from `from`.
pub(crate) fn create(seen: &Observed, chosen: &Chosen, place: Place<'_>, from: &DataSource<'_>, phase: Phase) -> Plan {
    let size = chosen.sizes.create_at;
    let claim = match place {
        Place::Clone => objects::claim(&seen.volume, chosen, size, from),
        Place::BesideSource(namespace) => {
            let node = seen.claim.present().and_then(|claim| claim.selected_node.clone());
            let template = ClaimTemplate { from, ..ClaimTemplate::of(chosen, size) };
            objects::temporary(&seen.volume, namespace, &template, node)
        }
    };
    Plan::act(seen, phase, Write::CreateClaim(Box::new(claim))).with_waiting(provisioning(seen, chosen, None))
}

/// True if a pod that has a node uses the clone's claim.
pub(crate) fn used(seen: &Observed) -> bool {
    seen.target_users.iter().any(|user| user.scheduled)
}

/// What an unbound claim waits for.
pub(crate) fn provisioning(seen: &Observed, chosen: &Chosen, claim: Option<&Claim>) -> Waiting {
    let conflict = |claim: &&Claim| claim.complaint.as_deref().is_some_and(driver_error::is_conflict);
    let complaint = claim.filter(|claim| !conflict(claim)).and_then(|claim| reported(seen, claim));
    if chosen.waits_for_consumer && claim.is_none_or(|c| c.selected_node.is_none()) && !used(seen) {
        Waiting::FirstConsumer
    } else {
        Waiting::ClaimNotBound { driver_says: complaint }
    }
}
