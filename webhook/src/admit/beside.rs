//! Admission of DataVolumes beside CDI: takes the clones that smartclone is certain to serve, and leaves the others to CDI as they are.

use common::{
    admission::{
        self, Audience,
        beside::{self, Circumstances, LeaveToCdi, takes},
        stamp,
    },
    clone::{ClusterStorage, Facts},
    field::{self, FieldError, annotation_path},
    keys,
    lookup::Lookup,
    requester::Requester,
};
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;

use super::{
    carry_over::metadata,
    data_volume::{Admitted, DecidedClone, Judged, NewVolume, admitted, annotate, compare, judge},
};
use crate::{
    gather::{
        Stop,
        data_volume::{CloneFacts, GatheredFacts, SourceFacts},
    },
    object::annotated,
    review::{Answer, Request},
};

/// A new DataVolume in a review beside CDI.
pub(super) struct Arrival<'a> {
    pub(super) review: &'a Request,
    pub(super) parsed: Result<NewVolume, Vec<FieldError>>,
    pub(super) requester: &'a Requester,
    pub(super) is_controller_alive: bool,
}

/// A clone that is left to CDI.
struct Left {
    reason: LeaveToCdi,
    /// The right that the requester lacks, if it has been asked about.
    denial: Option<FieldError>,
    /// All errors, if it is invalid.
    errors: Vec<FieldError>,
    /// True if its claim is filled already, so that nothing is cloned.
    is_filled: bool,
    /// True if the reason follows from the object and its requester alone, so that it can't be outdated.
    is_certain: bool,
}

impl From<LeaveToCdi> for Left {
    fn from(reason: LeaveToCdi) -> Self {
        Self { reason, denial: None, errors: Vec::new(), is_filled: false, is_certain: false }
    }
}

/// The answer that leaves the object of a review to CDI. It loses what smartclone wrote on an earlier object; most objects have nothing of
/// it and stay untouched.
pub(super) fn left(review: &Request, reason: LeaveToCdi) -> Answer {
    left_as(review, reason, false)
}

fn left_as(review: &Request, reason: LeaveToCdi, is_filled: bool) -> Answer {
    let patch = metadata(&review.object).map(|metadata| {
        let changes = if is_filled { beside::unmarked_for_filled(&metadata) } else { beside::unmarked(&metadata) };
        annotated(&metadata, &changes)
    });
    Answer::LeftToCdi { patch: patch.unwrap_or_default(), reason }
}

/// The answer to a new object that asks for no clone: with a mark of smartclone, CDI would never fill it.
pub(super) fn without_clone(review: &Request) -> Answer {
    let is_marked = metadata(&review.object).is_some_and(|metadata| beside::is_marked(&metadata));
    if is_marked { left(review, LeaveToCdi::NotAClone) } else { Answer::untouched() }
}

/// Takes a new clone, or leaves it to CDI. A clone that arrives with the mark is rejected if its requester lacks the right to the source: CDI
/// has tolerated that because of the mark, and would not clone without telling why.
pub(super) fn mutate(arrival: Arrival<'_>, facts: GatheredFacts, stamp: Option<String>) -> Result<Admitted, Stop> {
    let review = arrival.review;
    let is_marked = metadata(&review.object).is_some_and(|metadata| beside::is_marked(&metadata));
    let taken = take(arrival, facts).and_then(|clone| match stamp {
        Some(stamp) => Ok((clone, stamp)),
        None => Err(LeaveToCdi::Invalid.into()),
    });
    match taken {
        Ok((clone, stamp)) => Ok(annotate(clone, stamp)),
        Err(Left { denial: Some(error), .. }) if is_marked => Err(Stop::Forbidden(with_cure(error))),
        Err(Left { reason, is_filled, is_certain, .. }) => {
            Ok(Admitted { answer: left_as(review, reason, is_filled), is_unconditional: !is_marked && is_certain })
        }
    }
}

fn with_cure(error: FieldError) -> FieldError {
    let detail = format!(
        "{}; the annotation {}: {} on a new DataVolume does not replace that right, remove it or ask for the right",
        error.detail,
        keys::PRE_POPULATED,
        keys::SENTINEL,
    );
    FieldError { detail, ..error }
}

