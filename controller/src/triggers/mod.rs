//! Triggers: passes over objects that depend on a changed object.

mod data_sources;
pub mod dependents;
mod names_by_key;
mod object_transfers;
pub mod pods_by_claim;
pub mod volumes_by_handle;

use std::{sync::Arc, time::Instant};

use common::{
    api::{
        DataSource, DataVolume, ObjectTransfer, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    clone::{former, populator, shared_snapshot::SharedSnapshot},
    keys,
    lookup::Lookup,
    names,
    object::{self, ObjectName, SourceKind, SourceName},
};
use config::cache::Cache;
use futures::{StreamExt, channel::mpsc, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota},
    storage::v1::VolumeAttachment,
};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};

use self::{
    data_sources::DataSourceTrigger,
    dependents::{Dependency, Dependents},
    object_transfers::ObjectTransferTrigger,
    pods_by_claim::PodsByClaim,
    volumes_by_handle::VolumesByHandle,
};
use crate::{
    clone::in_cdis_place::InCdisPlace,
    context::{Caches, name_of},
    created::CreatedObjects,
    periodic::Trigger,
};

/// The triggers of the periodic reconcilers.
#[derive(Default, Clone)]
pub struct PeriodicTriggers {
    pub(crate) profiles: Trigger,
    pub(crate) config: Trigger,
    pub(crate) cleanup: Trigger,
    pub(crate) mode: Trigger,
    pub(crate) cdi: Trigger,
}

/// The objects that were triggered, for the controllers of their kinds.
pub struct Triggered {
    pub(crate) volumes: mpsc::UnboundedReceiver<ObjectRef<DataVolume>>,
    pub(crate) claims: mpsc::UnboundedReceiver<ObjectRef<PersistentVolumeClaim>>,
    pub(crate) sources: BoxStream<'static, ObjectRef<DataSource>>,
    pub(crate) transfers: BoxStream<'static, ObjectRef<ObjectTransfer>>,
}

/// The indexes that watches and passes share.
#[derive(Clone, Default)]
pub struct Indexes {
    /// Clones by the objects that they depend on.
    pub(crate) dependents: Arc<Dependents>,
    /// Claims that are populated without a DataVolume, by the VolumeCloneSource that they reference.
    pub(crate) claims_by_clone_source: Arc<Dependents>,
    pub(crate) pods_by_claim: Arc<PodsByClaim>,
    pub(crate) volumes_by_handle: Arc<VolumesByHandle>,
    pub(crate) created: Arc<CreatedObjects>,
    pub(crate) in_cdis_place: Arc<InCdisPlace>,
}

/// Starts passes over the objects that depend on an object that has changed.
#[derive(Clone)]
pub struct Triggers {
    caches: Caches,
    indexes: Indexes,
    periodic: PeriodicTriggers,
    transfers: ObjectTransferTrigger,
    sources: DataSourceTrigger,
    volumes: mpsc::UnboundedSender<ObjectRef<DataVolume>>,
    claims: mpsc::UnboundedSender<ObjectRef<PersistentVolumeClaim>>,
}

impl Triggers {
    /// The triggers, and the objects that they trigger.
    pub fn new(
        caches: Caches,
        transfers: Cache<ObjectTransfer>,
        indexes: Indexes,
        periodic: PeriodicTriggers,
    ) -> (Self, Triggered) {
        let (source_trigger, sources) = DataSourceTrigger::new(caches.data_sources.clone());
        let (transfer_trigger, triggered_transfers) = ObjectTransferTrigger::new(transfers);
        let ((volumes, triggered_volumes), (claims, triggered_claims)) = (mpsc::unbounded(), mpsc::unbounded());
        let triggers =
            Self { caches, indexes, periodic, transfers: transfer_trigger, sources: source_trigger, volumes, claims };
        let triggered = Triggered {
            volumes: triggered_volumes,
            claims: triggered_claims,
            sources: sources.boxed(),
            transfers: triggered_transfers.boxed(),
        };
        (triggers, triggered)
    }

    /// Triggers the clone of this name: a DataVolume, or a claim that is populated without one. Sending fails only during shutdown.
    fn clone_named(&self, name: &ObjectName) {
        let at = (Some(name.namespace.as_str()), name.name.as_str());
        if self.caches.data_volumes.get(at.0, at.1).present().is_some() {
            let _ = self.volumes.unbounded_send(ObjectRef::new(&name.name).within(&name.namespace));
        } else if self.caches.claims.get(at.0, at.1).present().is_some_and(|claim| populator::wanted(claim).is_some()) {
            let _ = self.claims.unbounded_send(ObjectRef::new(&name.name).within(&name.namespace));
        }
    }

