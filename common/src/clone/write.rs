//! The writes of a plan as values. Each contains its precondition, so that a crash, a second controller or a stale cache can only
//! make it fail.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::{
    api::snapshot::VolumeSnapshot, keys::Annotations, machine_defaults::Labels, object::ObjectVersion, quantity::Bytes,
    rebind::ClaimIdentity,
};

/// The kinds that we delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A temporary VolumeSnapshot.
    VolumeSnapshot,
    /// A temporary claim; or a clone's claim that was made for a strategy which was given up.
    PersistentVolumeClaim,
    /// A data mover, or a pod that makes a volume appear.
    Pod,
}

impl Kind {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VolumeSnapshot => "VolumeSnapshot",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Pod => "Pod",
        }
    }
}

/// What is written on the object that is cloned for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pin {
    /// The decision; `None` removes a key.
    pub annotations: Annotations,
    /// The labels that it inherits from its source.
    pub labels: Labels,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Write the decision on the DataVolume (or on the claim that is filled without one). Only if it is as it was seen.
    Pin(Pin),
    /// Its name is made of a UID: an existing one is ours or an error. Its members are written in it.
    CreateSnapshot(Box<VolumeSnapshot>),
    /// It is named like the DataVolume, or its name is made of a UID: an existing one is ours or an error.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Take over a claim that is already filled: the DataVolume becomes its owner.
    Adopt(ObjectVersion),
    /// Ask for more; a claim can't shrink, so a repetition is harmless.
    GrowClaim {
        /// The claim.
        claim: ObjectVersion,
        /// Its new request.
        to: Bytes,
    },
    /// Write on the claim that the copy is complete and verified: the fact that outlives the pod.
    MarkCopied {
        /// The claim.
        claim: ObjectVersion,
        /// BLAKE3 of the content.
        digest: String,
    },
    /// Start a pod: the data mover, or one that makes a volume appear.
    CreatePod(Box<Pod>),
    /// The volume's claimRef is replaced, never cleared.
    HandOver {
        /// The PersistentVolume.
        volume: ObjectVersion,
        /// The claim that has it.
        from: ClaimIdentity,
        /// The claim that gets it.
        to: ClaimIdentity,
        /// When; written on it.
        at: Timestamp,
    },
    /// Touch a claim, so that Kubernetes looks at it again.
    Nudge {
        /// The claim.
        claim: ObjectVersion,
        /// When; written on it.
        at: Timestamp,
    },
    /// Take our finalizer off a temporary claim that is being deleted, so that it goes.
    Release {
        /// The claim.
        claim: ObjectVersion,
        /// Its finalizers without ours.
        rest: Vec<String>,
    },
    /// Let the volume of a temporary claim go with the claim, whatever the StorageClass says about users' volumes.
    DiscardVolume {
        /// The PersistentVolume.
        volume: ObjectVersion,
    },
    /// Remove something that is ours. A temporary claim is kept by our finalizer until it is released.
    Delete {
        /// The kind.
        kind: Kind,
        /// Which one.
        what: ObjectVersion,
    },
}

impl Write {
    /// One word for logs and metric labels.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Pin(_) => "pin",
            Self::CreateSnapshot(_) => "create_snapshot",
            Self::CreateClaim(_) => "create_claim",
            Self::Adopt(_) => "adopt_claim",
            Self::GrowClaim { .. } => "grow_claim",
            Self::MarkCopied { .. } => "mark_copied",
            Self::CreatePod(_) => "create_pod",
            Self::HandOver { .. } => "hand_over",
            Self::Nudge { .. } => "nudge",
            Self::Release { .. } => "release_claim",
            Self::DiscardVolume { .. } => "discard_volume",
            Self::Delete { kind: Kind::VolumeSnapshot, .. } => "delete_snapshot",
            Self::Delete { kind: Kind::PersistentVolumeClaim, .. } => "delete_claim",
            Self::Delete { kind: Kind::Pod, .. } => "delete_pod",
        }
    }

    /// The write that was attempted, for a message to the user.
    pub fn attempt(&self) -> &'static str {
        match self {
            Self::Pin(_) => "annotating the DataVolume",
            Self::CreateSnapshot(_) => "creating the VolumeSnapshot of the source",
            Self::CreateClaim(_) => "creating a PersistentVolumeClaim",
            Self::Adopt(_) => "becoming the owner of the PersistentVolumeClaim",
            Self::GrowClaim { .. } => "expanding the PersistentVolumeClaim",
            Self::MarkCopied { .. } | Self::Nudge { .. } => "annotating the PersistentVolumeClaim",
            Self::CreatePod(_) => "creating a pod",
            Self::HandOver { .. } => "binding the PersistentVolume to the clone's claim",
            Self::Release { .. } => "removing the finalizer of the temporary PersistentVolumeClaim",
            Self::DiscardVolume { .. } => "setting the reclaim policy of the temporary PersistentVolume",
            Self::Delete { kind: Kind::VolumeSnapshot, .. } => "deleting the temporary VolumeSnapshot",
            Self::Delete { kind: Kind::PersistentVolumeClaim, .. } => "deleting a PersistentVolumeClaim",
            Self::Delete { kind: Kind::Pod, .. } => "deleting a pod",
        }
    }

    /// What is reported counts on it.
    pub fn before_status(&self) -> bool {
        matches!(self, Self::Adopt(_))
    }

    /// It can't be undone; a pass does one such thing at most, since a crash may fall between two.
    pub fn irreversible(&self) -> bool {
        matches!(
            self,
            Self::GrowClaim { .. }
                | Self::HandOver { .. }
                | Self::Release { .. }
                | Self::DiscardVolume { .. }
                | Self::Delete { .. }
        )
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}
