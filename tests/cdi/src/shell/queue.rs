//! A queue of names: each is worked on by one worker at a time, and comes again later after every failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The namespace and name of an object.
pub type Key = (String, String);

/// The first pause after a failure, which doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(1000);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    due: BTreeMap<Key, Instant>,
    running: BTreeSet<Key>,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// Adds a name, which is due at once.
    pub fn add(&self, key: Key) {
        self.add_at(key, Instant::now());
    }

    fn add_at(&self, key: Key, at: Instant) {
        self.with(|state| {
            let due = state.due.entry(key).or_insert(at);
            *due = at.min(*due);
        });
        self.changed.notify_one();
    }

    /// True if nothing is due.
    pub fn is_idle(&self) -> bool {
        let now = Instant::now();
        self.with(|state| state.due.values().all(|at| *at > now))
    }

    /// Waits for a name that is due and that nobody works on.
    pub async fn next(&self) -> Key {
        loop {
            let (found, earliest) = self.with(|state| {
                let free = state.due.iter().filter(|(key, _)| !state.running.contains(*key));
                let first = free.min_by_key(|(_, at)| **at).map(|(key, at)| (key.clone(), *at));
                match first {
                    Some((key, at)) if at <= Instant::now() => {
                        state.due.remove(&key);
                        state.running.insert(key.clone());
                        (Some(key), None)
                    }
                    first => (None, first.map(|(_, at)| at)),
                }
            });
            match (found, earliest) {
                (Some(key), _) => {
                    // The notification may have been for another worker.
                    self.changed.notify_one();
                    return key;
                }
                (None, Some(at)) => {
                    tokio::select! { () = sleep_until(at) => {}, () = self.changed.notified() => {} }
                }
                (None, None) => self.changed.notified().await,
            }
        }
    }

    /// Ends the work on a name. After a failure it is due again, later each time.
    pub fn done(&self, key: &Key, succeeded: bool) {
        let pause = self.with(|state| {
            state.running.remove(key);
            if succeeded {
                state.failures.remove(key);
                return None;
            }
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            Some(FIRST_PAUSE.saturating_mul(1 << (*failures - 1).min(20)).min(LONGEST_PAUSE))
        });
        if let Some(pause) = pause {
            self.add_at(key.clone(), Instant::now() + pause);
        }
        self.changed.notify_one();
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("n".to_owned(), name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_worked_on_once_and_then_again() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        let other = tokio::time::timeout(Duration::from_secs(1), queue.next()).await;
        assert!(other.is_err(), "somebody works on it");
        queue.done(&key("a"), true);
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_again_ever_later() {
        let queue = Queue::default();
        queue.add(key("a"));
        let start = Instant::now();
        for _ in 0..10 {
            queue.next().await;
            queue.done(&key("a"), false);
        }
        let first_ten = start.elapsed();
        assert!((2500..2700).contains(&first_ten.as_millis()), "{first_ten:?}");
    }
}
