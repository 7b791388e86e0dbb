//! Batches clones of one source so that they share a VolumeSnapshot: decides which pass creates the next one, and for which
//! clones.
//!
//! Only a hint: what is decided here makes snapshots few, not right. Who shares one is written in the snapshot, and what a restart
//! forgets here is gathered again by the next passes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    clone::shared_snapshot::{MAX_MEMBERS, Members},
    object::ObjectName,
};

/// After a snapshot was asked for, others gather for this long before the next one is.
const GATHERING_TIME: Duration = Duration::from_millis(300);

/// A snapshot that was asked for shows up in the cache within this time, or something went wrong.
const MAX_CACHE_DELAY: Duration = Duration::from_secs(5);

/// Where and how a source is cut: its UID, and the VolumeSnapshotClass, which is the same for all who may share.
pub type BatchKey = (String, Option<String>);

/// What a clone that needs a snapshot is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ask for one, for these.
    Now(Members),
    /// Others are at it; look again after this time at the latest.
    Later(Duration),
}

#[derive(Default)]
struct Batch {
    waiting: Members,
    /// Since when somebody is at it.
    cutting: Option<Instant>,
    /// When the last one was asked for.
    last: Option<Instant>,
    /// Who is in snapshots that may not show yet.
    served: Vec<(Instant, BTreeSet<String>)>,
}

/// The gatherings, by what is cut.
#[derive(Default)]
pub struct SnapshotBatches(Mutex<HashMap<BatchKey, Batch>>);

impl SnapshotBatches {
    /// The clone `uid` needs a snapshot; `has_room` says for which namespaces one more may be asked for now. Clones of a namespace that has
    /// no room join no snapshot of others either, or they would fill all places by and by.
    pub fn join(
        &self,
        key: BatchKey,
        (uid, name): (&str, ObjectName),
        has_room: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Turn {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, g| {
            !g.waiting.is_empty()
                || g.last.is_some_and(|last| now.duration_since(last) < MAX_CACHE_DELAY + MAX_CACHE_DELAY)
        });
        let batch = all.entry(key).or_default();
        batch.served.retain(|(since, _)| now.duration_since(*since) < MAX_CACHE_DELAY);
        if batch.served.iter().any(|(_, members)| members.contains(uid)) {
            return Turn::Later(MAX_CACHE_DELAY);
        }
        let room_here = has_room(&name.namespace);
        batch.waiting.insert(uid.to_owned(), name);
        if batch.cutting.is_some_and(|since| now.duration_since(since) < MAX_CACHE_DELAY) {
            return Turn::Later(MAX_CACHE_DELAY);
        }
        if !room_here {
            return Turn::Later(MAX_CACHE_DELAY);
        }
        // An idle source is cut at once.
        let rest = batch.last.map(|last| GATHERING_TIME.saturating_sub(now.duration_since(last)));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Turn::Later(rest);
        }
        batch.cutting = Some(now);
        let mut members = Members::new();
        members.insert(uid.to_owned(), batch.waiting.get(uid).cloned().unwrap_or_else(|| unnamed(uid)));
        for (other, name) in in_turn(&batch.waiting, has_room) {
            if members.len() < MAX_MEMBERS {
                members.insert(other.clone(), name.clone());
            }
        }
        Turn::Now(members)
    }

    /// The turn is over: these are served, or nobody if it went wrong.
    pub fn finish(&self, key: &BatchKey, served: Option<&Members>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(batch) = all.get_mut(key) else { return };
        batch.cutting = None;
        if let Some(members) = served {
            batch.last = Some(now);
            batch.waiting.retain(|uid, _| !members.contains_key(uid));
            batch.served.push((now, members.keys().cloned().collect()));
        }
    }

    /// Forgets clones that wait no more, for whatever reason.
    pub fn forget(&self, uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in all.values_mut() {
            batch.waiting.remove(uid);
        }
    }
}

