//! The objects that a clone needs, built from the decision.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec,
        PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
        SecurityContext, TypedObjectReference, Volume, VolumeDevice, VolumeMount, VolumeResourceRequirements,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};

use super::{
    action::{Exact, Kind},
    decide::Chosen,
    group::{Members, write_members},
    ownership::{self, proof},
    plan::{Claim, MoverSettings, Target},
    request::{ContentType, MadeFor, Request, VolumeMode},
};
use crate::{
    api::{
        self,
        snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    },
    meta, mover, names,
    quantity::Bytes,
    transfer,
};

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
fn owner(volume: &Target) -> OwnerReference {
    let (api_version, kind) = match volume.kind {
        MadeFor::DataVolume => (format!("{}/{}", api::GROUP, api::VERSION), "DataVolume"),
        MadeFor::Claim => ("v1".to_owned(), "PersistentVolumeClaim"),
    };
    OwnerReference {
        api_version,
        kind: kind.to_owned(),
        name: volume.name.clone(),
        uid: volume.uid.clone(),
        controller: Some(true),
        block_owner_deletion: (volume.kind == MadeFor::DataVolume).then_some(true),
    }
}

/// Adds us to the owners of a claim that is taken over.
pub fn owners_with(volume: &Target, others: &[OwnerReference]) -> Vec<OwnerReference> {
    others.iter().filter(|other| other.uid != volume.uid).cloned().chain([owner(volume)]).collect()
}

/// Name, labels, proof and owner of a temporary object beside the source. In another namespace an owner can't be named; there the label, and
/// the UID in the name, say for whom it was made, and what has lost its owner is removed by us.
fn temporary_object(volume: &Target, kind: Kind, namespace: &str, name: String) -> ObjectMeta {
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
            owner_references: (beside && volume.kind == MadeFor::DataVolume).then(|| owners.collect()),
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
        DataSource::Later => Some((Some(api::GROUP.to_owned()), transfer::VOLUME_CLONE_SOURCE, later)),
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

/// CDI's and KubeVirt's user for pods that touch disks.
const QEMU: i64 = 107;

/// The pod that copies the claim `source` to `target`. It has no network identity worth having: no service account token, no
/// environment of services. It runs under Pod Security `restricted`, unless owners of files are to be kept.
pub fn mover(
    volume: &Target,
    request: &Request,
    chosen: &Chosen,
    source: &str,
    target: &Claim,
    settings: &MoverSettings,
) -> Pod {
    let (from, to) = (chosen.source_mode, chosen.mode);
    let files = from == VolumeMode::Filesystem && to == VolumeMode::Filesystem;
    let content = match request.content {
        ContentType::KubeVirt => "kubevirt",
        ContentType::Archive => "archive",
    };
    let arguments = ["--source", path(from, true), "--target", path(to, false), "--content", content];
    let use_of = |name: &str, mode: VolumeMode, source: bool| match mode {
        VolumeMode::Filesystem => (Some(mount(name, path(mode, source), source)), None),
        VolumeMode::Block => (None, Some(device(name, path(mode, source)))),
    };
    let ((a, c), (b, d)) = (use_of("source", from, true), use_of("target", to, false));
    let mut metadata = temporary_object(volume, Kind::Pod, &target.exact.namespace, names::mover(&volume.uid));
    metadata.annotations.get_or_insert_default().insert(meta::FILLS.to_owned(), target.exact.uid.clone());
    let mut pod = pod(
        metadata,
        volume,
        arguments.map(ToOwned::to_owned).to_vec(),
        a.into_iter().chain(b).collect(),
        c.into_iter().chain(d).collect(),
        files && request.keep_owners,
        settings,
    );
    if let Some(spec) = &mut pod.spec {
        spec.volumes = Some(vec![
            // Kubelet changes owners of files in volumes that aren't read-only, and a source is never written to. Of a device only some
            // drivers can attach a read-only one.
            volume_of("source", source, from == VolumeMode::Filesystem),
            volume_of("target", &target.exact.name, false),
        ]);
    }
    pod
}

/// The pod that uses `claim` and does nothing: a volume of a class that binds late is made for it.
pub fn consumer(volume: &Target, claim: &Exact, mode: VolumeMode, settings: &MoverSettings) -> Pod {
    let (mounts, devices) = match mode {
        VolumeMode::Filesystem => (vec![mount("target", mover::TARGET_DIR, false)], Vec::new()),
        VolumeMode::Block => (Vec::new(), vec![device("target", mover::TARGET_DEVICE)]),
    };
    let metadata = temporary_object(volume, Kind::Pod, &claim.namespace, names::consumer(&volume.uid));
    let mut pod = pod(metadata, volume, vec!["--version".to_owned()], mounts, devices, false, settings);
    if let Some(spec) = &mut pod.spec {
        // Nothing may change in what the driver fills.
        if let Some(security) = &mut spec.security_context {
            security.fs_group = None;
        }
        spec.volumes = Some(vec![volume_of("target", &claim.name, false)]);
    }
    pod
}

fn path(mode: VolumeMode, source: bool) -> &'static str {
    match (mode, source) {
        (VolumeMode::Filesystem, true) => mover::SOURCE_DIR,
        (VolumeMode::Filesystem, false) => mover::TARGET_DIR,
        (VolumeMode::Block, true) => mover::SOURCE_DEVICE,
        (VolumeMode::Block, false) => mover::TARGET_DEVICE,
    }
}

