//! The metrics of the webhook. Label values are fixed words, never names of objects.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    path: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// The webhook's metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    reviews: Family<ReviewLabels, Histogram, fn() -> Histogram>,
    panics: Counter,
    refused: Family<ReasonLabels, Counter>,
    left: Family<ReasonLabels, Counter>,
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 4.0, 8))
}

impl Metrics {
    /// The metrics, registered in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            reviews: Family::new_with_constructor(durations),
            panics: Counter::default(),
            refused: Family::default(),
            left: Family::default(),
        };
        registry.register(
            "admission_duration_seconds",
            "Admission reviews by path, operation and outcome",
            inner.reviews.clone(),
        );
        registry.register("admission_panics", "Reviews that ended in a mistake of ours", inner.panics.clone());
        registry.register(
            "admission_refused",
            "Requests and connections that were refused before a review was read, by reason",
            inner.refused.clone(),
        );
        registry.register("left_to_cdi", "New clones that smartclone has left to CDI, by reason", inner.left.clone());
        Self(Arc::new(inner))
    }

    pub(crate) fn reviewed(
        &self,
        path: &'static str,
        operation: &'static str,
        outcome: &'static str,
        duration: Duration,
    ) {
        let labels = ReviewLabels { path, operation, outcome };
        self.0.reviews.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.0.refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn left_to_cdi(&self, reason: &'static str) {
        self.0.left.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn panicked(&self) {
        self.0.panics.inc();
    }
}
