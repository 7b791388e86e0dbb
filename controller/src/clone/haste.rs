//! What passes at once isn't news: a snapshot clone is done within a fraction of a second, and each status or event on the way costs
//! the API server as much as a step of the clone itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    api::Phase,
    clone::{Observed, Plan},
};

/// A state that goes its usual way is reported when it has lasted this long.
const NEWS: Duration = Duration::from_millis(250);

/// No state is withheld for longer than [`NEWS`]; an entry of this age belongs to a DataVolume that is gone.
const FORGOTTEN: Duration = Duration::from_mins(1);

/// Since when a DataVolume's state has not been reported, by its UID.
#[derive(Default)]
pub struct Haste(Mutex<HashMap<String, Instant>>);

impl Haste {
    /// How long the report of `plan` can wait; nothing, if it is due.
    pub fn withhold(&self, seen: &Observed, plan: &Plan, now: Instant) -> Option<Duration> {
        let passing =
            matches!(plan.phase, Phase::SnapshotForSmartCloneInProgress | Phase::CloneFromSnapshotSourceInProgress);
        let usual = plan.waiting.as_ref().is_some_and(|waiting| !waiting.needs_somebody());
        let reported = seen.volume.status.phase == plan.phase;
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !passing || !usual || reported {
            pending.remove(&seen.volume.uid);
            return None;
        }
        pending.retain(|_, since| now.duration_since(*since) < FORGOTTEN);
        let since = *pending.entry(seen.volume.uid.clone()).or_insert(now);
        let rest = NEWS.saturating_sub(now.duration_since(since));
        if rest.is_zero() {
            pending.remove(&seen.volume.uid);
        }
        (!rest.is_zero()).then_some(rest)
    }
}
