//! Effects as values. The precondition is part of each, so that a crash, a second controller or a stale cache can only make it fail.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::{api::snapshot::VolumeSnapshot, quantity::Bytes};

/// The kinds that we delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A temporary VolumeSnapshot.
    VolumeSnapshot,
    /// A data mover.
    Pod,
}

impl Kind {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VolumeSnapshot => "VolumeSnapshot",
            Self::Pod => "Pod",
        }
    }
}

/// Exactly this object, not another one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exact {
    /// Its name, in the DataVolume's namespace.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The version that was looked at; a write is refused when it has changed since.
    pub resource_version: String,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the decision on the DataVolume; `None` removes a key. Only if the DataVolume is as it was seen.
    Pin(BTreeMap<&'static str, Option<String>>),
    /// Its name is made of a UID: an existing one is ours or an error.
    CreateSnapshot(Box<VolumeSnapshot>),
    /// It is named like the DataVolume: an existing one is ours or an error.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Ask for more; a claim can't shrink, so a repetition is harmless.
    GrowClaim {
        /// The claim.
        claim: Exact,
        /// Its new request.
        to: Bytes,
    },
    /// Write on the claim that the copy is complete and verified: the fact that outlives the pod.
    MarkCopied {
        /// The claim.
        claim: Exact,
        /// BLAKE3 of the content.
        digest: String,
    },
    /// Start the data mover.
    CreateMover(Box<Pod>),
    /// Remove something that is ours.
    Delete {
        /// The kind.
        kind: Kind,
        /// Which one.
        what: Exact,
    },
}

impl Action {
    /// One word for logs and metric labels.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Pin(_) => "pin",
            Self::CreateSnapshot(_) => "create_snapshot",
            Self::CreateClaim(_) => "create_claim",
            Self::GrowClaim { .. } => "grow_claim",
            Self::MarkCopied { .. } => "mark_copied",
            Self::CreateMover(_) => "create_mover",
            Self::Delete { kind: Kind::VolumeSnapshot, .. } => "delete_snapshot",
            Self::Delete { kind: Kind::Pod, .. } => "delete_mover",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}
