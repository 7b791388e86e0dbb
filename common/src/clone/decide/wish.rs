//! The wanted strategy: the first wish that somebody has, from the decision on record to the built-in default.

use crate::{
    api::CloneStrategy,
    clone::{
        decide::candidates::Candidate,
        facts::{Facts, Source},
        note::{ChosenBy, History},
        request::Request,
    },
    lookup::Lookup,
    storage::class::Class,
};

/// The decision that was made before, unless nothing is begun and the clone's namespace has met since then that the driver refuses it. Then
/// it is decided again from the wish on, so that the wish stays on record.
pub(crate) fn standing(history: &History, source: &Source, candidates: &[Candidate]) -> Option<CloneStrategy> {
    let refused =
        |strategy: CloneStrategy| candidates.iter().any(|it| it.strategy == strategy && it.remembered.is_some());
    history.pinned_for(&source.uid).filter(|strategy| strategy.spec().fallback.is_none() || !refused(*strategy))
}

/// The first wish that somebody has.
pub(crate) fn wanted(
    request: &Request,
    pinned: Option<CloneStrategy>,
    class: &Class,
    facts: &Facts,
) -> Result<(CloneStrategy, ChosenBy), String> {
    if let Some(strategy) = pinned {
        return Ok((strategy, ChosenBy::Pinned));
    }
    if let Some(strategy) = request.wish {
        return Ok((strategy, ChosenBy::Requester));
    }
    match &facts.cluster_override {
        Lookup::Present(strategy) => return Ok((*strategy, ChosenBy::Override)),
        Lookup::Unknown(why) => return Err(why.clone()),
        Lookup::Absent => {}
    }
    match &facts.profile {
        Lookup::Present(profile) => {
            if let Some(strategy) = profile.strategy {
                return Ok((strategy, ChosenBy::Profile));
            }
        }
        Lookup::Unknown(why) => return Err(why.clone()),
        Lookup::Absent => {}
    }
    // An unknown word in the class's annotation counts as none, so that a slip of the admin's doesn't stop everybody.
    Ok(match class.strategy.as_deref().and_then(|text| text.parse().ok()) {
        Some(strategy) => (strategy, ChosenBy::StorageClass),
        None => match facts.profile.present().and_then(|profile| profile.advised) {
            Some(strategy) => (strategy, ChosenBy::Record),
            None => (CloneStrategy::Snapshot, ChosenBy::Default),
        },
    })
}
