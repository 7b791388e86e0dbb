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
    /// See [`waits_for`].
    pub waits_for: Option<String>,
}

/// A clone that waits with one of these reasons waits for people, and asks for no snapshot while it does: it needs none now, and gets
/// another one when it goes on. (A claim that is being restored keeps the snapshot all the same.)
const STOPPED: [&str; 3] = ["CloneNotAuthorized", "CloneValidationFailed", "WaitForFirstConsumer"];

/// The reason with which a clone waits, if it has waited since after the snapshot was `created`. Statuses on the usual way are written late
/// or never, so an older reason may be one that is over: the snapshot was asked for since then. Times of creation are whole seconds.
pub fn waits_for(status: &crate::api::DataVolumeStatus, created: Option<jiff::Timestamp>) -> Option<String> {
    let waiting = status.clone.as_ref()?.waiting_for.as_ref()?;
    let later = waiting.since.as_ref()?.0.as_second() > created?.as_second();
    waiting.reason.clone().filter(|_| later)
}

/// Whether `member` still needs the snapshot of this name.
pub fn need(member: &Member, snapshot: &str) -> Need {
    let stopped = member.waits_for.as_deref().is_some_and(|reason| STOPPED.contains(&reason));
    let over = member.deleting
        || stopped
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::clone::Waiting;

    fn member(change: impl FnOnce(&mut Member)) -> Member {
        let mut member = Member {
            deleting: false,
            phase: Phase::SnapshotForSmartCloneInProgress,
            history: History { pinned: Some(CloneStrategy::Snapshot), ..History::default() },
            claim: None,
            temporary: None,
            waits_for: Some("SnapshotNotReady".to_owned()),
        };
        change(&mut member);
        member
    }

    #[rstest]
    #[case::waits_for_the_driver(|_: &mut Member| {}, Need::Needed)]
    #[case::quota(|m: &mut Member| m.waits_for = Some("ErrExceededQuota".into()), Need::Needed)]
    #[case::deleted_with_a_finalizer(|m: &mut Member| m.deleting = true, Need::Over)]
    #[case::right_taken_away(|m: &mut Member| m.waits_for = Some("CloneNotAuthorized".into()), Need::Over)]
    #[case::no_consumer(|m: &mut Member| m.waits_for = Some("WaitForFirstConsumer".into()), Need::Over)]
    #[case::impossible_now(|m: &mut Member| m.waits_for = Some("CloneValidationFailed".into()), Need::Over)]
    #[case::another_way(|m: &mut Member| m.history.pinned = Some(CloneStrategy::Copy), Need::Over)]
    #[case::failed(|m: &mut Member| m.phase = Phase::Failed, Need::Over)]
    fn needs(#[case] change: fn(&mut Member), #[case] expected: Need) {
        assert_eq!(need(&member(change), "tmp-snapshot-x"), expected);
    }

    /// The words are those of the reasons.
    #[test]
    fn every_stop_is_a_reason() {
        let reasons = [
            Waiting::NotAuthorized(String::new()).reason(),
            Waiting::Invalid(vec![]).reason(),
            Waiting::FirstConsumer.reason(),
        ];
        assert_eq!(reasons, STOPPED);
    }

    /// A clone that waited for its consumer, or a right, goes on: its status says so later, and its new snapshot is needed meanwhile.
    #[rstest]
    #[case::waited_before("2026-01-01T00:00:00Z", None)]
    #[case::in_the_same_second("2026-01-01T00:00:10.9Z", None)]
    #[case::waits_since_then("2026-01-01T00:00:11Z", Some("CloneNotAuthorized"))]
    fn only_what_came_after_the_snapshot_counts(#[case] since: &str, #[case] expected: Option<&str>) {
        let waiting = serde_json::json!({"reason": "CloneNotAuthorized", "since": since});
        let status = serde_json::from_value(serde_json::json!({"clone": {"waitingFor": waiting}})).unwrap();
        assert_eq!(waits_for(&status, "2026-01-01T00:00:10Z".parse().ok()).as_deref(), expected);
    }
}
