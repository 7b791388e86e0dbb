//! Whose turn it is to ask for the next snapshot of a source, and for whom.
//!
//! Only a hint: what is decided here makes snapshots few, not right. Who shares one is written in the snapshot, and what a restart
//! forgets here is gathered again by the next passes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::clone::{
    group::{MEMBERS, Members},
    request::ObjectName,
};

/// After a snapshot was asked for, others gather for this long before the next one is.
const GATHER: Duration = Duration::from_millis(300);

/// A snapshot that was asked for shows up in the cache within this time, or something went wrong.
const SHOWS: Duration = Duration::from_secs(5);

/// Where and how a source is cut: its UID, and the VolumeSnapshotClass, which is the same for all who may share.
pub type Cut = (String, Option<String>);

/// What a clone that needs a snapshot is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Ask for one, for these.
    Now(Members),
    /// Others are at it; look again after this time at the latest.
    Later(Duration),
}

#[derive(Default)]
struct Gathering {
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
pub struct Rally(Mutex<HashMap<Cut, Gathering>>);

impl Rally {
    /// The clone `uid` needs a snapshot; `has_room` says for which namespaces one more may be asked for now. Clones of a namespace that has
    /// no room join no snapshot of others either, or they would fill all places by and by.
    pub fn enter(
        &self,
        cut: Cut,
        (uid, name): (&str, ObjectName),
        has_room: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Turn {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, g| !g.waiting.is_empty() || g.last.is_some_and(|last| now.duration_since(last) < SHOWS + SHOWS));
        let gathering = all.entry(cut).or_default();
        gathering.served.retain(|(since, _)| now.duration_since(*since) < SHOWS);
        if gathering.served.iter().any(|(_, members)| members.contains(uid)) {
            return Turn::Later(SHOWS);
        }
        let room_here = has_room(&name.namespace);
        gathering.waiting.insert(uid.to_owned(), name);
        if gathering.cutting.is_some_and(|since| now.duration_since(since) < SHOWS) {
            return Turn::Later(SHOWS);
        }
        if !room_here {
            return Turn::Later(SHOWS);
        }
        // An idle source is cut at once.
        let rest = gathering.last.map(|last| GATHER.saturating_sub(now.duration_since(last)));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Turn::Later(rest);
        }
        gathering.cutting = Some(now);
        let mut members = Members::new();
        members.insert(uid.to_owned(), gathering.waiting.get(uid).cloned().unwrap_or_else(|| unnamed(uid)));
        for (other, name) in in_turn(&gathering.waiting, has_room) {
            if members.len() < MEMBERS {
                members.insert(other.clone(), name.clone());
            }
        }
        Turn::Now(members)
    }

    /// The turn is over: these are served, or nobody if it went wrong.
    pub fn leave(&self, cut: &Cut, served: Option<&Members>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gathering) = all.get_mut(cut) else { return };
        gathering.cutting = None;
        if let Some(members) = served {
            gathering.last = Some(now);
            gathering.waiting.retain(|uid, _| !members.contains_key(uid));
            gathering.served.push((now, members.keys().cloned().collect()));
        }
    }

    /// Forgets clones that wait no more, for whatever reason.
    pub fn forget(&self, uid: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for gathering in all.values_mut() {
            gathering.waiting.remove(uid);
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
        let (rally, start) = (Rally::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let enter = |uid: &str, room, at| rally.enter(cut(), (uid, name(uid)), |_| room, at);
        let Turn::Now(first) = enter("b", true, start) else { panic!("the first waits") };
        assert_eq!(first.keys().collect::<Vec<_>>(), ["b"]);
        // Two come while it is asked for, and one while it is cut.
        assert_eq!(enter("c", true, start), Turn::Later(SHOWS));
        rally.leave(&cut(), Some(&first), start);
        assert_eq!(enter("a", true, start), Turn::Later(GATHER));
        // The cache is behind: whoever is served doesn't ask again.
        assert_eq!(enter("b", true, start + GATHER), Turn::Later(SHOWS));
        let Turn::Now(second) = enter("c", true, start + GATHER) else { panic!("still waits") };
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "c"]);
        rally.leave(&cut(), Some(&second), start + GATHER);
        // Two are enough.
        assert_eq!(enter("d", false, start + 2 * SHOWS), Turn::Later(SHOWS));
        assert!(matches!(enter("d", true, start + 2 * SHOWS), Turn::Now(_)));
    }

    #[test]
    fn a_turn_that_came_to_nothing_is_the_next_ones() {
        let (rally, now) = (Rally::default(), Instant::now());
        let cut = || ("source".to_owned(), Some("class".to_owned()));
        assert!(matches!(rally.enter(cut(), ("a", name("a")), |_| true, now), Turn::Now(_)));
        rally.leave(&cut(), None, now);
        rally.forget("a");
        let Turn::Now(members) = rally.enter(cut(), ("b", name("b")), |_| true, now) else {
            panic!("waits for nobody")
        };
        assert_eq!(members.len(), 1);
    }

    /// What a namespace can't finish is its own: it neither keeps others from a snapshot nor comes into theirs.
    #[test]
    fn one_namespace_s_stuck_snapshots_keep_nobody_else_waiting() {
        let (rally, now) = (Rally::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let has_room = |namespace: &str| namespace != "stuck";
        for uid in ["a", "b", "c"] {
            assert_eq!(rally.enter(cut(), (uid, of("stuck", uid)), has_room, now), Turn::Later(SHOWS));
        }
        let Turn::Now(members) = rally.enter(cut(), ("x", of("other", "x")), has_room, now) else {
            panic!("waits for strangers")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["x"]);
        rally.leave(&cut(), Some(&members), now);
        // When there is room again, they go together.
        let Turn::Now(members) = rally.enter(cut(), ("b", of("stuck", "b")), |_| true, now + GATHER) else {
            panic!("still waits")
        };
        assert_eq!(members.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    /// A snapshot has so many members at most; a namespace with more clones than that leaves room for others.
    #[test]
    fn everybody_who_waits_is_in_the_next_snapshot_however_many_others_wait() {
        let (rally, now) = (Rally::default(), Instant::now());
        let cut = || ("source".to_owned(), None);
        let of = |namespace: &str, name: &str| ObjectName { namespace: namespace.into(), name: name.into() };
        let enter = |uid: &str, namespace, room| rally.enter(cut(), (uid, of(namespace, uid)), |_| room, now);
        for number in 0..=MEMBERS {
            enter(&format!("a{number:04}"), "many", false);
        }
        enter("z", "few", false);
        let Turn::Now(members) = enter("a0000", "many", true) else { panic!("waits for nobody") };
        assert_eq!(members.len(), MEMBERS);
        assert!(members.contains_key("z"));
    }
}
