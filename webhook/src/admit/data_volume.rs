//! Admission of DataVolumes: gathers the facts, lets `common` decide, and answers.

use common::object;
use std::{future::Future, time::Duration};

use common::{
    admission::{self, Namesake, Verdict, stamp},
    api::DataVolume,
    clone::{Facts, Request as Wanted, facts::Source, request::Parsed},
    data_source::Resolution,
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    object::{ObjectName, SourceKind},
    pods::User,
    requester::{Reference, Requester},
};
use futures::FutureExt;
use jiff::Timestamp;
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use tokio::time::timeout;

use crate::{
    gather::access::{Asker, Refusal, Right},
    gather::cluster::{Cluster, TWO_STEPS, Undecidable},
    gather::read_cache::Freshness,
    object::{annotated, is_ending, ownership_key, read},
    review::{Answer, Operation, Request},
};

/// For a look at what is remembered.
const CACHED_TIMEOUT: Duration = Duration::from_secs(1);
/// For a look at what is so now. The API server gives us 5 s for both.
const LATEST_TIMEOUT: Duration = Duration::from_millis(3500);
const _: () = assert!(TWO_STEPS.as_millis() < LATEST_TIMEOUT.as_millis());

/// Writes the decision on a new DataVolume.
pub async fn mutate(review: &Request, cluster: &Cluster) -> Result<Answer, Undecidable> {
    if review.operation != Operation::Create || !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    match timeout(CACHED_TIMEOUT, mutate_at(review, cluster, Freshness::Cached)).await {
        Ok(Ok(said)) if said.plain => Ok(said.answer),
        _ => in_time(mutate_at(review, cluster, Freshness::Latest)).await,
    }
}

async fn mutate_at(review: &Request, cluster: &Cluster, freshness: Freshness) -> Result<Said, Undecidable> {
    Ok(match Box::pin(creation(review, cluster, freshness, true)).await? {
        Creation::NotOurs => Said::plainly(Answer::untouched()),
        Creation::Denied(errors) => Said::with_reason(Answer::Invalid(errors)),
        Creation::Forbidden(error) => Said::with_reason(Answer::Forbidden(vec![error])),
        Creation::Clone(mut clone) => {
            let plain = clone.is_plain();
            clone.annotations.insert(keys::REQUESTER, Some(clone.stamp));
            // Without one the controller writes it, with a write more.
            clone.annotations.insert(keys::OWNERSHIP_KEY, ownership_key(&clone.volume.metadata));
            let patch = annotated(&clone.volume.metadata, &clone.annotations);
            Said { answer: Answer::Allowed { patch, warnings: clone.warnings }, plain }
        }
    })
}

async fn in_time(said: impl Future<Output = Result<Said, Undecidable>>) -> Result<Answer, Undecidable> {
    match timeout(LATEST_TIMEOUT, said).await {
        Ok(said) => said.map(|said| said.answer),
        Err(_) => Err(Undecidable(format!("the API server did not tell enough within {LATEST_TIMEOUT:?}"))),
    }
}

/// An answer, and whether it is a yes to what was asked for, as it was asked for. Such a one may come of a glance. Whatever else there is to
/// say (a no, a dearer strategy, nothing decided) is said of what the API server knows now: nobody is told that something is missing which
/// has just been made.
struct Said {
    answer: Answer,
    plain: bool,
}

impl Said {
    fn plainly(answer: Answer) -> Self {
        Self { answer, plain: true }
    }

    fn with_reason(answer: Answer) -> Self {
        Self { answer, plain: false }
    }
}

/// Checks what the mutating webhooks, ours and others, have made of a DataVolume. `controller` is the user that may change decisions.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    if !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    match review.operation {
        Operation::Create => match timeout(CACHED_TIMEOUT, validate_creation(review, cluster, Freshness::Cached)).await
        {
            Ok(Ok(said)) if said.plain => Ok(said.answer),
            _ => in_time(validate_creation(review, cluster, Freshness::Latest)).await,
        },
        Operation::Update => validate_update(review, cluster, controller),
        Operation::Delete | Operation::Connect => Ok(Answer::untouched()),
    }
}

