//! The invariants of a plan, checked in tests, and in production before any write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use thiserror::Error;

use super::{
    plan::Plan,
    shared_snapshot::read_members,
    write::{Kind, Write},
};
use crate::{
    api::Phase,
    clone::{facts::Source, observed::Observed, reconcile::adopt},
    keys,
    lookup::Lookup,
    object::{self, ClaimPhase, ObjectVersion, SourceKind, SourceName},
    quantity::Bytes,
};

/// A plan that must not be carried out; always a bug of smartclone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// The deletion or change of an object that isn't ours.
    #[error("would {verb} {name:?}, which is not ours")]
    NotOurs {
        /// The action.
        verb: &'static str,
        /// The object.
        name: String,
    },
    /// A write to the source.
    #[error("would write to the source {0}")]
    TouchesSource(SourceName),
    /// Two irreversible actions in one pass: a crash may occur between them.
    #[error("more than one irreversible action in one pass")]
    TwoIrreversible,
    /// The creation of a clone smaller than its source.
    #[error("would make a claim of {asked} for a source of {least}")]
    Shrinks {
        /// The requested size.
        asked: Bytes,
        /// The minimum size.
        least: Bytes,
    },
    /// A report of success without a complete, bound clone.
    #[error("would report success without a complete clone")]
    PrematureSuccess,
    /// The deletion of a claim whose volume is not certainly bound to another claim.
    #[error("would delete {0:?}, and the data with it")]
    LosesData(String),
    /// The deletion of a claim in a state in which the admission policy for smartclone's account refuses it.
    #[error("would delete {0:?}, which the policy does not permit")]
    RefusedByPolicy(String),
    /// The rebind of a volume that others may use.
    #[error("would hand over the volume {0:?}, which somebody else may have")]
    StillHeld(String),
    /// The creation of an object that is not deleted with the DataVolume.
    #[error("would create {0:?} without an owner")]
    Unowned(String),
    /// An action for a DataVolume that is being deleted.
    #[error("would act for a DataVolume that is being deleted")]
    ActsOnDeleting,
}

/// All invariants that `plan` would break.
pub fn violations(seen: &Observed, plan: &Plan) -> Vec<Violation> {
    let mut found = Vec::new();
    if seen.volume.deleting && !plan.actions.is_empty() {
        found.push(Violation::ActsOnDeleting);
    }
    if plan.actions.iter().filter(|action| action.irreversible()).count() > 1 {
        found.push(Violation::TwoIrreversible);
    }
    for action in &plan.actions {
        found.extend(violation(seen, action));
    }
    // Once reported, success stays, whatever happens to the claim.
    if plan.phase == Phase::Succeeded && seen.volume.status.phase != Phase::Succeeded && !complete(seen) {
        found.push(Violation::PrematureSuccess);
    }
    found
}

fn complete(seen: &Observed) -> bool {
    seen.claim.present().is_some_and(|claim| {
        let taken_over = seen.volume.has_taken_over(claim) && adopt::is_complete(claim);
        !claim.deleting && (taken_over || claim.ours && claim.phase == ClaimPhase::Bound)
    })
}

