//! Rebind of a PersistentVolume from the claim that has it to a claim that waits for it, in any namespace, without a copy.
//!
//! A PersistentVolume has no namespace; its `claimRef` says to which claim it belongs. [`step()`] reads the two claims and the volume and
//! returns the single next step. It keeps no state: the progress is read from the objects, so after a crash between any two writes the next
//! pass continues. Guarantees, tested against a model of Kubernetes' controller:
//!
//! - `claimRef` is replaced, never cleared: any claim may bind a volume without one.
//! - It is replaced only on a volume whose `claimRef` has the UID of our source, and which the source names, too (CVE-2019-11255).
//! - It is set with the target's UID, so that a later claim of the same name does not inherit the volume.
//! - The source claim may be deleted when the target is bound ([`Step::Moved`]), and not before.

mod claims;
#[cfg(test)]
mod model;
mod shell;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, TypedObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

use crate::{
    api, keys,
    lookup::Lookup,
    object::{self, ObjectName, ObjectVersion, exact},
};

pub use self::{
    claims::{ClaimIdentity, SourceClaim, TargetClaim},
    shell::empty_source,
};
pub use crate::object::ClaimPhase;

/// Time after which a target that is not bound is nudged. Kubernetes binds within 0.1 s (1 to 2 s under load), or has missed the change and
/// processes the claim only many seconds later.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Maximum interval between two nudges.
pub const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(1);

/// The observed state for one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebind {
    /// The claim that has the volume. [`step()`] ignores it once the volume is rebound.
    pub source: Lookup<SourceClaim>,
    /// The volume; [`volume_between`] returns its name.
    pub volume: Lookup<Volume>,
    /// The claim that gets the volume.
    pub target: Lookup<TargetClaim>,
    /// The time of the pass.
    pub now: Timestamp,
}

/// CDI's kind in the `dataSourceRef` of a claim that a populator fills.
pub const VOLUME_CLONE_SOURCE: &str = "VolumeCloneSource";

/// The API group in the `dataSourceRef` of a target.
pub const GROUP: &str = "smartclone.dev";

/// The kind in the `dataSourceRef` of a target, so that no provisioner creates a volume for it, and no populator but smartclone fills it. No
/// object of this kind exists.
pub const CLONE_REQUEST: &str = "CloneRequest";

/// The `dataSourceRef` of a claim that gets its volume later, for the object `uid`.
pub fn held_back(uid: &str) -> TypedObjectReference {
    TypedObjectReference {
        api_group: Some(GROUP.to_owned()),
        kind: CLONE_REQUEST.to_owned(),
        name: uid.to_owned(),
        namespace: None,
    }
}

/// True if no provisioner creates a volume for a claim with this `dataSourceRef`: one of smartclone's, or of CDI's populator.
pub fn is_held_back(source: &TypedObjectReference) -> bool {
    names_clone_source(source) || (source.api_group.as_deref() == Some(GROUP) && source.kind == CLONE_REQUEST)
}

/// True if this `dataSourceRef` names a VolumeCloneSource: CDI's populator fills the claim.
pub fn names_clone_source(source: &TypedObjectReference) -> bool {
    source.api_group.as_deref() == Some(api::GROUP) && source.kind == VOLUME_CLONE_SOURCE
}

/// A volume: the fields that the protocol reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The volume, as it was read.
    pub exact: ObjectVersion,
    /// True if it is being deleted.
    pub deleting: bool,
    /// The claim in its `claimRef`.
    pub claim_ref: Option<ClaimIdentity>,
    /// Time of its last rebind.
    pub handed_over_at: Option<Timestamp>,
}

impl Volume {
    /// Reads a volume.
    pub fn of(volume: &PersistentVolume) -> Self {
        let claim_ref = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
        Self {
            exact: exact(&volume.metadata),
            deleting: volume.metadata.deletion_timestamp.is_some(),
            claim_ref: claim_ref.map(|claim| ClaimIdentity {
                namespace: claim.namespace.clone().unwrap_or_default(),
                name: claim.name.clone().unwrap_or_default(),
                uid: claim.uid.clone().unwrap_or_default(),
            }),
            handed_over_at: time(&volume.metadata, keys::HANDED_OVER),
        }
    }
}

pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|name| !name.is_empty())
}

pub(crate) fn time(meta: &ObjectMeta, key: &str) -> Option<Timestamp> {
    object::annotation(meta, key)?.parse().ok()
}

/// Returns the name of the volume of a rebind: the one that the source names, even if the source has lost it, else the one that the target
/// names. If the source is deleted and the target is not bound yet, only a search for the target's UID in `claimRef` finds the volume.
pub fn volume_between<'a>(source: Option<&'a SourceClaim>, target: Option<&'a TargetClaim>) -> Option<&'a str> {
    source.and_then(|s| s.volume_name.as_deref()).or_else(|| target?.volume_name.as_deref())
}

