//! A PersistentVolumeClaim as a clone sees it: its content, its owner, and its volume.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    api::{self, CloneStrategy},
    clone::{facts::sizes::capacity_of, ownership::Owner},
    confinement::may_delete,
    keys,
    object::{self, ClaimPhase, ObjectVersion, exact},
    quantity::Bytes,
    rebind,
    storage::expansion::Expansion,
};

/// The owner of the claim that has the clone's name: ours if the DataVolume of this UID controls it, or if it is itself what is to be filled. A name alone
/// proves nothing.
pub fn owner_of_target(meta: &ObjectMeta, uid: &str) -> Owner {
    let controlled = meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid);
    if controlled || meta.uid.as_deref() == Some(uid) { Owner::Ours } else { Owner::Foreign }
}

/// Where the content of a claim comes from. It can't be changed once the claim exists, so it tells which strategy the claim was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The driver restores it from the snapshot of this name.
    Snapshot(String),
    /// The driver clones it from the claim of this name.
    Claim(String),
    /// It waits for a volume that is filled elsewhere.
    HeldBack,
    /// Nobody: it is blank, or filled by a pod.
    Blank,
}

impl Content {
    /// Reads where the content of a claim comes from.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let Some(source) = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref()) else { return Self::Blank };
        match (source.api_group.as_deref(), source.kind.as_str()) {
            (Some(api::snapshot::GROUP), "VolumeSnapshot") => Self::Snapshot(source.name.clone()),
            (None | Some(""), "PersistentVolumeClaim") => Self::Claim(source.name.clone()),
            (Some(api::GROUP), rebind::VOLUME_CLONE_SOURCE) => Self::HeldBack,
            _ => Self::Blank,
        }
    }

    /// The strategy that fills a claim of this content.
    pub fn strategy(&self) -> Option<CloneStrategy> {
        match self {
            Self::Snapshot(_) => Some(CloneStrategy::Snapshot),
            Self::Claim(_) => Some(CloneStrategy::CsiClone),
            Self::Blank => Some(CloneStrategy::Copy),
            Self::HeldBack => None,
        }
    }
}

/// The clone's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its identity and version.
    pub exact: ObjectVersion,
    /// It belongs to the DataVolume, or was made for it.
    pub ours: bool,
    /// It is ours, and the very one that we created: what it says and holds counts.
    pub trusted: bool,
    /// The finalizers beside our own, if ours ([`keys::HAND_OVER_FINALIZER`]) keeps it.
    pub kept: Option<Vec<String>>,
    /// Since when it is being deleted.
    pub deleted_at: Option<Timestamp>,
    /// Our account may delete it as it is; see [`crate::confinement`].
    pub deletable: bool,
    /// Somebody controls it.
    pub controlled: bool,
    /// It was created for the DataVolume.
    pub made_for_it: bool,
    /// Somebody says that it is filled for the DataVolume of its name, or may be taken over by it (backup and restore).
    pub populated: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its phase.
    pub phase: ClaimPhase,
    /// See [`Content`].
    pub content: Content,
    /// Its VolumeAttributesClass. Kubernetes binds it to no volume of another one.
    pub attributes_class: Option<String>,
    /// The node that the scheduler has chosen for a pod that uses it.
    pub selected_node: Option<String>,
    /// Its volume was handed over to it by us.
    pub handed_over: bool,
    /// The requested size.
    pub request: Bytes,
    /// The size of the volume.
    pub capacity: Option<Bytes>,
    /// `spec.capacity` of its volume, as far as that is known. It follows an expansion before `capacity` does.
    pub volume_capacity: Option<Bytes>,
    /// The expansion that isn't complete.
    pub expansion: Option<Expansion>,
    /// The BLAKE3 digest that a completed copy has left on it.
    pub copied: Option<String>,
    /// The newest complaint about it.
    pub complaint: Option<String>,
    /// Its volume, if that would stay when the claim goes (`persistentVolumeReclaimPolicy: Retain`).
    pub retained: Option<ObjectVersion>,
    /// When it was touched last to make others look at it.
    pub nudged_at: Option<Timestamp>,
}

impl Claim {
    /// It is bound, and its content is complete.
    pub fn is_filled(&self) -> bool {
        let complete = match self.content {
            Content::Blank => self.copied.is_some(),
            Content::Snapshot(_) | Content::Claim(_) => true,
            Content::HeldBack => false,
        };
        complete && self.phase == ClaimPhase::Bound
    }

    /// Reads a claim, whose `owner` is known, as the DataVolume `uid` sees it. `volume` is the claim's, as far as it is known.
    pub fn of(
        claim: &PersistentVolumeClaim,
        owner: Owner,
        uid: &str,
        volume: Option<&PersistentVolume>,
        complaint: Option<String>,
    ) -> Self {
        let annotation = |key: &str| object::annotation(&claim.metadata, key);
        let controlled = object::controller(&claim.metadata).is_some();
        let for_its_name =
            annotation(keys::POPULATED_FOR).is_some_and(|name| claim.metadata.name.as_deref() == Some(name));
        // A claim of our own making has the DataVolume's annotations, and isn't filled by having them.
        let made_by_us = annotation(keys::CREATED_FOR_DATA_VOLUME).is_some_and(|made_for| made_for == uid);
        let handed_over = volume.is_some_and(|volume| {
            let marked = object::annotation(&volume.metadata, keys::HANDED_OVER).is_some();
            let claim_ref = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            marked && claim_ref.and_then(|c| c.uid.as_ref()) == claim.metadata.uid.as_ref()
        });
        let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
        let requests = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        let storage = |q| Bytes::of(q).ok();
        Self {
            exact: exact(&claim.metadata),
            ours: owner != Owner::Foreign,
            trusted: owner == Owner::Ours,
            kept: kept(&claim.metadata),
            deleted_at: claim.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            deletable: may_delete(claim),
            controlled,
            made_for_it: made_by_us,
            populated: !made_by_us && (for_its_name || annotation(keys::ALLOW_ADOPTION).is_some_and(|v| v != "false")),
            created: claim.metadata.creation_timestamp.as_ref().map(|t| t.0),
            content: Content::of(claim),
            attributes_class: spec.and_then(|spec| spec.volume_attributes_class_name.clone()),
            selected_node: annotation(keys::SELECTED_NODE).map(str::to_owned),
            handed_over,
            deleting: claim.metadata.deletion_timestamp.is_some(),
            phase: ClaimPhase::of(claim),
            request: requests.and_then(|r| r.get("storage")).and_then(storage).unwrap_or_default(),
            capacity: status.and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage")).and_then(storage),
            volume_capacity: capacity_of(claim.metadata.uid.as_ref(), volume),
            expansion: Expansion::of(claim),
            copied: annotation(keys::COPIED).map(str::to_owned),
            complaint,
            retained: volume.filter(|volume| retains(volume, claim)).map(|volume| exact(&volume.metadata)),
            nudged_at: annotation(keys::NUDGED).and_then(|text| text.parse().ok()),
        }
    }
}

/// `volume` is that of `claim`, and stays when the claim goes.
fn retains(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().is_some_and(|spec| {
        let owner = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_ref());
        spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain") && owner == claim.metadata.uid.as_ref()
    })
}

/// The finalizers beside [`keys::HAND_OVER_FINALIZER`]; nothing, where that one is missing.
pub fn kept(meta: &ObjectMeta) -> Option<Vec<String>> {
    let all = meta.finalizers.as_deref().unwrap_or_default();
    let rest: Vec<_> = all.iter().filter(|name| *name != keys::HAND_OVER_FINALIZER).cloned().collect();
    (rest.len() < all.len()).then_some(rest)
}
