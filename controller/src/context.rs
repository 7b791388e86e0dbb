//! The context that all reconcilers share: the client, the caches, events and metrics.

use common::{
    api::{
        Cdi, CdiConfig, DataSource, DataVolume, StorageProfile, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    object::ObjectName,
};
use config::cache::Cache;
use k8s_openapi::api::{
    core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{StorageClass, VolumeAttachment},
};
use kube::{Client, Resource, runtime::events::Recorder};

use crate::metrics::Metrics;

/// One cache for each kind that a pass reads. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    pub(crate) data_volumes: Cache<DataVolume>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) snapshots: Cache<VolumeSnapshot>,
    pub(crate) contents: Cache<VolumeSnapshotContent>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) snapshot_classes: Cache<VolumeSnapshotClass>,
    pub(crate) profiles: Cache<StorageProfile>,
    pub(crate) cdis: Cache<Cdi>,
    pub(crate) configs: Cache<CdiConfig>,
    pub(crate) data_sources: Cache<DataSource>,
    pub(crate) clone_sources: Cache<VolumeCloneSource>,
    pub(crate) events: Cache<Event>,
    pub(crate) attachments: Cache<VolumeAttachment>,
    pub(crate) nodes: Cache<Node>,
}

/// The context of a pass.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
}

/// The name of an object; the namespace is empty for an object that has none.
pub(crate) fn name_of<K: Resource>(object: &K) -> ObjectName {
    let meta = object.meta();
    ObjectName { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}
