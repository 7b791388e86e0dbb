//! The HTTP server of reviews: their routes, and the answers. A review that can't be read gets 400, a decision 200. A review that can't be
//! decided gets 500, and the webhook configuration's `failurePolicy` applies.

use std::{any::Any, error::Error, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{self, DefaultBodyLimit, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use futures::FutureExt;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, Span, debug, error, field::Empty, info, info_span, warn};

use crate::admit::carry_over::carry_over;
use crate::{
    admit,
    body::{Bodies, MAX_BODY, ReviewBody},
    gather::{Stop, Undecidable, cluster::Cluster},
    metrics::Metrics,
    review::{Answer, Operation, Reply, Request, Review, line},
};

/// The MutatingWebhookConfiguration, and the webhook for DataVolumes in it.
pub const MUTATING: &str = "mutate.datavolumes.smartclone.dev";
/// The ValidatingWebhookConfiguration, and the webhook for DataVolumes in it.
pub const VALIDATING: &str = "validate.datavolumes.smartclone.dev";
/// The mutating webhook for claims that are populated without a DataVolume.
pub const MUTATING_CLAIMS: &str = "mutate.persistentvolumeclaims.smartclone.dev";
/// The validating webhook for claims that are populated without a DataVolume.
pub const VALIDATING_CLAIMS: &str = "validate.persistentvolumeclaims.smartclone.dev";
/// The validating webhook for ObjectTransfers.
pub const VALIDATING_TRANSFERS: &str = "validate.objecttransfers.smartclone.dev";

/// The path of [`MUTATING`]. Like the other paths it follows a secret segment.
pub const MUTATE_PATH: &str = "/mutate-datavolume";
/// The path of [`VALIDATING`].
pub const VALIDATE_PATH: &str = "/validate-datavolume";
/// The path of [`MUTATING_CLAIMS`].
pub const MUTATE_CLAIM_PATH: &str = "/mutate-claim";
/// The path of [`VALIDATING_CLAIMS`].
pub const VALIDATE_CLAIM_PATH: &str = "/validate-claim";
/// The path of [`VALIDATING_TRANSFERS`].
pub const TRANSFER_PATH: &str = "/validate-objecttransfer";

/// The route of each webhook. The configurations in the manifests have no path. The webhook writes it with its secret segment, and applying
/// the manifests again does not remove it.
pub const ROUTES: certs::Routes = &[
    (MUTATING, MUTATE_PATH),
    (VALIDATING, VALIDATE_PATH),
    (MUTATING_CLAIMS, MUTATE_CLAIM_PATH),
    (VALIDATING_CLAIMS, VALIDATE_CLAIM_PATH),
    (VALIDATING_TRANSFERS, TRANSFER_PATH),
];

/// The state that reviews share.
pub struct Admission {
    /// The reader of facts.
    pub cluster: Cluster,
    /// The user name of the controller, which alone may change a decision.
    pub controller: String,
    /// Counters of reviews.
    pub metrics: Metrics,
    /// The budget of bodies.
    pub bodies: Bodies,
}

/// The routes with their handlers.
pub fn router(admission: Arc<Admission>) -> Router {
    let metrics = admission.metrics.clone();
    let routes = Router::new()
        .route(MUTATE_PATH, post(mutate))
        .route(VALIDATE_PATH, post(validate))
        .route(MUTATE_CLAIM_PATH, post(mutate_claim))
        .route(VALIDATE_CLAIM_PATH, post(validate_claim))
        .route(TRANSFER_PATH, post(validate_transfer))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(admission);
    panics_caught(routes, metrics)
}

/// Catches panics, so that a bug costs one answer and not the process. Panics of handlers are caught earlier, with the review's UID.
fn panics_caught(routes: Router, metrics: Metrics) -> Router {
    routes.layer(CatchPanicLayer::custom(move |_: Box<dyn Any + Send>| {
        metrics.panicked();
        error!("a review panicked");
        (StatusCode::INTERNAL_SERVER_ERROR, "internal error in smartclone's webhook; see its log\n").into_response()
    }))
}

async fn mutate(State(admission): State<Arc<Admission>>, request: extract::Request) -> Response {
    respond(&admission, MUTATE_PATH, request, async |request: &Request| {
        if request.operation == Operation::Update {
            return Ok(carry_over(request, &admission.controller));
        }
        admit::data_volume::mutate(request, &admission.cluster).await
    })
    .await
}

async fn validate(State(admission): State<Arc<Admission>>, request: extract::Request) -> Response {
    respond(&admission, VALIDATE_PATH, request, async |request: &Request| {
        admit::data_volume::validate(request, &admission.cluster, &admission.controller).await
    })
    .await
}

async fn mutate_claim(State(admission): State<Arc<Admission>>, request: extract::Request) -> Response {
    respond(&admission, MUTATE_CLAIM_PATH, request, async |request: &Request| {
        if request.operation == Operation::Update {
            return Ok(carry_over(request, &admission.controller));
        }
        admit::claim::mutate(request, &admission.cluster, &admission.controller).await
    })
    .await
}

async fn validate_claim(State(admission): State<Arc<Admission>>, request: extract::Request) -> Response {
    respond(&admission, VALIDATE_CLAIM_PATH, request, async |request: &Request| {
        admit::claim::validate(request, &admission.cluster, &admission.controller).await
    })
    .await
}

async fn validate_transfer(State(admission): State<Arc<Admission>>, request: extract::Request) -> Response {
    respond(&admission, TRANSFER_PATH, request, async |request: &Request| {
        admit::object_transfer::validate(request, &admission.cluster).await
    })
    .await
}

async fn respond(
    admission: &Admission,
    path: &'static str,
    request: extract::Request,
    handler: impl AsyncFnOnce(&Request) -> Result<Answer, Stop>,
) -> Response {
    match ReviewBody::read(request, &admission.bodies, &admission.metrics).await {
        Ok(body) => answer(admission, path, &body, handler).await,
        Err(refusal) => refusal,
    }
}

async fn answer(
    admission: &Admission,
    path: &'static str,
    body: &[u8],
    handler: impl AsyncFnOnce(&Request) -> Result<Answer, Stop>,
) -> Response {
    let start = Instant::now();
    let Review { api_version, request, .. } = match serde_json::from_slice(body) {
        Ok(review) => review,
        Err(error) => {
            admission.metrics.reviewed(path, "", "malformed", start.elapsed());
            let error = line(&error.to_string());
            warn!(path, error, "not an AdmissionReview");
            return (StatusCode::BAD_REQUEST, format!("not an AdmissionReview: {error}\n")).into_response();
        }
    };
    let span = span(path, &request);
    async {
        let Ok(ended) = AssertUnwindSafe(handler(&request)).catch_unwind().await else {
            return panicked(admission, path, &request, start);
        };
        let judged = match ended {
            Ok(answer) => Ok(answer),
            // CDI answers for its objects itself.
            Err(Stop::ForeignOperator) => Ok(Answer::untouched()),
            Err(Stop::Invalid(errors)) => Ok(Answer::Invalid(errors)),
            Err(Stop::Forbidden(error)) => Ok(Answer::Forbidden(vec![error])),
            Err(Stop::Undecidable(error)) => Err(error),
        };
        if let Ok(Answer::LeftToCdi { reason, .. }) = &judged {
            admission.metrics.left_to_cdi(reason.as_str());
            debug!(reason = reason.as_str(), "left to CDI");
        }
        report(&request, &judged);
        let outcome = judged.as_ref().map_or("undecidable", Answer::outcome);
        admission.metrics.reviewed(path, request.operation.as_str(), outcome, start.elapsed());
        let reply = judged.map(|answer| Reply::new(api_version, &request, answer).and_then(|reply| reply.written()));
        match reply {
            Ok(Ok(reply)) => ([(CONTENT_TYPE, "application/json")], reply).into_response(),
            Ok(Err(error)) => undecided(&error),
            Err(error) => undecided(&error),
        }
    }
    .instrument(span)
    .await
}

fn undecided(error: &dyn Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", line(&error.to_string()))).into_response()
}

/// The answer of a handler that panicked. Its line in the API server's error leads to the review's lines in the webhook's log.
fn panicked(admission: &Admission, path: &'static str, request: &Request, start: Instant) -> Response {
    admission.metrics.panicked();
    admission.metrics.reviewed(path, request.operation.as_str(), "panicked", start.elapsed());
    Span::current().record("reason", "a panic");
    error!("a review panicked");
    let line = format!("internal error in smartclone's webhook (review {}); see its log\n", request.uid);
    (StatusCode::INTERNAL_SERVER_ERROR, line).into_response()
}

fn span(path: &'static str, request: &Request) -> Span {
    info_span!(
        "review",
        path,
        uid = request.uid,
        namespace = line(&request.namespace),
        name = line(&request.name),
        operation = request.operation.as_str(),
        user = line(request.user()),
        dry_run = request.dry_run,
        allowed = Empty,
        reason = Empty,
    )
}

/// Logs one line for each creation and each denial at level info; the rest at level debug.
fn report(request: &Request, judged: &Result<Answer, Undecidable>) {
    let span = Span::current();
    match judged {
        Err(error) => {
            span.record("reason", line(&error.to_string()));
            error!("not decided");
        }
        Ok(answer) => {
            let allowed = matches!(answer, Answer::Allowed { .. } | Answer::LeftToCdi { .. });
            span.record("allowed", allowed);
            if !allowed {
                span.record("reason", answer.reason());
                info!(outcome = answer.outcome(), "denied");
            } else if request.operation == Operation::Create {
                info!(outcome = answer.outcome(), "admitted");
            } else {
                debug!(outcome = answer.outcome(), "admitted");
            }
        }
    }
}

#[cfg(test)]
mod tests;
