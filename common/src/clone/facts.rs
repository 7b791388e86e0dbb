//! The facts of a decision, complete and typed. They are read before the decision, which itself reads nothing.

pub mod sizes;

use std::time::Duration;

use jiff::Timestamp;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use self::sizes::{Doubt, Origin, SourceSizes, VolumeSizes};
use crate::{
    api::{
        ClaimPropertySet, CloneStrategy, Refusal, StorageProfile,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    clone::note::SourceFacts,
    keys,
    lookup::Lookup,
    machine_defaults::{self, Labels},
    object::{self, SourceKind, VolumeMode},
    quantity::Bytes,
    storage::{
        class::Class,
        driver_error,
        overhead::Overhead,
        profile::{self, Provenance, Record},
        refusals::{self, NamespaceRefusal},
        snapshot_class::SnapshotClass,
    },
};

/// All facts of one decision.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The source.
    pub source: Lookup<Source>,
    /// The StorageClass of the source: the one that a claim names; for a snapshot the one for a temporary restore to copy from. Absent also
    /// if there is none.
    pub source_class: Lookup<Class>,
    /// The StorageClass of the clone: the requested one, or the default.
    pub target_class: Lookup<Class>,
    /// All VolumeSnapshotClasses; absent if the cluster has no snapshot API.
    pub snapshot_classes: Lookup<Vec<SnapshotClass>>,
    /// `CDI.spec.cloneStrategyOverride`; absent without a CDI object or an override.
    pub cluster_override: Lookup<CloneStrategy>,
    /// The StorageProfile of the clone's class.
    pub profile: Lookup<Profile>,
    /// The file system overhead of the clone's class.
    pub overhead: Overhead,
    /// The longest deadline that a requester may ask for.
    pub max_deadline: Duration,
    /// The settings of the CDI beside which the clone is made; absent without one.
    pub beside_cdi: Option<BesideCdi>,
}

/// What depends on CDI's own controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BesideCdi {
    /// True if clones wait for a first consumer (the feature gate `HonorWaitForFirstConsumer`). Without it, CDI has every volume made at
    /// once.
    pub waits_for_consumers: bool,
}

impl Facts {
    /// Facts for a DataVolume that needs no decision.
    pub fn unread() -> Self {
        fn unread<T>() -> Lookup<T> {
            Lookup::Unknown("not looked up".to_owned())
        }
        Self {
            source: unread(),
            source_class: unread(),
            target_class: unread(),
            snapshot_classes: unread(),
            cluster_override: unread(),
            profile: unread(),
            overhead: Overhead::DEFAULT,
            max_deadline: profile::MAX_DEADLINE.unsigned_abs(),
            beside_cdi: None,
        }
    }
}

/// A claim or a snapshot that is to be cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// Its identity.
    pub uid: String,
    /// The StorageClass that it names; empty if it names none.
    pub class: String,
    /// Its volume mode; `None` for a snapshot without a recorded one.
    pub mode: Option<VolumeMode>,
    /// Its access modes; a snapshot has none.
    pub access_modes: Vec<String>,
    /// The size that its owner requested; for a snapshot, the smallest size that may be requested. See [`SourceSizes`], as for the next
    /// three.
    pub request: Option<Bytes>,
    /// Its actual size; `None` if it isn't known.
    pub capacity: Option<Bytes>,
    /// The size of a snapshot as the driver reports it, if that is less than `capacity` or may be.
    pub cut_at: Option<Bytes>,
    /// The reason why `capacity` may be too small.
    pub doubt: Option<Doubt>,
    /// True if a claim is bound to a volume, or a volume can be restored from a snapshot.
    pub ready: bool,
    /// The finalizers, if it is being deleted.
    pub deleting: Option<Vec<String>>,
    /// The driver's error.
    pub complaint: Option<String>,
    /// The CSI driver of its volume.
    pub driver: Lookup<String>,
    /// Its labels with defaults for virtual machines that boot from it.
    pub machine_defaults: Labels,
}

