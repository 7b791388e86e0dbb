//! Cleanup conditions of temporary objects and shared snapshots. Temporary objects in another namespace can't be owned by their DataVolume,
//! and a shared snapshot can't be deleted by one of its members: the cleanup deletes both when nothing needs them any more.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::shared_snapshot::Need;
use crate::{
    api::Phase,
    clone::{
        claim::{Claim, Content, kept},
        note::History,
    },
    keys, names,
    object::{self, ClaimPhase, ObjectName},
};

/// The delay after the first failure to delete an object; each further failure doubles it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The maximum delay between two attempts to delete an object.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The DataVolume or claim for which a temporary object was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its identity.
    pub uid: String,
    /// Its name, which is valid for an object.
    pub name: ObjectName,
}

/// The owner of a temporary claim or pod of ours. `None` for other objects, and for one that is being deleted without our finalizer; these
/// are never touched.
pub fn owner_of(temporary: &ObjectMeta) -> Option<Owner> {
    let uid = temporary.labels.as_ref()?.get(keys::OWNED_BY_UID)?;
    let name = object::annotation(temporary, keys::OWNED_BY_DATA_VOLUME)?.parse().ok()?;
    let forms = [names::temporary_claim, names::temporary_source, names::mover, names::consumer];
    let named = forms.iter().any(|form| temporary.name.as_ref() == Some(&form(uid)));
    let stays = temporary.deletion_timestamp.is_none() || kept(temporary).is_some();
    (named && stays && !uid.is_empty()).then(|| Owner { uid: uid.clone(), name })
}

/// True if `object`, which has the owner's name, is the owner and needs its temporary objects. An object that is being deleted needs none,
/// however long other finalizers keep it.
pub fn needs_its_own(object: &ObjectMeta, uid: &str) -> bool {
    object.uid.as_deref() == Some(uid) && object.deletion_timestamp.is_none()
}

/// The delay before the next attempt to delete an object, after this number of failures in a row.
pub fn retry_after(failures: u32) -> Duration {
    RETRY_AFTER.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(MAX_RETRY_AFTER)
}

/// A clone from the view of the cleanup.
#[derive(Debug, Clone)]
pub struct Member {
    /// True if it is being deleted.
    pub deleting: bool,
    /// Its phase.
    pub phase: Phase,
    /// Its earlier decision.
    pub history: History,
    /// Its claim.
    pub claim: Option<Claim>,
    /// Its temporary claim.
    pub temporary: Option<Claim>,
    /// See [`waits_for`].
    pub waits_for: Option<String>,
}

/// Reasons of clones that wait for people. Such a clone needs no snapshot now, and gets another one when it continues. (A claim that is
/// being restored still keeps the snapshot.)
const STOPPED: [&str; 4] = ["CloneNotAuthorized", "CloneValidationFailed", "ErrClaimNotValid", "WaitForFirstConsumer"];

/// The reason for which a clone waits, if the wait began after the snapshot was `created`. Statuses of a normal run are written late or
/// never, so an older reason may be obsolete: the snapshot was requested since. Creation times are whole seconds.
pub fn waits_for(status: &crate::api::DataVolumeStatus, created: Option<jiff::Timestamp>) -> Option<String> {
    let waiting = status.clone.as_ref()?.waiting_for.as_ref()?;
    let later = waiting.since.as_ref()?.0.as_second() > created?.as_second();
    waiting.reason.clone().filter(|_| later)
}

/// The need of `member` for the snapshot of this name.
pub fn need(member: &Member, snapshot: &str) -> Need {
    let stopped = member.waits_for.as_deref().is_some_and(|reason| STOPPED.contains(&reason));
    let over = member.deleting
        || stopped
        || matches!(member.phase, Phase::Succeeded | Phase::Failed)
        || member.history.pinned.is_some_and(|strategy| !strategy.spec().takes_snapshot);
    let restored = [&member.claim, &member.temporary].into_iter().flatten().any(|claim| {
        claim.phase != ClaimPhase::Pending && matches!(&claim.content, Content::HeldBack | Content::Snapshot(_))
    });
    // Restored from another snapshot, of which it is a member, too.
    let elsewhere = [&member.claim, &member.temporary]
        .into_iter()
        .flatten()
        .any(|claim| matches!(&claim.content, Content::Snapshot(name) if name != snapshot));
    if over || restored || elsewhere { Need::Over } else { Need::Needed }
}