/// Those whose namespaces have room, one of each namespace after the other: many clones of one namespace leave nobody else behind.
fn in_turn(waiting: &Members, has_room: impl Fn(&str) -> bool) -> impl Iterator<Item = (&String, &ObjectName)> {
    let mut by_namespace: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (uid, name) in waiting {
        by_namespace.entry(&name.namespace).or_default().push((uid, name));
    }
    by_namespace.retain(|namespace, _| has_room(namespace));
    let ranked = by_namespace.into_values().flat_map(|of_one| of_one.into_iter().enumerate());
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, member)| member)
}

fn unnamed(uid: &str) -> ObjectName {
    ObjectName { namespace: String::new(), name: uid.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName { namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn the_first_goes_at_once_and_those_who_gather_go_together() {
        let (batches, start) = (SnapshotBatches::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let join = |uid: &str, room, at| batches.join(cut(), (uid, name(uid)), |_| room, at);
        let Turn::Now(first) = join("b", true, start) else { panic!("the first waits") };
        assert_eq!(first.keys().collect::<Vec<_>>(), ["b"]);
        // Two come while it is asked for, and one while it is cut.
        assert_eq!(join("c", true, start), Turn::Later(MAX_CACHE_DELAY));
        batches.finish(&cut(), Some(&first), start);
        assert_eq!(join("a", true, start), Turn::Later(GATHERING_TIME));
        // The cache is behind: whoever is served doesn't ask again.
        assert_eq!(join("b", true, start + GATHERING_TIME), Turn::Later(MAX_CACHE_DELAY));
        let Turn::Now(second) = join("c", true, start + GATHERING_TIME) else { panic!("still waits") };
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "c"]);
        batches.finish(&cut(), Some(&second), start + GATHERING_TIME);
        // Two are enough.
        assert_eq!(join("d", false, start + 2 * MAX_CACHE_DELAY), Turn::Later(MAX_CACHE_DELAY));
        assert!(matches!(join("d", true, start + 2 * MAX_CACHE_DELAY), Turn::Now(_)));
    }

    #[test]
    fn a_turn_that_came_to_nothing_is_the_next_ones() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || ("source".to_owned(), Some("class".to_owned()));
        assert!(matches!(batches.join(cut(), ("a", name("a")), |_| true, now), Turn::Now(_)));
        batches.finish(&cut(), None, now);
        batches.forget("a");
        let Turn::Now(members) = batches.join(cut(), ("b", name("b")), |_| true, now) else {
            panic!("waits for nobody")
        };
        assert_eq!(members.len(), 1);
    }

    /// What a namespace can't finish is its own: it neither keeps others from a snapshot nor comes into theirs.
    #[test]
    fn one_namespace_s_stuck_snapshots_keep_nobody_else_waiting() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let has_room = |namespace: &str| namespace != "stuck";
        for uid in ["a", "b", "c"] {
            assert_eq!(batches.join(cut(), (uid, of("stuck", uid)), has_room, now), Turn::Later(MAX_CACHE_DELAY));
        }
        let Turn::Now(members) = batches.join(cut(), ("x", of("other", "x")), has_room, now) else {
            panic!("waits for strangers")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["x"]);
        batches.finish(&cut(), Some(&members), now);
        // When there is room again, they go together.
        let Turn::Now(members) = batches.join(cut(), ("b", of("stuck", "b")), |_| true, now + GATHERING_TIME) else {
            panic!("still waits")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    /// A snapshot has so many members at most; a namespace with more clones than that leaves room for others.
    #[test]
    fn everybody_who_waits_is_in_the_next_snapshot_however_many_others_wait() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let join = |uid: &str, namespace, room| batches.join(cut(), (uid, of(namespace, uid)), |_| room, now);
        for number in 0..=MAX_MEMBERS {
            join(&format!("a{number:04}"), "many", false);
        }
        join("z", "few", false);
        let Turn::Now(members) = join("a0000", "many", true) else { panic!("waits for nobody") };
        assert_eq!(members.len(), MAX_MEMBERS);
        assert!(members.contains_key("z"));
    }
}
