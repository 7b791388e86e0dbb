//! Claims that the controller's account may delete: the rule of the ValidatingAdmissionPolicy `controller.smartclone.dev`, in CEL for the
//! API server and in Rust for code that plans a deletion. A refused deletion is retried only after a wait, so none is requested before the
//! policy permits it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;

use crate::{keys, object};

/// Annotations of claims that the controller created: for a DataVolume, and for an ObjectTransfer.
const MADE_BY_US: [&str; 2] = [keys::CREATED_FOR_DATA_VOLUME, keys::TRANSFER];

/// Returns the rule about `oldObject` in CEL. `labelled` is the expression for a claim that has our label and so was created as a temporary
/// claim. A claim that has lost its volume to another claim, or that the controller created and that never had a volume, holds no data.
pub fn deletable_claim(labelled: &str) -> String {
    let [made, moved] = MADE_BY_US;
    format!(
        "{labelled} || has(oldObject.status) && has(oldObject.status.phase) && \
         (oldObject.status.phase == 'Lost' || has(oldObject.metadata.annotations) && oldObject.status.phase == 'Pending' && \
         ('{made}' in oldObject.metadata.annotations || '{moved}' in oldObject.metadata.annotations))"
    )
}

/// True for a claim whose deletion by the controller's account the policy permits: the same rule as in [`deletable_claim`].
pub fn may_delete(claim: &PersistentVolumeClaim) -> bool {
    let made_by_us = || MADE_BY_US.iter().any(|key| object::annotation(&claim.metadata, key).is_some());
    claim.labels().contains_key(keys::OWNED_BY_UID)
        || match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
            Some("Lost") => true,
            Some("Pending") => made_by_us(),
            Some(_) | None => false,
        }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// The permission to delete a claim in this phase: a user's, one created for a DataVolume, one created for an ObjectTransfer, and a
    /// temporary one.
    #[rstest]
    #[case::without_a_phase(None, [false, false, false, true])]
    #[case::pending(Some("Pending"), [false, true, true, true])]
    #[case::bound(Some("Bound"), [false, false, false, true])]
    #[case::lost(Some("Lost"), [true, true, true, true])]
    #[case::unknown(Some("Resting"), [false, false, false, true])]
    fn only_what_holds_no_data_may_be_deleted(#[case] phase: Option<&str>, #[case] expected: [bool; 4]) {
        let metadata = [
            json!({"annotations": {"mine": "x"}, "labels": {"mine": "x"}}),
            json!({"annotations": {keys::CREATED_FOR_DATA_VOLUME: "dv"}}),
            json!({"annotations": {keys::TRANSFER: "ot"}}),
            json!({"labels": {keys::OWNED_BY_UID: "dv"}}),
        ];
        let found = metadata.map(|metadata| {
            let status = phase.map(|phase| json!({"phase": phase}));
            may_delete(&serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap())
        });
        assert_eq!(found, expected);
    }
}
