//! Status of an ObjectTransfer, as `kubectl describe objecttransfer` shows it.

use super::{Observed, Phase, Plan, Record};
use crate::{
    api::ObjectTransferStatus,
    condition::{self, Observation},
};

/// The only condition of an ObjectTransfer (CDI's).
pub const COMPLETE: &str = "Complete";

/// Returns the status after a pass. It is equal to the current one if nothing has changed, so that a second pass writes nothing.
pub fn status(seen: &Observed, plan: &Plan) -> ObjectTransferStatus {
    let old = &seen.transfer.status;
    // A final status does not change.
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
