//! Creation of the claim to populate: its place, its data source, and the reason to wait until it is bound.

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

/// The place where a claim is populated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// The clone's claim itself.
    Clone,
    /// A temporary claim beside the source, in this namespace.
    BesideSource(&'a str),
}

/// Creates the claim in `place`, populated from `from`.
pub(crate) fn create(seen: &Observed, chosen: &Chosen, place: Place<'_>, from: &DataSource<'_>, phase: Phase) -> Plan {
    let size = chosen.sizes.create_at;
    let claim = match place {
        Place::Clone => objects::claim(&seen.volume, chosen, size, from),
        Place::BesideSource(namespace) => {
            let clone = seen.claim.present();
            let node = clone.and_then(|claim| claim.selected_node.clone());
            // The clone's claim decides, not the request: it can't be bound to a volume of another class.
            let attributes_class = clone.and_then(|claim| claim.attributes_class.as_deref());
            let template = ClaimTemplate { attributes_class, from, ..ClaimTemplate::of(chosen, size) };
            objects::temporary(&seen.volume, namespace, &template, node)
        }
    };
    Plan::act(seen, phase, Write::CreateClaim(Box::new(claim))).with_waiting(provisioning(seen, chosen, None))
}

/// True if a scheduled pod uses the clone's claim.
pub(crate) fn used(seen: &Observed) -> bool {
    seen.target_users.iter().any(|user| user.scheduled)
}

/// The reason why a claim is not bound.
pub(crate) fn provisioning(seen: &Observed, chosen: &Chosen, claim: Option<&Claim>) -> Waiting {
    let conflict = |claim: &&Claim| claim.complaint.as_deref().is_some_and(driver_error::is_conflict);
    let complaint = claim.filter(|claim| !conflict(claim)).and_then(|claim| reported(seen, claim));
    if chosen.waits_for_consumer && claim.is_none_or(|c| c.selected_node.is_none()) && !used(seen) {
        Waiting::FirstConsumer
    } else {
        Waiting::ClaimNotBound { driver_says: complaint }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::{
        clone::{
            Decision,
            decide::decide,
            fixtures::{facts, observed, request, volume},
            note::History,
            ownership::Owner,
        },
        lookup::Lookup,
    };

    /// Kubernetes does not bind a claim to a volume of another VolumeAttributesClass: the clone's claim decides, whatever is requested now.
    #[rstest]
    #[case::as_asked(Some("gold"), Some("gold"))]
    #[case::made_by_an_earlier_version(None, None)]
    #[case::another(Some("silver"), Some("silver"))]
    fn the_temporary_claim_has_the_attributes_of_the_clone_s(
        #[case] of_claim: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let volume = volume(|object| object["spec"]["pvc"]["volumeAttributesClassName"] = json!("gold"));
        let Decision::Chosen(chosen) = decide(&request(&volume), &History::default(), &facts()) else {
            panic!("not chosen")
        };
        let mut seen = observed(&volume, facts());
        let claim = json!({"metadata": {"name": "clone"}, "spec": {"volumeAttributesClassName": of_claim}});
        let claim = serde_json::from_value(claim).unwrap();
        seen.claim = Lookup::Present(Claim::of(&claim, Owner::Ours, "dv", None, None));
        let phase = Phase::CloneScheduled;
        let plan = create(&seen, &chosen, Place::BesideSource("gold"), &DataSource::Blank, phase);
        let Some(Write::CreateClaim(made)) = plan.actions.first() else { panic!("{plan:?}") };
        let spec = made.spec.as_ref().unwrap();
        assert_eq!(spec.volume_attributes_class_name.as_deref(), expected);
    }
}
