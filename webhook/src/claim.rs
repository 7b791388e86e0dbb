//! The answers about claims that name a VolumeCloneSource: who asks for them is stamped on them, and may they clone that.

use common::{
    admission::{claim, stamp},
    clone::{plan::Authorization, request::annotation_path},
    field::FieldError,
    lookup::Lookup,
    meta,
    requester::Requester,
};
use json_patch::Patch;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    cluster::{Cluster, Undecidable},
    memory::Look,
    object::{annotated, read},
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
            let annotations = meta::Annotations::from([(meta::REQUESTER, Some(stamp))]);
            Answer::Allowed { patch: annotated(&claim.metadata, &annotations), warnings: Vec::new() }
        }
        Err(error) => forbidden(annotation_path(meta::REQUESTER), error.to_string()),
    })
}

/// Checks who asks for a claim, whether they may, and that nobody says otherwise later.
pub async fn validate(review: &Request, cluster: &Cluster, controller: &str) -> Result<Answer, Undecidable> {
    let claim = match ours(review, cluster, controller)? {
        Ok(claim) => claim,
        Err(answer) => return Ok(answer),
    };
    match review.operation {
        Operation::Create => validate_creation(&claim, review, cluster).await,
        Operation::Update => Ok(match read::<PersistentVolumeClaim>(&review.old_object, review) {
            Err(error) => Answer::Invalid(vec![error]),
            Ok(old) => match stamp::changed(&old.metadata, &claim.metadata) {
                Some(error) if claim::clone_source(&claim).is_some() => Answer::Forbidden(vec![error]),
                Some(_) | None => Answer::untouched(),
            },
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
    let source = match cluster.clone_source(&name).await {
        Lookup::Present(found) => claim::source(claim, &found),
        Lookup::Absent => Err("it does not exist yet".to_owned()),
        Lookup::Unknown(why) => Err(format!("it could not be read: {why}")),
    };
    let source = match source {
        Ok(source) => source,
        // Whether they may is asked by the controller, once it is known what it is about.
        Err(why) => {
            let line = format!("smartclone: VolumeCloneSource {name}: {why}; the claim waits for it");
            return Ok(Answer::Allowed { patch: Patch::default(), warnings: vec![line] });
        }
    };
    let stamp = meta::annotation(&claim.metadata, meta::REQUESTER).unwrap_or_default();
    match cluster.authorization(&requester, stamp, &source, Look::Closely).await {
        Lookup::Present(Authorization::Allowed) => Ok(Answer::untouched()),
        Lookup::Present(Authorization::Denied(why)) => Ok(forbidden(annotation_path(meta::DATA_SOURCE_NAMESPACE), why)),
        Lookup::Unknown(why) => {
            Err(Undecidable(format!("whether the user may clone the source could not be told: {why}")))
        }
        Lookup::Absent => Err(Undecidable("nobody says whether the user may clone the source".to_owned())),
    }
}

fn forbidden(field: String, why: String) -> Answer {
    Answer::Forbidden(vec![FieldError::forbidden(field, why)])
}
