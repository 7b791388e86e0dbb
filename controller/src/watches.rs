//! The watches: one table of the kinds, each with the fields that are kept and the triggers that it calls.

use common::{
    api::{Cdi, CdiConfig, DataSource, DataVolume, ObjectTransfer, StorageProfile, snapshot::VolumeSnapshotClass},
    clone::populator,
    keys,
    storage::refusals_annotation,
};
use config::{admin::Readiness, cache::Cache};
use futures::{
    Stream, StreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    core::v1::{Container, Node, NodeStatus, PersistentVolumeClaim, Pod, PodSpec, ResourceQuota},
    storage::v1::StorageClass,
};
use kube::{Client, Resource, runtime::watcher};

use crate::{
    context::Caches,
    triggers::{Indexes, PeriodicTriggers, Triggered, Triggers},
};

/// The objects of the controllers as they change, and all other watches. All streams have to be polled for the watches to proceed.
pub struct Streams {
    pub(crate) volumes: BoxStream<'static, DataVolume>,
    pub(crate) claims: BoxStream<'static, PersistentVolumeClaim>,
    pub(crate) sources: BoxStream<'static, DataSource>,
    pub(crate) transfers: BoxStream<'static, ObjectTransfer>,
    pub(crate) transfer_cache: Cache<ObjectTransfer>,
    /// The watches that belong to no controller.
    pub(crate) others: BoxStream<'static, ()>,
}

/// Starts every watch. Returns the caches, the streams that drive the watches, and the objects that are triggered by others.
pub fn start(
    client: &Client,
    readiness: &Readiness,
    periodic: &PeriodicTriggers,
    indexes: &Indexes,
) -> (Caches, Streams, Triggered) {
    let all = watcher::Config::default;
    macro_rules! cache {
        ($plural:literal, $config:expr, $strip:ident) => {
            Cache::watch(client.clone(), $config, readiness.register($plural), $strip)
        };
    }
    let (data_volumes, volumes) = cache!("datavolumes", all(), strip);
    let (claims, claim_stream) = cache!("persistentvolumeclaims", all(), strip);
    let (persistent_volumes, persistent_volume_stream) = cache!("persistentvolumes", all(), strip);
    let (pods, pod_stream) = cache!("pods", all(), strip_pod);
    let (snapshots, snapshot_stream) = cache!("volumesnapshots", all(), strip);
    let (contents, content_stream) = cache!("volumesnapshotcontents", all(), strip);
    let (classes, class_stream) = cache!("storageclasses", all(), strip);
    let (snapshot_classes, snapshot_class_stream) = cache!("volumesnapshotclasses", all(), strip);
    let (profiles, profile_stream) = cache!("storageprofiles", all(), strip_profile);
    let (cdis, cdi_stream) = cache!("cdis", all(), strip);
    let (configs, config_stream) = cache!("cdiconfigs", all(), strip);
    let (data_sources, data_source_stream) = cache!("datasources", all(), strip);
    let (clone_sources, clone_source_stream) = cache!("volumeclonesources", all(), strip);
    let warnings = all().fields("involvedObject.kind=PersistentVolumeClaim,type=Warning");
    let (events, event_stream) = cache!("events", warnings, strip);
    let (_, quota_stream) = cache!("resourcequotas", all(), strip_quota);
    let (attachments, attachment_stream) = cache!("volumeattachments", all(), strip);
    let (nodes, node_stream) = cache!("nodes", all(), strip_node);
    let (transfers, transfer_stream) = cache!("objecttransfers", all(), strip);

    let caches = Caches {
        data_volumes,
        claims,
        volumes: persistent_volumes,
        pods,
        snapshots,
        contents,
        classes,
        snapshot_classes,
        profiles,
        cdis,
        configs,
        data_sources,
        clone_sources,
        events,
        attachments,
        nodes,
    };
    let (triggers, triggered) = Triggers::new(caches.clone(), transfers.clone(), indexes.clone(), periodic.clone());
    let others = vec![
        each(&triggers, persistent_volume_stream, Triggers::volume),
        each(&triggers, pod_stream, Triggers::pod),
        each(&triggers, snapshot_stream, Triggers::snapshot),
        each(&triggers, content_stream, Triggers::content),
        each(&triggers, clone_source_stream, Triggers::clone_source),
        each(&triggers, event_stream, Triggers::event),
        each(&triggers, quota_stream, Triggers::quota),
        each(&triggers, attachment_stream, Triggers::attachment),
        each(&triggers, node_stream, |triggers, _: &Node| triggers.node()),
        each(&triggers, class_stream, |triggers, _: &StorageClass| triggers.class()),
        each(&triggers, snapshot_class_stream, |triggers, _: &VolumeSnapshotClass| triggers.profile()),
        each(&triggers, profile_stream, |triggers, _: &StorageProfile| triggers.profile()),
        each(&triggers, cdi_stream, |triggers, _: &Cdi| triggers.cdi()),
        each(&triggers, config_stream, |triggers, _: &CdiConfig| triggers.config()),
    ];
    let (for_volumes, for_claims, for_sources) = (triggers.clone(), triggers.clone(), triggers);
    let streams = Streams {
        volumes: volumes.inspect(move |volume| for_volumes.data_volume(volume)).boxed(),
        claims: claim_stream
            .inspect(move |claim| for_claims.claim(claim))
            .filter(|claim| ready(populator::wanted(claim).is_some()))
            .boxed(),
        sources: data_source_stream.inspect(move |source| for_sources.data_source(source)).boxed(),
        transfers: transfer_stream.boxed(),
        transfer_cache: transfers,
        others: stream::select_all(others).boxed(),
    };
    (caches, streams, triggered)
}

/// Calls a trigger for each object of `stream`.
fn each<K: Send + 'static>(
    triggers: &Triggers,
    stream: impl Stream<Item = K> + Send + 'static,
    trigger: fn(&Triggers, &K),
) -> BoxStream<'static, ()> {
    let triggers = triggers.clone();
    stream.map(move |object| trigger(&triggers, &object)).boxed()
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Has the refusals where readers look for them.
fn strip_profile(profile: &mut StorageProfile) {
    strip(profile);
    refusals_annotation::move_to_status(profile);
}

/// Drops everything but the metadata: only the fact of a change matters.
fn strip_quota(quota: &mut ResourceQuota) {
    strip(quota);
    (quota.spec, quota.status) = (None, None);
}

/// Keeps only the volumes that a node uses.
fn strip_node(node: &mut Node) {
    strip(node);
    (node.metadata.annotations, node.metadata.labels, node.spec) = (None, None, None);
    let volumes_in_use = node.status.take().and_then(|status| status.volumes_in_use);
    node.status = Some(NodeStatus { volumes_in_use, ..NodeStatus::default() });
}

/// Keeps only the fields that tell if a pod uses a claim, if it may write, and its state.
fn strip_pod(pod: &mut Pod) {
    strip(pod);
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| [keys::OWNED_BY_DATA_VOLUME, keys::FILLS, keys::PROOF].contains(&key.as_str()));
    }
    let Some(spec) = &mut pod.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        *container = Container {
            name: std::mem::take(&mut container.name),
            volume_devices: container.volume_devices.take(),
            volume_mounts: container.volume_mounts.take(),
            ..Default::default()
        };
    }
    *spec = PodSpec {
        containers: std::mem::take(&mut spec.containers),
        init_containers: spec.init_containers.take(),
        ephemeral_containers: spec.ephemeral_containers.take(),
        volumes: spec.volumes.take(),
        node_name: spec.node_name.take(),
        ..Default::default()
    };
}

#[cfg(test)]
mod tests;
