//! The restore rule of a driver: at the source's size or larger.

use crate::words::words;

words! {
    /// How a driver wants a volume restored that is larger than its source, as `smartclone.dev/restore-size` says it.
    pub enum RestoreRule {
        /// Ask for the final size at once.
        Larger = "larger",
        /// Restore at the source's size, expand afterwards.
        SourceSizeOnly = "exact",
    }
}
