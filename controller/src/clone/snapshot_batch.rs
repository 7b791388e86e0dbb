//! Batches clones of one source so that they share a VolumeSnapshot: decides which pass creates the next one, and for which
//! clones.
//!
//! A single clone does not wait: the next snapshot is created at once unless another one of the source is being taken. Meanwhile, arriving
//! clones gather for a short time and share the next one.
//!
//! A hint only: it reduces the number of snapshots and does not affect correctness. The snapshot itself records the clones that share it.
//! After a restart the next passes gather the waiting clones again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    clone::{
        objects::SnapshotTemplate,
        shared_snapshot::{MAX_MEMBERS, Members},
    },
    object::ObjectName,
};

/// The longest time for which clones gather while a snapshot of the source is being taken. Slow drivers need minutes; then more than one
/// snapshot is taken at a time.
const MAX_GATHERING_TIME: Duration = Duration::from_millis(300);

/// The time within which a created snapshot is in the cache. After it, the creation is assumed to have failed.
const MAX_CACHE_DELAY: Duration = Duration::from_secs(5);

/// The clones that may share a snapshot: those of one source (by UID) and one VolumeSnapshotClass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BatchKey {
    source_uid: String,
    class: Option<String>,
}

impl From<&SnapshotTemplate> for BatchKey {
    fn from(wanted: &SnapshotTemplate) -> Self {
        Self { source_uid: wanted.source_uid.clone(), class: wanted.class.clone() }
    }
}

/// The answer to a clone that needs a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Create one, for these clones.
    Ask(Members),
    /// Wait for an event of the source's snapshots, for this time at most.
    Wait(Duration),
}

/// The source's snapshots as the pass observed them.
#[derive(Clone, Copy)]
pub struct Room<F> {
    /// True if one of them is being taken.
    pub is_cutting: bool,
    /// True for a namespace for which one more may be created now.
    pub of: F,
}

#[derive(Default)]
struct Batch {
    waiting: Members,
    /// The time at which a pass was told to create one; absent once that pass has finished.
    cutting: Option<Instant>,
    /// The time at which the last one was created.
    last: Option<Instant>,
    /// Snapshots that were created recently.
    served: Vec<Served>,
}

/// A snapshot that was created.
struct Served {
    at: Instant,
    members: BTreeSet<String>,
    /// True if a pass over a member has observed it.
    is_seen: bool,
}

/// The batches of all sources.
#[derive(Default)]
pub struct SnapshotBatches(Mutex<HashMap<BatchKey, Batch>>);

impl SnapshotBatches {
    /// Adds the clone `uid`, which needs a snapshot. Clones of a namespace that has no room do not join a snapshot of others either,
    /// because they would gradually take all places.
    pub fn join(
        &self,
        key: BatchKey,
        (uid, name): (&str, ObjectName),
        room: Room<impl Fn(&str) -> bool>,
        now: Instant,
    ) -> Answer {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, g| {
            !g.waiting.is_empty()
                || g.last.is_some_and(|last| now.duration_since(last) < MAX_CACHE_DELAY + MAX_CACHE_DELAY)
        });
        let batch = all.entry(key).or_default();
        batch.served.retain(|served| now.duration_since(served.at) < MAX_CACHE_DELAY);
        if batch.served.iter().any(|served| served.members.contains(uid)) {
            return Answer::Wait(MAX_CACHE_DELAY);
        }
        let room_here = (room.of)(&name.namespace);
        batch.waiting.insert(uid.to_owned(), name);
        if batch.cutting.is_some_and(|since| now.duration_since(since) < MAX_CACHE_DELAY) || !room_here {
            return Answer::Wait(MAX_CACHE_DELAY);
        }
        if room.is_cutting || batch.served.iter().any(|served| !served.is_seen) {
            let rest = batch.last.map(|last| MAX_GATHERING_TIME.saturating_sub(now.duration_since(last)));
            if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
                return Answer::Wait(rest);
            }
        }
        batch.cutting = Some(now);
        let mut members = Members::new();
        members.insert(uid.to_owned(), batch.waiting.get(uid).cloned().unwrap_or_else(|| unnamed(uid)));
        for (other, name) in in_turn(&batch.waiting, room.of) {
            if members.len() < MAX_MEMBERS {
                members.insert(other.clone(), name.clone());
            }
        }
        Answer::Ask(members)
    }

    /// Ends the creation of a snapshot: `served` are its members; absent if it failed.
    pub fn finish(&self, key: &BatchKey, served: Option<&Members>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(batch) = all.get_mut(key) else { return };
        batch.cutting = None;
        if let Some(members) = served {
            batch.last = Some(now);
            batch.waiting.retain(|uid, _| !members.contains_key(uid));
            let members = members.keys().cloned().collect();
            batch.served.push(Served { at: now, members, is_seen: false });
        }
    }

    /// Removes the clone `uid`, which needs no snapshot any more. A snapshot that was created for it has been observed.
    pub fn leave(&self, uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in all.values_mut() {
            batch.waiting.remove(uid);
            for served in batch.served.iter_mut().filter(|served| served.members.contains(uid)) {
                served.is_seen = true;
            }
        }
    }
}

