//! Throttles status updates and events of clones that progress normally. A clone that waits for somebody is always reported. Each status or
//! event costs the API server as much as a step of the clone itself. All clones share one token bucket.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    api::Phase,
    clone::{Observed, Plan, Waiting, Write, wait::EndsBy},
};

/// The limits of reports of normal progress.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// The minimum age of a state before it is reported.
    min_age: Duration,
    /// The age at which a state is reported even without a token, so that users learn why a clone waits.
    max_delay: Duration,
    /// The number of tokens that a report takes.
    cost: u32,
}

/// Of a clone whose status smartclone writes.
const ALONE: Limits = Limits { min_age: Duration::from_millis(250), max_delay: Duration::from_secs(5), cost: 1 };

/// Of a clone whose status CDI writes after each of our writes to its claim. CDI's controller makes 20 writes a second in all.
const BESIDE_CDI: Limits = Limits { min_age: Duration::from_secs(1), max_delay: Duration::from_secs(15), cost: 3 };

/// The refill interval of the token bucket: the average time between two reports of normal progress, for all clones together.
const REFILL_INTERVAL: Duration = Duration::from_millis(200);

/// The capacity of the token bucket: the number of such reports that may be sent at once.
const BURST: u32 = 5;

/// The time until the next attempt of a report for which the bucket had no token.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The time without a pass after which an entry is removed: its DataVolume is gone.
const ENTRY_TTL: Duration = Duration::from_mins(1);

/// The states that have not been reported, and the bucket of tokens for reports.
#[derive(Default)]
pub struct StatusThrottle(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    /// The beginning of each state, and the time of the last pass, by the DataVolume's UID.
    states: HashMap<String, (Instant, Instant)>,
    /// The time at which the bucket is full again.
    full_at: Option<Instant>,
}

impl Pending {
    /// The time for which the report of a state of this age can wait; `None` if it is due.
    fn rest(&mut self, lasted: Duration, limits: Limits, now: Instant) -> Option<Duration> {
        let young = limits.min_age.saturating_sub(lasted);
        if !young.is_zero() {
            return Some(young);
        }
        (!self.take_tokens(limits.cost, now) && lasted < limits.max_delay).then_some(RETRY_AFTER)
    }

    /// Takes so many tokens, if they are there.
    fn take_tokens(&mut self, count: u32, now: Instant) -> bool {
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now) + REFILL_INTERVAL * count;
        let has_token = full_at <= now + REFILL_INTERVAL * BURST;
        if has_token {
            self.full_at = Some(full_at);
        }
        has_token
    }
}

impl StatusThrottle {
    /// The time for which the report of `plan` can wait; `None` if it is due.
    pub fn delay(&self, seen: &Observed, plan: &Plan, now: Instant) -> Option<Duration> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_normal_progress(seen, plan) {
            pending.states.remove(&seen.volume.uid);
            return None;
        }
        pending.states.retain(|_, (_, asked)| now.duration_since(*asked) < ENTRY_TTL);
        let (since, asked) = pending.states.entry(seen.volume.uid.clone()).or_insert((now, now));
        *asked = now;
        let lasted = now.duration_since(*since);
        let limits = if seen.volume.reported_by_cdi.is_some() { BESIDE_CDI } else { ALONE };
        let rest = pending.rest(lasted, limits, now);
        if rest.is_none() {
            pending.states.remove(&seen.volume.uid);
        }
        rest
    }
}

/// True for a state of normal progress that contains nothing that has to be stored or that a user has to know.
fn is_normal_progress(seen: &Observed, plan: &Plan) -> bool {
    let in_progress = matches!(
        plan.phase,
        Phase::CloneScheduled
            | Phase::SnapshotForSmartCloneInProgress
            | Phase::CloneFromSnapshotSourceInProgress
            | Phase::CsiCloneInProgress
            | Phase::RebindInProgress
    );
    let usual = plan.waiting.as_ref().is_none_or(|waiting| {
        let is_brief = matches!(waiting, Waiting::MoverNotRunning { pod_says: None } | Waiting::BeingDeleted { .. });
        is_brief || waiting.ends_by() == EndsBy::Work
    });
    let old = &seen.volume.status;
    let restarted = plan.restarts != old.restart_count.unwrap_or_default();
    // The final size is needed even if the source is gone.
    let grows = plan.chosen.as_ref().is_some_and(|chosen| chosen.sizes.create_at < chosen.sizes.finally)
        && old.clone.as_ref().is_none_or(|clone| clone.final_size.is_none());
    let decided = plan.actions.iter().any(|action| matches!(action, Write::Pin(_)));
    in_progress && usual && !restarted && !grows && !decided && plan.refused.is_none() && plan.notes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_once_and_then_one_at_a_time() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        let now = |afforded: usize, at: Instant, pending: &mut Pending| {
            let count = (0..20).filter(|_| pending.take_tokens(1, at)).count();
            assert_eq!(count, afforded, "{:?} after the start", at - start);
        };
        now(5, start, &mut pending);
        now(0, start + REFILL_INTERVAL / 2, &mut pending);
        now(1, start + REFILL_INTERVAL, &mut pending);
        now(5, start + REFILL_INTERVAL * 60, &mut pending);
    }

    #[test]
    fn a_report_waits_for_room_but_not_for_ever() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        assert_eq!(pending.rest(Duration::ZERO, ALONE, start), Some(ALONE.min_age));
        for _ in 0..BURST {
            assert_eq!(pending.rest(ALONE.min_age, ALONE, start), None);
        }
        assert_eq!(pending.rest(ALONE.min_age, ALONE, start), Some(RETRY_AFTER));
        assert_eq!(pending.rest(RETRY_AFTER, ALONE, start), Some(RETRY_AFTER));
        assert_eq!(pending.rest(ALONE.max_delay, ALONE, start), None);
        // Beside CDI a report takes more of the room that all share, and waits for longer.
        let later = start + REFILL_INTERVAL * 60;
        assert_eq!(
            pending.rest(ALONE.min_age, BESIDE_CDI, later),
            Some(BESIDE_CDI.min_age.saturating_sub(ALONE.min_age))
        );
        let reported = |pending: &mut Pending| pending.rest(BESIDE_CDI.min_age, BESIDE_CDI, later).is_none();
        assert_eq!([reported(&mut pending), reported(&mut pending)], [true, false]);
        assert_eq!(pending.rest(ALONE.max_delay, BESIDE_CDI, later), Some(RETRY_AFTER));
        assert_eq!(pending.rest(BESIDE_CDI.max_delay, BESIDE_CDI, later), None);
    }
}
