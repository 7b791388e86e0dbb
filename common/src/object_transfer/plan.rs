//! Plan of a pass over an ObjectTransfer: the phase, the reason, and at most one write.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::{Observed, Record};
use crate::{api::DataVolume, object::ObjectVersion, rebind::ClaimIdentity, refusal};

/// Interval until the next pass if an object could not be read, even without an event.
const SOON: SignedDuration = SignedDuration::from_secs(5);

/// The phase of an ObjectTransfer (`status.phase`). The values are CDI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The transfer waits for its preconditions.
    Pending,
    /// The transfer has started.
    Running,
    /// The data is at its target, and nothing is left at its source.
    Complete,
    /// The transfer has failed. The data is at its source, or where the message says.
    Error,
}

impl Phase {
    /// Returns the value as it is written to the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Error => "Error",
        }
    }

    pub(super) fn read(text: &str) -> Self {
        let all = [Self::Running, Self::Complete, Self::Error];
        all.into_iter().find(|phase| phase.as_str() == text).unwrap_or(Self::Pending)
    }

    /// True for a phase that does not change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Error)
    }
}

/// The reason and message of the condition `Complete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Stable reason code.
    pub reason: &'static str,
    /// The awaited event or the result, and the action to take.
    pub message: String,
}

impl Why {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Builds the reason for a write that the API server refused.
    pub fn refused(quota: bool, message: &str) -> Self {
        Self::new(
            if quota { "ErrExceededQuota" } else { "ErrRefused" },
            format!("The API server refused to go on: {}", refusal::explained(message)),
        )
    }

    pub(super) fn unknown(why: &str) -> Self {
        Self::new(UNKNOWN, format!("Could not be told yet: {why}"))
    }

    /// True if somebody should look at the transfer: it is neither in progress nor complete.
    pub fn needs_attention(&self) -> bool {
        !matches!(self.reason, RUNNING | COMPLETE)
    }
}

const UNKNOWN: &str = "CouldNotTell";
const RUNNING: &str = "TransferRunning";
pub(super) const COMPLETE: &str = "TransferComplete";

/// One write to the cluster. To repeat it does no harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Adds our finalizer to the ObjectTransfer.
    Guard,
    /// Removes our finalizer from the ObjectTransfer.
    Release,
    /// Creates the target claim. A claim that exists already is left alone.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Rebinds the volume to the target, and sets the reclaim policy `Retain` so that it is not deleted meanwhile.
    HandOver {
        /// The volume, as it was read.
        volume: ObjectVersion,
        /// The claim that gets the volume.
        to: ClaimIdentity,
        /// The reclaim policy to restore later; `None` if it is `Retain`.
        policy: Option<String>,
        /// The time for the annotation.
        at: Timestamp,
    },
    /// Updates an annotation of the target, or of the source that has lost its volume, so that Kubernetes' controller processes the claim.
    Nudge {
        /// The claim.
        claim: ObjectVersion,
        /// The time for the annotation.
        at: Timestamp,
    },
    /// Restores the former reclaim policy of the volume.
    RestorePolicy {
        /// The volume, as it was read.
        volume: ObjectVersion,
        /// The policy.
        policy: String,
    },
    /// Creates the target DataVolume.
    CreateDataVolume(Box<DataVolume>),
    /// Deletes the DataVolume whose claim has moved.
    DeleteDataVolume(ObjectVersion),
    /// Deletes a claim without data: the source after its volume has moved, or a target that will never get the volume.
    DeleteClaim(ObjectVersion),
}

impl Write {
    /// Returns the name of the write for logs and metric labels.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Guard => "guard_transfer",
            Self::Release => "release_transfer",
            Self::CreateClaim(_) => "create_claim",
            Self::HandOver { .. } => "hand_over",
            Self::Nudge { .. } => "nudge",
            Self::RestorePolicy { .. } => "restore_policy",
            Self::CreateDataVolume(_) => "create_data_volume",
            Self::DeleteDataVolume(_) => "delete_data_volume",
            Self::DeleteClaim(_) => "delete_claim",
        }
    }
}

/// The result of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The phase of the transfer.
    pub phase: Phase,
    /// The write, if there is one.
    pub action: Option<Write>,
    /// The reason for waiting, or the result.
    pub why: Why,
    /// The record after the pass.
    pub record: Option<Record>,
    /// Time of the next pass if no event comes first.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    pub(super) fn wait(seen: &Observed, why: Why) -> Self {
        let unknown = why.reason == UNKNOWN;
        Self {
            phase: seen.transfer.phase(),
            action: None,
            why,
            record: seen.transfer.record.clone(),
            look_again_at: unknown.then(|| seen.now.checked_add(SOON).ok()).flatten(),
        }
    }

    pub(super) fn act(seen: &Observed, action: Write) -> Self {
        let why = Why::new(RUNNING, "The transfer is under way");
        Self { phase: Phase::Running, action: Some(action), ..Self::wait(seen, why) }
    }

    pub(super) fn running(seen: &Observed, message: impl Into<String>) -> Self {
        Self { phase: Phase::Running, ..Self::wait(seen, Why::new(RUNNING, message)) }
    }

    pub(super) fn ends(seen: &Observed, phase: Phase, why: Why) -> Self {
        Self { phase, look_again_at: None, ..Self::wait(seen, why) }
    }

    /// True if the plan cannot be undone. Such a plan, made from caches, has to be confirmed by reads from the API server.
    pub fn is_irreversible(&self) -> bool {
        let ends = self.phase == Phase::Error;
        let acts = match &self.action {
            // With its former policy, the volume is deleted along with its claim again, so the claim has to exist.
            Some(
                Write::HandOver { .. }
                | Write::RestorePolicy { .. }
                | Write::DeleteClaim(_)
                | Write::DeleteDataVolume(_)
                | Write::Release,
            ) => true,
            Some(Write::Guard | Write::CreateClaim(_) | Write::Nudge { .. } | Write::CreateDataVolume(_)) | None => {
                false
            }
        };
        ends || acts
    }
}
