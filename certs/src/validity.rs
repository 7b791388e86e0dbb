//! Validity of certificates, and the time to replace them. Pure: the time is an argument.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::{error::X509Error, nom, parse_x509_certificate, time::ASN1Time};

/// The allowance for clock differences in a cluster: a new certificate must not be "not yet valid" elsewhere.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// The validity period of a certificate, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not valid before.
    pub not_before: Timestamp,
    /// Not valid after.
    pub not_after: Timestamp,
}

/// The decision if a certificate can stay in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it.
    Keep,
    /// Replace it.
    Renew(Why),
}

/// The reason why a certificate has to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It was created by a clock that is ahead of ours.
    NotYetValid,
    /// Two thirds of its life are over, which leaves one third to get the next one accepted everywhere.
    Due,
    /// It has expired.
    Expired,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYetValid => "not yet valid",
            Self::Due => "two thirds of its life are over",
            Self::Expired => "expired",
        })
    }
}

/// A certificate's validity cannot be read.
#[derive(Debug, Error)]
pub enum Error {
    /// It is no X.509 certificate.
    #[error("failed to parse the certificate")]
    Parse(#[source] nom::Err<X509Error>),
    /// A time lies outside of what can be represented.
    #[error("failed to read the certificate's validity")]
    Time(#[source] jiff::Error),
}

impl Validity {
    /// From now, less the allowance for clock differences, for `lifetime`.
    pub fn starting(now: Timestamp, lifetime: SignedDuration) -> Self {
        Self {
            not_before: now.saturating_sub(SKEW).unwrap_or(Timestamp::MIN),
            not_after: now.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
        }
    }

    /// The validity in a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(Error::Parse)?;
        let times = parsed.validity();
        Ok(Self { not_before: timestamp(times.not_before)?, not_after: timestamp(times.not_after)? })
    }

    /// This validity, limited to the issuer's: a certificate must not outlive its issuer.
    #[must_use]
    pub fn within(self, issuer: Self) -> Self {
        Self { not_before: self.not_before.max(issuer.not_before), not_after: self.not_after.min(issuer.not_after) }
    }

    /// Judges a certificate with this validity at `now`.
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        let third = (self.not_after.as_second() - self.not_before.as_second()) / 3;
        if now > self.not_after {
            Verdict::Renew(Why::Expired)
        } else if now < self.not_before {
            Verdict::Renew(Why::NotYetValid)
        } else if now.as_second() >= self.not_after.as_second() - third {
            Verdict::Renew(Why::Due)
        } else {
            Verdict::Keep
        }
    }

    /// True if a client accepts the certificate at `now`.
    pub fn covers(&self, now: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

fn timestamp(time: ASN1Time) -> Result<Timestamp, Error> {
    // "No expiry" is written as the last second of the year 9999, which lies just beyond jiff's range.
    Timestamp::from_second(time.timestamp().min(Timestamp::MAX.as_second())).map_err(Error::Time)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rstest::rstest;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Validity {
        let mut params = CertificateParams::new(["test".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(to.0, to.1, to.2);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Validity::of(certificate.der()).unwrap()
    }

    #[rstest]
    #[case::before("2025-12-31T23:59:59Z", Verdict::Renew(Why::NotYetValid))]
    #[case::first_second("2026-01-01T00:00:00Z", Verdict::Keep)]
    #[case::last_second_of_two_thirds("2026-01-20T23:59:59Z", Verdict::Keep)]
    #[case::two_thirds("2026-01-21T00:00:00Z", Verdict::Renew(Why::Due))]
    #[case::last_second("2026-01-31T00:00:00Z", Verdict::Renew(Why::Due))]
    #[case::after("2026-01-31T00:00:01Z", Verdict::Renew(Why::Expired))]
    fn thirty_days_from_new_year(#[case] now: &str, #[case] expected: Verdict) {
        let validity = certificate((2026, 1, 1), (2026, 1, 31));
        assert_eq!(validity.verdict(at(now)), expected);
        let accepted = !matches!(expected, Verdict::Renew(Why::Expired | Why::NotYetValid));
        assert_eq!(validity.covers(at(now)), accepted);
    }

    #[test]
    fn a_certificate_without_end_is_kept() {
        assert_eq!(certificate((2026, 1, 1), (9999, 12, 31)).verdict(at("2500-01-01T00:00:00Z")), Verdict::Keep);
    }

    #[test]
    fn a_certificate_whose_life_was_over_before_it_began_is_replaced() {
        let backwards = certificate((2026, 2, 1), (2026, 1, 1));
        assert_ne!(backwards.verdict(at("2026-01-15T00:00:00Z")), Verdict::Keep);
    }

    #[test]
    fn a_new_certificate_is_valid_on_a_clock_that_is_slow() {
        let now = at("2026-01-01T12:00:00Z");
        let new = Validity::starting(now, SignedDuration::from_hours(24));
        assert!(new.covers(at("2026-01-01T11:00:00Z")));
        assert_eq!(new.not_after, at("2026-01-02T12:00:00Z"));
    }

    #[test]
    fn a_leaf_stays_within_its_issuer() {
        let issuer = certificate((2026, 1, 1), (2026, 1, 31));
        let leaf = Validity::starting(at("2026-01-30T12:00:00Z"), SignedDuration::from_hours(24 * 7)).within(issuer);
        assert_eq!(leaf.not_after, issuer.not_after);
        assert_eq!(
            Validity::starting(at("2026-01-01T00:30:00Z"), SignedDuration::from_hours(1)).within(issuer).not_before,
            issuer.not_before
        );
    }

    #[test]
    fn rubbish_is_no_certificate() {
        assert!(matches!(Validity::of(&CertificateDer::from_slice(b"rubbish")), Err(Error::Parse(_))));
    }
}
