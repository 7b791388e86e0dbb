//! The facts of a decision, complete and typed. They are read before the decision, which reads nothing itself.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};

use super::{
    refusals::{self, NamespaceRefusal},
    rules::driver::{self, RestoreRule},
};
use crate::{
    api::{
        Cdi, ClaimPropertySet, CloneStrategy, Refusal, StorageProfile,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    cdi_config::Overhead,
    lookup::Lookup,
    meta,
    object::{SourceKind, VolumeMode},
    profile::{self, Provenance, Record},
    quantity::Bytes,
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
    /// What its owner asked for.
    pub request: Option<Bytes>,
    /// What it has; of a snapshot, what the driver says a restore needs. Nothing while that isn't known.
    pub capacity: Option<Bytes>,
    /// A claim: bound to a volume and not lost. A snapshot: a volume can be restored from it.
    pub ready: bool,
    /// What the driver complains about.
    pub complaint: Option<String>,
    /// The CSI driver of its volume.
    pub driver: Lookup<String>,
}

impl Source {
    /// Reads a claim whose volume has this [driver](driver_of).
    pub fn of(claim: &PersistentVolumeClaim, driver: Lookup<String>) -> Self {
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let storage = |map: &BTreeMap<String, _>| map.get("storage").and_then(|q| Bytes::of(q).ok());
        Self {
            kind: SourceKind::Claim,
            uid: claim.metadata.uid.clone().unwrap_or_default(),
            class: spec.storage_class_name.unwrap_or_default(),
            mode: Some(spec.volume_mode.as_deref().and_then(|m| m.parse().ok()).unwrap_or_default()),
            access_modes: spec.access_modes.unwrap_or_default(),
            request: spec.resources.and_then(|r| r.requests).as_ref().and_then(storage),
            capacity: status.capacity.as_ref().and_then(storage),
            ready: status.phase.as_deref() == Some("Bound") && claim.metadata.deletion_timestamp.is_none(),
            complaint: None,
            driver,
        }
    }

    /// Reads a snapshot and its content. A content counts only when both sides agree on whose it is.
    pub fn of_snapshot(snapshot: &VolumeSnapshot, content: &Lookup<VolumeSnapshotContent>) -> Self {
        let status = snapshot.status.clone().unwrap_or_default();
        let uid = snapshot.metadata.uid.clone().unwrap_or_default();
        let content = match content {
            Lookup::Present(content) if content.spec.volume_snapshot_ref.uid.as_ref() != Some(&uid) => {
                Lookup::Unknown("its VolumeSnapshotContent names another snapshot".to_owned())
            }
            content => content.clone(),
        };
        let annotated = meta::annotation(&snapshot.metadata, meta::SOURCE_VOLUME_MODE);
        let mode = content.present().and_then(|c| c.spec.source_volume_mode.as_deref()).or(annotated);
        Self {
            kind: SourceKind::Snapshot,
            uid,
            class: String::new(),
            mode: mode.and_then(|mode| mode.parse().ok()),
            access_modes: Vec::new(),
            request: None,
            // 0 means that the driver doesn't know.
            capacity: status.restore_size.as_ref().and_then(|q| Bytes::of(q).ok()).filter(|size| *size > Bytes(0)),
            ready: status.ready_to_use.unwrap_or_default() && snapshot.metadata.deletion_timestamp.is_none(),
            complaint: status.error.and_then(|error| error.message),
            driver: content.map(|content| content.spec.driver),
        }
    }
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

/// A StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// The driver.
    pub provisioner: String,
    /// What the driver is told.
    pub parameters: BTreeMap<String, String>,
    /// `allowVolumeExpansion`.
    pub expands: bool,
    /// `volumeBindingMode: WaitForFirstConsumer`.
    pub waits_for_consumer: bool,
    /// The annotation `cdi.kubevirt.io/clone-strategy`, as it is written.
    pub strategy: Option<String>,
    /// How the driver wants a larger restore.
    pub restore: RestoreRule,
    /// Names of classes that the admin declares compatible (`smartclone.dev/compatible-with`).
    pub compatible_with: Vec<String>,
}

impl Class {
    /// Reads a StorageClass.
    pub fn of(class: &StorageClass) -> Self {
        let annotation = |key: &str| meta::annotation(&class.metadata, key);
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            provisioner: class.provisioner.clone(),
            parameters: class.parameters.clone().unwrap_or_default(),
            expands: class.allow_volume_expansion.unwrap_or_default(),
            waits_for_consumer: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            strategy: annotation(meta::CLASS_CLONE_STRATEGY).map(str::to_owned),
            restore: driver::restore_rule(&class.provisioner, annotation(meta::RESTORE_SIZE)),
            compatible_with: annotation(meta::COMPATIBLE_WITH)
                .unwrap_or_default()
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }
}

/// A VolumeSnapshotClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotClass {
    /// Its name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// Annotated as the driver's default.
    pub is_default: bool,
}

impl SnapshotClass {
    /// Reads a VolumeSnapshotClass.
    pub fn of(class: &VolumeSnapshotClass) -> Self {
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            driver: class.driver.clone(),
            is_default: meta::annotation(&class.metadata, meta::DEFAULT_SNAPSHOT_CLASS) == Some("true"),
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
            refused: refusals.into_iter().flatten().filter(|refusal| refusals::open(refusal, now)).cloned().collect(),
            refused_here: Vec::new(),
        }
    }
}

/// Which of all classes is the default one, as Kubernetes and CDI choose: one for virtual machines before the general one,
/// among several the newest, then by name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = |class: &StorageClass, key: &str| meta::annotation(&class.metadata, key) == Some("true");
    classes
        .into_iter()
        .filter_map(|class| {
            let virtual_machines = marked(class, meta::DEFAULT_VIRT_CLASS);
            (virtual_machines || marked(class, meta::DEFAULT_CLASS)).then_some((virtual_machines, class))
        })
        .max_by(|(a_virt, a), (b_virt, b)| {
            let created = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            a_virt
                .cmp(b_virt)
                .then_with(|| created(a).cmp(&created(b)))
                .then_with(|| b.metadata.name.cmp(&a.metadata.name))
        })
        .map(|(_, class)| class)
}

/// `cloneStrategyOverride` of the CDI object in force: the only one, or among several the oldest, so that a second one changes nothing.
pub fn strategy_override<'a>(all: impl IntoIterator<Item = &'a Cdi>) -> Option<CloneStrategy> {
    let age = |cdi: &&Cdi| (cdi.metadata.creation_timestamp.as_ref().map(|t| t.0), cdi.metadata.name.clone());
    all.into_iter().min_by_key(age)?.spec.clone_strategy_override
}

/// CDI's own operator, if it manages this object: it writes its version into the status, and nobody else does.
pub fn operator_of(cdi: &Cdi) -> Option<String> {
    let version = cdi.status.as_ref()?.operator_version.as_deref().filter(|v| !v.is_empty())?;
    Some(format!("CDI's own operator (version {version})"))
}