impl Source {
    /// Reads a claim whose volume has this [size](sizes::capacity_of), if known, and this [driver](driver_of).
    pub fn of(claim: &PersistentVolumeClaim, volume: Option<Bytes>, driver: Lookup<String>) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let SourceSizes { request, capacity, cut_at, doubt } =
            SourceSizes::of_claim(&VolumeSizes::of(Some(claim), volume));
        Self {
            kind: SourceKind::Claim,
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            class: spec.storage_class_name.unwrap_or_default(),
            mode: Some(spec.volume_mode.as_deref().and_then(|m| m.parse().ok()).unwrap_or_default()),
            access_modes: spec.access_modes.unwrap_or_default(),
            request,
            capacity,
            cut_at,
            doubt,
            ready: status.phase.as_deref() == Some("Bound") && claim.metadata.deletion_timestamp.is_none(),
            deleting: deleting(&claim.metadata),
            complaint: None,
            driver,
            machine_defaults: machine_defaults::of(&claim.metadata),
        }
    }

    /// Reads a snapshot, its content, and its volume as far as that is known. The content counts only if it refers to the snapshot, too.
    pub fn of_snapshot(
        snapshot: &VolumeSnapshot,
        content: &Lookup<VolumeSnapshotContent>,
        origin: &Origin<'_>,
    ) -> Self {
        let status = snapshot.status.clone().unwrap_or_default();
        let uid = snapshot.metadata.uid.clone().unwrap_or_default();
        let content = match content {
            Lookup::Present(content) if content.spec.volume_snapshot_ref.uid.as_ref() != Some(&uid) => {
                Lookup::Unknown("its VolumeSnapshotContent names another snapshot".to_owned())
            }
            content => content.clone(),
        };
        let annotated = object::annotation(&snapshot.metadata, keys::SOURCE_VOLUME_MODE);
        let mode = content.present().and_then(|c| c.spec.source_volume_mode.as_deref()).or(annotated);
        let SourceSizes { request, capacity, cut_at, doubt } =
            SourceSizes::of_snapshot(snapshot, content.present(), origin);
        Self {
            kind: SourceKind::Snapshot,
            uid,
            class: String::new(),
            mode: mode.and_then(|mode| mode.parse().ok()),
            access_modes: Vec::new(),
            request,
            capacity,
            cut_at,
            doubt,
            ready: status.ready_to_use.unwrap_or_default() && snapshot.metadata.deletion_timestamp.is_none(),
            deleting: deleting(&snapshot.metadata),
            complaint: status.error.and_then(|error| error.message),
            driver: content.map(|content| content.spec.driver),
            machine_defaults: machine_defaults::of(&snapshot.metadata),
        }
    }
}

impl Source {
    /// True for a snapshot whose size only the driver reports, or that may be smaller than its volume is now.
    pub fn has_guessed_size(&self) -> bool {
        self.cut_at.is_some() || self.doubt.is_some()
    }

    /// The size to remember after the driver refused to restore this snapshot at `size`, if its error may be about the size.
    /// InvalidArgument may be about the size only if that exceeds the driver's reported size.
    pub fn refused_at(&self, size: Bytes, code: &str) -> Option<u64> {
        let is_larger = self.cut_at.is_some_and(|cut_at| size > cut_at);
        let about_size = driver_error::is_about_size(code) || code == "InvalidArgument" && is_larger;
        (self.kind == SourceKind::Snapshot && about_size).then_some(size.0)
    }

    /// The minimum size of a clone: the size when the snapshot was taken, or the current one.
    ///
    /// Not inlined: in a loop, rustc 1.95 (LLVM 22.1.2) reads it before the check if there is a source, with an out-of-bounds index.
    #[inline(never)]
    pub fn least(&self) -> Option<Bytes> {
        match self.cut_at {
            Some(size) => Some(size),
            None => self.capacity,
        }
    }

    /// The source claim as recorded at the time of the decision.
    pub fn on_record(uid: String, facts: &SourceFacts) -> Self {
        Self {
            kind: SourceKind::Claim,
            uid,
            class: facts.class.clone(),
            mode: facts.volume_mode.as_deref().and_then(|mode| mode.parse().ok()),
            access_modes: facts.access_modes.clone(),
            request: Some(Bytes(facts.request)),
            capacity: Some(Bytes(facts.capacity)),
            cut_at: None,
            doubt: None,
            ready: true,
            deleting: None,
            complaint: None,
            driver: Some(facts.driver.clone()).filter(|driver| !driver.is_empty()).into(),
            machine_defaults: Labels::new(),
        }
    }
}

/// The source that a decision uses. After its snapshot is taken (`is_cut`), that is the recorded source, even if the live one is moved,
/// changed, replaced or deleted.
pub fn source_in_force(live: Lookup<Source>, recorded: Option<&Source>, is_cut: bool) -> Lookup<Source> {
    let Some(recorded) = recorded.filter(|_| is_cut) else { return live };
    match live {
        Lookup::Present(live) if live.uid == recorded.uid && live.ready => Lookup::Present(live),
        Lookup::Present(_) | Lookup::Absent | Lookup::Unknown(_) => Lookup::Present(recorded.clone()),
    }
}

/// The finalizers of an object that is being deleted.
fn deleting(meta: &ObjectMeta) -> Option<Vec<String>> {
    meta.deletion_timestamp.as_ref().map(|_| meta.finalizers.clone().unwrap_or_default())
}