fn pod(
    mut metadata: ObjectMeta,
    volume: &Target,
    arguments: Vec<String>,
    mounts: Vec<VolumeMount>,
    devices: Vec<VolumeDevice>,
    keep_owners: bool,
    settings: &MoverSettings,
) -> Pod {
    // Owners of files can only be kept with these rights, all of which the Pod Security level `baseline` allows.
    let (user, capabilities) = if keep_owners {
        (0, Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]))
    } else {
        (QEMU, None)
    };
    if let Some(labels) = &mut metadata.labels {
        labels.insert(meta::COMPONENT_LABEL.to_owned(), meta::CLONER.to_owned());
        // A proxy beside the mover would keep the pod, and with it the volume, from ever ending.
        labels.insert("sidecar.istio.io/inject".to_owned(), "false".to_owned());
    }
    metadata.annotations.get_or_insert_default().insert("linkerd.io/inject".to_owned(), "disabled".to_owned());
    Pod {
        metadata,
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            // It looks up no name.
            dns_policy: Some("Default".to_owned()),
            priority_class_name: volume.priority_class.clone(),
            // It holds no state that a longer goodbye could save.
            termination_grace_period_seconds: Some(1),
            security_context: Some(PodSecurityContext {
                run_as_user: Some(user),
                run_as_group: Some(user),
                run_as_non_root: Some(user != 0),
                // So that a blank file system may be written to, and a block device has the owner that the container runtime gives it.
                fs_group: (user != 0).then_some(user),
                fs_group_change_policy: (user != 0).then(|| "OnRootMismatch".to_owned()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            containers: vec![Container {
                name: mover::CONTAINER.to_owned(),
                image: Some(settings.image.clone()),
                image_pull_policy: Some("IfNotPresent".to_owned()),
                args: Some(arguments),
                env: Some(vec![EnvVar {
                    name: "RUST_BACKTRACE".to_owned(),
                    value: Some("1".to_owned()),
                    ..EnvVar::default()
                }]),
                volume_mounts: (!mounts.is_empty()).then_some(mounts),
                volume_devices: (!devices.is_empty()).then_some(devices),
                resources: Some(ResourceRequirements {
                    requests: Some(quantities(&[("cpu", "100m"), ("memory", "64Mi")])),
                    // The page cache that a copy fills is reclaimed, not counted as a leak; this bounds it.
                    limits: Some(quantities(&[("memory", "512Mi")])),
                    claims: None,
                }),
                security_context: Some(SecurityContext {
                    allow_privilege_escalation: Some(false),
                    read_only_root_filesystem: Some(true),
                    capabilities: Some(Capabilities {
                        drop: Some(vec!["ALL".to_owned()]),
                        add: capabilities.map(|c| c.into_iter().map(ToOwned::to_owned).collect()),
                    }),
                    ..SecurityContext::default()
                }),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn device(name: &str, path: &str) -> VolumeDevice {
    VolumeDevice { name: name.to_owned(), device_path: path.to_owned() }
}

fn volume_of(name: &str, claim: &str, read_only: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: read_only.then_some(true),
        }),
        ..Volume::default()
    }
}

fn quantities(of: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    of.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clone::{
        Decision, History, decide,
        fixtures::{facts, request, volume},
        ownership::{Owner, Ownership},
    };

    fn chosen(request: &Request) -> Box<Chosen> {
        match decide(request, &History::default(), &facts()) {
            Decision::Chosen(chosen) => chosen,
            other => panic!("{other:?}"),
        }
    }

    /// Whatever a user writes on a DataVolume, its claim has nothing by which objects are recognized as ours; and what is made beside the
    /// source proves whose it is without saying the key.
    #[test]
    fn a_user_s_labels_and_annotations_mark_nothing() {
        let written = volume(|object| {
            for key in meta::EVIDENCE.into_iter().chain([meta::OWNED_BY_UID, meta::OWNERSHIP_KEY, meta::NUDGED]) {
                object["metadata"]["annotations"][key] = "mine".into();
                object["metadata"]["labels"][key] = "mine".into();
            }
            object["metadata"]["annotations"]["example.com/note"] = "kept".into();
        });
        let (target, request) = (Target::of(&written), request(&written));
        let chosen = chosen(&request);
        let claim = claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later);
        let labels = claim.metadata.labels.unwrap_or_default();
        let annotations = claim.metadata.annotations.unwrap_or_default();
        assert_eq!(annotations.get("example.com/note").map(String::as_str), Some("kept"));
        assert!(
            labels.keys().chain(annotations.keys()).all(|key| !meta::is_reserved(key)),
            "{labels:?} {annotations:?}"
        );

        let mut beside = temporary(&target, &request, &chosen, chosen.sizes.create_at, &DataSource::Blank, None);
        assert!(!serde_json::to_string(&beside).unwrap().contains("mine"), "{beside:?}");
        beside.metadata.uid = Some("1".to_owned());
        let owners = Ownership { uid: &target.uid, key: target.key.as_deref(), created: &target.created };
        assert_eq!(owners.of(Kind::PersistentVolumeClaim, &beside.metadata), Owner::Ours);
    }
}
