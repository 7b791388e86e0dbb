//! What a driver has refused isn't asked of it again for a while: five hundred clones need not each find out for themselves.
//!
//! A refusal is remembered for one strategy, driver and class of the source, in the StorageProfile of the clone's class, where admins see
//! it and both gates read it. While it is *open* the strategy counts as impossible. After that it is tried again; a second refusal in a row
//! closes the way for twice as long, a success forgets the matter.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{CloneStrategy, Refusal};

/// How long the first refusal counts.
pub const FIRST: SignedDuration = SignedDuration::from_mins(5);
/// The longest time for which a refusal counts.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(6);
/// How many refusals one profile remembers.
pub const REMEMBERED: usize = 32;

/// Whether what was refused isn't tried now.
pub fn open(refusal: &Refusal, now: Timestamp) -> bool {
    refusal.until.as_ref().is_some_and(|until| now < until.0)
}

/// What is remembered after a terminal refusal. Equal to `refusals` when it is already known to be open: clones that were under way when
/// the first one was refused find out the same, and it is one refusal.
pub fn refused(
    refusals: &[Refusal],
    strategy: CloneStrategy,
    driver: &str,
    source_class: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Refusal> {
    let known = refusals.iter().find(|known| about(known, strategy, driver, source_class));
    if known.is_some_and(|known| open(known, now)) {
        return refusals.to_vec();
    }
    let count = known.map_or(0, |known| known.count).saturating_add(1);
    let mut next: Vec<_> = refusals.iter().filter(|r| !about(r, strategy, driver, source_class)).cloned().collect();
    // Oldest first, so that what was refused longest ago is forgotten first.
    next.sort_by_key(|known| known.last.as_ref().map(|last| last.0));
    next.drain(..next.len().saturating_sub(REMEMBERED - 1));
    next.push(Refusal {
        strategy: Some(strategy),
        source_class: Some(source_class.to_owned()),
        driver: Some(driver.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        count,
        last: Some(Time(now)),
        until: Some(Time(now.saturating_add(pause(count)).unwrap_or(Timestamp::MAX))),
    });
    next
}

/// What is remembered after a success; nothing, if nothing was remembered about it.
pub fn succeeded(
    refusals: &[Refusal],
    strategy: CloneStrategy,
    driver: &str,
    source_class: &str,
) -> Option<Vec<Refusal>> {
    let next: Vec<_> = refusals.iter().filter(|r| !about(r, strategy, driver, source_class)).cloned().collect();
    (next.len() < refusals.len()).then_some(next)
}

/// Five minutes, doubled with every refusal in a row, six hours at most.
fn pause(count: u32) -> SignedDuration {
    let doublings = count.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// Whether `refusal` is about this.
pub fn about(refusal: &Refusal, strategy: CloneStrategy, driver: &str, source_class: &str) -> bool {
    refusal.strategy == Some(strategy)
        && refusal.driver.as_deref() == Some(driver)
        && refusal.source_class.as_deref() == Some(source_class)
}

#[cfg(test)]
mod tests {
    use CloneStrategy::{CsiClone, Snapshot};
    use proptest::prelude::*;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_mins(minutes)).unwrap()
    }

    fn after(refusals: &[Refusal], minute: i64) -> Vec<Refusal> {
        refused(refusals, Snapshot, "driver", "slow", "OutOfRange", "no", at(minute))
    }

    fn blocked<'a>(
        refusals: &'a [Refusal],
        strategy: CloneStrategy,
        driver: &str,
        source_class: &str,
        now: Timestamp,
    ) -> Option<&'a Refusal> {
        refusals.iter().find(|known| about(known, strategy, driver, source_class) && open(known, now))
    }

    fn is_blocked(refusals: &[Refusal], minute: i64) -> bool {
        blocked(refusals, Snapshot, "driver", "slow", at(minute)).is_some()
    }

    #[test]
    fn opens_at_the_first_refusal_for_exactly_what_was_refused() {
        let refusals = after(&[], 0);
        assert!(is_blocked(&refusals, 4) && !is_blocked(&refusals, 5));
        assert!(blocked(&refusals, CsiClone, "driver", "slow", at(1)).is_none());
        assert!(blocked(&refusals, Snapshot, "other", "slow", at(1)).is_none());
        assert!(blocked(&refusals, Snapshot, "driver", "fast", at(1)).is_none());
    }

    #[test]
    fn a_second_refusal_in_a_row_counts_twice_as_long_and_a_success_forgets() {
        let twice = after(&after(&[], 0), 5);
        assert!(is_blocked(&twice, 14) && !is_blocked(&twice, 15));
        assert_eq!(twice.len(), 1);
        assert_eq!(succeeded(&twice, Snapshot, "driver", "slow"), Some(vec![]));
        assert_eq!(succeeded(&twice, CsiClone, "driver", "slow"), None);
    }

    #[test]
    fn what_is_found_out_twice_is_one_refusal() {
        let once = after(&[], 0);
        assert_eq!(after(&once, 1), once, "nothing to write");
    }

    proptest! {
        /// However long it goes on: bounded in number and time, the newest is remembered, and each key is there once.
        #[test]
        fn bounded(events in prop::collection::vec((0u8..60, 1i64..500), 1..120)) {
            let (mut refusals, mut minute) = (Vec::new(), 0);
            for (class, passed) in events {
                minute += passed;
                let class = class.to_string();
                refusals = refused(&refusals, Snapshot, "driver", &class, "no", "no", at(minute));
                prop_assert!(refusals.len() <= REMEMBERED);
                let newest = blocked(&refusals, Snapshot, "driver", &class, at(minute));
                prop_assert!(newest.is_some_and(|r| r.until.as_ref().unwrap().0 <= at(minute + 360)));
                let same = refusals.iter().filter(|r| r.source_class.as_deref() == Some(&class)).count();
                prop_assert_eq!(same, 1);
            }
        }
    }
}