/// The clones whose namespaces have room, in round-robin order of their namespaces: many clones of one namespace do not delay others.
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

    /// No snapshot is being taken, according to the cache.
    fn idle<F: Fn(&str) -> bool>(of: F) -> Room<F> {
        Room { is_cutting: false, of }
    }

    /// Sequential clones of one source do not wait for each other.
    #[test]
    fn who_is_alone_does_not_wait() {
        let (batches, start) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        for (number, uid) in ["a", "b", "c"].into_iter().enumerate() {
            let at = start + Duration::from_millis(100) * u32::try_from(number).unwrap();
            let answer = batches.join(cut(), (uid, name(uid)), idle(|_| true), at);
            let Answer::Ask(members) = answer else { panic!("{uid} waits: {answer:?}") };
            batches.finish(&cut(), Some(&members), at);
            // Its snapshot has been observed, and is ready by now.
            batches.leave(uid);
        }
    }

    /// Clones gather while a snapshot is being taken, up to the time limit.
    #[test]
    fn clones_gather_while_a_snapshot_is_being_cut() {
        let (batches, start) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        let join = |uid: &str, is_cutting, at| {
            batches.join(cut(), (uid, name(uid)), Room { is_cutting, of: |_: &str| true }, at)
        };
        let Answer::Ask(first) = join("a", false, start) else { panic!("the first waits") };
        batches.finish(&cut(), Some(&first), start);
        batches.leave("a");
        assert_eq!(join("b", true, start), Answer::Wait(MAX_GATHERING_TIME));
        // Ready early: they share one snapshot.
        assert!(matches!(join("c", false, start), Answer::Ask(members) if members.len() == 2));
        batches.finish(&cut(), None, start);
        assert!(matches!(join("b", true, start + MAX_GATHERING_TIME), Answer::Ask(_)));
    }

    #[test]
    fn the_first_goes_at_once_and_those_who_gather_go_together() {
        let (batches, start) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        let join = |uid: &str, room, at| batches.join(cut(), (uid, name(uid)), idle(|_| room), at);
        let Answer::Ask(first) = join("b", true, start) else { panic!("the first waits") };
        assert_eq!(first.keys().collect::<Vec<_>>(), ["b"]);
        // Two arrive before it is created, and one while it is being taken.
        assert_eq!(join("c", true, start), Answer::Wait(MAX_CACHE_DELAY));
        batches.finish(&cut(), Some(&first), start);
        assert_eq!(join("a", true, start), Answer::Wait(MAX_GATHERING_TIME));
        // The cache lags behind: a clone that is served does not ask again.
        assert_eq!(join("b", true, start + MAX_GATHERING_TIME), Answer::Wait(MAX_CACHE_DELAY));
        let Answer::Ask(second) = join("c", true, start + MAX_GATHERING_TIME) else { panic!("still waits") };
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "c"]);
        batches.finish(&cut(), Some(&second), start + MAX_GATHERING_TIME);
        // No room for another one.
        assert_eq!(join("d", false, start + 2 * MAX_CACHE_DELAY), Answer::Wait(MAX_CACHE_DELAY));
        assert!(matches!(join("d", true, start + 2 * MAX_CACHE_DELAY), Answer::Ask(_)));
    }

    #[test]
    fn a_turn_that_came_to_nothing_is_the_next_ones() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: Some("class".to_owned()) };
        assert!(matches!(batches.join(cut(), ("a", name("a")), idle(|_| true), now), Answer::Ask(_)));
        batches.finish(&cut(), None, now);
        batches.leave("a");
        let Answer::Ask(members) = batches.join(cut(), ("b", name("b")), idle(|_| true), now) else {
            panic!("waits for nobody")
        };
        assert_eq!(members.len(), 1);
    }

    /// Stuck snapshots of one namespace neither delay the clones of others nor join their snapshots.
    #[test]
    fn one_namespace_s_stuck_snapshots_keep_nobody_else_waiting() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let has_room = |namespace: &str| namespace != "stuck";
        for uid in ["a", "b", "c"] {
            assert_eq!(
                batches.join(cut(), (uid, of("stuck", uid)), idle(has_room), now),
                Answer::Wait(MAX_CACHE_DELAY)
            );
        }
        let Answer::Ask(members) = batches.join(cut(), ("x", of("other", "x")), idle(has_room), now) else {
            panic!("waits for strangers")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["x"]);
        batches.finish(&cut(), Some(&members), now);
        // When there is room again, they share one snapshot.
        let Answer::Ask(members) =
            batches.join(cut(), ("b", of("stuck", "b")), idle(|_| true), now + MAX_GATHERING_TIME)
        else {
            panic!("still waits")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    /// The number of members is limited. A namespace with more clones leaves places for others.
    #[test]
    fn everybody_who_waits_is_in_the_next_snapshot_however_many_others_wait() {
        let (batches, now) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let join = |uid: &str, namespace, room| batches.join(cut(), (uid, of(namespace, uid)), idle(|_| room), now);
        for number in 0..=MAX_MEMBERS {
            join(&format!("a{number:04}"), "many", false);
        }
        join("z", "few", false);
        let Answer::Ask(members) = join("a0000", "many", true) else { panic!("waits for nobody") };
        assert_eq!(members.len(), MAX_MEMBERS);
        assert!(members.contains_key("z"));
    }
}
