//! The wanted strategy: the first configured one in order of precedence, from the recorded decision to the built-in default.

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

/// The recorded decision, unless the clone has not started and its namespace has met a refusal of that strategy since. Then it is decided
/// again from the requester's choice on, so that the choice stays recorded.
pub(crate) fn standing(history: &History, source: &Source, candidates: &[Candidate]) -> Option<CloneStrategy> {
    let refused =
        |strategy: CloneStrategy| candidates.iter().any(|it| it.strategy == strategy && it.remembered.is_some());
    history.pinned_for(&source.uid).filter(|strategy| strategy.spec().fallback.is_none() || !refused(*strategy))
}

/// The wanted strategy and its origin: the first in order of precedence.
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
    // An unknown value in the StorageClass's annotation is ignored, so that a typo doesn't block all clones.
    Ok(match class.strategy.as_deref().and_then(|text| text.parse().ok()) {
        Some(strategy) => (strategy, ChosenBy::StorageClass),
        None => match facts.profile.present().and_then(|profile| profile.advised) {
            Some(strategy) => (strategy, ChosenBy::Record),
            None => (CloneStrategy::Snapshot, ChosenBy::Default),
        },
    })
}