/// Checks a new DataVolume that names a requester. One without the mark is CDI's.
pub(super) fn validate(arrival: Arrival<'_>, facts: GatheredFacts) -> Result<Admitted, Stop> {
    let untouched = || Ok(Admitted { answer: Answer::untouched(), is_unconditional: true });
    let requester = arrival.requester;
    let Some(metadata) = metadata(&arrival.review.object).filter(beside::is_stamped) else { return untouched() };
    if let Some(error) = stamp::wrong(&metadata, requester) {
        return Err(Stop::Invalid(vec![error]));
    }
    if !beside::is_marked(&metadata) {
        return untouched();
    }
    // A Lease that has become stale since does not revoke a clone.
    match take(Arrival { is_controller_alive: true, ..arrival }, facts) {
        Ok(clone) => compare(clone, requester),
        Err(Left { denial: Some(error), .. }) => Err(Stop::Forbidden(error)),
        Err(Left { reason: LeaveToCdi::Unknown, .. }) => {
            Err(crate::gather::Undecidable("the facts about the clone could not be read".to_owned()).into())
        }
        Err(Left { reason, errors, .. }) => Ok(Admitted { answer: outdated(reason, &errors), is_unconditional: false }),
    }
}

/// The answer to a mark on a clone that smartclone does not take: it was written by somebody else, or for another state of the cluster.
fn outdated(reason: LeaveToCdi, errors: &[FieldError]) -> Answer {
    let why = if errors.is_empty() { String::new() } else { format!(": {}", field::joined(errors)) };
    let detail = format!(
        "smartclone leaves this clone to CDI ({}{why}), which does not look at it because of the annotation; create it again without it",
        reason.as_str()
    );
    Answer::Conflict(FieldError::invalid(annotation_path(keys::PRE_POPULATED), keys::SENTINEL, detail))
}

/// Decides on the clone. Pure.
fn take(arrival: Arrival<'_>, facts: GatheredFacts) -> Result<DecidedClone, Left> {
    let Arrival { review, parsed, is_controller_alive, .. } = arrival;
    let certain = |reason| Left { is_certain: true, ..Left::from(reason) };
    if beside::is_cdi(review.user()) {
        return Err(Left { is_filled: true, ..certain(LeaveToCdi::CdiAccount) });
    }
    let new = parsed.map_err(|errors| Left { errors, ..certain(LeaveToCdi::Invalid) })?;
    let GatheredFacts { settings, clone, .. } = facts;
    let Some(CloneFacts { namesake, source }) = clone else { return Err(certain(LeaveToCdi::Restored)) };
    let relation = namesake.as_ref().map(|claim| admission::namesake(&new.volume, claim));
    if relation == Lookup::Present(admission::Namesake::TakenOver) {
        return Err(Left { is_filled: true, ..LeaveToCdi::ClaimExists.into() });
    }
    let denial = match &source {
        Err(Stop::Forbidden(error)) => Some(error.clone()),
        _ => None,
    };
    let left = |reason| Left { denial: denial.clone(), ..Left::from(reason) };
    beside::takes_object(&new.volume, review.user()).map_err(|reason| Left { is_certain: true, ..left(reason) })?;
    if !is_controller_alive {
        return Err(left(LeaveToCdi::ControllerDown));
    }
    let found = match source {
        Ok(SourceFacts::Found(found)) => found,
        Ok(SourceFacts::Unresolved(_)) => return Err(left(LeaveToCdi::Undecided)),
        Ok(SourceFacts::Invalid(errors)) => return Err(Left { errors, ..left(LeaveToCdi::Invalid) }),
        Err(Stop::Forbidden(_)) => return Err(left(LeaveToCdi::NotAllowed)),
        Ok(SourceFacts::Unclear(_)) | Err(_) => return Err(left(LeaveToCdi::Unknown)),
    };
    let Judged { verdict, facts, labels, doubt } = judge(&new, found, &settings, Audience::Person, Timestamp::now());
    let circumstances = Circumstances {
        is_controller_alive,
        namesake: relation,
        class: class_of(&settings, &facts),
        facts: &facts,
        verdict: &verdict,
    };
    takes(&new.volume, review.user(), &circumstances).map_err(left)?;
    let mut clone = admitted(new.volume, namesake, verdict).map_err(|_| left(LeaveToCdi::Invalid))?;
    clone.annotations.extend(beside::mark());
    (clone.labels, clone.doubt, clone.is_marked) = (labels, doubt, true);
    Ok(clone)
}

/// The StorageClass of the clone.
fn class_of<'a>(storage: &'a ClusterStorage, facts: &Facts) -> Option<&'a StorageClass> {
    let name = &facts.target_class.present()?.name;
    let classes = storage.classes.present()?.iter();
    classes.map(AsRef::as_ref).find(|class| class.metadata.name.as_ref() == Some(name))
}
