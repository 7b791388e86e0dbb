//! The annotations that record a decision, for the next pass and for users.

use super::{
    decide::{Chosen, ChosenBy, PastRefusal},
    request::Request,
};
use crate::{
    api::PlanCandidate,
    clone::observed::Observed,
    meta::{self, Annotations},
    object::SourceName,
};

/// The content of the annotation `smartclone.dev/plan`: that the strategy beside it was decided, not wished.
#[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanNote {
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
    /// Every strategy, the cheapest first, and what was decided about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[serde(alias = "rungs")]
    pub candidates: Vec<PlanCandidate>,
    /// What the driver has refused to do for this clone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<PastRefusal>,
}

impl PlanNote {
    /// Whether `text` is the note of a decision that the requester's own wish led to.
    pub fn says_wished(text: &str) -> bool {
        Self::read(text).is_some_and(|note| note.chosen_by == ChosenBy::Requester)
    }

    /// The note in an annotation, if it is one.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The annotations that say what was decided, and a new ownership key for a clone that has none.
pub(super) fn pin_for(seen: &Observed, request: &Request, chosen: &Chosen, refused: &[PastRefusal]) -> Annotations {
    let mut annotations = pin(request, chosen, refused);
    if seen.volume.key.is_none() {
        annotations.insert(meta::OWNERSHIP_KEY, seen.fresh_key.clone());
    }
    annotations
}

/// The annotations that say what was decided.
pub fn pin(request: &Request, chosen: &Chosen, refused: &[PastRefusal]) -> Annotations {
    let note = PlanNote {
        chosen_by: chosen.by,
        reason: chosen.fallback.as_ref().map(|f| f.code.to_owned()),
        source: request.by_reference.then(|| request.source.clone()),
        source_uid: Some(chosen.source_uid.clone()),
        candidates: chosen.verdicts.iter().map(Into::into).collect(),
        refused: refused.to_vec(),
    };
    Annotations::from([
        (meta::CLONE_TYPE, Some(chosen.strategy.to_string())),
        (meta::CLONE_FALLBACK_REASON, chosen.fallback.as_ref().map(ToString::to_string)),
        (meta::PLAN, serde_json::to_string(&note).ok()),
    ])
}