fn violation(seen: &Observed, action: &Write) -> Option<Violation> {
    let not_ours = |what: &ObjectVersion| Violation::NotOurs { verb: action.verb(), name: what.name.clone() };
    let claims = [&seen.claim, &seen.temporary, &seen.restored];
    let our_claim =
        |what: &ObjectVersion| claims.iter().any(|claim| claim.present().is_some_and(|c| c.ours && c.exact == *what));
    let source = seen.request().map(|request| &request.source);
    let is_source = |what: &ObjectVersion| {
        source.filter(|source| {
            source.kind == SourceKind::Claim
                && source.object.name == what.name
                && source.object.namespace == what.namespace
        })
    };
    match action {
        Write::Pin(_) => None,
        Write::CreateSnapshot(snapshot) => {
            let member = |text| read_members(text).is_some_and(|all| all.contains_key(&seen.volume.uid));
            let listed = object::annotation(&snapshot.metadata, keys::MEMBERS).is_some_and(member);
            (!listed).then(|| Violation::Unowned(snapshot.metadata.name.clone().unwrap_or_default()))
        }
        Write::CreatePod(pod) => unowned(seen, &pod.metadata),
        Write::CreateClaim(claim) => {
            let size = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
            let asked = size.and_then(|r| r.get("storage")).and_then(|q| Bytes::of(q).ok()).unwrap_or_default();
            let least = seen.facts.source.present().and_then(Source::least).unwrap_or_default();
            let mode = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()?.parse().ok());
            let converted = seen.facts.source.present().is_some_and(|source| source.mode != mode);
            if asked < least && !converted {
                return Some(Violation::Shrinks { asked, least });
            }
            unowned(seen, &claim.metadata)
        }
        Write::Adopt(claim) => {
            let there = seen.claim.present().is_some_and(|c| !c.controlled && c.exact == *claim);
            (!there).then(|| not_ours(claim))
        }
        Write::GrowClaim { claim, .. }
        | Write::MarkCopied { claim, .. }
        | Write::Nudge { claim, .. }
        | Write::Release { claim, .. } => {
            if let Some(source) = is_source(claim) {
                return Some(Violation::TouchesSource(source.clone()));
            }
            if matches!(action, Write::Release { .. }) && loses_data(seen, claim) {
                return Some(Violation::LosesData(claim.name.clone()));
            }
            (!our_claim(claim)).then(|| not_ours(claim))
        }
        Write::Seal { claim } => {
            let whole = seen.claim.present().is_some_and(|it| it.exact == *claim && it.phase == ClaimPhase::Bound);
            if !whole || seen.volume.status.phase != Phase::Succeeded {
                return Some(Violation::PrematureSuccess);
            }
            (!our_claim(claim)).then(|| not_ours(claim))
        }
        Write::ReportForCdi { claim } => {
            let is_recorded = seen.volume.status.phase == Phase::Succeeded && seen.volume.reported_by_cdi.is_some();
            let is_whole = our_claim(claim) && complete(seen);
            (!is_recorded || !is_whole).then_some(Violation::PrematureSuccess)
        }
        Write::DiscardVolume { volume } => {
            let holder = [&seen.temporary, &seen.restored].into_iter().filter_map(Lookup::present);
            let mut holder = holder.filter(|claim| claim.ours && claim.retained.as_ref() == Some(volume));
            holder.next().is_none().then(|| not_ours(volume))
        }
        Write::HandOver { volume, from, to, .. } => {
            let temporary = seen.temporary.present().is_some_and(|c| c.ours && c.exact.uid == from.uid);
            let target = seen.claim.present().is_some_and(|c| c.ours && c.exact.uid == to.uid);
            let held = !seen.is_closed() || seen.holders.present().is_none_or(|holders| !holders.is_empty());
            if held {
                return Some(Violation::StillHeld(volume.name.clone()));
            }
            (!temporary || !target).then(|| not_ours(volume))
        }
        Write::Delete { kind, what } => {
            if let Some(source) = is_source(what).filter(|_| *kind == Kind::PersistentVolumeClaim) {
                return Some(Violation::TouchesSource(source.clone()));
            }
            let ours = match kind {
                // The cleanup deletes shared snapshots when no clone needs them.
                Kind::VolumeSnapshot => false,
                Kind::PersistentVolumeClaim => our_claim(what),
                Kind::Pod => {
                    let pods = [&seen.mover, &seen.consumer];
                    pods.iter().any(|pod| pod.present().is_some_and(|m| m.ours && m.exact == *what))
                }
            };
            // Our finalizer keeps the claim and its volume until it is released.
            let kept = seen.temporary.present().is_some_and(|claim| claim.exact == *what && claim.kept.is_some());
            if ours && *kind == Kind::PersistentVolumeClaim && !kept && loses_data(seen, what) {
                return Some(Violation::LosesData(what.name.clone()));
            }
            let deletable = claims.iter().filter_map(|claim| claim.present()).any(|c| c.exact == *what && c.deletable);
            if ours && *kind == Kind::PersistentVolumeClaim && !deletable {
                return Some(Violation::RefusedByPolicy(what.name.clone()));
            }
            (!ours).then(|| not_ours(what))
        }
    }
}

/// True if the deletion may lose data: of a temporary claim during the rebind, before the clone's claim is bound; of the clone's claim once
/// it is bound.
fn loses_data(seen: &Observed, what: &ObjectVersion) -> bool {
    let temporary = seen.temporary.present().is_some_and(|claim| claim.exact == *what);
    if temporary {
        // The rebind is in progress and the clone's claim is not bound yet; the data is safe only once it is.
        let handed = seen.rebind.volume.present().and_then(|volume| volume.claim_ref.as_ref());
        let target = seen.claim.present();
        return handed.is_some_and(|owner| target.is_some_and(|claim| owner.uid == claim.exact.uid))
            && target.is_some_and(|claim| claim.phase != ClaimPhase::Bound);
    }
    seen.claim.present().is_some_and(|claim| claim.exact == *what && claim.phase == ClaimPhase::Bound)
}

/// The violation if neither Kubernetes' garbage collector nor the cleanup can identify the owner of a new object.
fn unowned(seen: &Observed, meta: &ObjectMeta) -> Option<Violation> {
    let uid = &seen.volume.uid;
    let owned = meta.owner_references.iter().flatten().any(|o| o.uid == *uid && o.controller == Some(true));
    let labelled = meta.labels.as_ref().and_then(|l| l.get(keys::OWNED_BY_UID)).is_some_and(|owner| owner == uid);
    let here = meta.namespace.as_deref() == Some(&seen.volume.namespace);
    let beside_source = seen.request().is_some_and(|r| meta.namespace.as_deref() == Some(&r.source.object.namespace));
    let found = if here { owned } else { labelled && beside_source };
    (!found).then(|| Violation::Unowned(meta.name.clone().unwrap_or_default()))
}
