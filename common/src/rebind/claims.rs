//! The two claims of a hand-over, as the protocol sees them.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    api,
    clone::claim::kept,
    keys,
    object::{ClaimPhase, ObjectVersion, exact},
    rebind::{VOLUME_CLONE_SOURCE, time, volume_name},
};

/// Which claim, and not another one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimIdentity {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity. Empty in a `claimRef` that somebody wrote by hand; that one is nobody's.
    pub uid: String,
}

impl ClaimIdentity {
    fn of(claim: &ObjectVersion) -> Self {
        Self { namespace: claim.namespace.clone(), name: claim.name.clone(), uid: claim.uid.clone() }
    }

    /// The same name in the same namespace, and the same, known, identity.
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
    /// Which one.
    pub exact: ObjectVersion,
    /// It is being deleted.
    pub deleting: bool,
    /// [`keys::HAND_OVER_FINALIZER`] keeps it, and with it its volume, although it is being deleted.
    pub kept: bool,
    /// Whether it has its volume.
    pub phase: ClaimPhase,
    /// The volume it names.
    pub volume_name: Option<String>,
    /// When it was touched last to make Kubernetes look at it.
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

    /// Its volume may go at any moment.
    pub(super) fn is_going(&self) -> bool {
        self.deleting && !self.kept
    }

    /// As a `claimRef` names it.
    pub fn identity(&self) -> ClaimIdentity {
        ClaimIdentity::of(&self.exact)
    }
}

/// The claim that is to get the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetClaim {
    /// Which one.
    pub exact: ObjectVersion,
    /// It is being deleted.
    pub deleting: bool,
    /// Whether it has its volume.
    pub phase: ClaimPhase,
    /// The volume it names.
    pub volume_name: Option<String>,
    /// It names a VolumeCloneSource in its `dataSourceRef`, so that no provisioner makes a volume for it.
    pub held_back: bool,
    /// When it was touched last to make Kubernetes look at it.
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
            held_back: source
                .is_some_and(|s| s.api_group.as_deref() == Some(api::GROUP) && s.kind == VOLUME_CLONE_SOURCE),
            nudged_at: time(&claim.metadata, keys::NUDGED),
        }
    }

    /// As a `claimRef` is to name it.
    pub fn identity(&self) -> ClaimIdentity {
        ClaimIdentity::of(&self.exact)
    }
}
