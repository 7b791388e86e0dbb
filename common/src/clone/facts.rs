//! The facts of a decision, complete and typed. They are read before the decision, which reads nothing itself.

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
    /// What is to be cloned.
    pub source: Lookup<Source>,
    /// The StorageClass of the source: the one that a claim names; for a snapshot the one with which it can be restored to be copied from.
    /// Absent also when there is none.
    pub source_class: Lookup<Class>,
    /// The StorageClass of the clone: the one named, else the default one.
    pub target_class: Lookup<Class>,
    /// Every VolumeSnapshotClass; absent when the cluster has no snapshot API.
    pub snapshot_classes: Lookup<Vec<SnapshotClass>>,
    /// `CDI.spec.cloneStrategyOverride`; absent when there is no CDI object or no override in it.
    pub cluster_override: Lookup<CloneStrategy>,
    /// The StorageProfile of the clone's class.
    pub profile: Lookup<Profile>,
    /// What a file system on the clone's class needs for itself.
    pub overhead: Overhead,
    /// The longest deadline that a requester may ask for.
    pub max_deadline: Duration,
}

impl Facts {
    /// For a DataVolume that asks for nothing that could be decided.
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
    /// The StorageClass it names; empty where it names none.
    pub class: String,
    /// Its volume mode; nothing where nobody has recorded that of a snapshot.
    pub mode: Option<VolumeMode>,
    /// Its access modes; a snapshot has none.
    pub access_modes: Vec<String>,
    /// What its owner asked for; of a snapshot, the least that may be asked for. See [`SourceSizes`], as for the next three.
    pub request: Option<Bytes>,
    /// What it has. Nothing while that isn't known.
    pub capacity: Option<Bytes>,
    /// The size of a snapshot as the driver names it, where that is less than `capacity`, or may be.
    pub cut_at: Option<Bytes>,
    /// Why `capacity` may be too small.
    pub doubt: Option<Doubt>,
    /// A claim: bound to a volume and not lost. A snapshot: a volume can be restored from it.
    pub ready: bool,
    /// The finalizers that keep it, while it is being deleted.
    pub deleting: Option<Vec<String>>,
    /// What the driver complains about.
    pub complaint: Option<String>,
    /// The CSI driver of its volume.
    pub driver: Lookup<String>,
    /// Its labels about virtual machines that boot from it.
    pub machine_defaults: Labels,
}

impl Source {
    /// Reads a claim whose volume has this [size](sizes::capacity_of), as far as it is known, and this [driver](driver_of).
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

    /// Reads a snapshot, its content, and what is known of the volume that it was taken of. A content counts only when both sides agree on
    /// whose it is.
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
    /// True if this is a snapshot whose size nothing but the driver names, or that may have less than its volume has.
    pub fn has_guessed_size(&self) -> bool {
        self.cut_at.is_some() || self.doubt.is_some()
    }

    /// The size to remember when the driver has refused to restore this snapshot at `size`, if its answer may be about that. An argument
    /// that is invalid may be the size only where that is more than what the driver names.
    pub fn refused_at(&self, size: Bytes, code: &str) -> Option<u64> {
        let is_larger = self.cut_at.is_some_and(|cut_at| size > cut_at);
        let about_size = driver_error::is_about_size(code) || code == "InvalidArgument" && is_larger;
        (self.kind == SourceKind::Snapshot && about_size).then_some(size.0)
    }

    /// The least that a clone of it needs: what it had when it was cut, or what it has.
    ///
    /// Not inlined: where this is part of a loop, rustc 1.95 (LLVM 22.1.2) reads it ahead of the check whether there is a source at all,
    /// with what is not a source as an index, out of bounds.
    #[inline(never)]
    pub fn least(&self) -> Option<Bytes> {
        match self.cut_at {
            Some(size) => Some(size),
            None => self.capacity,
        }
    }

    /// A source claim as it was when it was decided about.
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

/// The source that a decision rests on. Once its snapshot is cut (`is_cut`), that is the source on record, whatever has become of the live one:
/// moved, changed, replaced by another one of its name, or gone.
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

/// The CSI driver of the volume of a claim with this UID; absent where the claim has no volume, or the volume no such driver.
pub fn driver_of(claim_uid: Option<&String>, volume: Lookup<&PersistentVolume>) -> Lookup<String> {
    match volume {
        Lookup::Unknown(why) => Lookup::Unknown(why),
        Lookup::Absent => Lookup::Absent,
        Lookup::Present(volume) => {
            let spec = volume.spec.as_ref();
            let claimed_by = spec.and_then(|s| s.claim_ref.as_ref()).and_then(|c| c.uid.as_ref());
            // A volume counts only when both sides agree on whose it is (CVE-2019-11255).
            if claimed_by == claim_uid {
                spec.and_then(|s| s.csi.as_ref()).map(|csi| csi.driver.clone()).into()
            } else {
                Lookup::Unknown("its PersistentVolume names another claim".to_owned())
            }
        }
    }
}

/// What an admin says about a StorageClass in its StorageProfile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// `spec.cloneStrategy`.
    pub strategy: Option<CloneStrategy>,
    /// `spec.snapshotClass`.
    pub snapshot_class: Option<String>,
    /// Which access modes go with which volume mode, the best first: the admin's, else what is known of the driver.
    pub claim_property_sets: Vec<ClaimPropertySet>,
    /// The strategy that is known to be the best for the driver.
    pub advised: Option<CloneStrategy>,
    /// The smallest volume that the driver makes.
    pub minimum: Option<Bytes>,
    /// How long the driver may take for one strategy.
    pub deadline: Option<Duration>,
    /// An admin has said how long, on the StorageClass.
    pub deadline_is_given: bool,
    /// What the driver refused to several namespaces, not to be asked for again now.
    pub refused: Vec<Refusal>,
    /// What it refused to the clone's own namespace. Only the controller remembers that, and it counts only before the clone is begun.
    pub refused_here: Vec<NamespaceRefusal>,
}

impl Profile {
    /// What is known of a class: its StorageProfile as it stands at `now`, if there is one, and the record of its driver.
    pub fn of(class: &StorageClass, profile: Option<&StorageProfile>, now: Timestamp) -> Self {
        let record = Record::of(class, profile);
        let refusals = profile.and_then(|p| p.status.as_ref()).map(|status| status.refusals.as_slice());
        Self {
            strategy: profile.and_then(|p| p.spec.clone_strategy),
            snapshot_class: profile.and_then(|p| p.spec.snapshot_class.clone()),
            claim_property_sets: record.claim_property_sets.map(|known| known.value).unwrap_or_default(),
            advised: record.strategy.filter(|known| known.provenance == Provenance::BuiltIn).map(|known| known.value),
            minimum: record.minimum_size.map(|known| known.value),
            deadline: Duration::try_from(record.deadline.value).ok(),
            deadline_is_given: record.deadline.provenance == Provenance::StorageClass,
            refused: refusals.into_iter().flatten().filter(|refusal| refusals::open(refusal, now)).cloned().collect(),
            refused_here: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::clone::fixtures::facts;

    /// The live source, by UID and whether it is ready; whether its snapshot is cut; and the UID of the source that counts.
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
        // An earlier version recorded nothing.
        assert_eq!(source_in_force(live.clone(), None, is_cut), live);
    }
}
