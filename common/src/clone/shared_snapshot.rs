//! Shared snapshots: clones of one source that exist when its snapshot is requested share that snapshot.
//!
//! Its members are recorded in the snapshot at creation, so a crash can't lose one. Only clones that exist by then are recorded, so the
//! snapshot is never older than a member. It is deleted when no member needs it any more.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::snapshot::VolumeSnapshot,
    keys,
    object::{self, ObjectName, ObjectVersion, exact},
    quantity::Bytes,
};

/// The maximum number of our live snapshots of one source that count for a namespace (see [`SharedSnapshots::has_room`]). Some drivers
/// allow three, and the user may have one of his own.
pub const MAX_LIVE_SNAPSHOTS: usize = 2;

/// The maximum number of our live snapshots of one source. Four namespaces with two stuck snapshots each reach it; then their attempts'
/// deadlines make room, and a clone that waits longer than its own deadline for a turn is copied. A driver that allows fewer reports
/// `ResourceExhausted` or similar, and the attempt waits until its deadline.
pub const MAX_LIVE_SNAPSHOTS_OF_ALL: usize = 8;

/// The age from which a snapshot counts as slow or stuck; it then counts only for the namespaces whose clones wait for it.
pub const SLOW_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// The maximum number of clones that share a snapshot: they are listed in an annotation, and all annotations of an object are limited to
/// 256 KiB.
pub const MAX_MEMBERS: usize = 500;

/// Clones by UID.
pub type Members = BTreeMap<String, ObjectName>;

/// A temporary snapshot of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSnapshot {
    /// The VolumeSnapshot.
    pub exact: ObjectVersion,
    /// True if it has our label and lists its members.
    pub ours: bool,
    /// True if it is being deleted.
    pub deleting: bool,
    /// The time of its creation.
    pub created: Option<Timestamp>,
    /// The clones that share it.
    pub members: Members,
    /// True if a volume can be restored from it.
    pub ready: bool,
    /// The minimum size of a restored volume, as the driver reports it.
    pub restore_size: Option<Bytes>,
    /// The driver's error.
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

/// Formats the annotation [`keys::MEMBERS`]: `{"<uid>": "<namespace>/<name>"}`.
pub fn write_members(members: &Members) -> String {
    let all: BTreeMap<_, _> = members.iter().map(|(uid, name)| (uid, name.to_string())).collect();
    serde_json::to_string(&all).unwrap_or_default()
}

/// Parses the annotation [`keys::MEMBERS`]; `None` if it is invalid.
pub fn read_members(text: &str) -> Option<Members> {
    let all: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    all.into_iter().map(|(uid, name)| Some((uid, name.parse().ok()?))).collect()
}

/// The temporary snapshots of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SharedSnapshots {
    /// Our temporary snapshots of the source, including those being deleted.
    pub snapshots: Vec<SharedSnapshot>,
}

impl SharedSnapshots {
    /// The snapshot for the clone `uid`; the older one if there are two (after a race or a crash).
    pub fn of(&self, uid: &str) -> Option<&SharedSnapshot> {
        let mine = self.snapshots.iter().filter(|s| s.ours && !s.deleting && s.members.contains_key(uid));
        mine.min_by(|a, b| (a.created, &a.exact.name).cmp(&(b.created, &b.exact.name)))
    }
}

impl SharedSnapshots {
    /// True if one of them is being taken: it was requested, and the driver has neither finished nor failed yet.
    pub fn is_cutting(&self) -> bool {
        self.snapshots.iter().any(|shared| shared.ours && !shared.ready && !shared.deleting && shared.error.is_none())
    }

    /// True if a clone in `namespace` may request one more snapshot of the source at `now`; `waits` is true for a member that still waits.
    ///
    /// Recent snapshots count for all namespaces. An old one counts only for the namespaces whose clones still wait for it, so that stuck
    /// clones of one namespace don't block others.
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

/// A clone's need of its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Not needed: the clone is gone, done, or uses another strategy.
    Over,
    /// Needed: its volume isn't restored yet.
    Needed,
    /// Not known.
    Unknown,
}

/// True if no clone needs the snapshot, which may then be deleted.
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
        /// Members that are formatted are parsed again; other text is rejected without a panic.
        #[test]
        fn members_survive_writing_and_reading(members in proptest::collection::btree_map("[0-9a-f-]{1,36}", ("[a-z]{1,9}", "[a-z]{1,4}(-[a-z]|\\.[a-z]){0,3}"), 0..5), noise in ".*") {
            let members: Members =
                members.into_iter().map(|(uid, (namespace, name))| (uid, ObjectName { namespace, name })).collect();
            prop_assert_eq!(read_members(&write_members(&members)), Some(members));
            read_members(&noise);
        }
    }
}
