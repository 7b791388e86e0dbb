//! The answers. What is right and wrong is said by `common`; this says when it is asked, and what it is asked about.

use std::collections::BTreeMap;

use common::{
    admission::{self, Verdict},
    api::DataVolume,
    clone::{Facts, facts::Source},
    field::FieldError,
    lookup::Lookup,
    meta,
};
use json_patch::Patch;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::ResourceExt;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::{
    cluster::{Cluster, Undecidable},
    review::{Answer, Operation, Request},
};

/// Annotations as they are to be; `None` removes a key.
type Annotations = BTreeMap<&'static str, Option<String>>;

/// Writes the decision on a new DataVolume.
pub async fn mutate(review: &Request, cluster: &Cluster) -> Result<Answer, Undecidable> {
    if review.operation != Operation::Create || !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    Ok(match creation(review, cluster).await? {
        Creation::NotOurs => Answer::untouched(),
        Creation::Denied(errors) => Answer::Invalid(errors),
        Creation::Clone(clone) => {
            Answer::Allowed { patch: annotated(&review.object, &clone.annotations), warnings: clone.warnings }
        }
    })
}

/// Checks what the mutating webhooks, ours and others, have made of a DataVolume. `controller` is the user that may change decisions.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    if !review.sub_resource.is_empty() {
        return Ok(Answer::untouched());
    }
    match review.operation {
        Operation::Create => validate_creation(review, cluster).await,
        Operation::Update => validate_update(review, cluster, controller),
        Operation::Delete | Operation::Connect => Ok(Answer::untouched()),
    }
}

async fn validate_creation(review: &Request, cluster: &Cluster) -> Result<Answer, Undecidable> {
    // Independent of each other, and a user waits for both.
    let (creation, namesake) = tokio::join!(creation(review, cluster), cluster.namesake(review));
    let NewClone { volume, facts, annotations, .. } = match creation? {
        Creation::NotOurs => return Ok(Answer::untouched()),
        Creation::Denied(errors) => return Ok(Answer::Invalid(errors)),
        Creation::Clone(clone) => *clone,
    };
    let mut errors = Vec::new();
    // Left undecided a moment ago, and what was missing has come since: the controller decides.
    let decided = [meta::PLAN, meta::CLONE_FALLBACK_REASON].iter().any(|key| volume.annotations().contains_key(*key));
    if decided {
        errors = admission::forged(&volume, &annotations);
        if !errors.is_empty() {
            certain(&facts)?;
        }
    }
    let mut warnings = Vec::new();
    match namesake {
        Lookup::Present(claim) if !gives_way(&claim, &volume.name_any()) => errors.push(FieldError::invalid(
            "metadata.name",
            &volume.name_any(),
            "there is a PersistentVolumeClaim of that name, which the clone's claim needs; rename the DataVolume or delete the claim",
        )),
        Lookup::Present(_) | Lookup::Absent => {}
        Lookup::Unknown(why) => warnings.push(format!("smartclone: whether the clone's name is free could not be told: {why}")),
    }
    Ok(if errors.is_empty() { Answer::Allowed { patch: Patch::default(), warnings } } else { Answer::Invalid(errors) })
}

/// A claim that is on its way out, or that a DataVolume of the same name has made: then either that one exists, which the API server
/// says better than we could, or it is gone and the claim follows it.
fn gives_way(claim: &PersistentVolumeClaim, name: &str) -> bool {
    let made_for =
        |owner: &OwnerReference| owner.controller == Some(true) && owner.kind == "DataVolume" && owner.name == name;
    claim.metadata.deletion_timestamp.is_some() || claim.owner_references().iter().any(made_for)
}

/// Whether the annotations differ because somebody wrote them, or because we can't see now what we saw when we wrote them.
fn certain(facts: &Facts) -> Result<(), Undecidable> {
    match &facts.source {
        Lookup::Unknown(why) | Lookup::Present(Source { driver: Lookup::Unknown(why), .. }) => {
            Err(Undecidable(why.clone()))
        }
        Lookup::Present(_) | Lookup::Absent => Ok(()),
    }
}

fn validate_update(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    // Nothing may come between an object and its end.
    if review.object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null()) {
        return Ok(Answer::untouched());
    }
    let answer = match (read(&review.old_object, review), read(&review.object, review)) {
        (Ok(old), Ok(new)) => {
            let is_clone = |volume| admission::parse(volume) != Err(Verdict::Untouched);
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
    /// One to be cloned, sooner or later.
    Clone(Box<NewClone>),
}

struct NewClone {
    volume: DataVolume,
    facts: Facts,
    annotations: Annotations,
    warnings: Vec<String>,
}

/// Both webhooks look at a new DataVolume with the same eyes.
async fn creation(review: &Request, cluster: &Cluster) -> Result<Creation, Undecidable> {
    let read = read(&review.object, review).map_err(|error| Verdict::Denied(vec![error]));
    let parsed = read.and_then(|volume| Ok((admission::parse(&volume)?, volume)));
    if parsed.as_ref().is_err_and(|verdict| *verdict == Verdict::Untouched) {
        return Ok(Creation::NotOurs);
    }
    let settings = cluster.settings()?;
    if settings.operator().present().is_some() {
        return Ok(Creation::NotOurs);
    }
    let (request, volume) = match parsed {
        Ok(parsed) => parsed,
        Err(Verdict::Denied(errors)) => return Ok(Creation::Denied(errors)),
        Err(Verdict::Untouched | Verdict::Admitted { .. }) => return Ok(Creation::NotOurs),
    };
    let (source, source_volume) = cluster.source(&request.source).await;
    let facts = settings.facts(&request, &source, &source_volume);
    Ok(match admission::judge(&request, &facts) {
        Verdict::Untouched => Creation::NotOurs,
        Verdict::Denied(errors) => Creation::Denied(errors),
        Verdict::Admitted { annotations, warnings } => {
            Creation::Clone(Box::new(NewClone { volume, facts, annotations, warnings }))
        }
    })
}

/// The object as a DataVolume; or which of its fields isn't what the schema says, which the API server checks only later.
fn read(object: &Value, review: &Request) -> Result<DataVolume, FieldError> {
    let mut volume: DataVolume = serde_path_to_error::deserialize(object).map_err(|error| {
        let value = error.path().iter().try_fold(object, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        let value = value.map(Value::to_string).unwrap_or_default();
        FieldError::invalid(error.path().to_string(), &value, error.inner().to_string())
    })?;
    volume.metadata.namespace = Some(review.namespace.clone());
    Ok(volume)
}

/// The patch that writes `annotations` on `object`; empty when they are there already.
fn annotated(object: &Value, annotations: &Annotations) -> Patch {
    let mut after = object.clone();
    if let Some(metadata) = child(after.as_object_mut(), "metadata") {
        for (key, value) in annotations {
            match value {
                Some(value) => {
                    if let Some(map) = child(Some(metadata), "annotations") {
                        map.insert((*key).to_owned(), Value::String(value.clone()));
                    }
                }
                None => {
                    if let Some(Value::Object(map)) = metadata.get_mut("annotations") {
                        map.remove(*key);
                    }
                }
            }
        }
    }
    json_patch::diff(object, &after)
}

/// The object under `key`, made if it is missing or null.
fn child<'a>(parent: Option<&'a mut Map<String, Value>>, key: &str) -> Option<&'a mut Map<String, Value>> {
    let child = parent?.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.as_object_mut()
}
