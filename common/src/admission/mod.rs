//! What the webhook answers: pure functions from object, facts and decision to annotations, warnings and mistakes.

mod explain;
mod update;

use std::collections::BTreeMap;

pub use explain::warnings;
pub use update::changes;

use crate::{
    api::DataVolume,
    clone::{
        Decision, Facts, decide,
        request::{Parsed, Request, annotation_path},
        step::pin,
    },
    field::FieldError,
    meta,
};

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not a clone, or nothing to say.
    Untouched,
    /// Admitted.
    Admitted {
        /// What its annotations are to be; `None` removes a key.
        annotations: BTreeMap<&'static str, Option<String>>,
        /// A line each, for the user's terminal.
        warnings: Vec<String>,
    },
    /// Not admitted.
    Denied(Vec<FieldError>),
}

/// Judges a new DataVolume that parsed to `request`.
pub fn judge(request: &Request, facts: &Facts) -> Verdict {
    let decision = decide(request, None, facts);
    let warnings = warnings(request, &decision, facts);
    match decision {
        Decision::Rejected(errors) => Verdict::Denied(errors),
        Decision::Chosen(chosen) => Verdict::Admitted { annotations: pin(&chosen), warnings },
        // The wish stays; a decision that hasn't been made, and the reason for it, don't.
        Decision::Undecided(_) => Verdict::Admitted {
            annotations: BTreeMap::from([
                (meta::CLONE_TYPE, request.wish.map(|wish| wish.to_string())),
                (meta::CLONE_FALLBACK_REASON, None),
                (meta::PLAN, None),
            ]),
            warnings,
        },
    }
}

/// The request in a DataVolume, or the final word about it.
pub fn parse(volume: &DataVolume) -> Result<Box<Request>, Verdict> {
    match Request::parse(volume) {
        Parsed::Clone(request) => Ok(request),
        Parsed::Wrong(errors) => Err(Verdict::Denied(errors)),
        Parsed::NotAClone => Err(Verdict::Untouched),
    }
}

/// What in `volume` differs from the decision: annotations that somebody forged, or changed after the decision was written.
pub fn forged(volume: &DataVolume, annotations: &BTreeMap<&'static str, Option<String>>) -> Vec<FieldError> {
    let has = |key: &str| volume.metadata.annotations.as_ref().and_then(|a| a.get(key));
    annotations
        .iter()
        .filter(|(key, value)| has(key) != value.as_ref())
        .map(|(key, value)| {
            let path = annotation_path(key);
            match value {
                Some(value) => FieldError::invalid(
                    path,
                    has(key).map(String::as_str).unwrap_or_default(),
                    format!("smartclone decided {value:?}; leave the annotation to it"),
                ),
                None => FieldError::forbidden(path, "smartclone writes it; leave it out"),
            }
        })
        .collect()
}
