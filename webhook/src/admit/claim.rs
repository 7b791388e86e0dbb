//! Admission of PersistentVolumeClaims that reference a VolumeCloneSource: records the requester
//! and checks access to the source.

use common::{
    admission::{
        beside::{self, LeaveToCdi},
        claim, stamp,
    },
    clone::ClusterStorage,
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    object,
    requester::{Reference, Requester},
    storage::class::default_class,
};
use json_patch::Patch;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};

use super::carry_over::metadata;
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
pub async fn mutate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    if review.operation != Operation::Create || review.user() == controller {
        return Ok(Answer::untouched());
    }
    let settings = cluster.settings()?;
    if settings.is_beside_cdi {
        return Ok(mutate_beside_cdi(review, cluster, &settings.storage).await);
    }
    let claim = read_claim(review)?;
    if claim::clone_source(&claim).is_none() {
        return Ok(Answer::untouched());
    }
    let stamp = Requester::of(&review.user_info)
        .write()
        .map_err(|error| Stop::Forbidden(FieldError::forbidden(annotation_path(keys::REQUESTER), error.to_string())))?;
    let annotations = stamped(&claim, stamp);
    Ok(Answer::Allowed { patch: annotated(&claim.metadata, &annotations), warnings: Vec::new() })
}

/// The annotations of a claim that smartclone fills.
fn stamped(claim: &PersistentVolumeClaim, stamp: String) -> keys::Annotations {
    let key = ownership_key(&claim.metadata);
    keys::Annotations::from([(keys::REQUESTER, Some(stamp)), (keys::OWNERSHIP_KEY, key)])
}

/// Takes a new claim beside CDI, or leaves it to CDI.
async fn mutate_beside_cdi(review: &Request, cluster: &Cluster, storage: &ClusterStorage) -> Answer {
    match take(review, cluster, storage).await {
        Ok(patch) => Answer::Allowed { patch, warnings: Vec::new() },
        Err(reason) => {
            let patch = metadata(&review.object).map(|metadata| {
                // CDI copies annotations of a DataVolume, or of a claim that it moves, to claims of its own account.
                let is_copied = reason == LeaveToCdi::CdiAccount;
                let changes =
                    if is_copied { beside::unmarked_copy(&metadata) } else { beside::unmarked_claim(&metadata) };
                annotated(&metadata, &changes)
            });
            Answer::LeftToCdi { patch: patch.unwrap_or_default(), reason }
        }
    }
}

async fn take(review: &Request, cluster: &Cluster, storage: &ClusterStorage) -> Result<Patch, LeaveToCdi> {
    let claim = read_claim(review).map_err(|_| LeaveToCdi::Invalid)?;
    beside::takes_claim(&claim, review.user(), class_of(&claim, storage))?;
    if claim::clone_source(&claim).is_none() {
        return Err(LeaveToCdi::NotAClone);
    }
    // A Lease that is stale in the cache may have been renewed just now.
    let is_alive =
        cluster.is_controller_alive(Freshness::Cached).await || cluster.is_controller_alive(Freshness::Latest).await;
    if !is_alive {
        return Err(LeaveToCdi::ControllerDown);
    }
    let requester = Requester::of(&review.user_info);
    let stamp = requester.write().map_err(|_| LeaveToCdi::Invalid)?;
    match check_source(&claim, Asker { requester: &requester, stamp: &stamp }, review, cluster).await {
        Ok(_) => {}
        Err(Stop::Forbidden(_)) => return Err(LeaveToCdi::NotAllowed),
        Err(_) => return Err(LeaveToCdi::Unknown),
    }
    let mut annotations = stamped(&claim, stamp);
    annotations.extend(beside::mark_of_claim());
    Ok(annotated(&claim.metadata, &annotations))
}

fn class_of<'a>(claim: &PersistentVolumeClaim, storage: &'a ClusterStorage) -> Option<&'a StorageClass> {
    let mut classes = storage.classes.present()?.iter().map(AsRef::as_ref);
    match claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) {
        Some(name) => classes.find(|class| class.metadata.name.as_deref() == Some(name)),
        None => default_class(classes),
    }
}

/// Checks the requester annotation of a claim and the requester's rights, and that neither requester nor reference changes later.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Stop> {
    if review.operation == Operation::Create && review.user() == controller {
        return Ok(Answer::untouched());
    }
    // An object that can't be read is not known to be CDI's.
    let is_stamped = |object| metadata(object).is_none_or(|metadata| beside::is_stamped(&metadata));
    let was_stamped = || review.operation == Operation::Update && is_stamped(&review.old_object);
    if cluster.settings()?.is_beside_cdi && !is_stamped(&review.object) && !was_stamped() {
        return Ok(Answer::untouched());
    }
    let claim = read_claim(review)?;
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

fn read_claim(review: &Request) -> Result<Box<PersistentVolumeClaim>, Stop> {
    read(&review.object, review).map_err(|error| Stop::Invalid(vec![error]))
}

async fn validate_creation(claim: &PersistentVolumeClaim, review: &Request, cluster: &Cluster) -> Result<Answer, Stop> {
    if claim::clone_source(claim).is_none() {
        return Ok(Answer::untouched());
    }
    let requester = Requester::of(&review.user_info);
    if let Some(error) = stamp::wrong(&claim.metadata, &requester) {
        return Ok(Answer::Invalid(vec![error]));
    }
    let stamp = object::annotation(&claim.metadata, keys::REQUESTER).unwrap_or_default();
    check_source(claim, Asker { requester: &requester, stamp }, review, cluster).await
}

/// Checks the requester's rights to a source in another namespace.
async fn check_source(
    claim: &PersistentVolumeClaim,
    asker: Asker<'_>,
    review: &Request,
    cluster: &Cluster,
) -> Result<Answer, Stop> {
    let Some(name) = claim::clone_source(claim).filter(|name| name.namespace != review.namespace) else {
        return Ok(Answer::untouched());
    };
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