async fn validate_creation(review: &Request, cluster: &Cluster, freshness: Freshness) -> Result<Said, Undecidable> {
    let clone = match Box::pin(creation(review, cluster, freshness, false)).await? {
        Creation::NotOurs => return Ok(Said::plainly(Answer::untouched())),
        Creation::Denied(errors) => return Ok(Said::with_reason(Answer::Invalid(errors))),
        Creation::Forbidden(error) => return Ok(Said::with_reason(Answer::Forbidden(vec![error]))),
        Creation::Clone(clone) => clone,
    };
    let plain = clone.is_plain();
    let NewClone { volume, requester, namesake, annotations, doubt, .. } = *clone;
    let mut errors = Vec::from_iter(stamp::wrong(&volume.metadata, &requester));
    // Left undecided a moment ago, and what was missing has come since: the controller decides.
    let decided =
        [keys::PLAN, keys::CLONE_FALLBACK_REASON].iter().any(|key| object::annotation(&volume.metadata, key).is_some());
    if decided {
        let forged = admission::forged(&volume, &annotations);
        // They differ because somebody wrote them; or because we can't see now what we saw when we wrote them, or see something else.
        if let Some(why) = doubt.filter(|_| !forged.is_empty()) {
            return Err(Undecidable(why));
        }
        if let Some(error) = admission::outdated(&volume, &annotations).filter(|_| errors.is_empty()) {
            return Ok(Said::with_reason(Answer::Conflict(error)));
        }
        errors.extend(forged);
    }
    let warnings = match namesake {
        Lookup::Unknown(why) => vec![format!("smartclone: whether the clone's name is free could not be told: {why}")],
        Lookup::Present(_) | Lookup::Absent => Vec::new(),
    };
    Ok(if errors.is_empty() {
        Said { answer: Answer::Allowed { patch: Patch::default(), warnings }, plain }
    } else {
        Said::with_reason(Answer::Invalid(errors))
    })
}

fn validate_update(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    if is_ending(&review.object) {
        return Ok(Answer::untouched());
    }
    let answer = match (read::<DataVolume>(&review.old_object, review), read::<DataVolume>(&review.object, review)) {
        (Ok(old), Ok(new)) => {
            let is_clone = |volume| Wanted::parse_new(volume) != Parsed::NotAClone;
            let errors = admission::changes(&old, &new, review.user() == controller);
            if errors.is_empty() || !is_clone(&old) && !is_clone(&new) {
                return Ok(Answer::untouched());
            }
            Answer::Forbidden(errors)
        }
        (_, Err(error)) | (Err(error), Ok(_)) => Answer::Invalid(vec![error]),
    };
    Ok(if cluster.settings()?.operator().present().is_some() { Answer::untouched() } else { answer })
}

/// What a new DataVolume is to us.
enum Creation {
    /// No clone, or the business of another controller.
    NotOurs,
    /// A wrong one.
    Denied(Vec<FieldError>),
    /// One that this user may not have.
    Forbidden(FieldError),
    /// One to be cloned, sooner or later.
    Clone(Box<NewClone>),
}

struct NewClone {
    volume: Box<DataVolume>,
    requester: Requester,
    stamp: String,
    /// The claim that has the name of the clone's claim. Absent where that is none of our business.
    namesake: Lookup<PersistentVolumeClaim>,
    annotations: keys::Annotations,
    warnings: Vec<String>,
    /// Why the annotations may be others the next time.
    doubt: Option<String>,
}

impl NewClone {
    /// It is decided, and gets what was wanted first.
    fn is_plain(&self) -> bool {
        let written = |key| self.annotations.get(key).is_some_and(Option::is_some);
        written(keys::PLAN) && !written(keys::CLONE_FALLBACK_REASON)
    }
}

