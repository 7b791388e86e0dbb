//! Sizes of volumes as exact whole bytes, read from and written as Kubernetes quantities.

use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Bytes(pub u64);

/// The reason why a text is not the size of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not of the form that Kubernetes accepts (`resource.Quantity`).
    #[error("not a quantity; write a number with a unit, such as 10Gi or 500M")]
    Malformed,
    /// Below zero.
    #[error("a volume can't have a negative size")]
    Negative,
    /// More bytes than Kubernetes' storage interfaces can express (2^63 - 1, an int64).
    #[error("more than 2^63-1 bytes, the largest size that the container storage interface can express")]
    TooLarge,
}

const MAX: u128 = i64::MAX as u128;

impl Bytes {
    /// One mebibyte, the smallest DataVolume that CDI accepts.
    pub const MIB: Self = Self(1 << 20);

    /// Reads a quantity. A fraction of a byte counts as a whole byte, as in Kubernetes' own `Quantity.Value()`.
    ///
    /// ```
    /// # use common::quantity::Bytes;
    /// assert_eq!(Bytes::parse("1.5Gi"), Ok(Bytes(3 << 29)));
    /// assert_eq!(Bytes::parse("1e3"), Ok(Bytes(1000)));
    /// ```
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        Self::scaled(text, 0)
    }

    /// Reads a quantity times ten to the power of `exponent`.
    fn scaled(text: &str, exponent: i64) -> Result<Self, QuantityError> {
        let unit_at = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(QuantityError::Malformed);
        }
        let unit = Unit::parse(unit)?;
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        if whole.is_empty() && fraction.is_empty() {
            return Ok(Self(0));
        }
        if negative {
            return Err(QuantityError::Negative);
        }
        unit.scale(whole, fraction, exponent)
    }

    /// Reads the size in a claim's or snapshot's `Quantity`.
    pub fn of(quantity: &Quantity) -> Result<Self, QuantityError> {
        Self::parse(&quantity.0)
    }

    /// Returns the smallest multiple of `step` that is not less than this.
    #[must_use]
    pub fn round_up_to(self, step: Self) -> Self {
        if step.0 == 0 { self } else { Self(self.0.div_ceil(step.0).saturating_mul(step.0)) }
    }
}

/// Returns a quantity of any resource in thousandths, such as CPU in `m`, rounded up.
pub fn thousandths(quantity: &Quantity) -> Result<u64, QuantityError> {
    Bytes::scaled(&quantity.0, 3).map(|thousandths| thousandths.0)
}

/// Writes the largest binary unit that is exact: `10Gi`, `1536Mi`, `1000`.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
        let exact = UNITS.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match exact {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl From<Bytes> for Quantity {
    fn from(bytes: Bytes) -> Self {
        Self(bytes.to_string())
    }
}

/// The unit after the number: a power of two, or a power of ten.
enum Unit {
    Binary(u32),
    Decimal(i32),
}

impl Unit {
    fn parse(text: &str) -> Result<Self, QuantityError> {
        Ok(match text {
            "" => Self::Decimal(0),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            _ => {
                let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Malformed)?;
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(QuantityError::Malformed);
                }
                // A huge exponent gives a size that is too large or almost zero; a bounded exponent gives the same result.
                let size = digits.parse::<i32>().unwrap_or(i32::MAX).min(10_000);
                Self::Decimal(if exponent.starts_with('-') { -size } else { size })
            }
        })
    }

    /// `whole.fraction` of this unit times ten to the power of `exponent` in bytes, rounded up. Not all digits are zero.
    fn scale(&self, whole: &str, fraction: &str, exponent: i64) -> Result<Bytes, QuantityError> {
        let digits = format!("{whole}{fraction}");
        let mut exponent = exponent.saturating_sub(i64::try_from(fraction.len()).unwrap_or(i64::MAX));
        if let Self::Decimal(power) = self {
            exponent += i64::from(*power);
        }
        let factor = if let Self::Binary(shift) = self { 1u128 << shift } else { 1 };
        if whole.len() > 40 {
            return Err(QuantityError::TooLarge);
        }
        // Thirty digits are more than 2^63 needs; further digits can only round up.
        let (kept, cut) = digits.split_at(digits.len().min(30));
        exponent = exponent.saturating_add(i64::try_from(cut.len()).unwrap_or(i64::MAX));
        let rest = u128::from(cut.bytes().any(|b| b != b'0'));
        let number: u128 = kept.parse().map_err(|_| QuantityError::Malformed)?;
        let bytes = if exponent >= 0 {
            u32::try_from(exponent)
                .ok()
                .and_then(|e| 10u128.checked_pow(e))
                .and_then(|p| number.checked_add(rest)?.checked_mul(p)?.checked_mul(factor))
        } else {
            match u32::try_from(-exponent).ok().and_then(|e| 10u128.checked_pow(e)) {
                // A divisor beyond 10^38 makes less than one byte of any number that was kept.
                None => Some(1),
                Some(divisor) => {
                    // Split, so that a long fraction of a large unit doesn't overflow.
                    let (quotient, remainder) = (number / divisor, number % divisor);
                    let part = scaled_fraction(remainder, divisor, factor, rest);
                    quotient.checked_mul(factor).and_then(|q| q.checked_add(part))
                }
            }
        };
        match bytes {
            Some(bytes) if bytes <= MAX => u64::try_from(bytes).map(Bytes).map_err(|_| QuantityError::TooLarge),
            _ => Err(QuantityError::TooLarge),
        }
    }
}

