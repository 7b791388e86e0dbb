//! The record of a decision on the object itself: the plan annotation, what was tried before, and whose wish it followed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    api::{CloneStrategy, PlanCandidate},
    object::SourceName,
};

/// The content of the annotation `smartclone.dev/plan`: the decision in force. The strategy is here and not in [`CLONE_TYPE`](crate::keys::CLONE_TYPE), which
/// keeps the requester's wish where there is one: a field that a user owns is never overwritten (argo-cd#5882).
#[derive(Serialize, Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanNote {
    /// The strategy. Nothing in a note of an earlier version, which had it in [`CLONE_TYPE`](crate::keys::CLONE_TYPE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<CloneStrategy>,
    /// The strategy that the requester asked for, if he did. It stays his wish when another one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<CloneStrategy>,
    /// Whose wish it was.
    pub chosen_by: ChosenBy,
    /// The word for why it isn't what was wanted first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the DataSource stood for when it was decided, and stands for as far as this clone is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// The identity of the source for which it was decided: one that comes after it under the same name is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_uid: Option<String>,
    /// The source as it was when it was decided. Once its snapshot is cut, nothing else about the source matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_facts: Option<SourceFacts>,
    /// Every strategy, the cheapest first, and what was decided about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(alias = "rungs")]
    pub candidates: Vec<PlanCandidate>,
    /// What the driver has refused to do for this clone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<PastRefusal>,
}

impl PlanNote {
    /// The strategy in force, where `clone_type` is [`CLONE_TYPE`](crate::keys::CLONE_TYPE) of the same object.
    pub fn strategy_in_force(&self, clone_type: Option<&str>) -> Option<CloneStrategy> {
        self.strategy.or_else(|| clone_type?.parse().ok())
    }

    /// The requester's wish, where `clone_type` is [`CLONE_TYPE`](crate::keys::CLONE_TYPE) of the same object.
    pub fn wish_on_record(&self, clone_type: Option<CloneStrategy>) -> Option<CloneStrategy> {
        // An earlier version had no wish on record, and said only that the strategy beside the note was wished for.
        if self.strategy.is_some() { self.wish } else { clone_type.filter(|_| self.chosen_by == ChosenBy::Requester) }
    }

    /// The note in an annotation, if it is one.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The part of a source on which a decision depends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFacts {
    /// Its StorageClass; empty where it names none.
    pub class: String,
    /// The driver of its volume.
    pub driver: String,
    /// Its volume mode, as Kubernetes spells it; nothing where nobody has recorded that of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_mode: Option<String>,
    /// Its access modes.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// The size that its owner asked for, in bytes.
    pub request: u64,
    /// The size that it has, in bytes.
    pub capacity: u64,
}

/// The results of earlier passes over the same request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The strategy that is already written on the object by us.
    pub pinned: Option<CloneStrategy>,
    /// The UID of the source for which it was decided. Another source of the same name needs another decision.
    pub decided_for: Option<String>,
    /// The strategies that the driver refused for it.
    pub refused: Vec<PastRefusal>,
}

impl History {
    /// The strategy that is written on the object, if it was decided for this source.
    pub fn pinned_for(&self, source_uid: &str) -> Option<CloneStrategy> {
        self.pinned.filter(|_| self.decided_for.as_deref() == Some(source_uid))
    }
}

/// A strategy that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRefusal {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// Nobody refused, but it wasn't done within its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_slow: bool,
    /// The driver's words, without secrets.
    pub message: String,
    /// The size, in bytes, at which the driver refused to restore the source snapshot, if that may be the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_at: Option<u64>,
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
