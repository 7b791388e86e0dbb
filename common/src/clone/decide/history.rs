//! The strategies that a clone has tried already, and what the driver said to them.

use serde::{Deserialize, Serialize};

use crate::{api::CloneStrategy, quantity::Bytes};

/// The results of earlier passes over the same request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The strategy that is already written on the object by us.
    pub pinned: Option<CloneStrategy>,
    /// The UID of the source for which it was decided. Another source of the same name needs another decision.
    pub decided_for: Option<String>,
    /// The strategies that the driver refused for it.
    pub refused: Vec<PastRefusal>,
}

impl History {
    /// The strategy that is written on the object, if it was decided for this source.
    pub fn pinned_for(&self, source_uid: &str) -> Option<CloneStrategy> {
        self.pinned.filter(|_| self.decided_for.as_deref() == Some(source_uid))
    }
}

/// A strategy that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRefusal {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// Nobody refused, but it wasn't done within its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_slow: bool,
    /// The driver's words, without secrets.
    pub message: String,
}

/// What a file system takes for its log, whatever its size; the share that is configured is too little for it on a small volume.
pub(crate) const JOURNAL: Bytes = Bytes(64 * Bytes::MIB.0);
