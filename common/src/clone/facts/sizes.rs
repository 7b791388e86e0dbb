//! The size of a source, derived from all sizes that are recorded for it, since each of them may be wrong:
//!
//! * `spec.resources.requests` of a claim is the requested size. It is below the actual size if the driver rounds up, and above it while an
//!   expansion is pending or has failed (Kubernetes API, PersistentVolumeClaimSpec).
//! * `status.capacity` of a claim follows an expansion last, `spec.capacity` of its PersistentVolume as soon as the volume is expanded.
//! * `status.allocatedResources` is the target of an expansion. The volume has that size once only the node's part is pending; before that,
//!   or if the expansion is infeasible, it may never have it (KEP-1790).
//! * `restoreSize` of a snapshot should be the minimum size of a restored volume (CSI specification, `Snapshot.size_bytes`). 0 and absent
//!   mean that the driver doesn't report it. Some drivers report the bytes in use (csi-driver-nfs#508: 1805 bytes of gigabytes), at which
//!   others refuse to restore.
//!
//! Rule: the size of a source is the largest size that its volume is known to have. A snapshot has the size of its volume, or less if the
//! volume was expanded since: the current size is never too small. The volume is known as long as a PersistentVolume has the handle that
//! the VolumeSnapshotContent names; a claim with the name in the snapshot may be a different one by now.

use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

use crate::{
    api::snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    lookup::Lookup,
    quantity::Bytes,
    storage::{
        expansion::{Expansion, Part},
        volume_handle::VolumeHandle,
    },
};

/// Some drivers create volumes of whole megabytes.
const MEGABYTE: u64 = 1_000_000;

/// The recorded sizes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeSizes {
    /// `spec.resources.requests` of its claim.
    pub request: Option<Bytes>,
    /// `status.capacity` of its claim.
    pub capacity: Option<Bytes>,
    /// `status.allocatedResources` of its claim, if the volume is expanded to it.
    pub allocated: Option<Bytes>,
    /// `spec.capacity` of its PersistentVolume.
    pub volume: Option<Bytes>,
}

impl VolumeSizes {
    /// Reads the sizes of a claim, and of its volume as far as it is known.
    pub fn of(claim: Option<&PersistentVolumeClaim>, volume: Option<Bytes>) -> Self {
        let spec = claim.and_then(|claim| claim.spec.as_ref());
        let status = claim.and_then(|claim| claim.status.as_ref());
        let has_grown = claim.and_then(Expansion::of).is_some_and(|expansion| expansion.part == Part::Node);
        Self {
            request: storage(spec.and_then(|spec| spec.resources.as_ref()).and_then(|it| it.requests.as_ref())),
            capacity: storage(status.and_then(|status| status.capacity.as_ref())),
            allocated: storage(status.and_then(|status| status.allocated_resources.as_ref())).filter(|_| has_grown),
            volume,
        }
    }

    /// The largest size that the volume is known to have.
    fn known(&self) -> Option<Bytes> {
        [self.capacity, self.allocated, self.volume].into_iter().max().flatten()
    }
}

/// The size of `volume` if it is bound to the claim with this UID: both must refer to each other (CVE-2019-11255).
pub fn capacity_of(claim_uid: Option<&String>, volume: Option<&PersistentVolume>) -> Option<Bytes> {
    volume.filter(|volume| is_claimed_by(volume, claim_uid)).and_then(capacity)
}

/// `spec.capacity` of a volume.
pub fn capacity(volume: &PersistentVolume) -> Option<Bytes> {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn is_claimed_by(volume: &PersistentVolume, claim_uid: Option<&String>) -> bool {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    claim_uid.is_some() && claim.and_then(|claim| claim.uid.as_ref()) == claim_uid
}

/// A size in a resource list. 0 counts as missing.
fn storage(resources: Option<&BTreeMap<String, Quantity>>) -> Option<Bytes> {
    resources?.get("storage").and_then(|size| Bytes::of(size).ok()).filter(|size| *size > Bytes(0))
}

/// The presumed volume that a snapshot was taken from, and its presumed claim.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    /// The volume; absent also if it isn't known to exist.
    pub volume: Lookup<&'a PersistentVolume>,
    /// The claim.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The size of the volume when the clone was decided, if it was known.
    pub on_record: Option<Bytes>,
}

