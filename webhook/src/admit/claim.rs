//! Admission of PersistentVolumeClaims that reference a VolumeCloneSource: records the requester and checks access to the source.

use common::object;
use common::{
    admission::{claim, stamp},
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    requester::{Reference, Requester},
};
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    gather::access::{Asker, Refusal, Right},
    gather::cluster::{Cluster, Undecidable},
    gather::read_cache::Freshness,
    object::{annotated, ownership_key, read},
    review::{Answer, Operation, Request},
};

/// Writes on a new claim who asks for it. `controller` is the user that makes claims for DataVolumes, which say it themselves.
pub fn mutate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    let claim = match ours(review, cluster, controller)? {
        Ok(claim) => claim,
        Err(answer) => return Ok(answer),
    };
    if review.operation != Operation::Create || claim::clone_source(&claim).is_none() {
        return Ok(Answer::untouched());
    }
    Ok(match Requester::of(&review.user_info).write() {
        Ok(stamp) => {
            let key = ownership_key(&claim.metadata);
            let annotations = keys::Annotations::from([(keys::REQUESTER, Some(stamp)), (keys::OWNERSHIP_KEY, key)]);
            Answer::Allowed { patch: annotated(&claim.metadata, &annotations), warnings: Vec::new() }
        }
        Err(error) => forbidden(annotation_path(keys::REQUESTER), error.to_string()),
    })
}

/// Checks who asks for a claim and whether they may, and that neither who asks nor what for is changed later.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    let claim = match ours(review, cluster, controller)? {
        Ok(claim) => claim,
        Err(answer) => return Ok(answer),
    };
    match review.operation {
        Operation::Create => validate_creation(&claim, review, cluster).await,
        Operation::Update => Ok(match read::<PersistentVolumeClaim>(&review.old_object, review) {
            Err(error) => Answer::Invalid(vec![error]),
            Ok(old) => {
                let stamp = stamp::changed(&old.metadata, &claim.metadata);
                let stamp = stamp.filter(|_| claim::clone_source(&claim).is_some());
                let errors: Vec<_> = stamp.into_iter().chain(claim::changed(&old, &claim)).collect();
                if errors.is_empty() { Answer::untouched() } else { Answer::Forbidden(errors) }
            }
        }),
        Operation::Delete | Operation::Connect => Ok(Answer::untouched()),
    }
}

/// The claim, if there is anything to be said about it.
fn ours(
    review: &Request,
    cluster: &Cluster,
    controller: &str,
) -> Result<Result<Box<PersistentVolumeClaim>, Answer>, Undecidable> {
    if review.operation == Operation::Create && review.user() == controller
        || cluster.settings()?.operator().present().is_some()
    {
        return Ok(Err(Answer::untouched()));
    }
    Ok(read(&review.object, review).map_err(|error| Answer::Invalid(vec![error])))
}

async fn validate_creation(
    claim: &PersistentVolumeClaim,
    review: &Request,
    cluster: &Cluster,
) -> Result<Answer, Undecidable> {
    let Some(name) = claim::clone_source(claim) else { return Ok(Answer::untouched()) };
    let requester = Requester::of(&review.user_info);
    if let Some(error) = stamp::wrong(&claim.metadata, &requester) {
        return Ok(Answer::Invalid(vec![error]));
    }
    if name.namespace == review.namespace {
        return Ok(Answer::untouched());
    }
    let stamp = object::annotation(&claim.metadata, keys::REQUESTER).unwrap_or_default();
    let asker = Asker { requester: &requester, stamp };
    // Whether there is such a VolumeCloneSource, and what it names, is for those who may read it.
    let right = Right::Follow(Reference::VolumeCloneSource, name.clone());
    if let Err(refusal) = asker.has(&right, &field(), cluster, Freshness::Latest).await {
        return refused(refusal);
    }
    let source = match cluster.clone_source(&name).await {
        Lookup::Present(found) => claim::source(claim, &found),
        Lookup::Absent => Err("it does not exist yet".to_owned()),
        Lookup::Unknown(why) => Err(format!("it could not be read: {why}")),
    };
    let source = match source {
        Ok(source) => source,
        // Whether they may clone it is asked by the controller, once it is known what it is about.
        Err(why) => {
            let line = format!("smartclone: VolumeCloneSource {name}: {why}; the claim waits for it");
            return Ok(Answer::Allowed { patch: Patch::default(), warnings: vec![line] });
        }
    };
    let may = asker.has(&Right::Clone(source), &field(), cluster, Freshness::Latest).await;
    may.map_or_else(refused, |()| Ok(Answer::untouched()))
}

/// The field that says where the VolumeCloneSource is.
fn field() -> String {
    annotation_path(keys::DATA_SOURCE_NAMESPACE)
}

fn refused(refusal: Refusal) -> Result<Answer, Undecidable> {
    match refusal {
        Refusal::Forbidden(error) => Ok(Answer::Forbidden(vec![error])),
        Refusal::Unknown(why) => Err(why),
    }
}

fn forbidden(field: String, why: String) -> Answer {
    Answer::Forbidden(vec![FieldError::forbidden(field, why)])
}
