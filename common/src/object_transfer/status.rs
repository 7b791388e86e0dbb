//! What a user reads in `kubectl describe objecttransfer`.

use super::{Observed, Phase, Plan, Record};
use crate::{
    api::ObjectTransferStatus,
    condition::{self, Observation},
};

/// The one condition that an ObjectTransfer has (CDI's).
pub const COMPLETE: &str = "Complete";

/// The status that follows from a pass. Equal to the one on record when nothing has changed, so that a second pass writes nothing.
pub fn status(seen: &Observed, plan: &Plan) -> ObjectTransferStatus {
    let old = &seen.transfer.status;
    // How it ended stays as it was told.
    if Phase::read(&old.phase).is_final() {
        return old.clone();
    }
    let observation = Observation {
        kind: COMPLETE,
        status: Some(plan.phase == Phase::Complete),
        reason: plan.why.reason,
        message: plan.why.message.clone(),
    };
    let mut data = old.data.clone();
    data.extend(plan.record.as_ref().map(Record::data).unwrap_or_default());
    ObjectTransferStatus {
        data,
        phase: plan.phase.as_str().to_owned(),
        conditions: condition::merge(&old.conditions, &[observation], seen.now),
    }
}
