//! An index that a watch fills: the names of objects by what they refer to.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The time after which an object that is not in the cache is gone. Before, it may not be in the cache yet, for example during a relist.
pub(super) const MAX_CACHE_DELAY: Duration = Duration::from_mins(1);

struct Maps<K, N> {
    names: HashMap<K, BTreeSet<N>>,
    keys: HashMap<N, Vec<K>>,
    unconfirmed: VecDeque<(Instant, N)>,
}

/// The names of objects by their keys. Deleted objects are kept for a while.
pub struct NamesByKey<K, N>(Mutex<Maps<K, N>>);

impl<K, N> Default for NamesByKey<K, N> {
    fn default() -> Self {
        Self(Mutex::new(Maps { names: HashMap::new(), keys: HashMap::new(), unconfirmed: VecDeque::new() }))
    }
}

impl<K: Clone + Eq + Hash, N: Clone + Hash + Ord> Maps<K, N> {
    fn replace(&mut self, name: N, keys: Vec<K>) {
        if self.keys.get(&name).map(Vec::as_slice).unwrap_or_default() == keys {
            return;
        }
        for key in self.keys.remove(&name).unwrap_or_default() {
            if let Some(names) = self.names.get_mut(&key) {
                names.remove(&name);
                if names.is_empty() {
                    self.names.remove(&key);
                }
            }
        }
        for key in &keys {
            self.names.entry(key.clone()).or_default().insert(name.clone());
        }
        if !keys.is_empty() {
            self.keys.insert(name, keys);
        }
    }
}

impl<K: Clone + Eq + Hash, N: Clone + Hash + Ord> NamesByKey<K, N> {
    /// Records the keys of an object that was created, changed or deleted. `exists` looks one up in the cache.
    pub(super) fn record(&self, name: N, keys: Vec<K>, now: Instant, exists: impl Fn(&N) -> bool) {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !exists(&name) {
            maps.unconfirmed.push_back((now, name.clone()));
        }
        maps.replace(name, keys);
        while let Some((_, name)) =
            maps.unconfirmed.pop_front_if(|(since, _)| now.duration_since(*since) > MAX_CACHE_DELAY)
        {
            if !exists(&name) {
                maps.replace(name, Vec::new());
            }
        }
    }

    /// The names of the objects with this key.
    pub(super) fn of(&self, key: &K) -> Vec<N> {
        let maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.names.get(key).into_iter().flatten().cloned().collect()
    }
}
