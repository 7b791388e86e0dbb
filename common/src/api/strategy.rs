//! The clone strategies.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};

use super::Phase;
use crate::words::words;

words! {
    /// The clone strategies, cheapest first. The values are CDI's.
    pub enum CloneStrategy {
        /// The storage driver restores a snapshot of the source.
        Snapshot = "snapshot",
        /// The storage driver clones the volume itself.
        CsiClone = "csi-clone",
        /// A pod reads the source and writes the clone.
        Copy = "copy",
    }
}

/// The properties of a strategy. Code that depends on a strategy reads them here; a new strategy is a new row of [`SPECS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrategySpec {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// True if the storage driver fills the claim, which therefore names its data source. Otherwise, a pod of smartclone fills it.
    pub filled_by_driver: bool,
    /// True if a snapshot of a source claim is taken first. The clone is consistent as of that moment while the source is in use.
    pub takes_snapshot: bool,
    /// The phase in which the claim is filled.
    pub fill_phase: Phase,
    /// The strategy that is tried when this one is not feasible or was refused.
    pub fallback: Option<CloneStrategy>,
}

/// Every strategy, the cheapest first.
pub const SPECS: [StrategySpec; 3] = [
    StrategySpec {
        strategy: CloneStrategy::Snapshot,
        filled_by_driver: true,
        takes_snapshot: true,
        fill_phase: Phase::CloneFromSnapshotSourceInProgress,
        fallback: Some(CloneStrategy::Copy),
    },
    StrategySpec {
        strategy: CloneStrategy::CsiClone,
        filled_by_driver: true,
        takes_snapshot: false,
        fill_phase: Phase::CsiCloneInProgress,
        fallback: Some(CloneStrategy::Copy),
    },
    StrategySpec {
        strategy: CloneStrategy::Copy,
        filled_by_driver: false,
        takes_snapshot: false,
        fill_phase: Phase::CloneInProgress,
        fallback: None,
    },
];

impl CloneStrategy {
    /// Returns the properties of the strategy.
    pub const fn spec(self) -> &'static StrategySpec {
        &SPECS[self as usize]
    }
}

impl<'de> Deserialize<'de> for CloneStrategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for CloneStrategy {
    fn schema_name() -> Cow<'static, str> {
        "CloneStrategy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::ALL })
    }
}

/// Reads a field that the schema validates. In an object older than the schema (CDI itself stores `""` at times), an unknown value counts
/// as unset: one object must not break a watch.
pub(super) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CloneStrategy>, D::Error> {
    Ok(Option::<Cow<'de, str>>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_has_its_row_and_falls_back_to_one_that_falls_back_no_further() {
        for strategy in CloneStrategy::ALL {
            assert_eq!(strategy.spec().strategy, *strategy);
            assert_eq!(strategy.spec().fallback.and_then(|next| next.spec().fallback), None);
        }
    }
}
