//! The objects that a clone needs, built from the decision.

mod pod;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedObjectReference, VolumeResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    decide::Chosen,
    ownership::{self, proof},
    request::Request,
    shared_snapshot::{Members, write_members},
    write::Kind,
};

use crate::{
    api::{
        self,
        snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    },
    clone::observed::Target,
    meta, names,
    object::{TargetKind, VolumeMode},
    quantity::Bytes,
    rebind,
};

pub use self::pod::{consumer, mover};

/// Where the content of a new claim comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource<'a> {
    /// From the snapshot of this name.
    Snapshot(&'a str),
    /// From the claim of this name.
    Claim(&'a str),
    /// From a volume that is filled elsewhere; until then nobody makes one.
    Later,
    /// From the data mover, later.
    Blank,
}

/// The object for which everything is made, as the owner of what lives beside it. As a controller, so that Kubernetes' garbage collection
/// removes that with it, in any phase, whether or not we are running.
pub(crate) fn owner(volume: &Target) -> OwnerReference {
    let (api_version, kind) = match volume.kind {
        TargetKind::DataVolume => (format!("{}/{}", api::GROUP, api::VERSION), "DataVolume"),
        TargetKind::Claim => ("v1".to_owned(), "PersistentVolumeClaim"),
    };
    OwnerReference {
        api_version,
        kind: kind.to_owned(),
        name: volume.name.clone(),
        uid: volume.uid.clone(),
        controller: Some(true),
        block_owner_deletion: (volume.kind == TargetKind::DataVolume).then_some(true),
    }
}

/// Adds us to the owners of a claim that is taken over.
pub fn owners_with(volume: &Target, others: &[OwnerReference]) -> Vec<OwnerReference> {
    others.iter().filter(|other| other.uid != volume.uid).cloned().chain([owner(volume)]).collect()
}

/// Name, labels, proof and owner of a temporary object beside the source. In another namespace an owner can't be named; there the label, and
/// the UID in the name, say for whom it was made, and what has lost its owner is removed by us.
pub(crate) fn temporary_object(volume: &Target, kind: Kind, namespace: &str, name: String) -> ObjectMeta {
    let mut annotations = proof_of(volume, kind, namespace, &name);
    annotations.insert(meta::OWNED_BY_DATA_VOLUME.to_owned(), format!("{}/{}", volume.namespace, volume.name));
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([
            (meta::APP_LABEL.to_owned(), meta::APP.to_owned()),
            (meta::OWNED_BY_UID.to_owned(), volume.uid.clone()),
            (meta::EXCLUDE_FROM_BACKUP.to_owned(), "true".to_owned()),
        ])),
        annotations: Some(annotations),
        owner_references: (namespace == volume.namespace).then(|| vec![owner(volume)]),
        ..ObjectMeta::default()
    }
}

/// The annotation by which the controller knows, even after a restart, what it has created. Empty for a clone without a key, for which
/// nothing is created.
fn proof_of(volume: &Target, kind: Kind, namespace: &str, name: &str) -> BTreeMap<String, String> {
    let proof = volume.key.as_ref().map(|key| (meta::PROOF.to_owned(), proof(key, kind, namespace, name)));
    proof.into_iter().collect()
}

/// The temporary snapshot of the request's source, for `members`. Named after the first of them, so that two passes that ask for the
/// same make one.
pub fn snapshot(volume: &Target, request: &Request, class: Option<&str>, members: &Members) -> VolumeSnapshot {
    let source = &request.source.object;
    let leader = members.keys().next().unwrap_or(&volume.uid);
    let beside = members.values().all(|member| member.namespace == source.namespace);
    // With several owners Kubernetes removes it after the last one; across namespaces there can't be any.
    let owners = members.iter().map(|(uid, member)| OwnerReference {
        name: member.name.clone(),
        uid: uid.clone(),
        controller: None,
        block_owner_deletion: None,
        ..owner(volume)
    });
    let name = names::snapshot(leader);
    let mut annotations = proof_of(volume, Kind::VolumeSnapshot, &source.namespace, &name);
    for proof in annotations.values_mut() {
        // Several share it, and each has to know whose key it is that proves it.
        *proof = ownership::with_creator(&volume.uid, proof);
    }
    annotations.insert(meta::MEMBERS.to_owned(), write_members(members));
    VolumeSnapshot {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(source.namespace.clone()),
            labels: Some(BTreeMap::from([
                (meta::APP_LABEL.to_owned(), meta::APP.to_owned()),
                (meta::OWNED_BY_UID.to_owned(), leader.clone()),
                (meta::EXCLUDE_FROM_BACKUP.to_owned(), "true".to_owned()),
            ])),
            annotations: Some(annotations),
            owner_references: (beside && volume.kind == TargetKind::DataVolume).then(|| owners.collect()),
            ..ObjectMeta::default()
        },
        spec: VolumeSnapshotSpec {
            source: VolumeSnapshotSource {
                persistent_volume_claim_name: Some(source.name.clone()),
                ..VolumeSnapshotSource::default()
            },
            volume_snapshot_class_name: class.map(ToOwned::to_owned),
        },
        status: None,
    }
}

