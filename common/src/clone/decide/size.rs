//! The sizes of a clone: the size at creation and the final size.

use serde::Serialize;
use thiserror::Error;

use crate::{quantity::Bytes, storage::restore::RestoreRule};

/// The known sizes of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSize {
    /// The requested size; at most `capacity`.
    pub request: Bytes,
    /// The actual size: data may extend to here.
    pub capacity: Bytes,
    /// The size of a source snapshot whose volume was expanded since. A driver that restores at the source's size only requires this one.
    pub cut_at: Option<Bytes>,
    /// The minimum size of a restore, as the driver reports it; 0 and absent mean that it is unknown.
    pub restore_size: Option<Bytes>,
}

/// The sizes of a clone's claim, in the order in which they are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SizePlan {
    /// The size at creation.
    pub create_at: Bytes,
    /// The final size.
    pub finally: Bytes,
}

impl SizePlan {
    /// A plan that creates the claim at its final size.
    pub fn exactly(size: Bytes) -> Self {
        Self { create_at: size, finally: size }
    }

    /// True if the claim must be expanded after creation.
    pub fn grows(&self) -> bool {
        self.finally > self.create_at
    }
}

/// The input for the sizes, kept to compute them again when the driver has reported the snapshot's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resize {
    pub(crate) request: Option<Bytes>,
    pub(crate) source: SourceSize,
    pub(crate) rule: RestoreRule,
    pub(crate) expands: bool,
}

/// The reason why a size is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SizeError {
    /// The clone would truncate the source's data.
    #[error("smaller than the source; ask for at least {least}")]
    TooSmall {
        /// The smallest accepted size.
        least: Bytes,
    },
    /// The driver restores at the source's size only, and the StorageClass does not allow expansion.
    #[error("the driver restores at the source's size only, and the StorageClass does not allow expansion")]
    NoExpansion,
}

