//! The objects that a clone needs, built from the decision: snapshot, claims and pods.

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
    keys, names,
    object::{ObjectName, TargetKind, VolumeMode},
    quantity::Bytes,
    rebind,
};

pub use self::pod::{MoverPod, consumer};

/// The data source of a new claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource<'a> {
    /// The snapshot of this name.
    Snapshot(&'a str),
    /// The claim of this name.
    Claim(&'a str),
    /// A volume that is populated elsewhere; until then none is provisioned.
    Later,
    /// None; the data mover populates the claim.
    Blank,
}

/// The owner reference to the DataVolume or claim, for objects in its namespace. It is a controller reference, so that Kubernetes' garbage
/// collector deletes them with it, in any phase, whether or not smartclone is running.
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

/// The owner references of an adopted claim, with the DataVolume added.
pub fn owners_with(volume: &Target, others: &[OwnerReference]) -> Vec<OwnerReference> {
    others.iter().filter(|other| other.uid != volume.uid).cloned().chain([owner(volume)]).collect()
}

/// Name, labels, proof and owner of a temporary object beside the source. An owner reference can't name an owner in another namespace;
/// there the label, and the UID in the name, identify the owner, and the cleanup deletes what has lost it.
pub(crate) fn temporary_object(volume: &Target, kind: Kind, namespace: &str, name: String) -> ObjectMeta {
    let mut annotations = proof_of(volume, kind, namespace, &name);
    annotations.insert(keys::OWNED_BY_DATA_VOLUME.to_owned(), format!("{}/{}", volume.namespace, volume.name));
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(BTreeMap::from([
            (keys::APP_LABEL.to_owned(), keys::APP.to_owned()),
            (keys::OWNED_BY_UID.to_owned(), volume.uid.clone()),
            (keys::EXCLUDE_FROM_BACKUP.to_owned(), "true".to_owned()),
        ])),
        annotations: Some(annotations),
        owner_references: (namespace == volume.namespace).then(|| vec![owner(volume)]),
        ..ObjectMeta::default()
    }
}

/// The annotation by which the controller recognizes its objects, even after a restart. Empty for a clone without a key, for which nothing
/// is created.
fn proof_of(volume: &Target, kind: Kind, namespace: &str, name: &str) -> BTreeMap<String, String> {
    let proof = volume.key.as_ref().map(|key| (keys::PROOF.to_owned(), proof(key, kind, namespace, name)));
    proof.into_iter().collect()
}

/// The temporary snapshot of a source that a clone needs and shares with other clones.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotTemplate {
    /// The clone that requests it.
    pub volume: Target,
    /// The name of the source.
    pub source: ObjectName,
    /// The UID of the source.
    pub source_uid: String,
    /// The VolumeSnapshotClass, the same for all clones that share it.
    pub class: Option<String>,
}

