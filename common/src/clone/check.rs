//! The invariants once more, on real data: what no plan may do, whoever made it. Run after the plan in tests, and in production as a
//! refusal.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use super::{
    action::{Action, Exact, Kind},
    plan::{Observed, Plan},
    request::ObjectName,
};
use crate::{api::Phase, quantity::Bytes};

/// A plan that must not be carried out; always a mistake of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// Something that isn't ours would be deleted or changed.
    #[error("would {verb} {name:?}, which is not ours")]
    NotOurs {
        /// The action.
        verb: &'static str,
        /// The object.
        name: String,
    },
    /// The source would be written to.
    #[error("would write to the source {0}")]
    TouchesSource(ObjectName),
    /// Two actions that can't be undone in one pass: a crash may fall between them.
    #[error("more than one irreversible action in one pass")]
    TwoIrreversible,
    /// A clone smaller than its source.
    #[error("would make a claim of {asked} for a source of {least}")]
    Shrinks {
        /// Asked for.
        asked: Bytes,
        /// The source's capacity.
        least: Bytes,
    },
    /// Success without a complete, bound clone.
    #[error("would report success without a complete clone")]
    PrematureSuccess,
    /// Something would be made that Kubernetes doesn't remove with the DataVolume.
    #[error("would create {0:?} without an owner")]
    Unowned(String),
    /// Something would be made or changed for a DataVolume that is being deleted.
    #[error("would act for a DataVolume that is being deleted")]
    ActsOnDeleting,
}

/// Every invariant that `plan` would break.
pub fn violations(seen: &Observed, plan: &Plan) -> Vec<Violation> {
    let mut found = Vec::new();
    if seen.volume.deleting && !plan.actions.is_empty() {
        found.push(Violation::ActsOnDeleting);
    }
    if plan.actions.iter().filter(|a| irreversible(a)).count() > 1 {
        found.push(Violation::TwoIrreversible);
    }
    for action in &plan.actions {
        found.extend(violation(seen, action));
    }
    if plan.phase == Phase::Succeeded && !complete(seen) {
        found.push(Violation::PrematureSuccess);
    }
    found
}

fn irreversible(action: &Action) -> bool {
    matches!(action, Action::GrowClaim { .. } | Action::Delete { .. })
}

fn complete(seen: &Observed) -> bool {
    seen.claim.present().is_some_and(|c| c.ours && !c.deleting && c.phase == "Bound")
}

fn violation(seen: &Observed, action: &Action) -> Option<Violation> {
    let not_ours = |what: &Exact| Violation::NotOurs { verb: action.verb(), name: what.name.clone() };
    let our_claim = |what: &Exact| seen.claim.present().is_some_and(|c| c.ours && c.exact == *what);
    let source = seen.request().map(|r| &r.source);
    match action {
        Action::Pin(_) => None,
        Action::CreateSnapshot(snapshot) => unowned(seen, &snapshot.metadata),
        Action::CreateMover(pod) => unowned(seen, &pod.metadata),
        Action::CreateClaim(claim) => {
            let size = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
            let asked = size.and_then(|r| r.get("storage")).and_then(|q| Bytes::of(q).ok()).unwrap_or_default();
            let least = seen.facts.source.present().and_then(|s| s.capacity).unwrap_or_default();
            if asked < least {
                return Some(Violation::Shrinks { asked, least });
            }
            unowned(seen, &claim.metadata)
        }
        Action::GrowClaim { claim, .. } | Action::MarkCopied { claim, .. } => {
            if let Some(source) = source.filter(|s| s.name == claim.name && s.namespace == seen.volume.namespace) {
                return Some(Violation::TouchesSource(source.clone()));
            }
            (!our_claim(claim)).then(|| not_ours(claim))
        }
        Action::Delete { kind, what } => {
            let ours = match kind {
                Kind::VolumeSnapshot => seen.snapshot.present().is_some_and(|s| s.ours && s.exact == *what),
                Kind::Pod => seen.mover.present().is_some_and(|m| m.ours && m.exact == *what),
            };
            (!ours).then(|| not_ours(what))
        }
    }
}

fn unowned(seen: &Observed, meta: &ObjectMeta) -> Option<Violation> {
    let owned = meta.owner_references.iter().flatten().any(|o| o.uid == seen.volume.uid && o.controller == Some(true));
    let here = meta.namespace.as_deref() == Some(&seen.volume.namespace);
    (!owned || !here).then(|| Violation::Unowned(meta.name.clone().unwrap_or_default()))
}