/// The CSI driver of the volume of a claim with this UID; absent if the claim has no volume, or the volume no CSI driver.
pub fn driver_of(claim_uid: Option<&String>, volume: Lookup<&PersistentVolume>) -> Lookup<String> {
    match volume {
        Lookup::Unknown(why) => Lookup::Unknown(why),
        Lookup::Absent => Lookup::Absent,
        Lookup::Present(volume) => {
            let spec = volume.spec.as_ref();
            let claimed_by = spec.and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.uid.as_ref());
            // A volume counts only if it refers to the claim, too (CVE-2019-11255).
            if claimed_by == claim_uid {
                spec.and_then(|s| s.csi.as_ref()).map(|csi| csi.driver.clone()).into()
            } else {
                Lookup::Unknown("its PersistentVolume names another claim".to_owned())
            }
        }
    }
}

/// The admin's settings for a StorageClass and its known capabilities.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// `spec.cloneStrategy`.
    pub strategy: Option<CloneStrategy>,
    /// `spec.snapshotClass`.
    pub snapshot_class: Option<String>,
    /// The supported pairs of access mode and volume mode, best first: the admin's, or those known of the driver.
    pub claim_property_sets: Vec<ClaimPropertySet>,
    /// The recommended strategy of the built-in table.
    pub advised: Option<CloneStrategy>,
    /// The driver's minimum size of a volume.
    pub minimum: Option<Bytes>,
    /// The driver's time limit for one strategy.
    pub deadline: Option<Duration>,
    /// True if the admin has set the time limit on the StorageClass.
    pub deadline_is_given: bool,
    /// Refusals to several namespaces that are in force.
    pub refused: Vec<Refusal>,
    /// Refusals to the clone's own namespace that are in force. Only the controller has them, and only before the clone has started.
    pub refused_here: Vec<NamespaceRefusal>,
}

impl Profile {
    /// The profile of a class at `now`, from its StorageProfile, if it exists, and the capabilities of its driver.
    ///
    /// Beside CDI the status of the StorageProfile is CDI's: what it says about the class holds where nothing else is set.
    pub fn of(class: &StorageClass, profile: Option<&StorageProfile>, beside_cdi: bool, now: Timestamp) -> Self {
        let record = Record::of(class, profile);
        let by_cdi = profile.and_then(|profile| profile.status.as_ref()).filter(|_| beside_cdi);
        let refusals = profile.map(|profile| refusals::recorded(profile, beside_cdi)).unwrap_or_default();
        Self {
            strategy: profile.and_then(|p| p.spec.clone_strategy),
            snapshot_class: profile
                .and_then(|p| p.spec.snapshot_class.clone())
                .or_else(|| by_cdi?.snapshot_class.clone()),
            claim_property_sets: record
                .claim_property_sets
                .map(|known| known.value)
                .or_else(|| by_cdi?.claim_property_sets.clone())
                .unwrap_or_default(),
            advised: record
                .strategy
                .filter(|known| known.provenance == Provenance::BuiltIn)
                .map(|known| known.value)
                .or_else(|| by_cdi?.clone_strategy),
            minimum: record.minimum_size.map(|known| known.value),
            deadline: Duration::try_from(record.deadline.value).ok(),
            deadline_is_given: record.deadline.provenance == Provenance::StorageClass,
            refused: refusals.into_iter().filter(|refusal| refusals::open(refusal, now)).collect(),
            refused_here: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::clone::fixtures::facts;

    /// The live source with UID and readiness; the state of its snapshot; and the UID of the expected source.
    #[rstest]
    #[case::not_cut(Some(("a", true)), false, Some("a"))]
    #[case::not_cut_and_gone(None, false, None)]
    #[case::not_cut_and_another(Some(("b", true)), false, Some("b"))]
    #[case::cut(Some(("a", true)), true, Some("a"))]
    #[case::cut_and_being_deleted(Some(("a", false)), true, Some("a"))]
    #[case::cut_and_gone(None, true, Some("a"))]
    #[case::cut_and_another(Some(("b", true)), true, Some("a"))]
    fn once_cut_nothing_else_about_the_source_matters(
        #[case] live: Option<(&str, bool)>,
        #[case] is_cut: bool,
        #[case] expected: Option<&str>,
    ) {
        let Lookup::Present(source) = facts().source else { panic!() };
        let named = |uid: &str, ready| Source { uid: uid.to_owned(), ready, ..source.clone() };
        let live = Lookup::from(live.map(|(uid, ready)| named(uid, ready)));
        let found = source_in_force(live.clone(), Some(&named("a", true)), is_cut);
        assert_eq!(found.present().map(|source| source.uid.as_str()), expected);
        assert!(!is_cut || found.present().is_some_and(|source| source.ready));
        // An earlier version had no record.
        assert_eq!(source_in_force(live.clone(), None, is_cut), live);
    }
}
