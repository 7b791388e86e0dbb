//! The HTTP server of the reviews. A review that can't be read is 400; a decision is 200; a review that can't be decided is 500,
//! and the webhook configuration's `failurePolicy` applies.

use std::{any::Any, error::Error, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
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
    gather::cluster::{Cluster, Undecidable},
    manifests::{MUTATE_CLAIM_PATH, MUTATE_PATH, TRANSFER_PATH, VALIDATE_CLAIM_PATH, VALIDATE_PATH},
    metrics::Metrics,
    review::{Answer, Operation, Reply, Request, Review, line},
};

/// What reviews share.
pub struct Admission {
    /// Where facts come from.
    pub cluster: Cluster,
    /// The user name of the controller, which alone may change a decision.
    pub controller: String,
    /// Where reviews are counted.
    pub metrics: Metrics,
    /// What their bodies may take.
    pub bodies: Bodies,
}

/// The whole webhook.
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

/// A mistake of ours costs one answer, not the process with everybody else's. Those of judges are caught before, with the name of the
/// review.
fn panics_caught(routes: Router, metrics: Metrics) -> Router {
    routes.layer(CatchPanicLayer::custom(move |_: Box<dyn Any + Send>| {
        metrics.panicked();
        error!("a review panicked");
        (StatusCode::INTERNAL_SERVER_ERROR, "smartclone made a mistake; its log says more\n").into_response()
    }))
}

async fn mutate(State(admission): State<Arc<Admission>>, body: ReviewBody) -> Response {
    answer(&admission, MUTATE_PATH, &body, async |request: &Request| {
        if request.operation == Operation::Update {
            return Ok(carry_over(request, &admission.controller));
        }
        admit::data_volume::mutate(request, &admission.cluster).await
    })
    .await
}

async fn validate(State(admission): State<Arc<Admission>>, body: ReviewBody) -> Response {
    answer(&admission, VALIDATE_PATH, &body, async |request: &Request| {
        admit::data_volume::validate(request, &admission.cluster, &admission.controller).await
    })
    .await
}

async fn mutate_claim(State(admission): State<Arc<Admission>>, body: ReviewBody) -> Response {
    answer(&admission, MUTATE_CLAIM_PATH, &body, async |request: &Request| {
        if request.operation == Operation::Update {
            return Ok(carry_over(request, &admission.controller));
        }
        admit::claim::mutate(request, &admission.cluster, &admission.controller)
    })
    .await
}

async fn validate_claim(State(admission): State<Arc<Admission>>, body: ReviewBody) -> Response {
    answer(&admission, VALIDATE_CLAIM_PATH, &body, async |request: &Request| {
        admit::claim::validate(request, &admission.cluster, &admission.controller).await
    })
    .await
}

async fn validate_transfer(State(admission): State<Arc<Admission>>, body: ReviewBody) -> Response {
    answer(&admission, TRANSFER_PATH, &body, async |request: &Request| {
        admit::object_transfer::validate(request, &admission.cluster).await
    })
    .await
}

async fn answer(
    admission: &Admission,
    path: &'static str,
    body: &[u8],
    judge: impl AsyncFnOnce(&Request) -> Result<Answer, Undecidable>,
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
        let Ok(judged) = AssertUnwindSafe(judge(&request)).catch_unwind().await else {
            return panicked(admission, path, &request, start);
        };
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

/// The answer of a judge that panicked: a review can't be answered with a mistake of ours, so this is a line for whoever reads the API
/// server's error, which leads to the review's lines in our log.
fn panicked(admission: &Admission, path: &'static str, request: &Request, start: Instant) -> Response {
    admission.metrics.panicked();
    admission.metrics.reviewed(path, request.operation.as_str(), "panicked", start.elapsed());
    Span::current().record("reason", "a panic");
    error!("a review panicked");
    let line = format!("smartclone made a mistake in review {}; its log says more\n", request.uid);
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

/// One line per creation and per denial; the rest is for who asks for it.
fn report(request: &Request, judged: &Result<Answer, Undecidable>) {
    let span = Span::current();
    match judged {
        Err(error) => {
            span.record("reason", line(&error.to_string()));
            error!("not decided");
        }
        Ok(answer) => {
            let allowed = matches!(answer, Answer::Allowed { .. });
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