/// Both webhooks look at a new DataVolume with the same eyes. Whether the requester may read the source is asked by both, too, and before
/// anything about it is looked at: an answer of the first one would already tell something about it. Only one `warns` of the pods that
/// use the source.
async fn creation(
    review: &Request,
    cluster: &Cluster,
    freshness: Freshness,
    warns: bool,
) -> Result<Creation, Undecidable> {
    let read = match read::<DataVolume>(&review.object, review).map(|volume| (Wanted::parse_new(&volume), volume)) {
        Ok((Parsed::NotAClone, _)) => return Ok(Creation::NotOurs),
        Ok((Parsed::Clone(wanted), volume)) => Ok((volume, wanted, None)),
        Ok((Parsed::Reference(name, wanted), volume)) => Ok((volume, wanted, Some(name))),
        Ok((Parsed::Wrong(errors), _)) => Err(errors),
        Err(error) => Err(vec![error]),
    };
    let requester = Requester::of(&review.user_info);
    let stamp = requester.write();
    // Independent of each other, and a user waits for all of it.
    let looks = async {
        match (&read, &stamp) {
            (Ok((volume, wanted, reference)), Ok(stamp)) if !wanted.pre_populated => {
                let whom = Whom { asker: Asker { requester: &requester, stamp }, warns };
                let see = async {
                    match reference {
                        Some(name) => follow(name, volume, whom, cluster, freshness).await,
                        None => see(wanted, whom, cluster, freshness).await.map(|view| Seen::Source(None, view)),
                    }
                };
                Some(tokio::join!(cluster.namesake(&wanted.target, freshness), see))
            }
            // Nothing has to be seen.
            _ => None,
        }
    };
    let settings = async {
        match cluster.settings_at(freshness).await {
            Ok(settings) if settings.operator().present().is_some() => Err(Ok(Creation::NotOurs)),
            settings => settings.map_err(Err),
        }
    };
    // At a glance the settings are there at once: where all is left to another operator, nothing is asked about the clone.
    let (settings, looks) = match tokio::try_join!(biased; settings, looks.map(Ok)) {
        Ok(seen) => seen,
        Err(answer) => return answer,
    };
    let (volume, wanted, _) = match read {
        Ok(read) => read,
        Err(errors) => return Ok(Creation::Denied(errors)),
    };
    let stamp = match stamp {
        Ok(stamp) => stamp,
        Err(error) => {
            let field = annotation_path(keys::REQUESTER);
            return Ok(Creation::Forbidden(FieldError::forbidden(field, error.to_string())));
        }
    };
    let filled = |wanted: &Wanted| (admission::taken_over(wanted), None);
    let (namesake, (verdict, doubt)) = if let Some((namesake, seen)) = looks {
        let judged = match seen {
            _ if namesake.present().is_some_and(|c| admission::namesake(&volume, c) == Namesake::TakenOver) => {
                filled(&wanted)
            }
            Err(Refusal::Forbidden(error)) => return Ok(Creation::Forbidden(error)),
            Err(Refusal::Unknown(why)) => return Err(why),
            Ok(Seen::Nothing(why)) => (admission::not_followed(&wanted, &why), None),
            Ok(Seen::Unclear(why)) => (admission::not_followed(&wanted, &why), Some(why)),
            Ok(Seen::Wrong(errors)) => (Verdict::Denied(errors), None),
            Ok(Seen::Source(followed, View { source, users })) => {
                let wanted = followed.unwrap_or(wanted);
                let facts = settings.facts(&wanted, *source, Timestamp::now());
                (warned(admission::judge(&wanted, &facts), &wanted, &users), doubt(&facts))
            }
        };
        (namesake, judged)
    } else {
        (Lookup::Absent, filled(&wanted))
    };
    let verdict = match namesake.present().map(|claim| admission::namesake(&volume, claim)) {
        Some(Namesake::InTheWay) => in_the_way(verdict, &volume),
        Some(Namesake::GivesWay | Namesake::TakenOver) | None => verdict,
    };
    Ok(match verdict {
        Verdict::Admitted { annotations, warnings } => {
            Creation::Clone(Box::new(NewClone { volume, requester, stamp, namesake, annotations, warnings, doubt }))
        }
        Verdict::Denied(errors) => Creation::Denied(errors),
    })
}