    /// Triggers the clone that has a claim of this name as its own or as a temporary one.
    fn claim_named(&self, name: &ObjectName) {
        if let Lookup::Present(claim) = self.caches.claims.get(Some(&name.namespace), &name.name) {
            self.owner(&*claim);
            self.former(&claim);
        }
        self.clone_named(name);
    }

    /// Triggers the cleanup for a claim that CDI's finalizers keep.
    fn former(&self, claim: &PersistentVolumeClaim) {
        if former::other_finalizers(&claim.metadata).is_some() {
            self.periodic.cleanup.notify_one();
        }
    }

    fn all_clones(&self) {
        for (name, _) in self.indexes.dependents.all() {
            self.clone_named(&name);
        }
    }

    /// Triggers the clones of a source.
    fn source(&self, kind: SourceKind, object: ObjectName) {
        for clone in self.indexes.dependents.of(&Dependency::Source(SourceName { kind, object })) {
            self.clone_named(&clone);
        }
    }

    /// Triggers the clone for which an object was created.
    fn owner<K: Resource>(&self, object: &K) {
        let meta = object.meta();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let owner = object::controller(meta);
        if let Some(owner) = owner.filter(|it| matches!(it.kind.as_str(), "DataVolume" | "PersistentVolumeClaim")) {
            self.clone_named(&ObjectName { namespace, name: owner.name.clone() });
        }
        let elsewhere = object::annotation(meta, keys::OWNED_BY_DATA_VOLUME);
        if let Some(owner) = elsewhere.and_then(|owner| owner.parse().ok()) {
            self.clone_named(&owner);
        }
        if meta.labels.as_ref().is_some_and(|labels| labels.contains_key(keys::OWNED_BY_UID)) {
            self.periodic.cleanup.notify_one();
        }
    }

    /// A DataVolume was created, changed or deleted.
    pub fn data_volume(&self, volume: &DataVolume) {
        self.transfers.data_volume(volume);
        let there = self.caches.data_volumes.get(volume.namespace().as_deref(), &volume.name_any());
        if there.present().and_then(|there| there.uid()) != volume.uid() {
            let uid = volume.uid().unwrap_or_default();
            self.indexes.created.forget(&uid);
            self.indexes.in_cdis_place.forget(&uid);
        }
        // Its claim may be the source of a clone, and is incomplete until the DataVolume has succeeded.
        self.source(SourceKind::Claim, name_of(volume));
        self.sources.content(volume);
        self.periodic.cleanup.notify_one();
    }

