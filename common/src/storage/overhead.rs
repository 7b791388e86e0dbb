//! File system overhead of a volume, in CDI's arithmetic.
//!
//! All arithmetic is in whole bytes and thousandths, so that webhook, controller and CDI's readers of the status compute the same sizes.

use std::{fmt, str::FromStr};
use thiserror::Error;

use crate::quantity::Bytes;

/// The share of a volume that its file system needs for itself, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overhead(u16);

/// The error for a text that isn't a share between 0 and 1 with up to three decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a share between 0 and 1 with up to three decimals, such as 0.055")]
pub struct NotAShare;

impl Overhead {
    /// The overhead of a raw block device.
    pub const NONE: Self = Self(0);
    /// The default overhead (CDI's).
    pub const DEFAULT: Self = Self(60);

    /// The share in thousandths.
    pub fn thousandths(self) -> u16 {
        self.0
    }
}

impl FromStr for Overhead {
    type Err = NotAShare;

    fn from_str(text: &str) -> Result<Self, NotAShare> {
        if text == "1" {
            return Ok(Self(1000));
        }
        let decimals = match text.split_once('.') {
            None if text == "0" => return Ok(Self(0)),
            Some(("0", decimals)) if (1..=3).contains(&decimals.len()) => decimals,
            _ => return Err(NotAShare),
        };
        if !decimals.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotAShare);
        }
        format!("{decimals:0<3}").parse().map(Self).map_err(|_| NotAShare)
    }
}

/// Formats a share as it is parsed: `0`, `0.06`, `0.055`, `1`.
impl fmt::Display for Overhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0"),
            1000.. => f.write_str("1"),
            part => f.write_str(format!("0.{part:03}").trim_end_matches('0')),
        }
    }
}

/// The size of a volume whose file system has room for `size` bytes (CDI's rule: round up to MiB, then add the overhead).
pub fn required(size: Bytes, overhead: Overhead) -> Bytes {
    let whole = u128::from(size.round_up_to(Bytes::MIB).0);
    bytes((whole * (1000 + u128::from(overhead.0))).div_ceil(1000))
}

/// The bytes that fit into the file system of a volume of `size` (CDI's rule: subtract the overhead, then round down to MiB).
pub fn usable(size: Bytes, overhead: Overhead) -> Bytes {
    let fits = (u128::from(size.0) * 1000).div_ceil(1000 + u128::from(overhead.0));
    let fits = bytes(fits);
    Bytes(fits.0 - fits.0 % Bytes::MIB.0)
}

pub(crate) fn bytes(number: u128) -> Bytes {
    Bytes(u64::try_from(number).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0", Some(0))]
    #[case("0.0", Some(0))]
    #[case("0.06", Some(60))]
    #[case("0.055", Some(55))]
    #[case("0.5", Some(500))]
    #[case("1", Some(1000))]
    #[case("", None)]
    #[case("1.0", None)]
    #[case("0.", None)]
    #[case(".06", None)]
    #[case("0.0555", None)]
    #[case("-0.1", None)]
    #[case("0.+6", None)]
    fn a_share(#[case] text: &str, #[case] thousandths: Option<u16>) {
        assert_eq!(text.parse::<Overhead>().ok(), thousandths.map(Overhead));
    }

    #[rstest]
    #[case::one_gibibyte(1 << 30, "0.06", 1_138_166_334)]
    #[case::whole_mebibytes_first(1, "0.055", 1_106_248)]
    #[case::none(1 << 30, "0", 1 << 30)]
    #[case::double(1 << 20, "1", 2 << 20)]
    fn room(#[case] size: u64, #[case] share: &str, #[case] expected: u64) {
        assert_eq!(required(Bytes(size), share.parse().unwrap()), Bytes(expected));
    }

    proptest! {
        /// The usable size of a required size is at least the requested size, and a formatted share parses to itself.
        #[test]
        fn what_is_required_is_usable(size in 0u64..1 << 62, share in 0u16..=1000) {
            let share = Overhead(share);
            prop_assert!(usable(required(Bytes(size), share), share) >= Bytes(size));
            prop_assert!(usable(Bytes(size), share) <= Bytes(size));
            prop_assert_eq!(share.to_string().parse(), Ok(share));
        }
    }
}