/// The sizes of a clone with the requested size `request` (`None`: the source's size).
///
/// A restored volume must never be smaller than its source: some drivers refuse, some truncate. The driver's restore size is only a hint: 0
/// and absent mean "unknown", and one driver reports the bytes in use instead (128 MiB of 1 GiB), so the source's capacity is the lower
/// bound. A source that requested 1G and got 1Gi may be cloned with a request of 1G, as in CDI; the clone then gets the source's capacity.
pub fn size(
    request: Option<Bytes>,
    source: SourceSize,
    rule: RestoreRule,
    expands: bool,
) -> Result<SizePlan, SizeError> {
    let request = request.unwrap_or(source.capacity);
    let accepted_from = source.request.min(source.capacity);
    if request < accepted_from {
        return Err(SizeError::TooSmall { least: accepted_from });
    }
    let least = source.capacity.max(source.restore_size.unwrap_or_default());
    let finally = request.max(least);
    let create_at = match rule {
        RestoreRule::Larger => finally,
        RestoreRule::SourceSizeOnly => source.cut_at.unwrap_or(least),
    };
    if create_at < finally && !expands { Err(SizeError::NoExpansion) } else { Ok(SizePlan { create_at, finally }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{RestoreRule::*, *};

    const fn gi(n: u64) -> Bytes {
        Bytes(n << 30)
    }
    const fn mi(n: u64) -> Bytes {
        Bytes(n << 20)
    }
    fn source(size: Bytes) -> SourceSize {
        SourceSize { request: size, capacity: size, cut_at: None, restore_size: None }
    }
    fn restored(size: Bytes, restore_size: Bytes) -> SourceSize {
        SourceSize { restore_size: Some(restore_size), ..source(size) }
    }

    fn cut(capacity: Bytes, at: Bytes) -> SourceSize {
        SourceSize { request: at, cut_at: Some(at), ..source(capacity) }
    }

    #[rstest]
    #[case::same_size(Some(gi(1)), source(gi(1)), SourceSizeOnly, true, Ok(SizePlan::exactly(gi(1))))]
    #[case::not_said(None, source(gi(3)), Larger, true, Ok(SizePlan::exactly(gi(3))))]
    #[case::larger_at_once(Some(gi(2)), source(gi(1)), Larger, false, Ok(SizePlan::exactly(gi(2))))]
    #[case::grows_after_restore(Some(gi(2)), source(gi(1)), SourceSizeOnly, true, Ok(SizePlan { create_at: gi(1), finally: gi(2) }))]
    #[case::cannot_grow(Some(gi(2)), source(gi(1)), SourceSizeOnly, false, Err(SizeError::NoExpansion))]
    #[case::smaller_names_the_least(Some(mi(900)), source(gi(1)), Larger, true, Err(SizeError::TooSmall { least: gi(1) }))]
    #[case::driver_reports_used_bytes(
        Some(gi(1)),
        restored(gi(1), mi(128)),
        SourceSizeOnly,
        true,
        Ok(SizePlan::exactly(gi(1)))
    )]
    #[case::driver_reports_nothing(Some(gi(1)), restored(gi(1), Bytes(0)), Larger, true, Ok(SizePlan::exactly(gi(1))))]
    #[case::driver_wants_more(Some(gi(1)), restored(gi(1), mi(1100)), Larger, true, Ok(SizePlan::exactly(mi(1100))))]
    #[case::rounded_by_the_driver(
        Some(Bytes(1_000_000_000)), SourceSize { request: Bytes(1_000_000_000), ..source(gi(1)) },
        SourceSizeOnly, false, Ok(SizePlan::exactly(gi(1))))]
    #[case::has_grown_since(None, cut(gi(2), gi(1)), SourceSizeOnly, true, Ok(SizePlan { create_at: gi(1), finally: gi(2) }))]
    #[case::has_grown_since_and_more_is_wanted(
        Some(gi(3)), cut(gi(2), gi(1)), SourceSizeOnly, true, Ok(SizePlan { create_at: gi(1), finally: gi(3) }))]
    #[case::has_grown_since_and_cannot_again(
        None,
        cut(gi(2), gi(1)),
        SourceSizeOnly,
        false,
        Err(SizeError::NoExpansion)
    )]
    #[case::has_grown_since_and_is_restored_larger(
        None,
        cut(gi(2), gi(1)),
        Larger,
        false,
        Ok(SizePlan::exactly(gi(2)))
    )]
    fn sizes(
        #[case] request: Option<Bytes>,
        #[case] source: SourceSize,
        #[case] rule: RestoreRule,
        #[case] expands: bool,
        #[case] expected: Result<SizePlan, SizeError>,
    ) {
        assert_eq!(size(request, source, rule, expands), expected);
    }

    prop_compose! {
        fn sources()(
            capacity in 1u64..1 << 50,
            request in 1u64..1 << 50,
            restore in proptest::option::of(0u64..1 << 51),
            cut_at in proptest::option::of(1u64..1 << 50),
        ) -> SourceSize {
            SourceSize {
                request: Bytes(request.min(capacity)),
                capacity: Bytes(capacity),
                // With `cut_at` the source is a snapshot, which has no separate restore size; only a snapshot of ours has one.
                restore_size: restore.filter(|_| cut_at.is_none()).map(Bytes),
                cut_at: cut_at.filter(|at| *at < capacity).map(Bytes),
            }
        }
    }

    proptest! {
        /// For all numbers, no data is truncated, and no clone is smaller than requested.
        #[test]
        fn never_smaller_than_the_source(
            request in proptest::option::of(1u64..1 << 51), source in sources(), exact: bool, expands: bool,
        ) {
            let rule = if exact { SourceSizeOnly } else { Larger };
            match size(request.map(Bytes), source, rule, expands) {
                Ok(plan) => {
                    let at = source.cut_at.filter(|_| exact).unwrap_or(source.capacity);
                    prop_assert!(plan.create_at >= at && plan.finally >= source.capacity);
                    prop_assert!(plan.finally >= plan.create_at && plan.finally >= request.map(Bytes).unwrap_or_default());
                    prop_assert!(expands || !plan.grows());
                }
                // The advised size is accepted, if this driver can restore at all.
                Err(SizeError::TooSmall { least }) => {
                    let cannot_grow = exact && !expands && source.cut_at.is_some();
                    let advised = size(Some(least), source, rule, expands);
                    prop_assert!(advised.is_ok() || cannot_grow && advised == Err(SizeError::NoExpansion));
                }
                Err(SizeError::NoExpansion) => prop_assert!(exact && !expands),
            }
        }
    }
}
