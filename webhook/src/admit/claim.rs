//! Admission of PersistentVolumeClaims that reference a VolumeCloneSource: records the requester
//! and checks access to the source.

use common::{
    admission::{claim, stamp},
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    object,
    requester::{Reference, Requester},
};
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    gather::{
        Stop,
        access::{Asker, Right},
        cluster::Cluster,
        read_cache::Freshness,
    },
    object::{annotated, ownership_key, read},
    review::{Answer, Operation, Request},
};

/// Records the requester on a new claim. `controller` is the user that creates claims for
/// DataVolumes, which record theirs.
pub fn mutate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    let Some(claim) = read_claim(review, cluster, controller)? else { return Ok(Answer::untouched()) };
    if review.operation != Operation::Create || claim::clone_source(&claim).is_none() {
        return Ok(Answer::untouched());
    }
    let stamp = Requester::of(&review.user_info)
        .write()
        .map_err(|error| Stop::Forbidden(FieldError::forbidden(annotation_path(keys::REQUESTER), error.to_string())))?;
    let key = ownership_key(&claim.metadata);
    let annotations = keys::Annotations::from([(keys::REQUESTER, Some(stamp)), (keys::OWNERSHIP_KEY, key)]);
    Ok(Answer::Allowed { patch: annotated(&claim.metadata, &annotations), warnings: Vec::new() })
}

/// Checks the requester annotation of a claim and the requester's rights, and that neither requester nor reference changes later.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    let Some(claim) = read_claim(review, cluster, controller)? else { return Ok(Answer::untouched()) };
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

/// Reads the claim; `None` for the controller's claims, whose requester is the DataVolume's.
fn read_claim(
    review: &Request,
    cluster: &Cluster,
    controller: &str,
) -> Result<Option<Box<PersistentVolumeClaim>>, Stop> {
    if review.operation == Operation::Create && review.user() == controller {
        return Ok(None);
    }
    cluster.settings()?;
    read(&review.object, review).map(Some).map_err(|error| Stop::Invalid(vec![error]))
}

async fn validate_creation(claim: &PersistentVolumeClaim, review: &Request, cluster: &Cluster) -> Result<Answer, Stop> {
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
    // Only users who may read the VolumeCloneSource learn if it exists and what it contains.
    let right = Right::Follow(Reference::VolumeCloneSource, name.clone());
    cluster.check_access(asker, &right, &field(), Freshness::Latest).await?;
    let source = match cluster.clone_source(&name).await {
        Lookup::Present(found) => claim::source(claim, &found),
        Lookup::Absent => Err("it does not exist yet".to_owned()),
        Lookup::Unknown(why) => Err(format!("it could not be read: {why}")),
    };
    let source = match source {
        Ok(source) => source,
        // The controller checks the right to clone once the source is known.
        Err(why) => {
            let line = format!("smartclone: VolumeCloneSource {name}: {why}; the claim waits for it");
            return Ok(Answer::Allowed { patch: Patch::default(), warnings: vec![line] });
        }
    };
    cluster.check_access(asker, &Right::Clone(source), &field(), Freshness::Latest).await?;
    Ok(Answer::untouched())
}

/// The field with the namespace of the VolumeCloneSource.
fn field() -> String {
    annotation_path(keys::DATA_SOURCE_NAMESPACE)
}
