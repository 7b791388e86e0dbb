//! The rule for restores: at the source's size or larger, as the driver needs it.

use crate::profile::{self, drivers};

/// How a driver wants a volume restored that is larger than its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreRule {
    /// Ask for the final size at once.
    Larger,
    /// Restore at the source's size, expand afterwards.
    SourceSizeOnly,
}

/// The rule for a driver, where nothing was learned at run time (see [`profile::Record`]). The StorageClass's annotation
/// (`smartclone.dev/restore-size`: `exact` or `larger`) outranks the table; any other value of it counts as not given.
pub fn restore_rule(provisioner: &str, annotation: Option<&str>) -> RestoreRule {
    annotation.and_then(profile::restore_rule).or_else(|| drivers::restore(provisioner)).unwrap_or(RestoreRule::Larger)
}
