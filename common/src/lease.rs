//! The controller's Lease: the sign for the webhook that somebody clones. Beside CDI, the webhook takes clones over only while it is fresh,
//! so that clones which nobody would serve stay CDI's. It is not a leader election: the controller has one replica.

use std::time::Duration;

use jiff::Timestamp;

/// The name of the Lease, in the namespace of the installation.
pub const NAME: &str = "smartclone-controller";

/// The time between two renewals.
pub const PERIOD: Duration = Duration::from_secs(10);

/// The age of the last renewal above which the controller counts as absent: two renewals may fail.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// True if the controller renewed its Lease at `renewed_at`, at most [`STALE_AFTER`] before `now`.
///
/// The two times come from the clocks of two nodes. A renewal in the future is fresh, however far ahead: a controller whose clock is wrong
/// works all the same.
pub fn is_fresh(renewed_at: Option<Timestamp>, now: Timestamp) -> bool {
    renewed_at.is_some_and(|at| Duration::try_from(now.duration_since(at)).map_or(true, |age| age <= STALE_AFTER))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use rstest::rstest;

    use super::*;

    /// The age of the last renewal in milliseconds, and whether it is fresh.
    #[rstest]
    #[case::never(None, false)]
    #[case::now(Some(0), true)]
    #[case::one_period_ago(Some(10_000), true)]
    #[case::two_renewals_failed(Some(29_999), true)]
    #[case::at_the_limit(Some(30_000), true)]
    #[case::just_stale(Some(30_001), false)]
    #[case::long_ago(Some(86_400_000), false)]
    #[case::a_clock_that_is_ahead(Some(-5_000), true)]
    #[case::a_clock_that_is_far_ahead(Some(-86_400_000), true)]
    fn freshness(#[case] age: Option<i64>, #[case] expected: bool) {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let renewed = age.map(|age| now.checked_sub(SignedDuration::from_millis(age)).unwrap());
        assert_eq!(is_fresh(renewed, now), expected);
    }

    #[test]
    fn never_renewed_in_a_lifetime_of_clocks() {
        assert!(!is_fresh(Some(Timestamp::MIN), Timestamp::MAX));
        assert!(is_fresh(Some(Timestamp::MAX), Timestamp::MIN));
    }
}
