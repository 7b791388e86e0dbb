//! The restore rule of a driver for a volume that is larger than its source.

use crate::words::words;

words! {
    /// The driver's way to restore a volume larger than its source, in the values of `smartclone.dev/restore-size`.
    pub enum RestoreRule {
        /// Request the final size at once.
        Larger = "larger",
        /// Restore at the source's size and expand afterwards.
        SourceSizeOnly = "exact",
    }
}
