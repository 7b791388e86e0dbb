//! Metrics that every process has.

use prometheus_client::{metrics::info::Info, registry::Registry};

/// Registers which program of which version runs, as `build_info`.
pub fn register_build(registry: &mut Registry, program: &'static str) {
    let labels = vec![("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The program that runs, and its version", Info::new(labels));
}