/// The claim to which smartclone has handed over a volume that no claim has; `None` for any other volume.
pub fn claim_of_candidate(volume: &PersistentVolume) -> Option<ObjectName> {
    object::annotation(&volume.metadata, keys::HANDED_OVER)?;
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let name = ObjectName { namespace: claim.namespace.clone()?, name: claim.name.clone()? };
    (phase == Some("Available") && volume.metadata.deletion_timestamp.is_none()).then_some(name)
}

/// True if `claim`, to which `volume` was handed over, is bound to another volume: somebody else has filled it first.
pub fn has_lost(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let owner = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()).and_then(|owner| owner.uid.as_ref());
    let winner = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    claim_of_candidate(volume).is_some()
        && owner.is_some()
        && owner == claim.metadata.uid.as_ref()
        && ClaimPhase::of(claim) == ClaimPhase::Bound
        && winner.is_some_and(|winner| volume.metadata.name.as_deref() != Some(winner))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::api::CloneStrategy;
    use crate::clone::Waiting;
    use crate::field::FieldError;

    fn temporary(name: &str, uid: &str, owner: &str) -> ObjectMeta {
        serde_json::from_value(json!({
            "name": name, "namespace": "gold",
            "labels": {keys::OWNED_BY_UID: uid}, "annotations": {keys::OWNED_BY_DATA_VOLUME: owner},
        }))
        .unwrap()
    }

    #[rstest]
    #[case::claim("smartclone-pvc-1", "1", "ns/clone", true)]
    #[case::restored("smartclone-source-pvc-1", "1", "ns/clone", true)]
    #[case::mover("smartclone-mover-1", "1", "ns/clone", true)]
    #[case::consumer("smartclone-consumer-1", "1", "ns/clone", true)]
    #[case::dotted("smartclone-pvc-1", "1", "ns/a.b-c", true)]
    #[case::another_s_uid("smartclone-pvc-2", "1", "ns/clone", false)]
    #[case::user_s_name("payroll-1", "1", "ns/clone", false)]
    #[case::end_of_a_uid("smartclone-pvc-21", "1", "ns/clone", false)]
    #[case::no_uid("payroll", "", "ns/clone", false)]
    #[case::no_uid_at_all("smartclone-pvc-", "", "ns/clone", false)]
    #[case::no_name("smartclone-pvc-1", "1", "ns/", false)]
    #[case::no_namespace("smartclone-pvc-1", "1", "/clone", false)]
    #[case::no_owner("smartclone-pvc-1", "1", "", false)]
    #[case::one_part("smartclone-pvc-1", "1", "clone", false)]
    #[case::three_parts("smartclone-pvc-1", "1", "ns/clone/status", false)]
    #[case::parents("smartclone-pvc-1", "1", "ns/../../secrets/x", false)]
    #[case::parent("smartclone-pvc-1", "1", "ns/..", false)]
    #[case::encoded("smartclone-pvc-1", "1", "ns/%2e%2e%2fx", false)]
    #[case::query("smartclone-pvc-1", "1", "ns/log?x=1", false)]
    #[case::namespace_with_a_dot("smartclone-pvc-1", "1", "n.s/clone", false)]
    #[case::upper_case("smartclone-pvc-1", "1", "ns/Clone", false)]
    #[case::control("smartclone-pvc-1", "1", "ns/a\0", false)]
    fn only_what_is_named_as_ours_has_an_owner(
        #[case] name: &str,
        #[case] uid: &str,
        #[case] owner: &str,
        #[case] ours: bool,
    ) {
        let mut object = temporary(name, uid, owner);
        assert_eq!(owner_of(&object).map(|owner| owner.name.to_string()), ours.then(|| owner.to_owned()));
        object.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
        assert_eq!(owner_of(&object), None);
        // An object that our finalizer keeps must be released.
        object.finalizers = Some(vec![keys::HAND_OVER_FINALIZER.to_owned()]);
        assert_eq!(owner_of(&object).is_some(), ours);
    }

    #[rstest]
    #[case::there(json!({"uid": "1"}), true)]
    #[case::another(json!({"uid": "2"}), false)]
    #[case::without(json!({}), false)]
    #[case::deleted(json!({"uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}), false)]
    #[case::held(json!({"uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["tenant.example/stay"]}), false)]
    fn deleted_is_gone(#[case] owner: serde_json::Value, #[case] needs: bool) {
        assert_eq!(needs_its_own(&serde_json::from_value(owner).unwrap(), "1"), needs);
    }

    #[test]
    fn attempts_come_ever_more_rarely() {
        assert_eq!([1, 2, 3, 4].map(|failures| retry_after(failures).as_secs()), [1, 2, 4, 8]);
        assert_eq!([20, 33, u32::MAX].map(retry_after), [MAX_RETRY_AFTER; 3]);
    }

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
        assert_eq!(need(&member(change), "smartclone-snapshot-x"), expected);
    }

    /// The reasons equal those of `Waiting`.
    #[test]
    fn every_stop_is_a_reason() {
        let reasons = [
            Waiting::NotAuthorized(String::new()).reason(),
            Waiting::Invalid(vec![]).reason(),
            Waiting::NoStorageClass(FieldError::required("spec", "x")).reason(),
            Waiting::FirstConsumer.reason(),
        ];
        assert_eq!(reasons, STOPPED);
    }

    /// A clone that waited for its consumer, or for access, continues: its status changes later, and its new snapshot is needed in the
    /// meantime.
    #[rstest]
    #[case::waited_before("2026-01-01T00:00:00Z", None)]
    #[case::in_the_same_second("2026-01-01T00:00:10.9Z", None)]
    #[case::waits_since_then("2026-01-01T00:00:11Z", Some("CloneNotAuthorized"))]
    fn only_what_came_after_the_snapshot_counts(#[case] since: &str, #[case] expected: Option<&str>) {
        let waiting = serde_json::json!({"reason": "CloneNotAuthorized", "since": since});
        let status = serde_json::from_value(serde_json::json!({"clone": {"waitingFor": waiting}})).unwrap();
        assert_eq!(waits_for(&status, "2026-01-01T00:00:10Z".parse().ok()).as_deref(), expected);
    }

    /// A volume that was handed over, and its claim, with one change: whether another volume has won the claim.
    #[rstest]
    #[case::another_has_won("/volume/spec/capacity", json!({}), true)]
    #[case::it_has_won("/claim/spec/volumeName", json!("ours"), false)]
    #[case::not_decided("/claim/spec/volumeName", json!(null), false)]
    #[case::being_bound("/claim/status/phase", json!("Pending"), false)]
    #[case::another_claim("/claim/metadata/uid", json!("2"), false)]
    #[case::bound("/volume/status/phase", json!("Bound"), false)]
    #[case::given_up_already("/volume/status/phase", json!("Released"), false)]
    #[case::of_somebody_else("/volume/metadata/annotations", json!({}), false)]
    #[case::without_a_uid("/volume/spec/claimRef/uid", json!(null), false)]
    #[case::being_deleted("/volume/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), false)]
    fn losers(#[case] field: &str, #[case] value: serde_json::Value, #[case] expected: bool) {
        let mut both = json!({
            "volume": {
                "metadata": {
                    "name": "ours", "annotations": {(keys::HANDED_OVER): "2026-01-01T00:00:00Z"}, "deletionTimestamp": null,
                },
                "spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "1"}, "capacity": null},
                "status": {"phase": "Available"},
            },
            "claim": {
                "metadata": {"namespace": "n", "name": "c", "uid": "1"},
                "spec": {"volumeName": "theirs"}, "status": {"phase": "Bound"},
            },
        });
        *both.pointer_mut(field).unwrap() = value;
        let volume = serde_json::from_value(both["volume"].take()).unwrap();
        let claim = serde_json::from_value(both["claim"].take()).unwrap();
        assert_eq!(has_lost(&volume, &claim), expected);
    }
}