/// A refusal, with all that is wrong besides the name.
fn in_the_way(verdict: Verdict, volume: &DataVolume) -> Verdict {
    let cure = "there is a PersistentVolumeClaim of that name, which the clone's claim needs; rename the DataVolume or delete the claim";
    let error = FieldError::invalid("metadata.name", &volume.name_any(), cure);
    let others = if let Verdict::Denied(errors) = verdict { errors } else { Vec::new() };
    Verdict::Denied([error].into_iter().chain(others).collect())
}

/// The verdict with a word about the pods that the clone will wait for.
fn warned(mut verdict: Verdict, wanted: &Wanted, users: &[User]) -> Verdict {
    if let Verdict::Admitted { annotations, warnings } = &mut verdict {
        let strategy = annotations.get(keys::CLONE_TYPE).and_then(|text| text.as_ref()?.parse().ok());
        warnings.extend(strategy.and_then(|strategy| admission::in_use(wanted, strategy, users)));
    }
    verdict
}

/// What can be seen of the source, by those who may.
enum Seen {
    /// The DataSource stands for nothing, and why.
    Nothing(String),
    /// What the DataSource stands for could not be told, and why.
    Unclear(String),
    /// The DataVolume is wrong for what the DataSource stands for.
    Wrong(Vec<FieldError>),
    /// The source; and what is wanted, if a DataSource was followed to tell.
    Source(Option<Box<Wanted>>, View),
}

/// A source.
struct View {
    /// What has its name.
    source: Box<Lookup<Source>>,
    /// Who uses it.
    users: Vec<User>,
}

/// Who asks, and whether they are to be warned of pods.
#[derive(Clone, Copy)]
struct Whom<'a> {
    asker: Asker<'a>,
    warns: bool,
}

/// Sees what the DataSource of this name stands for. One of another namespace is followed for those who may read it there, and then to the
/// end: its status, which they may read as well, says where a chain of DataSources leads.
async fn follow(
    name: &ObjectName,
    volume: &DataVolume,
    whom: Whom<'_>,
    cluster: &Cluster,
    freshness: Freshness,
) -> Result<Seen, Refusal> {
    if volume.metadata.namespace.as_ref() != Some(&name.namespace) {
        let right = Right::Follow(Reference::DataSource, name.clone());
        whom.asker.has(&right, "spec.sourceRef", cluster, freshness).await?;
    }
    Ok(match cluster.data_source(name, freshness).await {
        Resolution::Not(why) => Seen::Nothing(why.message()),
        Resolution::Unknown(why) => Seen::Unclear(format!("DataSource {name} could not be read: {why}")),
        Resolution::Found(source) => match Wanted::resolved(volume, source) {
            Ok(wanted) => {
                let view = see(&wanted, whom, cluster, freshness).await?;
                Seen::Source(Some(wanted), view)
            }
            Err(errors) => Seen::Wrong(errors),
        },
    })
}

/// Sees the source. One in another namespace is looked at for those who may clone it; a right that was asked for a moment ago takes no time.
async fn see(wanted: &Wanted, whom: Whom<'_>, cluster: &Cluster, freshness: Freshness) -> Result<View, Refusal> {
    if wanted.crosses() {
        let right = Right::Clone(wanted.source.clone());
        whom.asker.has(&right, admission::namespace_path(wanted), cluster, freshness).await?;
    }
    let users = async {
        let shown = whom.warns && wanted.source.kind == SourceKind::Claim;
        if shown { cluster.users(&wanted.source.object).await } else { Vec::new() }
    };
    let (source, users) = tokio::join!(cluster.source(&wanted.source, freshness), users);
    Ok(View { source: Box::new(source), users })
}

/// Why the source may look different the next time.
fn doubt(facts: &Facts) -> Option<String> {
    match &facts.source {
        Lookup::Unknown(why) | Lookup::Present(Source { driver: Lookup::Unknown(why), .. }) => Some(why.clone()),
        Lookup::Present(_) | Lookup::Absent => None,
    }
}
