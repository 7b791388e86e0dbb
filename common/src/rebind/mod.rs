//! The hand-over of a PersistentVolume from the claim that has it to a claim that waits for it, in any namespace, without a copy.
//!
//! A PersistentVolume has no namespace; whose it is, is said by its `claimRef`. [`step()`] looks at the two claims and the volume and
//! says the one thing to do next. It remembers nothing: where a rebind stands is read off the objects, so a crash between any two
//! writes is just another pass. What has to hold whatever happens (a model of Kubernetes' controller tests it):
//!
//! - `claimRef` is replaced, never cleared: a volume without one is anybody's.
//! - It is replaced only on a volume whose claim is our source, by UID, and which that source names, too (CVE-2019-11255).
//! - It is set with the target's UID, so that a later claim of the same name inherits nothing.
//! - The source claim may be deleted when the target is bound ([`Step::Moved`]), and not before.

mod claims;
#[cfg(test)]
mod model;
mod shell;

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

use crate::{
    keys,
    lookup::Lookup,
    object::{self, ObjectName, ObjectVersion, exact},
};

pub use self::{
    claims::{ClaimIdentity, SourceClaim, TargetClaim},
    shell::empty_source,
};
pub use crate::object::ClaimPhase;

/// Kubernetes binds within a tenth of a second (in a crowd within a second or two), or has missed it and looks again only after many: later
/// than this, it is nudged.
const PATIENCE: SignedDuration = SignedDuration::from_secs(2);

/// Nudges become rarer, but no rarer than this.
pub const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(1);

/// Everything that a step looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebind {
    /// The claim that has the volume. Of no matter once the volume is handed over.
    pub source: Lookup<SourceClaim>,
    /// The volume; see [`volume_between`] for which one that is.
    pub volume: Lookup<Volume>,
    /// The claim that is to get it.
    pub target: Lookup<TargetClaim>,
    /// The time of the pass.
    pub now: Timestamp,
}

/// The kind that holds a claim back. No object of it needs to exist.
pub const VOLUME_CLONE_SOURCE: &str = "VolumeCloneSource";

/// The volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Which one.
    pub exact: ObjectVersion,
    /// It is being deleted.
    pub deleting: bool,
    /// Whose it is.
    pub claim_ref: Option<ClaimIdentity>,
    /// When it was last handed over.
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

/// The name of the volume that is on its way between two claims: the one that the source names, even when it has lost it, else the one
/// that the target names. With the source gone and the target not bound yet, only a search for the target's UID in `claimRef` finds it.
pub fn volume_between<'a>(source: Option<&'a SourceClaim>, target: Option<&'a TargetClaim>) -> Option<&'a str> {
    source.and_then(|s| s.volume_name.as_deref()).or_else(|| target?.volume_name.as_deref())
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the volume the target's; [`hand_over`] is the patch.
    HandOver {
        /// The volume, as it was looked at.
        volume: ObjectVersion,
        /// Whose it is.
        from: ClaimIdentity,
        /// Whose it is to be.
        to: ClaimIdentity,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Touch a claim, so that Kubernetes looks at it again; [`nudge`] is the patch.
    Nudge {
        /// The claim, as it was looked at.
        claim: ObjectVersion,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Nothing, until something happens or it is time to look again.
    Wait {
        /// For what.
        what: Waiting,
        /// When to look although nothing happens.
        look_again_at: Option<Timestamp>,
    },
    /// The target has the volume; the source claim is an empty shell and may be deleted. A user's claim only after [`empty_source`].
    Moved,
    /// Not as things are: nothing is written. What can be done is for the caller to decide.
    Impossible(Impossible),
    /// Could not be told now.
    Unknown(String),
}

/// What has to happen elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The source has no volume yet.
    SourceNotBound(ObjectName),
    /// Kubernetes has not bound the target yet.
    Binding(ObjectName),
    /// The target has the volume, and Kubernetes has not said yet that the source has lost it.
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

/// Why it can't be.
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
    /// A provisioner may make a volume for the target at any moment.
    TargetNotHeldBack,
    /// There is no claim from which the volume could be taken.
    SourceMissing,
    /// The source is being deleted, and the volume may go with it.
    SourceDeleting,
    /// The source names another volume than the one that names it.
    SourceNamesAnother(Option<String>),
    /// There is no volume.
    VolumeMissing,
    /// The volume is being deleted.
    VolumeDeleting,
    /// The volume is nobody's.
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

/// The next step of a rebind.
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

/// The volume is the source's.
fn take(source: &SourceClaim, volume: &Volume, target: &TargetClaim, now: Timestamp) -> Step {
    let name = &volume.exact.name;
    // Claims and volumes are watched apart: these two pictures are of a time when the volume had been handed over already.
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
            // The provisioner has made the volume for it, and Kubernetes is about to tell the claim.
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

/// The volume is the target's; now the target has to be told.
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

/// When the target is nudged next: [`PATIENCE`] after the hand-over, and whenever it has waited twice as long as at the last nudge. At once,
/// if nobody knows when the hand-over was.
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

/// The JSON merge patch that makes `volume` the volume of `to`, refused when it has changed since. Whatever a `claimRef` can hold is
/// set, as a merge would keep what the former claim left.
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

/// The JSON merge patch that takes our finalizer off `claim` and leaves `rest`, refused when the claim has changed since.
pub fn release(claim: &ObjectVersion, rest: &[String]) -> Value {
    json!({ "metadata": {
        "uid": claim.uid, "resourceVersion": claim.resource_version, "finalizers": rest,
    } })
}

/// The JSON merge patch that touches a claim.
pub fn nudge(claim: &ObjectVersion, at: Timestamp) -> Value {
    json!({ "metadata": {
        "uid": claim.uid, "resourceVersion": claim.resource_version, "annotations": { keys::NUDGED: at.to_string() },
    } })
}
