//! Shared snapshots: all clones of one source that are known when its snapshot is asked for share it.
//!
//! Who shares it is written in the snapshot when it is created, so a crash can't part a member from it, and since only clones that
//! exist by then are written in it, it is never older than any of them. It is deleted when no member needs it any more.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::snapshot::VolumeSnapshot,
    keys,
    object::{self, ObjectName, ObjectVersion, exact},
    quantity::Bytes,
};

/// At most this many of our snapshots of one source live at a time, as one namespace sees it (see [`SharedSnapshots::has_room`]). Some drivers allow
/// three, and the user may have one of his own.
pub const MAX_LIVE_SNAPSHOTS: usize = 2;

/// At most this many live, whosoever they are. It takes four namespaces with two stuck snapshots each to reach it; then the deadlines of
/// their attempts make room, and whoever waits longer than his own deadline for a turn gets a copy. A driver that allows fewer answers
/// `ResourceExhausted` or the like, which is waited for until the attempt's deadline.
pub const MAX_LIVE_SNAPSHOTS_OF_ALL: usize = 8;

/// A snapshot that lives for longer than this is slow or stuck, and is a matter of the namespaces whose clones wait for it.
pub const SLOW_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// At most this many clones share a snapshot: they are listed in an annotation, and all annotations together have 256 KiB.
pub const MAX_MEMBERS: usize = 500;

/// Clones by UID.
pub type Members = BTreeMap<String, ObjectName>;

/// A temporary snapshot of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSnapshot {
    /// Which one.
    pub exact: ObjectVersion,
    /// It carries our label and lists its members.
    pub ours: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// When it was asked for.
    pub created: Option<Timestamp>,
    /// For whom.
    pub members: Members,
    /// A volume may be restored from it.
    pub ready: bool,
    /// What a restore needs, as the driver says.
    pub restore_size: Option<Bytes>,
    /// What the driver complains about.
    pub error: Option<String>,
}

impl SharedSnapshot {
    /// Reads a snapshot.
    pub fn of(snapshot: &VolumeSnapshot) -> Self {
        let status = snapshot.status.as_ref();
        let meta = &snapshot.metadata;
        let members = object::annotation(meta, keys::MEMBERS).and_then(read_members).unwrap_or_default();
        Self {
            exact: exact(meta),
            ours: meta.labels.as_ref().is_some_and(|l| l.contains_key(keys::OWNED_BY_UID)) && !members.is_empty(),
            deleting: meta.deletion_timestamp.is_some(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            members,
            ready: status.and_then(|s| s.ready_to_use).unwrap_or_default(),
            restore_size: status.and_then(|s| s.restore_size.as_ref()).and_then(|q| Bytes::of(q).ok()),
            error: status.and_then(|s| s.error.as_ref()).map(|e| e.message.clone().unwrap_or_default()),
        }
    }
}

/// The annotation [`keys::MEMBERS`] as it is written: `{"<uid>": "<namespace>/<name>"}`.
pub fn write_members(members: &Members) -> String {
    let all: BTreeMap<_, _> = members.iter().map(|(uid, name)| (uid, name.to_string())).collect();
    serde_json::to_string(&all).unwrap_or_default()
}

/// The members in the annotation; nothing, if it isn't ours.
pub fn read_members(text: &str) -> Option<Members> {
    let all: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    all.into_iter().map(|(uid, name)| Some((uid, name.parse().ok()?))).collect()
}

/// The temporary snapshots of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedSnapshots {
    /// Our temporary snapshots of the source, those included that are on their way out.
    pub snapshots: Vec<SharedSnapshot>,
}

impl SharedSnapshots {
    /// The snapshot that was taken for the clone `uid`; of two (a race, a crash) the older.
    pub fn of(&self, uid: &str) -> Option<&SharedSnapshot> {
        let mine = self.snapshots.iter().filter(|s| s.ours && !s.deleting && s.members.contains_key(uid));
        mine.min_by(|a, b| (a.created, &a.exact.name).cmp(&(b.created, &b.exact.name)))
    }
}

impl SharedSnapshots {
    /// One of them is being cut: it was asked for, and the driver has neither finished nor failed yet.
    pub fn is_cutting(&self) -> bool {
        self.snapshots.iter().any(|shared| shared.ours && !shared.ready && !shared.deleting && shared.error.is_none())
    }