    /// A PersistentVolumeClaim was created, changed or deleted.
    pub fn claim(&self, claim: &PersistentVolumeClaim) {
        self.transfers.claim(claim);
        self.owner(claim);
        self.former(claim);
        let name = name_of(claim);
        self.clone_named(&name);
        self.source(SourceKind::Claim, name);
        self.sources.content(claim);
        if object::annotation(&claim.metadata, keys::BESIDE_CDI).is_some() {
            // CDI's volume may have won the claim.
            self.periodic.cleanup.notify_one();
        }
        let restored_from = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref());
        if restored_from.is_some_and(|source| source.kind == "VolumeSnapshot") {
            self.periodic.cleanup.notify_one();
        }
    }

    /// A PersistentVolume was created, changed or deleted.
    pub fn volume(&self, volume: &PersistentVolume) {
        self.transfers.volume(volume);
        self.indexes
            .volumes_by_handle
            .record(volume, Instant::now(), |name| self.caches.volumes.get(None, name).present().is_some());
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return };
        let (Some(namespace), Some(name)) = (claim.namespace.clone(), claim.name.clone()) else { return };
        let name = ObjectName { namespace, name };
        self.claim_named(&name);
        self.source(SourceKind::Claim, name);
    }

    /// A pod was created, changed or deleted.
    pub fn pod(&self, pod: &Pod) {
        self.transfers.pod(pod);
        self.indexes.pods_by_claim.record(pod, Instant::now(), |name| {
            self.caches.pods.get(Some(&name.namespace), &name.name).present().is_some()
        });
        self.owner(pod);
        for claim in pods_by_claim::claims_of(pod) {
            // A temporary claim is handed over when no pod uses it any more.
            self.claim_named(&claim);
            self.source(SourceKind::Claim, claim);
        }
    }

    /// A VolumeSnapshot was created, changed or deleted.
    pub fn snapshot(&self, snapshot: &VolumeSnapshot) {
        self.source(SourceKind::Snapshot, name_of(snapshot));
        self.sources.content(snapshot);
        if !snapshot.labels().contains_key(keys::OWNED_BY_UID) {
            return;
        }
        for member in SharedSnapshot::of(snapshot).members.values() {
            self.clone_named(member);
        }
        // A deleted snapshot makes room for the next one.
        if let (Some(namespace), Some(name)) =
            (snapshot.namespace(), snapshot.spec.source.persistent_volume_claim_name.clone())
        {
            self.source(SourceKind::Claim, ObjectName { namespace, name });
        }
        self.periodic.cleanup.notify_one();
    }

    /// A VolumeSnapshotContent was created, changed or deleted.
    pub fn content(&self, content: &VolumeSnapshotContent) {
        let about = &content.spec.volume_snapshot_ref;
        if let (Some(namespace), Some(name)) = (about.namespace.clone(), about.name.clone()) {
            // A content of ours has to be deleted with its snapshot, whatever its class says.
            if name.starts_with(&names::snapshot("")) {
                self.periodic.cleanup.notify_one();
            }
            self.source(SourceKind::Snapshot, ObjectName { namespace, name });
        }
    }

    /// A DataSource was created, changed or deleted.
    pub fn data_source(&self, source: &DataSource) {
        self.sources.reference(source);
        let touched = name_of(source);
        // A clone may reference a DataSource that references this one.
        for (clone, keys) in self.indexes.dependents.all() {
            if keys.iter().any(|key| matches!(key, Dependency::DataSource(name) if name.namespace == touched.namespace))
            {
                self.clone_named(&clone);
            }
        }
    }

    /// A VolumeCloneSource was created, changed or deleted.
    pub fn clone_source(&self, source: &VolumeCloneSource) {
        let named = name_of(source);
        for claim in self.indexes.claims_by_clone_source.of(&Dependency::CloneSource(named)) {
            self.clone_named(&claim);
        }
    }

    /// A VolumeAttachment was created, changed or deleted.
    pub fn attachment(&self, attachment: &VolumeAttachment) {
        let volume = attachment.spec.source.persistent_volume_name.as_deref();
        if let Some(Lookup::Present(volume)) = volume.map(|name| self.caches.volumes.get(None, name)) {
            self.volume(&volume);
        }
    }

    /// Triggers the clones that wait for nodes: a node reports different volumes in use.
    pub fn node(&self) {
        for clone in self.indexes.dependents.of(&Dependency::Nodes) {
            self.clone_named(&clone);
        }
    }

    /// An Event about a claim was created, changed or deleted.
    pub fn event(&self, event: &Event) {
        let about = &event.involved_object;
        let (Some(namespace), Some(name)) = (about.namespace.clone(), about.name.clone()) else { return };
        self.claim_named(&ObjectName { namespace, name });
    }

    /// A ResourceQuota was created, changed or deleted: a write that exceeded it may be allowed now.
    pub fn quota(&self, quota: &ResourceQuota) {
        let namespace = quota.namespace().unwrap_or_default();
        for (clone, keys) in self.indexes.dependents.all() {
            let reads =
                |key: &Dependency| matches!(key, Dependency::Source(source) if source.object.namespace == namespace);
            if clone.namespace == namespace || keys.iter().any(reads) {
                self.clone_named(&clone);
            }
        }
    }

    /// A StorageClass was created, changed or deleted.
    pub fn class(&self) {
        self.periodic.profiles.notify_one();
        self.periodic.config.notify_one();
        self.all_clones();
    }

    /// A VolumeSnapshotClass or a StorageProfile was created, changed or deleted.
    pub fn profile(&self) {
        self.periodic.profiles.notify_one();
        self.all_clones();
    }

    /// The object `cdi` was created, changed or deleted.
    pub fn cdi(&self) {
        self.periodic.mode.notify_one();
        self.periodic.cdi.notify_one();
        // Finalizers that CDI's controller left are removed once it is gone.
        self.periodic.cleanup.notify_one();
        self.class();
    }

    /// The object CDIConfig was created, changed or deleted.
    pub fn config(&self) {
        self.periodic.config.notify_one();
        self.all_clones();
    }
}

#[cfg(test)]
mod tests;
