//! Group commit of snapshots: all clones of one source that are known when its snapshot is asked for share it.
//!
//! Who shares it is written in the snapshot when it is created, so a crash can't part a member from it, and since only clones that
//! exist by then are written in it, it is never older than any of them. It is deleted when no member needs it any more.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{action::Exact, plan::exact, request::ObjectName};
use crate::{api::snapshot::VolumeSnapshot, meta, quantity::Bytes};

/// At most this many of our snapshots of one source live at a time. Some drivers allow three, and the user may have one of his own.
pub const LIVING: usize = 2;

/// At most this many clones share a snapshot: they are listed in an annotation, and all annotations together have 256 KiB.
pub const MEMBERS: usize = 500;

/// Clones by UID.
pub type Members = BTreeMap<String, ObjectName>;

/// A temporary snapshot of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Which one.
    pub exact: Exact,
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

impl Shared {
    /// Reads a snapshot.
    pub fn of(snapshot: &VolumeSnapshot) -> Self {
        let status = snapshot.status.as_ref();
        let meta = &snapshot.metadata;
        let members = meta::annotation(meta, meta::MEMBERS).and_then(read_members).unwrap_or_default();
        Self {
            exact: exact(meta),
            ours: meta.labels.as_ref().is_some_and(|l| l.contains_key(meta::OWNED_BY_UID)) && !members.is_empty(),
            deleting: meta.deletion_timestamp.is_some(),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            members,
            ready: status.and_then(|s| s.ready_to_use).unwrap_or_default(),
            restore_size: status.and_then(|s| s.restore_size.as_ref()).and_then(|q| Bytes::of(q).ok()),
            error: status.and_then(|s| s.error.as_ref()).map(|e| e.message.clone().unwrap_or_default()),
        }
    }
}

/// The annotation [`meta::MEMBERS`] as it is written: `{"<uid>": "<namespace>/<name>"}`.
pub fn write_members(members: &Members) -> String {
    let all: BTreeMap<_, _> = members.iter().map(|(uid, name)| (uid, name.to_string())).collect();
    serde_json::to_string(&all).unwrap_or_default()
}

/// The members in the annotation; nothing, if it isn't ours.
pub fn read_members(text: &str) -> Option<Members> {
    let all: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    all.into_iter().map(|(uid, name)| Some((uid, name.parse().ok()?))).collect()
}

/// What is known of the snapshots of a source, and whether it is this clone's turn to ask for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Our temporary snapshots of the source, those included that are on their way out.
    pub snapshots: Vec<Shared>,
    /// Whose snapshot may be asked for now, this clone's among them; nothing, while others gather or another pass is at it.
    pub turn: Option<Members>,
    /// When to look again, if the turn hasn't come.
    pub again_at: Option<Timestamp>,
}

impl Group {
    /// The snapshot that was taken for the clone `uid`; of two (a race, a crash) the older.
    pub fn of(&self, uid: &str) -> Option<&Shared> {
        let mine = self.snapshots.iter().filter(|s| s.ours && !s.deleting && s.members.contains_key(uid));
        mine.min_by(|a, b| (a.created, &a.exact.name).cmp(&(b.created, &b.exact.name)))
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

    use super::*;

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
