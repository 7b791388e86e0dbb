//! Metrics that every process has.

use std::sync::LazyLock;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, info::Info},
    registry::Registry,
};

/// Registers the program and its version, as `build_info`.
pub fn register_build(registry: &mut Registry, program: &'static str) {
    let labels = vec![("program", program), ("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "The program that runs, and its version", Info::new(labels));
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

/// Global to the process, like the log: objects are decoded in many places.
static UNREADABLE_OBJECTS: LazyLock<Family<KindLabels, Counter>> = LazyLock::new(Family::default);

/// Registers `unreadable_objects_total`.
pub fn register_unreadable_objects(registry: &mut Registry) {
    registry.register(
        "unreadable_objects",
        "Objects that the API server sent and that could not be decoded, by kind",
        UNREADABLE_OBJECTS.clone(),
    );
}

/// Counts an object of this kind that could not be decoded.
pub(crate) fn count_unreadable(kind: &str) {
    UNREADABLE_OBJECTS.get_or_create(&KindLabels { kind: kind.to_owned() }).inc();
}

/// The number of objects of this kind that could not be decoded.
#[cfg(test)]
pub(crate) fn unreadable(kind: &str) -> u64 {
    UNREADABLE_OBJECTS.get_or_create(&KindLabels { kind: kind.to_owned() }).get()
}