impl Origin<'_> {
    /// The volume is unknown.
    pub const NOT_KNOWN: Origin<'static> = Origin { volume: Lookup::Absent, claim: None, on_record: None };

    /// The sizes of the volume, if the snapshot with this content was taken from it.
    fn sizes(&self, content: Option<&VolumeSnapshotContent>) -> Lookup<VolumeSizes> {
        let taken_of = content.and_then(VolumeHandle::of_origin);
        let on_record = self.on_record.map(|size| VolumeSizes { volume: Some(size), ..VolumeSizes::default() });
        let volume = match (&self.volume, on_record) {
            (Lookup::Present(volume), _) if taken_of.is_some() && VolumeHandle::of(volume) == taken_of => *volume,
            (_, Some(sizes)) => return Lookup::Present(sizes),
            (Lookup::Present(_) | Lookup::Absent, None) => return Lookup::Absent,
            (Lookup::Unknown(why), None) => return Lookup::Unknown(why.clone()),
        };
        let claim = self.claim.filter(|claim| is_claimed_by(volume, claim.metadata.uid.as_ref()));
        Lookup::Present(VolumeSizes::of(claim, capacity(volume)))
    }
}

/// The size of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSizes {
    /// The smallest size that a clone may request. If that is less than `capacity`, the clone gets `capacity`.
    pub request: Option<Bytes>,
    /// The minimum size of a clone; `None` if it isn't known.
    pub capacity: Option<Bytes>,
    /// The size of a snapshot as the driver reports it, if that is a usual volume size and less than `capacity` is or may become: its
    /// volume was expanded since, or isn't known. A driver that restores at the source's size only requires this one.
    pub cut_at: Option<Bytes>,
    /// The reason why `capacity` may be too small.
    pub doubt: Option<Doubt>,
}

/// The reason why the size of a snapshot is uncertain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Its volume isn't known, and the driver's reported size is not a usual volume size.
    NotKnown,
    /// The same, and reading its volume failed with this error.
    Unread(String),
}

impl SourceSizes {
    /// The size of a claim.
    pub fn of_claim(sizes: &VolumeSizes) -> Self {
        Self { request: sizes.request, capacity: sizes.known(), cut_at: None, doubt: None }
    }

    /// The size of a snapshot with this content.
    pub fn of_snapshot(
        snapshot: &VolumeSnapshot,
        content: Option<&VolumeSnapshotContent>,
        origin: &Origin<'_>,
    ) -> Self {
        let status = snapshot.status.as_ref().and_then(|status| status.restore_size.as_ref());
        let of_content = content.and_then(|content| content.status.as_ref()?.restore_size);
        // 0 means that the driver doesn't report a size.
        let named = [
            status.and_then(|size| Bytes::of(size).ok()),
            of_content.and_then(|size| u64::try_from(size).ok()).map(Bytes),
        ];
        let named = named.into_iter().max().flatten().filter(|size| *size > Bytes(0));
        Self::of_restore(named, &origin.sizes(content))
    }

    /// The size of a snapshot from the driver's `named` restore size and the recorded sizes of its volume.
    fn of_restore(named: Option<Bytes>, sizes: &Lookup<VolumeSizes>) -> Self {
        let volume = sizes.present().copied().unwrap_or_default();
        let is_usual = named.is_some_and(is_usual_size);
        let Some(known) = volume.known() else {
            let doubt = match sizes {
                _ if is_usual => None,
                Lookup::Unknown(why) => Some(Doubt::Unread(why.clone())),
                Lookup::Present(_) | Lookup::Absent => Some(Doubt::NotKnown),
            };
            // Volumes are at least 1Mi.
            let capacity = named.filter(|named| *named >= Bytes::MIB);
            return Self { request: named, capacity, cut_at: capacity, doubt };
        };
        let capacity = named.map_or(known, |named| named.max(known));
        Self {
            // A request for the snapshot owner's requested size, or for the driver's size, gets the size of the volume.
            request: [volume.request, named, Some(capacity)].into_iter().flatten().min(),
            capacity: Some(capacity),
            cut_at: named.filter(|named| is_usual && *named < known),
            doubt: None,
        }
    }
}

/// True for a usual volume size. Drivers round up to whole mebibytes or more, few to whole megabytes; bytes in use are neither.
fn is_usual_size(size: Bytes) -> bool {
    size >= Bytes::MIB && (size.0.is_multiple_of(Bytes::MIB.0) || size.0.is_multiple_of(MEGABYTE))
}

#[cfg(test)]
mod tests;
