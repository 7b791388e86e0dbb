//! What admins have set up, as far as a decision depends on it; and how facts are made of it. Both gates read it here, so that the
//! controller finds what the webhook found.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};

use super::{
    facts::{Class, Facts, Profile, SnapshotClass, Source, default_class, operator_of, strategy_override},
    request::Request,
};
use crate::{
    api::{Cdi, StorageProfile, snapshot::VolumeSnapshotClass},
    lookup::Lookup,
};

/// All objects of the small kinds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Every StorageClass.
    pub classes: Lookup<Vec<Arc<StorageClass>>>,
    /// Every VolumeSnapshotClass; absent when the cluster has no snapshot API.
    pub snapshot_classes: Lookup<Vec<Arc<VolumeSnapshotClass>>>,
    /// Every StorageProfile.
    pub profiles: Lookup<Vec<Arc<StorageProfile>>>,
    /// Every CDI object; there should be one.
    pub cdis: Lookup<Vec<Arc<Cdi>>>,
}

impl Settings {
    /// What the decision about `request` depends on. `volume` is the one of the source, absent when the source isn't bound.
    pub fn facts(
        &self,
        request: &Request,
        source: &Lookup<PersistentVolumeClaim>,
        volume: &Lookup<PersistentVolume>,
    ) -> Facts {
        let target_class = match request.storage_class.as_deref() {
            Some(name) => self.class(name),
            None => and_then(self.classes.as_ref(), |all| default_class(all.iter().map(AsRef::as_ref)).map(Class::of)),
        };
        let source_class = source.present().and_then(|claim| claim.spec.as_ref()?.storage_class_name.as_deref());
        let profile = target_class.present().map_or(Lookup::Absent, |class| self.profile(&class.name));
        Facts {
            source: source.as_ref().map(|claim| Source::of(claim, volume)),
            source_class: source_class.map_or(Lookup::Absent, |name| self.class(name)),
            target_class,
            snapshot_classes: self
                .snapshot_classes
                .as_ref()
                .map(|all| all.iter().map(|c| SnapshotClass::of(c)).collect()),
            cluster_override: and_then(self.cdis.as_ref(), |all| strategy_override(all.iter().map(AsRef::as_ref))),
            profile,
        }
    }

    /// CDI's own operator, if it manages this cluster. Then everything is left to it.
    pub fn operator(&self) -> Lookup<String> {
        and_then(self.cdis.as_ref(), |all| all.iter().find_map(|cdi| operator_of(cdi)))
    }

    /// Why something isn't known; nothing, if everything is.
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
    }

    fn class(&self, name: &str) -> Lookup<Class> {
        and_then(self.classes.as_ref(), |all| {
            all.iter().find(|c| c.metadata.name.as_deref() == Some(name)).map(|c| Class::of(c))
        })
    }

    fn profile(&self, name: &str) -> Lookup<Profile> {
        and_then(self.profiles.as_ref(), |all| {
            all.iter().find(|p| p.metadata.name.as_deref() == Some(name)).map(|p| Profile::of(p))
        })
    }
}

/// What `find` finds among the objects, when they are known.
fn and_then<T, U>(all: Lookup<T>, find: impl FnOnce(T) -> Option<U>) -> Lookup<U> {
    match all {
        Lookup::Present(all) => find(all).into(),
        Lookup::Absent => Lookup::Absent,
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}