impl SnapshotTemplate {
    /// The snapshot, for `members`. It is named after the first of them, so that two passes for the same members create one.
    pub fn snapshot(&self, members: &Members) -> VolumeSnapshot {
        let Self { volume, source, class, .. } = self;
        let leader = members.keys().next().unwrap_or(&volume.uid);
        let beside = members.values().all(|member| member.namespace == source.namespace);
        // With several owners Kubernetes deletes it after the last one; owner references can't cross namespaces.
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
            // Several clones share it, so the proof names the clone whose key it was computed with.
            *proof = ownership::with_creator(&volume.uid, proof);
        }
        annotations.insert(keys::MEMBERS.to_owned(), write_members(members));
        VolumeSnapshot {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(source.namespace.clone()),
                labels: Some(BTreeMap::from([
                    (keys::APP_LABEL.to_owned(), keys::APP.to_owned()),
                    (keys::OWNED_BY_UID.to_owned(), leader.clone()),
                    (keys::EXCLUDE_FROM_BACKUP.to_owned(), "true".to_owned()),
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
                volume_snapshot_class_name: class.clone(),
            },
            status: None,
        }
    }
}

/// Beginnings of annotations and labels that are not copied to the claim: what `kubectl apply` recorded about the DataVolume, and what
/// makes CDI's controllers import, upload or copy into a claim, or report it as complete.
const NOT_FOR_CLAIMS: [&str; 17] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "k8s.io/CloneRequest",
    "k8s.io/CloneOf",
    keys::PRE_POPULATED,
    keys::POPULATED_FOR,
    keys::CHECK_STATIC_VOLUME,
    keys::CLONE_PHASE,
    keys::CLONE_TOKEN,
    keys::APPLY_STORAGE_PROFILE,
    "cdi.kubevirt.io/externalPopulation",
    "cdi.kubevirt.io/persistentVolumeList",
    keys::EXTENDED_CLONE_TOKEN,
    "cdi.kubevirt.io/storage.condition.",
    "cdi.kubevirt.io/storage.import.",
    "cdi.kubevirt.io/storage.pod.",
    "cdi.kubevirt.io/storage.populator.",
    "cdi.kubevirt.io/storage.upload.",
];

/// The annotations in CDI's domain that a claim gets beside CDI, whose later versions may act on others.
const BESIDE_CDI: [&str; 1] = [keys::IMMEDIATE_BINDING];

/// True for a label or annotation of the DataVolume that its claim gets.
fn is_for_claims(key: &str, beside_cdi: bool) -> bool {
    let is_cdis = key.split_once('/').is_some_and(|(domain, _)| domain == api::GROUP);
    let is_known = !beside_cdi || !is_cdis || BESIDE_CDI.contains(&key);
    is_known && !keys::is_reserved(key) && !NOT_FOR_CLAIMS.iter().any(|beginning| key.starts_with(beginning))
}

/// The clone's claim, beside the DataVolume, with its labels and annotations. A user's labels and annotations never set a key by which
/// objects are recognized as ours.
pub fn claim(volume: &Target, chosen: &Chosen, size: Bytes, from: &DataSource<'_>) -> PersistentVolumeClaim {
    let beside_cdi = volume.reported_by_cdi.is_some();
    let mut labels = volume.labels.clone();
    labels.retain(|key, _| is_for_claims(key, beside_cdi));
    // The user's labels win: NetworkPolicies, backups and users select claims by them (containerized-data-importer#2533).
    labels.entry(keys::APP_LABEL.to_owned()).or_insert_with(|| keys::APP.to_owned());
    if chosen.mode == VolumeMode::Filesystem {
        // A file system that holds one image is expected to be full.
        labels.entry(keys::FILLING_UP_ALERT.to_owned()).or_insert_with(|| "disabled".to_owned());
    }
    let mut annotations = volume.annotations.clone();
    annotations.retain(|key, _| is_for_claims(key, beside_cdi));
    annotations.insert(keys::CLONE_TYPE.to_owned(), chosen.strategy.to_string());
    annotations.insert(keys::CREATED_FOR_DATA_VOLUME.to_owned(), volume.uid.clone());
    // CDI, if it comes later, derives the phase of the DataVolume from this claim.
    annotations.insert(keys::USE_POPULATOR.to_owned(), "true".to_owned());
    if chosen.binds_late && !chosen.waits_for_consumer {
        annotations.entry(keys::IMMEDIATE_BINDING.to_owned()).or_default();
    }
    annotations.insert(
        keys::CONTENT_TYPE.to_owned(),
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
    ClaimTemplate { from, ..ClaimTemplate::of(chosen, size) }.claim(metadata, &volume.uid)
}

/// The temporary claim beside the source, in `namespace`, that is populated; it has nothing that the requester has written. `node` is the
/// node that the scheduler selected for the clone: the volume must be provisioned for it.
pub fn temporary(
    volume: &Target,
    namespace: &str,
    template: &ClaimTemplate<'_>,
    node: Option<String>,
) -> PersistentVolumeClaim {
    let name = names::temporary_claim(&volume.uid);
    let mut metadata = temporary_object(volume, Kind::PersistentVolumeClaim, namespace, name);
    // Its volume must outlive its deletion until the rebind.
    metadata.finalizers = Some(vec![keys::HAND_OVER_FINALIZER.to_owned()]);
    if let Some(node) = node {
        metadata.annotations.get_or_insert_default().insert(keys::SELECTED_NODE.to_owned(), node);
    }
    template.claim(metadata, &volume.uid)
}

/// The claim that is restored from the source snapshot to copy from.
pub fn restored(volume: &Target, request: &Request, chosen: &Chosen) -> PersistentVolumeClaim {
    let source = &request.source.object;
    let name = names::temporary_source(&volume.uid);
    let metadata = temporary_object(volume, Kind::PersistentVolumeClaim, &source.namespace, name);
    ClaimTemplate {
        class: chosen.restore_class.as_deref().unwrap_or(&chosen.class),
        attributes_class: None,
        limit: None,
        access_modes: &["ReadWriteOnce".to_owned()],
        mode: chosen.source_mode,
        size: chosen.restore_at,
        from: &DataSource::Snapshot(&source.name),
    }
    .claim(metadata, &volume.uid)
}

/// The template of a claim to be created.
#[derive(Debug, Clone, Copy)]
pub struct ClaimTemplate<'a> {
    /// The StorageClass.
    pub class: &'a str,
    /// The VolumeAttributesClass.
    pub attributes_class: Option<&'a str>,
    /// The maximum size.
    pub limit: Option<Bytes>,
    /// The access modes.
    pub access_modes: &'a [String],
    /// The volume mode.
    pub mode: VolumeMode,
    /// The size.
    pub size: Bytes,
    /// The data source.
    pub from: &'a DataSource<'a>,
}

