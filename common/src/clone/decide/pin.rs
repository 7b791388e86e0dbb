//! The annotations that record a decision, for the next pass and for users.

use crate::{
    clone::{
        decide::decision::Chosen,
        note::{PastRefusal, PlanNote},
        request::Request,
    },
    meta::{self, Annotations},
};

/// The annotations that say what was decided.
pub fn pin(request: &Request, chosen: &Chosen, refused: &[PastRefusal]) -> Annotations {
    let note = PlanNote {
        chosen_by: chosen.by,
        reason: chosen.fallback.as_ref().map(|f| f.code().to_string()),
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
