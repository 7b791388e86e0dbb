//! Admission of DataVolumes: reads the object, gathers the facts, decides without further reads,
//! and answers.

use std::time::Duration;

use common::{
    admission::{self, Audience, Namesake, Verdict, beside::LeaveToCdi, stamp},
    api::DataVolume,
    clone::{ClusterStorage, Facts, Request as Wanted, facts::Source, request::Parsed},
    effect,
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    machine_defaults::{self, Labels},
    object::{self, ObjectName},
    pods::User,
    requester::Requester,
};
use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use tokio::time::timeout;

use super::beside;
use crate::{
    gather::{
        Stop, TWO_STEPS, Undecidable,
        access::Asker,
        cluster::Cluster,
        data_volume::{CloneFacts, FoundSource, GatheredFacts, Scope, SourceFacts, Subject, gather},
        read_cache::Freshness,
    },
    object::{annotated, is_ending, labelled, ownership_key, read},
    review::{Answer, Operation, Request},
};

/// The time limit of a review with cached reads.
const CACHED_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit of a review with the latest reads. The API server allows 5 s for both.
const LATEST_TIMEOUT: Duration = Duration::from_millis(3500);
const _: () = assert!(TWO_STEPS.as_millis() < LATEST_TIMEOUT.as_millis());

/// Writes the decision on a new DataVolume.
pub async fn mutate(review: &Request, cluster: &Cluster) -> Result<Answer, Stop> {
    if review.operation != Operation::Create || !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    admit_creation(review, cluster, Stage::Mutate).await
}

/// Checks the result of all mutating webhooks, ours and others. `controller` is the user that may
/// change decisions.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    if !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    match review.operation {
        Operation::Create => admit_creation(review, cluster, Stage::Validate).await,
        Operation::Update => validate_update(review, cluster, controller),
        Operation::Delete | Operation::Connect => Ok(Answer::untouched()),
    }
}

fn validate_update(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    if is_ending(&review.object) {
        return Ok(Answer::untouched());
    }
    let answer = match (read::<DataVolume>(&review.old_object, review), read::<DataVolume>(&review.object, review)) {
        (Ok(old), Ok(new)) => {
            let is_clone = |volume| Wanted::parse_new(volume) != Parsed::NotAClone;
            let by_controller = review.user() == controller;
            let errors = admission::changes(&old, &new, by_controller);
            if errors.is_empty() || !is_clone(&old) && !is_clone(&new) {
                return Ok(Answer::untouched());
            }
            let is_beside_cdi = cluster.settings()?.is_beside_cdi;
            // A part of the same errors.
            let errors = if is_beside_cdi { admission::beside::changes(&old, &new, by_controller) } else { errors };
            if errors.is_empty() { Answer::untouched() } else { Answer::Forbidden(errors) }
        }
        (_, Err(error)) | (Err(error), Ok(_)) => Answer::Invalid(vec![error]),
    };
    cluster.settings()?;
    Ok(answer)
}

/// The webhook that reviews a creation. Both gather and decide alike. Both check the requester's rights, because the answer of the first
/// one would already disclose something about the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Writes annotations, and warns of pods that use the source.
    Mutate,
    /// Compares annotations.
    Validate,
}

/// An admitted creation. It is unconditional if the clone gets the requested strategy. Only such an answer may rest on cached reads.
/// Denials, fallbacks and undecided clones are checked again against the API server, so that an object that was just created is not
/// reported as missing.
pub(super) struct Admitted {
    pub(super) answer: Answer,
    pub(super) is_unconditional: bool,
}

/// Answers from cached reads if they suffice, else from the latest ones.
async fn admit_creation(review: &Request, cluster: &Cluster, stage: Stage) -> Result<Answer, Stop> {
    match timeout(CACHED_TIMEOUT, Box::pin(admit_with(review, cluster, stage, Freshness::Cached))).await {
        Ok(Ok(admitted)) if admitted.is_unconditional => return Ok(admitted.answer),
        Ok(Err(Stop::ForeignOperator)) => return Err(Stop::ForeignOperator),
        Ok(_) | Err(_) => {}
    }
    let ended = match timeout(LATEST_TIMEOUT, Box::pin(admit_with(review, cluster, stage, Freshness::Latest))).await {
        Ok(admitted) => admitted.map(|admitted| admitted.answer),
        Err(_) => Err(Undecidable(format!("the API server did not tell enough within {LATEST_TIMEOUT:?}")).into()),
    };
    let is_left = || stage == Stage::Mutate && cluster.settings().is_ok_and(|settings| settings.is_beside_cdi);
    match ended {
        Err(Stop::Undecidable(_)) if is_left() => Ok(beside::left(review, LeaveToCdi::Unknown)),
        ended => ended,
    }
}

