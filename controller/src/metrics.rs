//! The controller's metrics. Label values are fixed words, never names of objects, so that there are few series.

use std::{sync::Arc, time::Instant};

use common::api::Phase;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::Error;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    phase: &'static str,
}

/// The controller's metrics.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    passes: Family<Result, Histogram, fn() -> Histogram>,
    actions: Family<ActionLabels, Counter>,
    phases: Family<PhaseLabels, Counter>,
}

fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 8))
}

impl Metrics {
    /// The metrics, registered in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            passes: Family::new_with_constructor(durations),
            actions: Family::default(),
            phases: Family::default(),
        };
        registry.register("reconcile_duration_seconds", "Passes over a DataVolume by result", inner.passes.clone());
        registry.register("actions", "Writes to the cluster by kind and result", inner.actions.clone());
        registry.register("phases", "DataVolumes that entered a phase", inner.phases.clone());
        Self(Arc::new(inner))
    }

    /// Starts to time a pass.
    pub fn pass(&self) -> Pass {
        Pass { metrics: self.clone(), start: Instant::now() }
    }

    /// Counts a write and its result.
    pub fn action(&self, action: &'static str, done: bool) {
        self.0.actions.get_or_create(&ActionLabels { action, result: if done { "done" } else { "failed" } }).inc();
    }

    /// Counts a DataVolume that entered `phase`.
    pub fn phase(&self, phase: Phase) {
        self.0.phases.get_or_create(&PhaseLabels { phase: phase.as_str() }).inc();
    }
}

/// A pass in progress.
pub struct Pass {
    metrics: Metrics,
    start: Instant,
}

impl Pass {
    /// Records the duration and the result of the pass.
    pub fn done<T>(self, outcome: &std::result::Result<T, Error>) {
        let result = outcome.as_ref().map_or_else(Error::reason, |_| "done");
        self.metrics.0.passes.get_or_create(&Result { result }).observe(self.start.elapsed().as_secs_f64());
    }
}