    /// Whether a clone in `namespace` may ask for one more snapshot of the source at `now`; `waits` says whether a member still waits.
    ///
    /// All share the limit as long as snapshots come and go. One that stays counts only for the namespaces whose clones still wait for it,
    /// so that nobody is kept from cloning by what others can't finish.
    pub fn has_room(&self, namespace: &str, now: Timestamp, waits: impl Fn(&str, &ObjectName) -> bool) -> bool {
        let stays =
            |shared: &SharedSnapshot| shared.created.is_some_and(|created| now.duration_since(created) >= SLOW_AFTER);
        let of_namespace = |shared: &SharedSnapshot| {
            shared.members.iter().any(|(uid, name)| name.namespace == namespace && waits(uid, name))
        };
        let counted = self.snapshots.iter().filter(|shared| !stays(shared) || of_namespace(shared)).count();
        counted < MAX_LIVE_SNAPSHOTS && self.snapshots.len() < MAX_LIVE_SNAPSHOTS_OF_ALL
    }
}

/// Whether a clone needs its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is gone, done, or on another way by now.
    Over,
    /// Its volume isn't restored yet.
    Needed,
    /// Nobody can say.
    Unknown,
}

/// A snapshot is removed when it is sure that nobody needs it.
pub fn superfluous(needs: impl IntoIterator<Item = Need>) -> bool {
    needs.into_iter().all(|need| need == Need::Over)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{super::fixtures::now, *};

    fn shared(number: usize, seconds: i64, namespace: &str) -> SharedSnapshot {
        let uid = number.to_string();
        let exact = ObjectVersion {
            namespace: "gold".into(),
            name: uid.clone(),
            uid: uid.clone(),
            resource_version: "1".into(),
        };
        let name = ObjectName { namespace: namespace.into(), name: uid.clone() };
        SharedSnapshot {
            exact,
            ours: true,
            deleting: false,
            created: Some(now() - SignedDuration::from_secs(seconds)),
            members: [(uid, name)].into(),
            ready: false,
            restore_size: None,
            error: None,
        }
    }

    fn group(all: &[(i64, &str)]) -> SharedSnapshots {
        let snapshots = all.iter().enumerate().map(|(number, (age, whose))| shared(number, *age, whose));
        SharedSnapshots { snapshots: snapshots.collect() }
    }

    /// Snapshots by age in seconds and the namespace of their only member, which still waits; for a clone in `mine`.
    #[rstest]
    #[case::none(&[], true)]
    #[case::one(&[(1, "other")], true)]
    #[case::two_that_come_and_go(&[(1, "other"), (29, "mine")], false)]
    #[case::two_stuck_of_another(&[(30, "other"), (3000, "other")], true)]
    #[case::two_stuck_of_mine(&[(30, "mine"), (3000, "mine")], false)]
    #[case::stuck_and_coming(&[(30, "other"), (3000, "other"), (1, "other"), (1, "third")], false)]
    #[case::stuck_and_mine(&[(30, "other"), (3000, "other"), (40, "mine")], true)]
    #[case::too_many_of_anybody(&[(99, "a"), (99, "a"), (99, "b"), (99, "b"), (99, "c"), (99, "c"), (99, "d"), (99, "d")], false)]
    fn room(#[case] living: &[(i64, &str)], #[case] expected: bool) {
        assert_eq!(group(living).has_room("mine", now(), |_, _| true), expected);
    }

    #[test]
    fn a_member_that_is_done_holds_nothing_against_its_namespace() {
        let mut living = group(&[(99, "mine"), (99, "mine")]);
        for snapshot in &mut living.snapshots {
            snapshot.members.insert("x".into(), ObjectName { namespace: "other".into(), name: "x".into() });
        }
        assert!(living.has_room("mine", now(), |uid, _| uid == "x"));
        assert!(!living.has_room("other", now(), |uid, _| uid == "x"));
    }

    proptest! {
        /// What is written is read again; what isn't ours is no list.
        #[test]
        fn members_survive_writing_and_reading(members in proptest::collection::btree_map("[0-9a-f-]{1,36}", ("[a-z]{1,9}", "[a-z]{1,4}(-[a-z]|\\.[a-z]){0,3}"), 0..5), noise in ".*") {
            let members: Members =
                members.into_iter().map(|(uid, (namespace, name))| (uid, ObjectName { namespace, name })).collect();
            prop_assert_eq!(read_members(&write_members(&members)), Some(members));
            read_members(&noise);
        }
    }
}