async fn admit_with(review: &Request, cluster: &Cluster, stage: Stage, freshness: Freshness) -> Result<Admitted, Stop> {
    let parsed = match parse(review) {
        Ok(Some(new)) => Ok(new),
        Ok(None) => {
            let answer = if stage == Stage::Mutate { beside::without_clone(review) } else { Answer::untouched() };
            return Ok(Admitted { answer, is_unconditional: true });
        }
        Err(errors) => Err(errors),
    };
    let requester = Requester::of(&review.user_info);
    let stamp = requester.write();
    let subject = match (&parsed, &stamp) {
        (Ok(NewVolume { volume, wanted, reference }), Ok(stamp)) if !wanted.pre_populated => Some(Subject {
            volume,
            wanted,
            reference: reference.as_ref(),
            asker: Asker { requester: &requester, stamp },
            with_users: stage == Stage::Mutate,
        }),
        _ => None,
    };
    let facts = gather(subject, cluster, freshness).await?;
    // Pure from here on: no reads.
    if let Scope::BesideCdi { is_controller_alive } = facts.scope {
        let arrival = beside::Arrival { review, parsed, requester: &requester, is_controller_alive };
        return match stage {
            Stage::Mutate => beside::mutate(arrival, facts, stamp.ok()),
            Stage::Validate => beside::validate(arrival, facts),
        };
    }
    let new = parsed.map_err(Stop::Invalid)?;
    let stamp = stamp
        .map_err(|error| Stop::Forbidden(FieldError::forbidden(annotation_path(keys::REQUESTER), error.to_string())))?;
    let audience = Audience::of(&requester, &new.volume.metadata);
    let decided = decide(new, facts, audience, Timestamp::now())?;
    match stage {
        Stage::Mutate => Ok(annotate(decided, stamp)),
        Stage::Validate => compare(decided, &requester),
    }
}

/// A new DataVolume that asks for a clone.
pub(super) struct NewVolume {
    pub(super) volume: Box<DataVolume>,
    wanted: Box<Wanted>,
    /// The DataSource that leads to the source.
    reference: Option<ObjectName>,
}

/// Reads the object; `None` if it asks for no clone.
fn parse(review: &Request) -> Result<Option<NewVolume>, Vec<FieldError>> {
    let volume = read::<DataVolume>(&review.object, review).map_err(|error| vec![error])?;
    match Wanted::parse_new(&volume) {
        Parsed::NotAClone => Ok(None),
        Parsed::Clone(wanted) => Ok(Some(NewVolume { volume, wanted, reference: None })),
        Parsed::Reference(name, wanted) => Ok(Some(NewVolume { volume, wanted, reference: Some(name) })),
        Parsed::Wrong(errors) => Err(errors),
    }
}

/// An admitted clone, decided now or later.
pub(super) struct DecidedClone {
    volume: Box<DataVolume>,
    /// The claim that has the name of the clone's claim. Absent where it is irrelevant.
    namesake: Lookup<PersistentVolumeClaim>,
    pub(super) annotations: keys::Annotations,
    /// The labels that it inherits from its source.
    pub(super) labels: Labels,
    warnings: Vec<String>,
    /// The reason why the annotations may differ at the next review.
    pub(super) doubt: Option<String>,
    /// True if CDI keeps off it, so that it must be decided.
    pub(super) is_marked: bool,
}

/// The decision on a source that was looked up.
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// The facts on which it is based.
    pub(super) facts: Facts,
    /// The labels that the clone inherits.
    pub(super) labels: Labels,
    /// The reason why the source may read differently in the next review.
    pub(super) doubt: Option<String>,
}

impl DecidedClone {
    /// True if the clone is decided and gets the requested strategy.
    fn is_unconditional(&self) -> bool {
        let is_written = |key| self.annotations.get(key).is_some_and(Option::is_some);
        is_written(keys::PLAN) && !is_written(keys::CLONE_FALLBACK_REASON)
    }
}

/// Decides on a new DataVolume.
fn decide(new: NewVolume, facts: GatheredFacts, audience: Audience, now: Timestamp) -> Result<DecidedClone, Stop> {
    let NewVolume { volume, wanted, .. } = &new;
    let Some(CloneFacts { namesake, source }) = facts.clone else {
        let verdict = admission::taken_over(wanted);
        return admitted(new.volume, Lookup::Absent, verdict);
    };
    let conflict = namesake.present().map(|claim| admission::namesake(volume, claim));
    if conflict == Some(Namesake::TakenOver) {
        let verdict = admission::taken_over(wanted);
        return admitted(new.volume, namesake, verdict);
    }
    let none = Labels::new;
    let (verdict, doubt, labels) = match source? {
        SourceFacts::Unresolved(why) => (admission::not_followed(wanted, &why), None, none()),
        SourceFacts::Unclear(why) => (admission::not_followed(wanted, &why), Some(why), none()),
        SourceFacts::Invalid(errors) => (Verdict::Denied(errors), None, none()),
        SourceFacts::Found(found) => {
            let Judged { verdict, labels, doubt, .. } = judge(&new, found, &facts.settings, audience, now);
            (verdict, doubt, labels)
        }
    };
    let verdict = match conflict {
        Some(Namesake::InTheWay) => admission::name_conflict(verdict, &volume.name_any(), audience),
        Some(Namesake::GivesWay | Namesake::TakenOver) | None => verdict,
    };
    Ok(DecidedClone { labels, doubt, ..admitted(new.volume, namesake, verdict)? })
}

