//! What a pass concludes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::{Observed, Record};
use crate::{api::DataVolume, object::ObjectVersion, rebind::ClaimIdentity, refusal};

/// When to look again at what could not be told, although nothing is heard.
const SOON: SignedDuration = SignedDuration::from_secs(5);

/// `status.phase`, in CDI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for what has to be so before it begins.
    Pending,
    /// It has begun.
    Running,
    /// The data is at its target, and nothing is left at its source.
    Complete,
    /// It can't be done; the data is where it was, or where the message says.
    Error,
}

impl Phase {
    /// As it is written.
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

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Error)
    }
}

/// The reason and message of the condition `Complete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// One word, stable.
    pub reason: &'static str,
    /// What is waited for, or has happened, and what can be done about it.
    pub message: String,
}

impl Why {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The API server refused a write.
    pub fn refused(quota: bool, message: &str) -> Self {
        Self::new(
            if quota { "ErrExceededQuota" } else { "ErrRefused" },
            format!("The API server refused to go on: {}", refusal::explained(message)),
        )
    }

    pub(super) fn unknown(why: &str) -> Self {
        Self::new(UNKNOWN, format!("Could not be told yet: {why}"))
    }

    /// A machine is at work; anything else is for somebody to look at.
    pub fn needs_attention(&self) -> bool {
        !matches!(self.reason, RUNNING | COMPLETE)
    }
}

const UNKNOWN: &str = "CouldNotTell";
const RUNNING: &str = "TransferRunning";
pub(super) const COMPLETE: &str = "TransferComplete";

/// One write. None is repeated in vain, and none does harm when it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Put our finalizer on the ObjectTransfer.
    Guard,
    /// Take it off.
    Release,
    /// An existing one is ours or nobody's business of ours.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Give the volume to the target, and keep it from being deleted meanwhile.
    HandOver {
        /// The volume, as it was looked at.
        volume: ObjectVersion,
        /// Whose it is to be.
        to: ClaimIdentity,
        /// The reclaim policy to return to; nothing, where it is `Retain` anyway.
        policy: Option<String>,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Make Kubernetes look at the target, or at the source when that has lost its volume.
    Nudge {
        /// The claim.
        claim: ObjectVersion,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Give the volume its former reclaim policy.
    RestorePolicy {
        /// The volume, as it was looked at.
        volume: ObjectVersion,
        /// The policy.
        policy: String,
    },
    /// Make the target DataVolume.
    CreateDataVolume(Box<DataVolume>),
    /// Remove the DataVolume whose claim has moved.
    DeleteDataVolume(ObjectVersion),
    /// Remove a claim without data: the source when its volume has moved, or the target when it never will.
    DeleteClaim(ObjectVersion),
}

impl Write {
    /// One word for logs and metric labels.
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

/// What a pass concludes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the transfer stands.
    pub phase: Phase,
    /// What to write.
    pub action: Option<Write>,
    /// What is waited for, or how it ended.
    pub why: Why,
    /// What is on record from now on.
    pub record: Option<Record>,
    /// When to look again although nothing happens.
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

    /// What was concluded from caches has to be concluded from the API server's own answers, too: it can't be undone.
    pub fn is_irreversible(&self) -> bool {
        let ends = self.phase == Phase::Error;
        let acts = match &self.action {
            // With its policy the volume goes with its claim again, so that one had better be there.
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
