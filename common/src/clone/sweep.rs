//! What nobody needs any more. Temporary objects in another namespace than their DataVolume can't be owned by it, and a snapshot that
//! several share can't be deleted by one of them: both are swept, whenever something happens that may have made them superfluous.

use super::{
    decide::History,
    group::Need,
    plan::{Claim, Content},
};
use crate::api::{CloneStrategy, Phase};

/// A clone as a sweep sees it.
#[derive(Debug, Clone)]
pub struct Member {
    /// It is being deleted.
    pub deleting: bool,
    /// Where it stands.
    pub phase: Phase,
    /// What was decided for it.
    pub history: History,
    /// Its claim.
    pub claim: Option<Claim>,
    /// Its temporary claim.
    pub temporary: Option<Claim>,
}

/// Whether `member` still needs the snapshot of this name.
pub fn need(member: &Member, snapshot: &str) -> Need {
    let over = member.deleting
        || matches!(member.phase, Phase::Succeeded | Phase::Failed)
        || member.history.pinned.is_some_and(|strategy| strategy != CloneStrategy::Snapshot);
    let restored = [&member.claim, &member.temporary]
        .into_iter()
        .flatten()
        .any(|claim| claim.phase != "Pending" && matches!(&claim.content, Content::HeldBack | Content::Snapshot(_)));
    // Restored from another one, of which it is a member, too.
    let elsewhere = [&member.claim, &member.temporary]
        .into_iter()
        .flatten()
        .any(|claim| matches!(&claim.content, Content::Snapshot(name) if name != snapshot));
    if over || restored || elsewhere { Need::Over } else { Need::Needed }
}
