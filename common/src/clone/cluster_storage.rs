//! The cluster's objects that a decision depends on, and the facts derived from them. Webhook and controller both use it, so that they
//! derive the same facts.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::{
    api::{Cdi, CdiConfig, StorageProfile, snapshot::VolumeSnapshotClass},
    cdi_config::{self, strategy_override},
    clone::{
        facts::{BesideCdi, Facts, Profile, Source},
        request::Request,
    },
    keys,
    lookup::Lookup,
    mode::Mode,
    object::{self, SourceKind},
    storage::{
        class::{Class, default_class},
        overhead::Overhead,
        profile,
        snapshot_class::SnapshotClass,
    },
};

/// All StorageClasses, snapshot classes, StorageProfiles and settings of CDI.
#[derive(Debug, Clone)]
pub struct ClusterStorage {
    /// All StorageClasses.
    pub classes: Lookup<Vec<Arc<StorageClass>>>,
    /// All VolumeSnapshotClasses; absent if the cluster has no snapshot API.
    pub snapshot_classes: Lookup<Vec<Arc<VolumeSnapshotClass>>>,
    /// All StorageProfiles.
    pub profiles: Lookup<Vec<Arc<StorageProfile>>>,
    /// All CDI objects; there should be one.
    pub cdis: Lookup<Vec<Arc<Cdi>>>,
    /// All CDIConfigs; there should be one.
    pub configs: Lookup<Vec<Arc<CdiConfig>>>,
}

impl ClusterStorage {
    /// The facts at `now` for the decision about `request` with this `source`.
    pub fn facts(&self, request: &Request, source: Lookup<Source>, now: Timestamp) -> Facts {
        let target = match request.storage_class.as_deref() {
            Some(name) => self.class(name),
            None => and_then(self.classes.as_ref(), |all| default_class(all.iter().map(AsRef::as_ref))),
        };
        let target_class = target.clone().map(Class::of);
        let name = target_class.present().map(|class| class.name.as_str()).unwrap_or_default();
        let source_class = match source.present() {
            None => Lookup::Absent,
            Some(source) if source.kind == SourceKind::Snapshot => self.class_to_restore(source, &target_class),
            Some(source) if source.class.is_empty() => Lookup::Absent,
            Some(source) if source.class == name => target_class.clone(),
            Some(source) => self.class(&source.class).map(Class::of),
        };
        Facts {
            profile: target.present().map_or(Lookup::Absent, |class| self.profile(class, now)),
            overhead: self.overhead(name),
            max_deadline: self.max_deadline(),
            beside_cdi: self.beside_cdi(),
            source,
            source_class,
            snapshot_classes: self
                .snapshot_classes
                .as_ref()
                .map(|all| all.iter().map(|c| SnapshotClass::of(c)).collect()),
            cluster_override: and_then(self.cdis.as_ref(), |all| strategy_override(all.iter().map(AsRef::as_ref))),
            target_class,
        }
    }

    /// The class for a temporary restore of a snapshot to copy from: the clone's if it has the snapshot's driver, or else the first by name
    /// that has.
    fn class_to_restore(&self, source: &Source, target: &Lookup<Class>) -> Lookup<Class> {
        let Some(driver) = source.driver.present() else { return Lookup::Absent };
        if let Some(class) = target.present().filter(|class| class.provisioner == *driver) {
            return Lookup::Present(class.clone());
        }
        and_then(self.classes.as_ref(), |all| {
            let of_driver = all.iter().filter(|class| class.provisioner == *driver);
            of_driver.min_by_key(|class| class.metadata.name.clone()).map(|class| Class::of(class))
        })
    }

    /// The effective CDI object.
    pub fn cdi(&self) -> Option<&Cdi> {
        let cdis = self.cdis.present().map(Vec::as_slice).unwrap_or_default();
        cdi_config::in_force(cdis.iter().map(AsRef::as_ref))
    }

    /// The effective CDIConfig.
    pub fn config(&self) -> Option<&CdiConfig> {
        let configs = self.configs.present().map(Vec::as_slice).unwrap_or_default();
        configs.iter().find(|config| config.metadata.name.as_deref() == Some(cdi_config::NAME)).map(AsRef::as_ref)
    }

    /// The longest deadline that a requester may ask for. An invalid duration is ignored.
    fn max_deadline(&self) -> Duration {
        let config = self.config().and_then(|config| object::annotation(&config.metadata, keys::MAX_DEADLINE));
        config.and_then(profile::duration).unwrap_or(profile::MAX_DEADLINE).unsigned_abs()
    }

    /// The file system overhead of this class.
    fn overhead(&self, class: &str) -> Overhead {
        let config = self.config();
        cdi_config::Config::of(config.map(|config| &config.spec), self.cdi()).overhead(class)
    }

    fn beside_cdi(&self) -> Option<BesideCdi> {
        self.mode().present()?.operator()?;
        let config = cdi_config::Config::of(self.config().map(|config| &config.spec), self.cdi());
        Some(BesideCdi { waits_for_consumers: config.has_gate("HonorWaitForFirstConsumer") })
    }

    /// The mode of this cluster. Unknown until the CDI objects are read.
    pub fn mode(&self) -> Lookup<Mode> {
        Mode::known(&self.cdis)
    }

    /// The reason why one of the kinds is unknown; `None` if all are known.
    pub fn unknown(&self) -> Option<&str> {
        fn why<T>(lookup: &Lookup<T>) -> Option<&str> {
            match lookup {
                Lookup::Unknown(why) => Some(why),
                Lookup::Present(_) | Lookup::Absent => None,
            }
        }
        why(&self.classes)
            .or_else(|| why(&self.snapshot_classes))
            .or_else(|| why(&self.profiles))
            .or_else(|| why(&self.cdis))
            .or_else(|| why(&self.configs))
    }

    fn class(&self, name: &str) -> Lookup<&StorageClass> {
        and_then(self.classes.as_ref(), |all| {
            all.iter().find(|c| c.metadata.name.as_deref() == Some(name)).map(AsRef::as_ref)
        })
    }

    /// The profile of a class. Without a StorageProfile it holds the driver's capabilities.
    fn profile(&self, class: &StorageClass, now: Timestamp) -> Lookup<Profile> {
        let beside_cdi = self.beside_cdi().is_some();
        let of = |profile: Option<&StorageProfile>| Profile::of(class, profile, beside_cdi, now);
        match &self.profiles {
            Lookup::Unknown(why) => Lookup::Unknown(why.clone()),
            Lookup::Absent => Lookup::Present(of(None)),
            Lookup::Present(all) => {
                let profile = all.iter().find(|p| p.metadata.name == class.metadata.name);
                Lookup::Present(of(profile.map(AsRef::as_ref)))
            }
        }
    }
}

/// Applies `find` to the objects, if they are known.
fn and_then<T, U>(all: Lookup<T>, find: impl FnOnce(T) -> Option<U>) -> Lookup<U> {
    match all {
        Lookup::Present(all) => find(all).into(),
        Lookup::Absent => Lookup::Absent,
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}
