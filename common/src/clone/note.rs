//! The record of a decision on the object itself: plan annotation, earlier refusals, and the origin of the strategy.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    api::{CloneStrategy, PlanCandidate},
    object::SourceName,
};

/// The content of the annotation `smartclone.dev/plan`: the decision in force. The strategy is here and not in
/// [`CLONE_TYPE`](crate::keys::CLONE_TYPE), which keeps the requester's choice: a field that a user owns is never overwritten
/// (argo-cd#5882).
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanNote {
    /// The strategy. `None` in a note of an earlier version, which stored it in [`CLONE_TYPE`](crate::keys::CLONE_TYPE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<CloneStrategy>,
    /// The strategy that the requester asked for, if any. It is kept if another one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<CloneStrategy>,
    /// The origin of the wanted strategy.
    pub chosen_by: ChosenBy,
    /// The code of the reason for a fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The source that the DataSource resolved to at the decision; it stays the source of this clone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// The UID of the source for which it was decided. A later object of the same name is another source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_uid: Option<String>,
    /// The source at the time of the decision. After its snapshot is taken, nothing else about the source matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_facts: Option<SourceFacts>,
    /// All strategies, cheapest first, with the verdict on each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(alias = "rungs")]
    pub candidates: Vec<PlanCandidate>,
    /// The driver's refusals for this clone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<PastRefusal>,
}

impl PlanNote {
    /// The strategy in force; `clone_type` is [`CLONE_TYPE`](crate::keys::CLONE_TYPE) of the same object.
    pub fn strategy_in_force(&self, clone_type: Option<&str>) -> Option<CloneStrategy> {
        self.strategy.or_else(|| clone_type?.parse().ok())
    }

    /// The requester's choice; `clone_type` is [`CLONE_TYPE`](crate::keys::CLONE_TYPE) of the same object.
    pub fn wish_on_record(&self, clone_type: Option<CloneStrategy>) -> Option<CloneStrategy> {
        // An earlier version did not record the choice, only that the strategy beside the note was the requester's.
        if self.strategy.is_some() { self.wish } else { clone_type.filter(|_| self.chosen_by == ChosenBy::Requester) }
    }

    /// Parses the annotation; `None` if it is invalid.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The fields of a source that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFacts {
    /// Its StorageClass; empty if it names none.
    pub class: String,
    /// The driver of its volume.
    pub driver: String,
    /// Its volume mode in Kubernetes' spelling; `None` for a snapshot without a recorded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<String>,
    /// Its access modes.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// The requested size, in bytes.
    pub request: u64,
    /// The actual size, in bytes.
    pub capacity: u64,
}

/// The results of earlier passes for the same request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The strategy that is recorded on the object.
    pub pinned: Option<CloneStrategy>,
    /// The UID of the source for which it was decided. Another source of the same name needs another decision.
    pub decided_for: Option<String>,
    /// The strategies that the driver refused for it.
    pub refused: Vec<PastRefusal>,
}

impl History {
    /// The recorded strategy, if it was decided for this source.
    pub fn pinned_for(&self, source_uid: &str) -> Option<CloneStrategy> {
        self.pinned.filter(|_| self.decided_for.as_deref() == Some(source_uid))
    }
}

/// A strategy that was tried and failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRefusal {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// True if it was not refused, but exceeded its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_slow: bool,
    /// The driver's message, redacted.
    pub message: String,
    /// The size, in bytes, at which the driver refused to restore the source snapshot, if that may be the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<u64>,
}

/// The origin of the wanted strategy. The first that specifies one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChosenBy {
    /// The earlier decision, recorded on the object.
    Pinned,
    /// The annotation `cdi.kubevirt.io/cloneType` at creation.
    Requester,
    /// `CDI.spec.cloneStrategyOverride`.
    Override,
    /// `StorageProfile.spec.cloneStrategy`.
    Profile,
    /// The annotation `cdi.kubevirt.io/clone-strategy` of the StorageClass.
    StorageClass,
    /// The built-in table of drivers, as in the StorageProfile's status.
    Record,
    /// The built-in default: the cheapest strategy that most drivers support.
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
