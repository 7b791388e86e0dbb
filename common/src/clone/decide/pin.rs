//! The annotations that record a decision, for the next pass and for users.

use crate::{
    clone::{
        decide::decision::Chosen,
        note::{PastRefusal, PlanNote},
        request::Request,
    },
    keys::{self, Annotations},
};

/// The annotations that record the decision. The annotation that holds the requester's choice, if any, is not overwritten.
pub fn pin(request: &Request, chosen: &Chosen, refused: &[PastRefusal]) -> Annotations {
    let note = PlanNote {
        strategy: Some(chosen.strategy),
        wish: request.wish,
        chosen_by: chosen.by,
        reason: chosen.fallback.as_ref().map(|f| f.code().to_string()),
        source: request.by_reference.then(|| request.source.clone()),
        source_uid: Some(chosen.source_uid.clone()),
        source_facts: Some(chosen.source_facts.clone()),
        candidates: chosen.verdicts.iter().map(Into::into).collect(),
        refused: refused.to_vec(),
    };
    let mut annotations = Annotations::from([
        (keys::CLONE_FALLBACK_REASON, chosen.fallback.as_ref().map(ToString::to_string)),
        (keys::PLAN, serde_json::to_string(&note).ok()),
    ]);
    if request.wish.is_none() {
        annotations.insert(keys::CLONE_TYPE, Some(chosen.strategy.to_string()));
    }
    annotations
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::{
        api::CloneStrategy,
        clone::{
            Decision,
            decide::decide,
            fixtures::{annotated, facts, request, volume},
            note::{ChosenBy, History},
            observed::Target,
        },
    };

    /// The requester's choice is kept when another strategy is in force; without a choice the annotation names the strategy in force. The
    /// annotations are parsed again, and once more after the next decision.
    #[rstest]
    #[case::wished(Some("csi-clone"), Some(CloneStrategy::CsiClone), "csi-clone")]
    #[case::not_wished(None, None, "copy")]
    fn a_wish_that_was_replaced_is_still_the_user_s(
        #[case] wish: Option<&'static str>,
        #[case] on_record: Option<CloneStrategy>,
        #[case] clone_type: &str,
    ) {
        let mut volume = volume(|object| {
            if let Some(wish) = wish {
                annotated(keys::CLONE_TYPE, wish)(object);
            }
        });
        let refused = |strategy| PastRefusal { strategy, too_slow: false, message: "no".to_owned(), restored_at: None };
        let past = vec![refused(CloneStrategy::CsiClone), refused(CloneStrategy::Snapshot)];
        for _ in 0..2 {
            let parsed = request(&volume);
            assert_eq!(parsed.wish, on_record);
            let history = History { refused: past.clone(), ..History::default() };
            let Decision::Chosen(chosen) = decide(&parsed, &history, &facts()) else { panic!("not chosen") };
            assert_eq!(chosen.strategy, CloneStrategy::Copy);
            let annotations = volume.metadata.annotations.get_or_insert_default();
            for (key, value) in pin(&parsed, &chosen, &past) {
                value.map(|value| annotations.insert(key.to_owned(), value));
            }
            assert_eq!(annotations[keys::CLONE_TYPE], clone_type);
            let target = Target::of(&volume);
            assert_eq!(target.history.pinned, Some(CloneStrategy::Copy));
            assert_eq!(target.chosen_by == Some(ChosenBy::Requester), wish.is_some());
            assert_eq!(
                target.recorded_source.map(|source| source.uid),
                facts().source.present().map(|it| it.uid.clone())
            );
        }
    }
}