impl<'a> ClaimTemplate<'a> {
    /// A template with the clone's properties and this size, populated by the data mover.
    pub fn of(chosen: &'a Chosen, size: Bytes) -> Self {
        let (class, access_modes) = (chosen.class.as_str(), chosen.access_modes.as_slice());
        let attributes_class = chosen.attributes_class.as_deref();
        let from = &DataSource::Blank;
        Self { class, attributes_class, limit: chosen.limit, access_modes, mode: chosen.mode, size, from }
    }

    /// The claim; `uid` is that of the object for which it is created.
    fn claim(&self, metadata: ObjectMeta, uid: &str) -> PersistentVolumeClaim {
        let reference = |api_group, kind: &str, name: &str| TypedObjectReference {
            api_group,
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: None,
        };
        let source = match self.from {
            DataSource::Blank => None,
            DataSource::Snapshot(name) => {
                Some(reference(Some(api::snapshot::GROUP.to_owned()), "VolumeSnapshot", name))
            }
            DataSource::Claim(name) => Some(reference(None, "PersistentVolumeClaim", name)),
            DataSource::Later => Some(rebind::held_back(uid)),
        };
        PersistentVolumeClaim {
            metadata,
            spec: Some(PersistentVolumeClaimSpec {
                access_modes: Some(self.access_modes.to_vec()),
                storage_class_name: Some(self.class.to_owned()),
                volume_mode: Some(self.mode.to_string()),
                resources: Some(VolumeResourceRequirements {
                    requests: Some(BTreeMap::from([("storage".to_owned(), self.size.into())])),
                    limits: self.limit.map(|limit| BTreeMap::from([("storage".to_owned(), limit.into())])),
                }),
                volume_attributes_class_name: self.attributes_class.map(str::to_owned),
                // Kubernetes copies it to `dataSource` where possible.
                data_source_ref: source,
                ..PersistentVolumeClaimSpec::default()
            }),
            status: None,
        }
    }
}

#[cfg(test)]
mod tests;
