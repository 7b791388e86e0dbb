//! Invariants of a plan, checked again at run time.

use thiserror::Error;

use super::{Observed, Phase, Plan, Write, handed_over, protocol};
use crate::{
    confinement::may_delete,
    lookup::Lookup,
    object::exact,
    rebind::{self, Step},
};

/// A violated invariant: the plan must not be carried out. Always a bug in smartclone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// A write would happen before the moved objects are recorded.
    #[error("would {0} before anything is on record")]
    Unrecorded(&'static str),
    /// A volume would be rebound that is not the source's, or to a claim that is not the target.
    #[error("would hand over a volume that is not the source's, or not to its target")]
    WrongHands,
    /// A claim would be deleted that may hold the data.
    #[error("would delete PersistentVolumeClaim {0:?}, which may hold the data")]
    DeletesData(String),
    /// A claim would be deleted in a state in which the policy about the controller's account refuses it.
    #[error("would delete PersistentVolumeClaim {0:?}, which the policy does not permit yet")]
    RefusedByPolicy(String),
    /// The DataVolume would be deleted while its claim may hold the data.
    #[error("would delete DataVolume {0:?}, whose claim may hold the data")]
    DeletesDataVolume(String),
    /// Success would be reported without the data at the target.
    #[error("would report success before the data has moved")]
    PrematureSuccess,
}

/// Returns every invariant that `plan` violates.
pub fn violations(seen: &Observed, plan: &Plan) -> Vec<Violation> {
    let transfer = seen.transfer.record.as_ref().map(|record| (record, protocol(seen, record)));
    let moved = transfer.as_ref().is_some_and(|(_, transfer)| rebind::step(transfer) == Step::Moved);
    let mut found = Vec::new();
    let was = Phase::read(&seen.transfer.status.phase);
    if plan.phase == Phase::Complete && was != Phase::Complete && !moved {
        found.push(Violation::PrematureSuccess);
    }
    let Some(action) = &plan.action else { return found };
    let Some((record, transfer)) = transfer else {
        if !matches!(action, Write::Guard | Write::Release) {
            found.push(Violation::Unrecorded(action.verb()));
        }
        return found;
    };
    match action {
        Write::HandOver { volume, to, .. } => {
            let from = transfer.volume.present().filter(|v| v.exact == *volume).and_then(|v| v.claim_ref.as_ref());
            let source = from.is_some_and(|from| from.uid == record.source_uid && !from.uid.is_empty());
            let target = transfer.target.present().is_some_and(|t| t.identity() == *to && t.held_back && !t.deleting);
            if !source || !target {
                found.push(Violation::WrongHands);
            }
        }
        Write::DeleteClaim(what) => {
            let source = what.uid == record.source_uid && moved;
            let target = transfer.target.present().is_some_and(|t| t.exact == *what && t.volume_name.is_none());
            let unneeded = target && !handed_over(&transfer);
            if !source && !unneeded {
                found.push(Violation::DeletesData(what.name.clone()));
            }
            let claims = [&seen.source, &seen.target].into_iter().filter_map(Lookup::present);
            if !claims.filter(|claim| exact(&claim.metadata) == *what).any(may_delete) {
                found.push(Violation::RefusedByPolicy(what.name.clone()));
            }
        }
        Write::DeleteDataVolume(what) => {
            if !moved || record.data_volume_uid.as_ref() != Some(&what.uid) {
                found.push(Violation::DeletesDataVolume(what.name.clone()));
            }
        }
        Write::Guard
        | Write::Release
        | Write::CreateClaim(_)
        | Write::Nudge { .. }
        | Write::RestorePolicy { .. }
        | Write::CreateDataVolume(_) => {}
    }
    found
}
