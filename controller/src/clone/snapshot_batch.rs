//! Batches clones of one source so that they share a VolumeSnapshot: decides which pass creates the next one, and for which
//! clones.
//!
//! A clone that is alone does not wait: the next snapshot is asked for at once unless one of the source is being cut. While one is, the
//! clones that arrive gather, for a short time at most, and share the next one.
//!
//! Only a hint: what is decided here makes snapshots few, not right. Who shares one is written in the snapshot, and what a restart
//! forgets here is gathered again by the next passes.

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

/// The longest time for which clones gather while a snapshot of the source is being cut. Slow drivers cut for minutes; then more than one
/// snapshot is cut at a time.
const MAX_GATHERING_TIME: Duration = Duration::from_millis(300);

/// A snapshot that was asked for shows up in the cache within this time, or something went wrong.
const MAX_CACHE_DELAY: Duration = Duration::from_secs(5);

/// The clones that may share a snapshot: by the UID of the source, and the VolumeSnapshotClass.
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
    /// Ask for one, for these.
    Ask(Members),
    /// Wait for an event of the source's snapshots, for this time at the longest.
    Wait(Duration),
}

/// The source's snapshots as the pass sees them.
#[derive(Clone, Copy)]
pub struct Room<F> {
    /// One of them is being cut.
    pub is_cutting: bool,
    /// Says for which namespaces one more may be asked for now.
    pub of: F,
}

#[derive(Default)]
struct Batch {
    waiting: Members,
    /// Since when somebody is at it.
    cutting: Option<Instant>,
    /// When the last one was asked for.
    last: Option<Instant>,
    /// Snapshots that were asked for lately.
    served: Vec<Served>,
}

/// A snapshot that was asked for.
struct Served {
    at: Instant,
    members: BTreeSet<String>,
    /// A pass over a member has seen it.
    is_seen: bool,
}

/// The batches of all sources.
#[derive(Default)]
pub struct SnapshotBatches(Mutex<HashMap<BatchKey, Batch>>);

impl SnapshotBatches {
    /// The clone `uid` needs a snapshot. Clones of a namespace that has no room join no snapshot of others either, or they would fill all
    /// places by and by.
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

    /// The turn is over: these are served, or nobody if it went wrong.
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

    /// The clone `uid` needs no snapshot any more, for whatever reason. One that was asked for it has been seen.
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

    /// No snapshot is being cut, as far as the cache shows.
    fn idle<F: Fn(&str) -> bool>(of: F) -> Room<F> {
        Room { is_cutting: false, of }
    }

    /// Clones of one source that come one after the other do not wait for each other.
    #[test]
    fn who_is_alone_does_not_wait() {
        let (batches, start) = (SnapshotBatches::default(), Instant::now());
        let cut = || BatchKey { source_uid: "source".to_owned(), class: None };
        for (number, uid) in ["a", "b", "c"].into_iter().enumerate() {
            let at = start + Duration::from_millis(100) * u32::try_from(number).unwrap();
            let answer = batches.join(cut(), (uid, name(uid)), idle(|_| true), at);
            let Answer::Ask(members) = answer else { panic!("{uid} waits: {answer:?}") };
            batches.finish(&cut(), Some(&members), at);
            // Its snapshot has been seen, and is ready by now.
            batches.leave(uid);
        }
    }

    /// While one is being cut, clones gather; not for longer than the limit.
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
        // Ready early: they go together.
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
        // Two come while it is asked for, and one while it is cut.
        assert_eq!(join("c", true, start), Answer::Wait(MAX_CACHE_DELAY));
        batches.finish(&cut(), Some(&first), start);
        assert_eq!(join("a", true, start), Answer::Wait(MAX_GATHERING_TIME));
        // The cache is behind: whoever is served doesn't ask again.
        assert_eq!(join("b", true, start + MAX_GATHERING_TIME), Answer::Wait(MAX_CACHE_DELAY));
        let Answer::Ask(second) = join("c", true, start + MAX_GATHERING_TIME) else { panic!("still waits") };
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "c"]);
        batches.finish(&cut(), Some(&second), start + MAX_GATHERING_TIME);
        // Two are enough.
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

    /// What a namespace can't finish is its own: it neither keeps others from a snapshot nor comes into theirs.
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
        // When there is room again, they go together.
        let Answer::Ask(members) =
            batches.join(cut(), ("b", of("stuck", "b")), idle(|_| true), now + MAX_GATHERING_TIME)
        else {
            panic!("still waits")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    /// A snapshot has so many members at most; a namespace with more clones than that leaves room for others.
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
