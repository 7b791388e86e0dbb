//! Conditions of a DataVolume: their types, and their transitions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::DataVolumeCondition;

/// The three types that every DataVolume has (CDI's).
pub mod types {
    /// The clone is complete and may be used.
    pub const READY: &str = "Ready";
    /// The target claim is bound.
    pub const BOUND: &str = "Bound";
    /// Work is in progress.
    pub const RUNNING: &str = "Running";
}

/// The observed state of one condition type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The type, such as one of [`types`].
    pub kind: &'static str,
    /// The status; `None` is Unknown.
    pub status: Option<bool>,
    /// The reason, one word.
    pub reason: &'static str,
    /// The message, a sentence for people.
    pub message: String,
}

/// Returns the next conditions, one for each observation, in the given order. `lastTransitionTime` changes with the status,
/// `lastHeartbeatTime` with any field. An unchanged observation changes nothing, so that a second pass writes nothing.
pub fn merge(old: &[DataVolumeCondition], seen: &[Observation], now: Timestamp) -> Vec<DataVolumeCondition> {
    seen.iter()
        .map(|seen| {
            let status = match seen.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let mut next = DataVolumeCondition {
                type_: seen.kind.to_owned(),
                status: status.to_owned(),
                reason: Some(seen.reason.to_owned()),
                message: Some(seen.message.clone()),
                last_transition_time: Some(Time(now)),
                last_heartbeat_time: Some(Time(now)),
            };
            if let Some(old) = old.iter().find(|old| old.type_ == seen.kind && old.status == status) {
                next.last_transition_time.clone_from(&old.last_transition_time);
                if old.reason == next.reason && old.message.as_deref().unwrap_or_default() == seen.message {
                    return old.clone();
                }
            }
            next
        })
        .collect()
}
