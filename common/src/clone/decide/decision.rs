//! The result of a decision.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    api::CloneStrategy,
    clone::{
        candidates::Reason,
        decide::Verdict,
        rules::{
            driver::RestoreRule,
            size::{SizeError, SizePlan, SourceSize, size},
        },
    },
    field::FieldError,
    object::VolumeMode,
    quantity::Bytes,
};

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is cloned like this.
    Chosen(Box<Chosen>),
    /// Nobody can say yet; decided again when that changes.
    Undecided(Undecided),
    /// It can't be cloned as it is written; every reason is listed.
    Rejected(Vec<FieldError>),
}

/// The chosen strategy with all that is needed to carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// How.
    pub strategy: CloneStrategy,
    /// By which way the content comes to the claim.
    pub route: Route,
    /// The origin of the wanted strategy.
    pub by: ChosenBy,
    /// Why it isn't what was wanted first.
    pub fallback: Option<Reason>,
    /// Every candidate, the cheapest first.
    pub verdicts: Vec<Verdict>,
    /// The identity of the source that this was decided for.
    pub source_uid: String,
    /// The StorageClass of the source; empty where it has none.
    pub source_class: String,
    /// The StorageClass with which a source snapshot is restored to be copied from.
    pub restore_class: Option<String>,
    /// The driver of the clone's class.
    pub driver: String,
    /// The StorageClass of the clone.
    pub class: String,
    /// The volume mode of the source.
    pub source_mode: VolumeMode,
    /// The volume mode of the clone.
    pub mode: VolumeMode,
    /// The access modes of the clone.
    pub access_modes: Vec<String>,
    /// The sizes as far as they are known before the snapshot is cut.
    pub sizes: SizePlan,
    /// The VolumeSnapshotClass, for the strategy `snapshot`.
    pub snapshot_class: Option<String>,
    /// The size of the source.
    pub source_size: Bytes,
    /// The clone's volume is made when a pod wants it (`WaitForFirstConsumer`).
    pub waits_for_consumer: bool,
    /// The class is of that kind, whether or not the requester wants to wait.
    pub binds_late: bool,
    pub(super) resize: Resize,
}

/// The way in which the content gets into the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The claim names its data source, and the driver fills it.
    Direct,
    /// A temporary claim beside the source is filled; then its volume is handed over.
    Rebind,
}

/// The input of the sizes, kept to compute them again when the driver has reported the snapshot's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    pub(crate) request: Option<Bytes>,
    pub(crate) source: SourceSize,
    pub(crate) rule: RestoreRule,
    pub(crate) expands: bool,
}

impl Chosen {
    /// The sizes with what the driver says a restore of the snapshot needs.
    pub fn sizes_for(&self, restore_size: Option<Bytes>) -> Result<SizePlan, SizeError> {
        let Resize { request, source, rule, expands } = self.resize;
        size(request, SourceSize { restore_size, ..source }, rule, expands)
    }
}

/// The origin of the wanted strategy. The first that names one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChosenBy {
    /// Decided before and written on the object.
    Pinned,
    /// The annotation `cdi.kubevirt.io/cloneType` that the object was created with.
    Requester,
    /// `CDI.spec.cloneStrategyOverride`.
    Override,
    /// `StorageProfile.spec.cloneStrategy`.
    Profile,
    /// The annotation `cdi.kubevirt.io/clone-strategy` of the StorageClass.
    StorageClass,
    /// The table of drivers, as the StorageProfile's status shows it.
    Record,
    /// Nobody's: the cheapest that most drivers can.
    Default,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "the earlier decision",
            Self::Requester => "the annotation cdi.kubevirt.io/cloneType",
            Self::Override => "cloneStrategyOverride of the CDI object",
            Self::Profile => "the StorageProfile",
            Self::StorageClass => "the StorageClass",
            Self::Record => "what is known of the driver",
            Self::Default => "default",
        })
    }
}

/// Why nobody can say yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// The source doesn't exist.
    SourceMissing,
    /// The source exists and has no volume yet; a snapshot can't be restored yet.
    SourceNotReady {
        /// The driver's error.
        driver_says: Option<String>,
    },
    /// Something could not be read.
    Unknown(String),
}
