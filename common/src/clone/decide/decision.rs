//! The result of a decision: the chosen strategy with its parameters, a wait, or a rejection.

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
    /// The request is cloned by this strategy.
    Chosen(Box<Chosen>),
    /// The decision is not possible yet; it is retried when the facts change.
    Undecided(Undecided),
    /// The request can't be cloned as specified; holds all errors.
    Rejected(Vec<FieldError>),
}

/// The chosen strategy with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// The way in which the content gets into the claim.
    pub route: Route,
    /// The origin of the wanted strategy.
    pub by: ChosenBy,
    /// The reason why the wanted strategy was replaced.
    pub fallback: Option<FallbackReason>,
    /// All candidates, cheapest first.
    pub verdicts: Vec<Verdict>,
    /// The UID of the source.
    pub source_uid: String,
    /// The source at the time of the decision, to be recorded.
    pub source_facts: SourceFacts,
    /// The StorageClass of the source; empty if it has none.
    pub source_class: String,
    /// The StorageClass for the temporary restore of a source snapshot.
    pub restore_class: Option<String>,
    /// The driver of the clone's class.
    pub driver: String,
    /// The StorageClass of the clone.
    pub class: String,
    /// The VolumeAttributesClass of the clone.
    pub attributes_class: Option<String>,
    /// The maximum size of the clone.
    pub limit: Option<Bytes>,
    /// The volume mode of the source.
    pub source_mode: VolumeMode,
    /// The volume mode of the clone.
    pub mode: VolumeMode,
    /// The access modes of the clone.
    pub access_modes: Vec<String>,
    /// The sizes as far as they are known before the snapshot is taken.
    pub sizes: SizePlan,
    /// The VolumeSnapshotClass, for the strategy `snapshot`.
    pub snapshot_class: Option<String>,
    /// The size for the temporary restore of a source snapshot.
    pub restore_at: Bytes,
    /// True if the clone's volume is provisioned only when a pod uses the claim (`WaitForFirstConsumer`).
    pub waits_for_consumer: bool,
    /// True if the StorageClass has `WaitForFirstConsumer`, even if the requester doesn't want to wait.
    pub binds_late: bool,
    pub(crate) resize: Resize,
}

/// The [`PlanCandidate::outcome`] of the chosen strategy.
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
    /// The strategy in use.
    Chosen,
    /// Feasible, but another one is wanted.
    NotWanted,
    /// Not feasible, or recently refused by the driver.
    Infeasible(FallbackReason),
}

/// The way in which the content gets into the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The claim names its data source, and the driver populates it.
    Direct,
    /// A temporary claim beside the source is populated; then its volume is rebound.
    Rebind,
}

impl Chosen {
    /// The sizes, given the driver's minimum size for a restore of the snapshot.
    pub fn sizes_for(&self, restore_size: Option<Bytes>) -> Result<SizePlan, SizeError> {
        let Resize { request, source, rule, expands } = self.resize;
        size(request, SourceSize { restore_size, ..source }, rule, expands)
    }
}

/// The reason why no decision is possible yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// The source doesn't exist.
    SourceMissing,
    /// The source is being deleted, and can't be cloned any more.
    SourceDeleting {
        /// The finalizers that keep it.
        finalizers: Vec<String>,
    },
    /// The source claim has no volume yet, or the source snapshot isn't ready.
    SourceNotReady {
        /// The driver's error.
        driver_says: Option<String>,
    },
    /// The StorageClass of the clone doesn't exist.
    NoStorageClass(FieldError),
    /// Something could not be read.
    Unknown(String),
}