/// Annotations that are no business of the claim's.
const NOT_FOR_CLAIMS: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    meta::PRE_POPULATED,
    meta::CHECK_STATIC_VOLUME,
    meta::POPULATED_FOR,
];

/// The clone's claim, beside the DataVolume, with whose labels and annotations it is found. What a user writes there never becomes a key
/// by which objects are recognized as ours.
pub fn claim(volume: &Target, chosen: &Chosen, size: Bytes, from: &DataSource<'_>) -> PersistentVolumeClaim {
    let mut labels = volume.labels.clone();
    labels.retain(|key, _| !meta::is_reserved(key));
    labels.insert(meta::APP_LABEL.to_owned(), meta::APP.to_owned());
    if chosen.mode == VolumeMode::Filesystem {
        // A file system that holds one image is meant to be full.
        labels.insert(meta::FILLING_UP_ALERT.to_owned(), "disabled".to_owned());
    }
    let mut annotations = volume.annotations.clone();
    annotations.retain(|key, _| !NOT_FOR_CLAIMS.contains(&key.as_str()) && !meta::is_reserved(key));
    annotations.insert(meta::CLONE_TYPE.to_owned(), chosen.strategy.to_string());
    annotations.insert(meta::CREATED_FOR_DATA_VOLUME.to_owned(), volume.uid.clone());
    annotations.insert(
        meta::CONTENT_TYPE.to_owned(),
        volume.content_type.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| "kubevirt".to_owned()),
    );
    let metadata = ObjectMeta {
        name: Some(volume.name.clone()),
        namespace: Some(volume.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![owner(volume)]),
        ..ObjectMeta::default()
    };
    let later = names::volume_clone_source(&volume.uid);
    shaped(metadata, chosen.access_modes.clone(), &chosen.class, chosen.mode, size, from, &later)
}

/// The claim beside the source that gets the content; nothing of what the requester has written goes there.
pub fn temporary(
    volume: &Target,
    request: &Request,
    chosen: &Chosen,
    size: Bytes,
    from: &DataSource<'_>,
    node: Option<String>,
) -> PersistentVolumeClaim {
    let (namespace, name) = (&request.source.object.namespace, names::temporary_claim(&volume.uid));
    let mut metadata = temporary_object(volume, Kind::PersistentVolumeClaim, namespace, name);
    // Its volume outlives its deletion until it is handed over.
    metadata.finalizers = Some(vec![meta::HAND_OVER_FINALIZER.to_owned()]);
    if let Some(node) = node {
        // Where the scheduler wants the clone, its volume has to be made.
        metadata.annotations.get_or_insert_default().insert(meta::SELECTED_NODE.to_owned(), node);
    }
    shaped(metadata, chosen.access_modes.clone(), &chosen.class, chosen.mode, size, from, "")
}

/// The claim that is restored from the source snapshot to be copied from.
pub fn restored(volume: &Target, request: &Request, chosen: &Chosen) -> PersistentVolumeClaim {
    let source = &request.source.object;
    let name = names::temporary_source(&volume.uid);
    let metadata = temporary_object(volume, Kind::PersistentVolumeClaim, &source.namespace, name);
    let class = chosen.restore_class.as_deref().unwrap_or(&chosen.class);
    let modes = vec!["ReadWriteOnce".to_owned()];
    let from = DataSource::Snapshot(&source.name);
    shaped(metadata, modes, class, chosen.source_mode, chosen.source_size, &from, "")
}

fn shaped(
    metadata: ObjectMeta,
    access_modes: Vec<String>,
    class: &str,
    mode: VolumeMode,
    size: Bytes,
    from: &DataSource<'_>,
    later: &str,
) -> PersistentVolumeClaim {
    let source = match from {
        DataSource::Blank => None,
        DataSource::Snapshot(name) => Some((Some(api::snapshot::GROUP.to_owned()), "VolumeSnapshot", *name)),
        DataSource::Claim(name) => Some((None, "PersistentVolumeClaim", *name)),
        DataSource::Later => Some((Some(api::GROUP.to_owned()), rebind::VOLUME_CLONE_SOURCE, later)),
    };
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(access_modes),
            storage_class_name: Some(class.to_owned()),
            volume_mode: Some(mode.to_string()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size.into())])),
                limits: None,
            }),
            // Kubernetes copies it to `dataSource` where that is possible.
            data_source_ref: source.map(|(api_group, kind, name)| TypedObjectReference {
                api_group,
                kind: kind.to_owned(),
                name: name.to_owned(),
                namespace: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
