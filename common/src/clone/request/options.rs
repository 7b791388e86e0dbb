//! The options of a clone: annotations that a user sets on a DataVolume.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    api::CloneStrategy,
    clone::{
        note::PlanNote,
        request::{Consistency, SHORTEST_DEADLINE},
    },
    field::{FieldError, annotation_path},
    keys,
};

/// The parsed annotations.
pub(crate) struct Options {
    pub(super) wish: Option<CloneStrategy>,
    pub(super) fallback_allowed: bool,
    pub(super) consistency: Consistency,
    pub(super) keep_owners: bool,
    pub(super) immediate: bool,
    pub(super) deadline: Option<Duration>,
    pub(super) pre_populated: bool,
}

impl Options {
    pub(super) fn read(annotations: Option<&BTreeMap<String, String>>, errors: &mut Vec<FieldError>) -> Self {
        let get = |key: &str| annotations.and_then(|a| a.get(key)).map(String::as_str);
        let mut wrong = |key: &str, value: &str, supported: &str| {
            errors.push(FieldError::not_supported(
                annotation_path(key),
                value,
                format!("supported values: {supported}"),
            ));
        };
        let wish = match get(keys::CLONE_TYPE) {
            None => None,
            Some(text) => {
                let wish = text.parse().ok();
                if wish.is_none() {
                    wrong(keys::CLONE_TYPE, text, "\"snapshot\", \"csi-clone\", \"copy\"");
                }
                // With a plan beside it this may be an earlier decision of smartclone.
                match get(keys::PLAN) {
                    None => wish,
                    Some(plan) => PlanNote::read(plan).and_then(|note| note.wish_on_record(wish)),
                }
            }
        };
        let fallback_allowed = match get(keys::FALLBACK) {
            None | Some("Allowed") => true,
            Some("Never") => false,
            Some(text) => {
                wrong(keys::FALLBACK, text, "\"Allowed\", \"Never\"");
                true
            }
        };
        let consistency = match get(keys::CONSISTENCY) {
            None | Some("Offline") => Consistency::Offline,
            Some("CrashConsistent") => Consistency::CrashConsistent,
            Some(text) => {
                wrong(keys::CONSISTENCY, text, "\"Offline\", \"CrashConsistent\"");
                Consistency::Offline
            }
        };
        let keep_owners = match get(keys::FILE_OWNERS) {
            None => false,
            Some("Keep") => true,
            Some(text) => {
                wrong(keys::FILE_OWNERS, text, "\"Keep\"");
                false
            }
        };
        let deadline = get(keys::DEADLINE).and_then(|text| {
            let deadline = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
            if deadline.is_none_or(|d| d < SHORTEST_DEADLINE) {
                wrong(keys::DEADLINE, text, "a time of at least 10 s, such as \"10m\" or \"1h30m\"");
            }
            deadline
        });
        Self {
            wish,
            fallback_allowed,
            consistency,
            keep_owners,
            immediate: get(keys::IMMEDIATE_BINDING).is_some(),
            deadline,
            pre_populated: annotations.is_some_and(keys::declares_filled),
        }
    }
}
