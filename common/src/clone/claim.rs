//! A PersistentVolumeClaim from the view of a clone: its content, its owner, and its volume.

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

/// The owner of the claim with the clone's name: ours if the DataVolume of this UID controls it, or if the claim itself is to be populated.
/// The name alone proves nothing.
pub fn owner_of_target(meta: &ObjectMeta, uid: &str) -> Owner {
    let controlled = meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid);
    if controlled || meta.uid.as_deref() == Some(uid) { Owner::Ours } else { Owner::Foreign }
}

/// The origin of a claim's content. It is immutable, so it identifies the strategy for which the claim was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The driver restores the snapshot of this name.
    Snapshot(String),
    /// The driver clones the claim of this name.
    Claim(String),
    /// A volume that is rebound to it later; until then the claim is held back.
    HeldBack,
    /// None: it is blank, or populated by a pod.
    Blank,
}

impl Content {
    /// Reads the content of a claim.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let Some(source) = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref()) else { return Self::Blank };
        match (source.api_group.as_deref(), source.kind.as_str()) {
            (Some(api::snapshot::GROUP), "VolumeSnapshot") => Self::Snapshot(source.name.clone()),
            (None | Some(""), "PersistentVolumeClaim") => Self::Claim(source.name.clone()),
            _ if rebind::is_held_back(source) => Self::HeldBack,
            _ => Self::Blank,
        }
    }

    /// The strategy that populates a claim of this content.
    pub fn strategy(&self) -> Option<CloneStrategy> {
        match self {
            Self::Snapshot(_) => Some(CloneStrategy::Snapshot),
            Self::Claim(_) => Some(CloneStrategy::CsiClone),
            Self::Blank => Some(CloneStrategy::Copy),
            Self::HeldBack => None,
        }
    }
}

/// A claim of a clone: its own or a temporary one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its identity and version.
    pub exact: ObjectVersion,
    /// True if it belongs to the DataVolume, or was created for it.
    pub ours: bool,
    /// True if it is the claim that we created: only then its status and content count.
    pub trusted: bool,
    /// The other finalizers, if our finalizer ([`keys::HAND_OVER_FINALIZER`]) keeps it.
    pub kept: Option<Vec<String>>,
    /// The time of its deletion.
    pub deleted_at: Option<Timestamp>,
    /// True if smartclone's account may delete it in this state; see [`crate::confinement`].
    pub deletable: bool,
    /// True if it has a controller reference.
    pub controlled: bool,
    /// True if it was created for the DataVolume.
    pub made_for_it: bool,
    /// True if an annotation declares it populated for the DataVolume of its name, or offers it for adoption (backup and restore).
    pub populated: bool,
    /// True if CDI's populator fills it.
    pub waits_for_cdi: bool,
    /// True if an annotation declares it populated for the DataVolume of its name, whoever created it.
    pub sealed: bool,
    /// True if it is being deleted.
    pub deleting: bool,
    /// The time of its creation.
    pub created: Option<Timestamp>,
    /// Its phase.
    pub phase: ClaimPhase,
    /// See [`Content`].
    pub content: Content,
    /// Its VolumeAttributesClass. Kubernetes does not bind it to a volume of another one.
    pub attributes_class: Option<String>,
    /// The node that the scheduler selected for its pod.
    pub selected_node: Option<String>,
    /// True if smartclone rebound its volume to it.
    pub handed_over: bool,
    /// The requested size.
    pub request: Bytes,
    /// The size of the volume.
    pub capacity: Option<Bytes>,
    /// `spec.capacity` of its volume, if known. It follows an expansion before `capacity` does.
    pub volume_capacity: Option<Bytes>,
    /// The pending expansion.
    pub expansion: Option<Expansion>,
    /// The BLAKE3 digest that a completed copy has recorded on it.
    pub copied: Option<String>,
    /// The latest warning about it.
    pub complaint: Option<String>,
    /// Its volume, if that is kept when the claim is deleted (`persistentVolumeReclaimPolicy: Retain`).
    pub retained: Option<ObjectVersion>,
    /// The time of the latest annotation to trigger a reconcile by Kubernetes.
    pub nudged_at: Option<Timestamp>,
}

impl Claim {
    /// True if it is bound, and its content is complete.
    pub fn is_filled(&self) -> bool {
        let complete = match self.content {
            Content::Blank => self.copied.is_some(),
            Content::Snapshot(_) | Content::Claim(_) => true,
            Content::HeldBack => false,
        };
        complete && self.phase == ClaimPhase::Bound
    }

    /// True if it was created for the clone, so that the clone's status may be recorded on it.
    pub fn is_record(&self) -> bool {
        self.ours && self.made_for_it && !self.deleting && !self.waits_for_cdi
    }

    /// Reads a claim with this `owner` for the DataVolume `uid`. `volume` is the claim's, if known.
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
        // A claim that smartclone created has the DataVolume's annotations, and these don't mark it as populated.
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
            waits_for_cdi: waits_for_cdi(claim),
            sealed: for_its_name,
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

/// True if CDI's populator fills `claim`: it names a VolumeCloneSource.
pub fn waits_for_cdi(claim: &PersistentVolumeClaim) -> bool {
    let source = claim.spec.as_ref().and_then(|spec| spec.data_source_ref.as_ref());
    source.is_some_and(rebind::names_clone_source)
}

/// True if `volume` belongs to `claim`, and is kept when the claim is deleted.
fn retains(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    volume.spec.as_ref().is_some_and(|spec| {
        let owner = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_ref());
        spec.persistent_volume_reclaim_policy.as_deref() == Some("Retain") && owner == claim.metadata.uid.as_ref()
    })
}

/// The finalizers other than [`keys::HAND_OVER_FINALIZER`]; `None` if that one is missing.
pub fn kept(meta: &ObjectMeta) -> Option<Vec<String>> {
    let all = meta.finalizers.as_deref().unwrap_or_default();
    let rest: Vec<_> = all.iter().filter(|name| *name != keys::HAND_OVER_FINALIZER).cloned().collect();
    (rest.len() < all.len()).then_some(rest)
}