/// The next step of a rebind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Rebind the volume to the target; [`hand_over`] is the patch.
    HandOver {
        /// The volume, as it was read.
        volume: ObjectVersion,
        /// The claim that has the volume.
        from: ClaimIdentity,
        /// The claim that gets the volume.
        to: ClaimIdentity,
        /// The time for the annotation.
        at: Timestamp,
    },
    /// Update an annotation of a claim, so that Kubernetes' controller processes it again; [`nudge`] is the patch.
    Nudge {
        /// The claim, as it was read.
        claim: ObjectVersion,
        /// The time for the annotation.
        at: Timestamp,
    },
    /// Wait for an event, or until `look_again_at`.
    Wait {
        /// The awaited event.
        what: Waiting,
        /// Time of the next pass if no event comes first.
        look_again_at: Option<Timestamp>,
    },
    /// The target has the volume. The source claim is empty and may be deleted, a user's claim only after [`empty_source`].
    Moved,
    /// The rebind is not possible at present, and nothing is written. The caller decides what to do.
    Impossible(Impossible),
    /// An object could not be read.
    Unknown(String),
}

/// The event that a rebind waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The source has no volume yet.
    SourceNotBound(ObjectName),
    /// Kubernetes has not bound the target yet.
    Binding(ObjectName),
    /// The target has the volume, and Kubernetes has not set the source to Lost yet.
    Losing(ObjectName),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceNotBound(claim) => write!(f, "PersistentVolumeClaim {claim} has no volume yet"),
            Self::Binding(claim) => write!(f, "PersistentVolumeClaim {claim} is being bound to the volume"),
            Self::Losing(claim) => write!(
                f,
                "PersistentVolumeClaim {claim} holds no data any more and is deleted when Kubernetes reports it as Lost; if that does not \
                 happen, delete it: kubectl delete pvc --namespace {} {}",
                claim.namespace, claim.name
            ),
        }
    }
}

/// The reason why a rebind is not possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    /// The target doesn't exist.
    TargetMissing,
    /// The target is being deleted.
    TargetDeleting,
    /// The target has, or is getting, another volume.
    TargetBoundElsewhere(String),
    /// The target had the volume and has lost it.
    TargetLost,
    /// A provisioner may create a volume for the target at any moment.
    TargetNotHeldBack,
    /// The source does not exist.
    SourceMissing,
    /// The source is being deleted, and the volume may go with it.
    SourceDeleting,
    /// The source names another volume than the one that names it.
    SourceNamesAnother(Option<String>),
    /// The volume does not exist.
    VolumeMissing,
    /// The volume is being deleted.
    VolumeDeleting,
    /// The volume has no `claimRef`.
    VolumeUnclaimed,
    /// The volume belongs to another claim.
    VolumeOfAnother(ClaimIdentity),
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TargetMissing => f.write_str("the target claim does not exist"),
            Self::TargetDeleting => f.write_str("the target claim is being deleted"),
            Self::TargetBoundElsewhere(name) => write!(f, "the target claim has another volume, {name:?}"),
            Self::TargetLost => f.write_str("the target claim has lost the volume"),
            Self::TargetNotHeldBack => f.write_str("the target claim does not wait for the volume"),
            Self::SourceMissing => f.write_str("the source claim does not exist"),
            Self::SourceDeleting => f.write_str("the source claim is being deleted"),
            Self::SourceNamesAnother(Some(name)) => write!(f, "the source claim names another volume, {name:?}"),
            Self::SourceNamesAnother(None) => f.write_str("the source claim names no volume"),
            Self::VolumeMissing => f.write_str("the volume does not exist"),
            Self::VolumeDeleting => f.write_str("the volume is being deleted"),
            Self::VolumeUnclaimed => f.write_str("the volume belongs to no claim"),
            Self::VolumeOfAnother(claim) => write!(f, "the volume belongs to PersistentVolumeClaim {claim}"),
        }
    }
}

/// Returns the next step of a rebind.
pub fn step(rebind: &Rebind) -> Step {
    let target = match &rebind.target {
        Lookup::Present(target) => target,
        Lookup::Absent => return Step::Impossible(Impossible::TargetMissing),
        Lookup::Unknown(why) => return Step::Unknown(why.clone()),
    };
    let volume = match &rebind.volume {
        Lookup::Present(volume) => volume,
        Lookup::Absent => return without_volume(&rebind.source),
        Lookup::Unknown(why) => return Step::Unknown(why.clone()),
    };
    let Some(owner) = &volume.claim_ref else { return Step::Impossible(Impossible::VolumeUnclaimed) };
    if volume.deleting {
        return Step::Impossible(Impossible::VolumeDeleting);
    }
    if target.deleting {
        return Step::Impossible(Impossible::TargetDeleting);
    }
    if owner.is(&target.identity()) {
        return handed_over(volume, target, rebind.now);
    }
    match &rebind.source {
        Lookup::Unknown(why) => Step::Unknown(why.clone()),
        Lookup::Absent => Step::Impossible(Impossible::SourceMissing),
        Lookup::Present(source) if owner.is(&source.identity()) => take(source, volume, target, rebind.now),
        Lookup::Present(_) => Step::Impossible(Impossible::VolumeOfAnother(owner.clone())),
    }
}

