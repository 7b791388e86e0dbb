//! Metrics of a server's certificates.

use jiff::Timestamp;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Expiry and failed renewals of a server's certificates. Cheap to clone.
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
    /// Registers `certificate_not_after_timestamp_seconds` and
    /// `certificate_renewal_failures_total`.
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
