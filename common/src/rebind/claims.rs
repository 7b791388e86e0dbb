//! The source and target claims of a rebind: the fields that the protocol reads.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    clone::claim::kept,
    keys,
    object::{ClaimPhase, ObjectVersion, exact},
    rebind::{is_held_back, time, volume_name},
};

/// The identity of a claim: another claim of the same name differs in the UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID. Empty in a `claimRef` that somebody wrote by hand, which matches no claim.
    pub uid: String,
}

impl ClaimIdentity {
    fn of(claim: &ObjectVersion) -> Self {
        Self { namespace: claim.namespace.clone(), name: claim.name.clone(), uid: claim.uid.clone() }
    }

    /// True if namespace, name and UID are equal, and the UID is known.
    pub(crate) fn is(&self, other: &Self) -> bool {
        !self.uid.is_empty() && self == other
    }
}

impl fmt::Display for ClaimIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The claim that has the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceClaim {
    /// The claim, as it was read.
    pub exact: ObjectVersion,
    /// True if it is being deleted.
    pub deleting: bool,
    /// True if [`keys::HAND_OVER_FINALIZER`] keeps the claim, and with it its volume, although it is being deleted.
    pub kept: bool,
    /// Its phase.
    pub phase: ClaimPhase,
    /// The name of the volume in its spec.
    pub volume_name: Option<String>,
    /// Time of its last nudge, an update that makes Kubernetes' controller process the claim.
    pub nudged_at: Option<Timestamp>,
}

impl SourceClaim {
    /// Reads a claim.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        Self {
            exact: exact(&claim.metadata),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            kept: kept(&claim.metadata).is_some(),
            phase: ClaimPhase::of(claim),
            volume_name: volume_name(claim),
            nudged_at: time(&claim.metadata, keys::NUDGED),
        }
    }

    /// True if its volume may be deleted at any moment.
    pub(super) fn is_going(&self) -> bool {
        self.deleting && !self.kept
    }

    /// Returns the identity, as a `claimRef` has it.
    pub fn identity(&self) -> ClaimIdentity {
        ClaimIdentity::of(&self.exact)
    }
}

/// The claim that gets the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetClaim {
    /// The claim, as it was read.
    pub exact: ObjectVersion,
    /// True if it is being deleted.
    pub deleting: bool,
    /// Its phase.
    pub phase: ClaimPhase,
    /// The name of the volume in its spec.
    pub volume_name: Option<String>,
    /// True if no provisioner creates a volume for it; see [`is_held_back`].
    pub held_back: bool,
    /// Time of its last nudge, an update that makes Kubernetes' controller process the claim.
    pub nudged_at: Option<Timestamp>,
}

impl TargetClaim {
    /// Reads a claim.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let source = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref());
        Self {
            exact: exact(&claim.metadata),
            deleting: claim.metadata.deletion_timestamp.is_some(),
            phase: ClaimPhase::of(claim),
            volume_name: volume_name(claim),
            held_back: source.is_some_and(is_held_back),
            nudged_at: time(&claim.metadata, keys::NUDGED),
        }
    }

    /// Returns the identity, as a `claimRef` is to have it.
    pub fn identity(&self) -> ClaimIdentity {
        ClaimIdentity::of(&self.exact)
    }
}