fn named(claim: &ObjectVersion) -> ObjectName {
    ObjectName { namespace: claim.namespace.clone(), name: claim.name.clone() }
}

fn without_volume(source: &Lookup<SourceClaim>) -> Step {
    match source {
        Lookup::Unknown(why) => Step::Unknown(why.clone()),
        Lookup::Absent => Step::Impossible(Impossible::SourceMissing),
        Lookup::Present(source) if source.is_going() => Step::Impossible(Impossible::SourceDeleting),
        Lookup::Present(source) if source.volume_name.is_none() => not_bound(source),
        Lookup::Present(_) => Step::Impossible(Impossible::VolumeMissing),
    }
}

fn not_bound(source: &SourceClaim) -> Step {
    Step::Wait { what: Waiting::SourceNotBound(named(&source.exact)), look_again_at: None }
}

/// Returns the next step while the volume belongs to the source.
fn take(source: &SourceClaim, volume: &Volume, target: &TargetClaim, now: Timestamp) -> Step {
    let name = &volume.exact.name;
    // Claims and volumes are watched separately: here, a claim shows that the volume was rebound already, and the view of the volume is
    // older.
    let late = || Step::Unknown(format!("PersistentVolume {name:?} has changed since it was seen"));
    match &target.volume_name {
        Some(other) if other == name => return late(),
        Some(other) => return Step::Impossible(Impossible::TargetBoundElsewhere(other.clone())),
        None if !target.held_back => return Step::Impossible(Impossible::TargetNotHeldBack),
        None => {}
    }
    if source.is_going() {
        return Step::Impossible(Impossible::SourceDeleting);
    }
    if source.volume_name.as_ref() != Some(name) {
        return match source.phase {
            // The provisioner has created the volume for the claim, and Kubernetes has not bound the claim yet.
            ClaimPhase::Pending if source.volume_name.is_none() => not_bound(source),
            _ => Step::Impossible(Impossible::SourceNamesAnother(source.volume_name.clone())),
        };
    }
    match source.phase {
        ClaimPhase::Pending => not_bound(source),
        ClaimPhase::Lost => late(),
        ClaimPhase::Bound => {
            Step::HandOver { volume: volume.exact.clone(), from: source.identity(), to: target.identity(), at: now }
        }
    }
}

/// Returns the next step after the volume was rebound, until the target is bound.
fn handed_over(volume: &Volume, target: &TargetClaim, now: Timestamp) -> Step {
    match &target.volume_name {
        Some(other) if *other != volume.exact.name => {
            return Step::Impossible(Impossible::TargetBoundElsewhere(other.clone()));
        }
        Some(_) if target.phase == ClaimPhase::Bound => return Step::Moved,
        Some(_) if target.phase == ClaimPhase::Lost => return Step::Impossible(Impossible::TargetLost),
        Some(_) | None => {}
    }
    let due = nudge_due(volume.handed_over_at, target.nudged_at);
    match due {
        Some(due) if now < due => Step::Wait { what: Waiting::Binding(named(&target.exact)), look_again_at: Some(due) },
        _ => Step::Nudge { claim: target.exact.clone(), at: now },
    }
}

/// Returns the time of the next nudge: [`PATIENCE`] after the rebind, and then each time the wait has doubled since the last nudge. `None`
/// means at once: neither the time of the rebind nor that of a nudge is known.
fn nudge_due(handed_over: Option<Timestamp>, nudged: Option<Timestamp>) -> Option<Timestamp> {
    let nudged = nudged.filter(|nudged| handed_over.is_none_or(|since| *nudged >= since));
    let (last, pause) = match (handed_over, nudged) {
        (None, None) => return None,
        (Some(since), None) => (since, PATIENCE),
        (None, Some(last)) => (last, LONGEST_PAUSE),
        (Some(since), Some(last)) => (last, last.duration_since(since).clamp(PATIENCE, LONGEST_PAUSE)),
    };
    last.checked_add(pause).ok()
}

/// Returns the JSON merge patch that rebinds `volume` to `to`. It is refused if the volume has changed since. Every field of `claimRef` is
/// set, because a merge would keep those of the former claim.
pub fn hand_over(volume: &ObjectVersion, to: &ClaimIdentity, at: Timestamp) -> Value {
    json!({
        "metadata": {
            "uid": volume.uid, "resourceVersion": volume.resource_version,
            "annotations": { keys::HANDED_OVER: at.to_string() },
        },
        "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": to.namespace, "name": to.name, "uid": to.uid,
            "resourceVersion": null, "fieldPath": null,
        } },
    })
}

/// Returns the JSON merge patch that sets the annotation of a nudge on a claim.
pub fn nudge(claim: &ObjectVersion, at: Timestamp) -> Value {
    json!({ "metadata": {
        "uid": claim.uid, "resourceVersion": claim.resource_version, "annotations": { keys::NUDGED: at.to_string() },
    } })
}
