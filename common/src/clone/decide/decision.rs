//! The result of a decision.

use crate::clone::{
    decide::size::Resize,
    note::{ChosenBy, SourceFacts},
};
use crate::{
    api::{CloneStrategy, PlanCandidate},
    clone::decide::{
        reason::FallbackReason,
        size::{SizeError, SizePlan, SourceSize, size},
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
    pub fallback: Option<FallbackReason>,
    /// Every candidate, the cheapest first.
    pub verdicts: Vec<Verdict>,
    /// The identity of the source that this was decided for.
    pub source_uid: String,
    /// The source as it was, to be recorded.
    pub source_facts: SourceFacts,
    /// The StorageClass of the source; empty where it has none.
    pub source_class: String,
    /// The StorageClass with which a source snapshot is restored to be copied from.
    pub restore_class: Option<String>,
    /// The driver of the clone's class.
    pub driver: String,
    /// The StorageClass of the clone.
    pub class: String,
    /// The VolumeAttributesClass of the clone.
    pub attributes_class: Option<String>,
    /// The size that the clone may not exceed.
    pub limit: Option<Bytes>,
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
    /// The size at which a source snapshot is restored to be copied from.
    pub restore_at: Bytes,
    /// The clone's volume is made when a pod wants it (`WaitForFirstConsumer`).
    pub waits_for_consumer: bool,
    /// The class is of that kind, whether or not the requester wants to wait.
    pub binds_late: bool,
    pub(crate) resize: Resize,
}

/// The [`PlanCandidate::outcome`] of the strategy that was chosen.
pub const CHOSEN: &str = "Chosen";

/// A candidate and its outcome, for annotation and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// The outcome.
    pub outcome: Outcome,
}

impl From<&Verdict> for PlanCandidate {
    fn from(verdict: &Verdict) -> Self {
        let (outcome, reason) = match &verdict.outcome {
            Outcome::Chosen => (CHOSEN, None),
            Outcome::NotWanted => ("NotWanted", None),
            Outcome::Infeasible(reason) => ("Impossible", Some(reason)),
        };
        Self {
            strategy: Some(verdict.strategy),
            outcome: outcome.to_owned(),
            reason: reason.map(|reason| reason.code().to_string()),
            message: reason.map(FallbackReason::message),
            cure: reason.map(FallbackReason::cure),
        }
    }
}

/// The outcome of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is carried out.
    Chosen,
    /// It would do, and another one is wanted.
    NotWanted,
    /// It is not feasible, or the driver refused it lately.
    Infeasible(FallbackReason),
}

/// The way in which the content gets into the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The claim names its data source, and the driver fills it.
    Direct,
    /// A temporary claim beside the source is filled; then its volume is handed over.
    Rebind,
}

impl Chosen {
    /// The sizes with what the driver says a restore of the snapshot needs.
    pub fn sizes_for(&self, restore_size: Option<Bytes>) -> Result<SizePlan, SizeError> {
        let Resize { request, source, rule, expands } = self.resize;
        size(request, SourceSize { restore_size, ..source }, rule, expands)
    }
}

/// Why nobody can say yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// The source doesn't exist.
    SourceMissing,
    /// The source is being deleted, and nothing can be made from it any more.
    SourceDeleting {
        /// The finalizers that keep it.
        finalizers: Vec<String>,
    },
    /// The source exists and has no volume yet; a snapshot can't be restored yet.
    SourceNotReady {
        /// The driver's error.
        driver_says: Option<String>,
    },
    /// The StorageClass of the clone doesn't exist.
    NoStorageClass(FieldError),
    /// Something could not be read.
    Unknown(String),
}