/// `ceil((remainder [+ a bit]) * factor / divisor)` by long multiplication: doubling never needs more than one bit beyond `divisor`.
fn scaled_fraction(mut remainder: u128, divisor: u128, factor: u128, rest: u128) -> u128 {
    let mut result = 0u128;
    let mut steps = factor;
    while steps > 1 {
        remainder *= 2;
        result *= 2;
        if remainder >= divisor {
            remainder -= divisor;
            result += 1;
        }
        steps /= 2;
    }
    result + u128::from(remainder > 0 || rest > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("1073741824", 1 << 30)]
    #[case::binary("10Gi", 10 << 30)]
    #[case::decimal("1G", 1_000_000_000)]
    #[case::fraction("0.5Mi", 1 << 19)]
    #[case::trailing_dot("1.", 1)]
    #[case::leading_dot(".5k", 500)]
    #[case::rounds_up("1500m", 2)]
    #[case::tiniest("1n", 1)]
    #[case::exponent("12e6", 12_000_000)]
    #[case::exponent_signed("+1E-3", 1)]
    #[case::zero("0", 0)]
    #[case::minus_zero("-0", 0)]
    #[case::exa("7Ei", 7 << 60)]
    #[case::third("0.3333333333333333333333333333333333333333Ki", 342)]
    fn reads(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(Bytes::parse(text), Ok(Bytes(bytes)));
    }

    #[rstest]
    #[case::thousandths("750m", 750)]
    #[case::whole("1", 1000)]
    #[case::fraction("0.05", 50)]
    #[case::less("1n", 1)]
    #[case::decimal("60M", 60_000_000_000)]
    #[case::exponent("60e6", 60_000_000_000)]
    #[case::binary("1.5Gi", 3_000 << 29)]
    #[case::zero("0", 0)]
    fn reads_thousandths(#[case] text: &str, #[case] expected: u64) {
        assert_eq!(thousandths(&Quantity(text.to_owned())), Ok(expected));
    }

    #[rstest]
    #[case::empty("", QuantityError::Malformed)]
    #[case::words("a lot", QuantityError::Malformed)]
    #[case::lower_case("10gi", QuantityError::Malformed)]
    #[case::space("10 Gi", QuantityError::Malformed)]
    #[case::two_dots("1.0.0", QuantityError::Malformed)]
    #[case::two_signs("--1", QuantityError::Malformed)]
    #[case::no_exponent("1e", QuantityError::Malformed)]
    #[case::negative("-1Gi", QuantityError::Negative)]
    #[case::too_large("8Ei", QuantityError::TooLarge)]
    #[case::absurd("1e999999999999", QuantityError::TooLarge)]
    #[case::long("99999999999999999999999999999999999999999999999999", QuantityError::TooLarge)]
    fn refuses(#[case] text: &str, #[case] error: QuantityError) {
        assert_eq!(Bytes::parse(text), Err(error));
    }

    proptest! {
        /// A written size is read as the same number: no disk changes its size.
        #[test]
        fn survives_writing(bytes in 0..=i64::MAX as u64) {
            prop_assert_eq!(Bytes::parse(&Bytes(bytes).to_string()), Ok(Bytes(bytes)));
        }

        /// No text causes a panic.
        #[test]
        fn never_panics(text in "[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = Bytes::parse(&text);
        }

        /// Never rounded down.
        #[test]
        fn never_less(whole in 0u64..1000, thousandths in 0u64..1000) {
            let Bytes(read) = Bytes::parse(&format!("{whole}.{thousandths:03}Gi")).unwrap();
            let exact_times_1000 = (u128::from(whole) * 1000 + u128::from(thousandths)) << 30;
            prop_assert!(u128::from(read) * 1000 >= exact_times_1000 && u128::from(read) * 1000 < exact_times_1000 + 1000);
        }
    }
}
