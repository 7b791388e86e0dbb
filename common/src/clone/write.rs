//! The writes of a plan as values. Each contains its precondition, so that after a crash, with a second controller or a stale cache it can
//! only fail.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::{
    api::snapshot::VolumeSnapshot, keys::Annotations, machine_defaults::Labels, object::ObjectVersion, quantity::Bytes,
    rebind::ClaimIdentity,
};

/// The kinds of objects that smartclone deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A temporary VolumeSnapshot.
    VolumeSnapshot,
    /// A temporary claim, or a clone's claim of an abandoned strategy.
    PersistentVolumeClaim,
    /// A data mover, or a pod that triggers provisioning.
    Pod,
}

impl Kind {
    /// The kind in Kubernetes' spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VolumeSnapshot => "VolumeSnapshot",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Pod => "Pod",
        }
    }
}

/// The annotations and labels to write on the DataVolume or claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pin {
    /// The decision; `None` removes a key.
    pub annotations: Annotations,
    /// The labels that it inherits from its source.
    pub labels: Labels,
}

/// One write of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Writes the decision on the DataVolume, or on the claim that is populated without one. Fails if the object has changed since it was
    /// observed.
    Pin(Pin),
    /// Creates a snapshot. Its name contains a UID, so an existing one is ours or a conflict. It lists its members.
    CreateSnapshot(Box<VolumeSnapshot>),
    /// Creates a claim. It has the DataVolume's name, or its name contains a UID, so an existing one is ours or a conflict.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Adopts a claim that is already populated: the DataVolume becomes its owner.
    Adopt(ObjectVersion),
    /// Requests a larger size. A claim can't shrink, so repeating this is harmless.
    GrowClaim {
        /// The claim.
        claim: ObjectVersion,
        /// Its new request.
        to: Bytes,
    },
    /// Records on the claim that the copy is complete and verified; this outlives the pod.
    MarkCopied {
        /// The claim.
        claim: ObjectVersion,
        /// BLAKE3 of the content.
        digest: String,
    },
    /// Creates a pod: the data mover, or one that triggers provisioning.
    CreatePod(Box<Pod>),
    /// Replaces the claimRef of a PersistentVolume; it is never cleared in between.
    HandOver {
        /// The PersistentVolume.
        volume: ObjectVersion,
        /// The claim that the volume is bound to.
        from: ClaimIdentity,
        /// The claim that the volume will be bound to.
        to: ClaimIdentity,
        /// The time, which is recorded on the object.
        at: Timestamp,
    },
    /// Annotates a claim, so that Kubernetes reconciles it again.
    Nudge {
        /// The claim.
        claim: ObjectVersion,
        /// The time, which is recorded on the claim.
        at: Timestamp,
    },
    /// Removes our finalizer from a temporary claim that is being deleted.
    Release {
        /// The claim.
        claim: ObjectVersion,
        /// Its finalizers without ours.
        rest: Vec<String>,
    },
    /// Sets the reclaim policy of a temporary claim's volume to delete, whatever the StorageClass has for users' volumes.
    DiscardVolume {
        /// The PersistentVolume.
        volume: ObjectVersion,
    },
    /// Declares a complete claim as populated for the DataVolume of its name, so that CDI takes it as it is.
    Seal {
        /// The claim.
        claim: ObjectVersion,
    },
    /// Writes the status of a complete clone on the DataVolume in the place of CDI, which has not done so. Fails if the DataVolume or its
    /// claim has changed since it was observed.
    ReportForCdi {
        /// The complete claim.
        claim: ObjectVersion,
    },
    /// Deletes an object of ours. Our finalizer keeps a temporary claim until it is released.
    Delete {
        /// The kind.
        kind: Kind,
        /// The object.
        what: ObjectVersion,
    },
}

impl Write {
    /// A short name for logs and metric labels.
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
            Self::Seal { .. } => "seal_claim",
            Self::ReportForCdi { .. } => "report_for_cdi",
            Self::Delete { kind: Kind::VolumeSnapshot, .. } => "delete_snapshot",
            Self::Delete { kind: Kind::PersistentVolumeClaim, .. } => "delete_claim",
            Self::Delete { kind: Kind::Pod, .. } => "delete_pod",
        }
    }

    /// The attempted write, for a message to the user.
    pub fn attempt(&self) -> &'static str {
        match self {
            Self::Pin(_) => "annotating the DataVolume",
            Self::CreateSnapshot(_) => "creating the VolumeSnapshot of the source",
            Self::CreateClaim(_) => "creating a PersistentVolumeClaim",
            Self::Adopt(_) => "becoming the owner of the PersistentVolumeClaim",
            Self::GrowClaim { .. } => "expanding the PersistentVolumeClaim",
            Self::ReportForCdi { .. } => "writing the status of the DataVolume",
            Self::MarkCopied { .. } | Self::Nudge { .. } | Self::Seal { .. } => "annotating the PersistentVolumeClaim",
            Self::CreatePod(_) => "creating a pod",
            Self::HandOver { .. } => "binding the PersistentVolume to the clone's claim",
            Self::Release { .. } => "removing the finalizer of the temporary PersistentVolumeClaim",
            Self::DiscardVolume { .. } => "setting the reclaim policy of the temporary PersistentVolume",
            Self::Delete { kind: Kind::VolumeSnapshot, .. } => "deleting the temporary VolumeSnapshot",
            Self::Delete { kind: Kind::PersistentVolumeClaim, .. } => "deleting a PersistentVolumeClaim",
            Self::Delete { kind: Kind::Pod, .. } => "deleting a pod",
        }
    }

    /// True if the write must precede the status, which relies on it.
    pub fn before_status(&self) -> bool {
        matches!(self, Self::Adopt(_))
    }

    /// True if the write can't be undone. A pass makes at most one such write, since a crash may occur between two.
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