/// Decides on a source that was looked up.
pub(super) fn judge(
    new: &NewVolume,
    found: FoundSource,
    storage: &ClusterStorage,
    audience: Audience,
    now: Timestamp,
) -> Judged {
    let FoundSource { resolved, source, users, inherited } = found;
    let of_source = source.present().map(|source| source.machine_defaults.clone()).unwrap_or_default();
    let labels = machine_defaults::inherited(new.volume.metadata.labels.as_ref(), [&inherited, &of_source]);
    let wanted = resolved.as_ref().unwrap_or(&new.wanted);
    let facts = storage.facts(wanted, *source, now);
    let verdict = with_users(admission::judge(wanted, &facts, audience), wanted, &users);
    Judged { verdict, doubt: doubt(&facts), labels, facts }
}

pub(super) fn admitted(
    volume: Box<DataVolume>,
    namesake: Lookup<PersistentVolumeClaim>,
    verdict: Verdict,
) -> Result<DecidedClone, Stop> {
    match verdict {
        Verdict::Admitted { annotations, mut warnings, .. } => {
            warnings.extend(effect::warnings(&volume));
            let labels = Labels::new();
            Ok(DecidedClone { volume, namesake, annotations, labels, warnings, doubt: None, is_marked: false })
        }
        Verdict::Denied(errors) => Err(Stop::Invalid(errors)),
    }
}

/// Adds a warning about the pods that the clone will wait for to the verdict.
fn with_users(mut verdict: Verdict, wanted: &Wanted, users: &[User]) -> Verdict {
    if let Verdict::Admitted { strategy, warnings, .. } = &mut verdict {
        warnings.extend(strategy.and_then(|strategy| admission::in_use(wanted, strategy, users)));
    }
    verdict
}

/// The reason why the source may read differently in the next review.
fn doubt(facts: &Facts) -> Option<String> {
    match &facts.source {
        Lookup::Unknown(why) | Lookup::Present(Source { driver: Lookup::Unknown(why), .. }) => Some(why.clone()),
        Lookup::Present(_) | Lookup::Absent => None,
    }
}

/// The answer that writes the decision and the requester.
pub(super) fn annotate(mut clone: DecidedClone, stamp: String) -> Admitted {
    let is_unconditional = clone.is_unconditional();
    clone.annotations.insert(keys::REQUESTER, Some(stamp));
    // Without a key the controller writes one, in a separate write.
    clone.annotations.insert(keys::OWNERSHIP_KEY, ownership_key(&clone.volume.metadata));
    let mut patch = annotated(&clone.volume.metadata, &clone.annotations);
    patch.0.extend(labelled(&clone.volume.metadata, &clone.labels).0);
    Admitted { answer: Answer::Allowed { patch, warnings: clone.warnings }, is_unconditional }
}

/// Compares the annotations of a DataVolume with those of the decision.
pub(super) fn compare(clone: DecidedClone, requester: &Requester) -> Result<Admitted, Stop> {
    let is_unconditional = clone.is_unconditional();
    let DecidedClone { volume, namesake, annotations, doubt, is_marked, .. } = clone;
    let mut errors = Vec::from_iter(stamp::wrong(&volume.metadata, requester));
    // A clone that was left undecided a moment ago stays so, even if its source has appeared since:
    // the controller decides.
    let is_decided =
        [keys::PLAN, keys::CLONE_FALLBACK_REASON].iter().any(|key| object::annotation(&volume.metadata, key).is_some());
    if is_decided || is_marked {
        let forged = admission::forged(&volume, &annotations);
        // They differ because a user wrote them, or because the source reads differently now or can't be read.
        if let Some(why) = doubt.filter(|_| !forged.is_empty()) {
            return Err(Undecidable(why).into());
        }
        if let Some(error) = admission::outdated(&volume, &annotations).filter(|_| errors.is_empty()) {
            return Ok(Admitted { answer: Answer::Conflict(error), is_unconditional: false });
        }
        errors.extend(forged);
    }
    if !errors.is_empty() {
        return Err(Stop::Invalid(errors));
    }
    let warnings = match namesake {
        Lookup::Unknown(why) => vec![format!("smartclone: whether the clone's name is free could not be told: {why}")],
        Lookup::Present(_) | Lookup::Absent => Vec::new(),
    };
    Ok(Admitted { answer: Answer::Allowed { patch: Patch::default(), warnings }, is_unconditional })
}
