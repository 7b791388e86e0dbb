//! Metrics that every process has.

use std::sync::LazyLock;

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

/// Registers which program of which version runs, as `build_info`.
pub fn register_build(registry: &mut Registry, program: &'static str) {
    let labels = vec![("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The program that runs, and its version", Info::new(labels));
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

/// Of the process, as the log is: objects are decoded in every corner of it.
static UNREADABLE_OBJECTS: LazyLock<Family<KindLabels, Counter>> = LazyLock::new(Family::default);

/// Registers `unreadable_objects_total`.
pub fn register_unreadable_objects(registry: &mut Registry) {
    registry.register(
        "unreadable_objects",
        "Objects that the API server sent and that could not be decoded, by kind",
        UNREADABLE_OBJECTS.clone(),
    );
}

/// One more object of this kind could not be decoded.
pub(crate) fn count_unreadable(kind: &str) {
    UNREADABLE_OBJECTS.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
}

/// How many objects of this kind could not be decoded.
#[cfg(test)]
pub(crate) fn unreadable(kind: &str) -> u64 {
    UNREADABLE_OBJECTS.get_or_create(&KindLabels { kind: kind.to_owned() }).get()
}

/// How the certificates of a server are doing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CertificateMetrics {
    not_after: Family<CertificateLabels, Gauge>,
    failures: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    certificate: &'static str,
}

impl CertificateMetrics {
    /// Registers `certificate_not_after_timestamp_seconds` and `certificate_renewal_failures_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register_with_unit(
            "certificate_not_after_timestamp",
            "When the certificate in use expires, in Unix time",
            Unit::Seconds,
            metrics.not_after.clone(),
        );
        registry.register(
            "certificate_renewal_failures",
            "Attempts to load, renew or publish a certificate that failed",
            metrics.failures.clone(),
        );
        metrics
    }

    pub(crate) fn in_use(&self, certificate: &'static str, not_after: Timestamp) {
        self.not_after.get_or_create(&CertificateLabels { certificate }).set(not_after.as_second());
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    #[cfg(test)]
    pub(crate) fn failures(&self) -> u64 {
        self.failures.get()
    }
}
