//! The body of a review. It is read within a time limit and a memory budget that all reviews share, so that their bodies never exceed the
//! memory of the process.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::metrics::Metrics;

/// The maximum size of a body, in bytes: two objects of 3 MiB, the limit of the API server, and the rest of the review.
pub const MAX_BODY: usize = 7 << 20;
/// The maximum size of the bodies of all reviews in progress, in bytes. A typical one has 5 KiB. The decoded objects take several times as
/// much, so this is a small part of the memory limit.
pub const MAX_BODIES: usize = 16 << 20;
/// The time limit for reading a body: the time after which API servers give up.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The time limit for waiting until other bodies free memory.
pub const BUDGET_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes of one permit of the budget.
const UNIT: usize = 1 << 10;
const _: () = assert!(MAX_BODY <= MAX_BODIES, "the largest body fits");

/// The budget of bodies. Clones share it.
#[derive(Debug, Clone)]
pub struct Bodies {
    budget: Arc<Semaphore>,
    body_timeout: Duration,
    budget_timeout: Duration,
}

impl Default for Bodies {
    fn default() -> Self {
        Self::new(BODY_TIMEOUT, BUDGET_TIMEOUT)
    }
}

impl Bodies {
    /// The whole budget, with these time limits.
    pub(crate) fn new(body_timeout: Duration, budget_timeout: Duration) -> Self {
        Self { budget: Arc::new(Semaphore::new(MAX_BODIES / UNIT)), body_timeout, budget_timeout }
    }

    /// Reserves bytes; `None` if they are not available within the time limit.
    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT).max(1)).ok()?;
        timeout(self.budget_timeout, Arc::clone(&self.budget).acquire_many_owned(units)).await.ok()?.ok()
    }

    /// Bytes that are not reserved.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.budget.available_permits() * UNIT
    }
}

/// A body that was read, with its part of the budget, which it holds until the review is answered.
pub(crate) struct ReviewBody {
    bytes: Bytes,
    _reserved: OwnedSemaphorePermit,
}

impl Deref for ReviewBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ReviewBody {
    /// Reads the body of a request, or refuses it.
    pub(crate) async fn read(request: Request, bodies: &Bodies, metrics: &Metrics) -> Result<Self, Response> {
        let refused = |reason, status: StatusCode, line: &'static str| {
            metrics.refused(reason);
            (status, line).into_response()
        };
        // A body of unknown length may have the maximum length.
        let bytes = length(request.headers()).unwrap_or(MAX_BODY);
        if bytes > MAX_BODY {
            return Err(refused("large body", StatusCode::PAYLOAD_TOO_LARGE, "the review is too large\n"));
        }
        let Some(reserved) = bodies.reserve(bytes).await else {
            let line = "too many large reviews at once; try again\n";
            return Err(refused("many bodies", StatusCode::SERVICE_UNAVAILABLE, line));
        };
        match timeout(bodies.body_timeout, Bytes::from_request(request, &())).await {
            Ok(Ok(bytes)) => Ok(Self { bytes, _reserved: reserved }),
            Ok(Err(rejection)) => {
                metrics.refused("broken body");
                Err(rejection.into_response())
            }
            Err(_) => Err(refused("slow body", StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n")),
        }
    }
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
