//! The objects that a clone needs, built from the decision.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EnvVar, PersistentVolumeClaim, PersistentVolumeClaimSpec,
        PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
        SecurityContext, TypedLocalObjectReference, TypedObjectReference, Volume, VolumeDevice, VolumeMount,
        VolumeResourceRequirements,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};

use super::{
    decide::Chosen,
    plan::{MoverSettings, Target},
    request::VolumeMode,
};
use crate::{
    api::{
        self,
        snapshot::{VolumeSnapshot, VolumeSnapshotSource, VolumeSnapshotSpec},
    },
    meta, mover, names,
    quantity::Bytes,
};

/// Where the content of a new claim comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource<'a> {
    /// From our snapshot of this name.
    Snapshot(&'a str),
    /// From the claim of this name.
    Claim(&'a str),
    /// From the data mover, later.
    Blank,
}

/// Name, labels and owner of whatever we make for `volume`. The owner is a controller, so that Kubernetes' garbage collection removes
/// everything with the DataVolume, in any phase, whether or not we are running.
fn metadata(volume: &Target, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(volume.namespace.clone()),
        labels: Some(BTreeMap::from([
            (meta::APP_LABEL.to_owned(), meta::APP.to_owned()),
            (meta::OWNED_BY_UID.to_owned(), volume.uid.clone()),
        ])),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{}/{}", api::GROUP, api::VERSION),
            kind: "DataVolume".to_owned(),
            name: volume.name.clone(),
            uid: volume.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// The temporary snapshot of the claim `source`.
pub fn snapshot(volume: &Target, source: &str, class: Option<&str>) -> VolumeSnapshot {
    let mut metadata = metadata(volume, names::snapshot(&volume.uid));
    if let Some(labels) = &mut metadata.labels {
        labels.insert(meta::EXCLUDE_FROM_BACKUP.to_owned(), "true".to_owned());
    }
    VolumeSnapshot {
        metadata,
        spec: VolumeSnapshotSpec {
            source: VolumeSnapshotSource {
                persistent_volume_claim_name: Some(source.to_owned()),
                ..VolumeSnapshotSource::default()
            },
            volume_snapshot_class_name: class.map(ToOwned::to_owned),
        },
        status: None,
    }
}

/// The clone's claim.
pub fn claim(volume: &Target, chosen: &Chosen, size: Bytes, from: &DataSource<'_>) -> PersistentVolumeClaim {
    let source = match from {
        DataSource::Blank => None,
        DataSource::Snapshot(name) => Some((Some(api::snapshot::GROUP.to_owned()), "VolumeSnapshot", *name)),
        DataSource::Claim(name) => Some((None, "PersistentVolumeClaim", *name)),
    };
    let mut metadata = metadata(volume, volume.name.clone());
    // A claim isn't temporary, so it isn't found by the label of temporary things.
    metadata.labels = Some(BTreeMap::from([(meta::APP_LABEL.to_owned(), meta::APP.to_owned())]));
    metadata.annotations = Some(BTreeMap::from([
        (meta::CLONE_TYPE.to_owned(), chosen.strategy.to_string()),
        (meta::CREATED_FOR_DATA_VOLUME.to_owned(), "yes".to_owned()),
    ]));
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(chosen.access_modes.clone()),
            storage_class_name: Some(chosen.class.clone()),
            volume_mode: Some(chosen.mode.to_string()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size.into())])),
                limits: None,
            }),
            data_source: source.clone().map(|(api_group, kind, name)| TypedLocalObjectReference {
                api_group,
                kind: kind.to_owned(),
                name: name.to_owned(),
            }),
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

/// The pod that copies the claim `source` to the clone's claim. It has no network identity worth having: no service account token,
/// no environment of services.
pub fn mover(volume: &Target, source: &str, mode: VolumeMode, settings: &MoverSettings) -> Pod {
    let (mounts, devices) = match mode {
        VolumeMode::Filesystem => {
            (Some(vec![mount("source", mover::SOURCE_DIR, true), mount("target", mover::TARGET_DIR, false)]), None)
        }
        VolumeMode::Block => {
            (None, Some(vec![device("source", mover::SOURCE_DEVICE), device("target", mover::TARGET_DEVICE)]))
        }
    };
    // Owners and modes of files can only be kept with these rights, all of which the Pod Security level `baseline` allows.
    // A device is one stream of bytes and needs none: `restricted` will do.
    let (user, capabilities) = match mode {
        VolumeMode::Filesystem => (0, Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"])),
        VolumeMode::Block => (QEMU, None),
    };
    let arguments = match mode {
        VolumeMode::Filesystem => (mover::SOURCE_DIR, mover::TARGET_DIR),
        VolumeMode::Block => (mover::SOURCE_DEVICE, mover::TARGET_DEVICE),
    };
    let mut metadata = metadata(volume, names::mover(&volume.uid));
    if let Some(labels) = &mut metadata.labels {
        labels.insert(meta::COMPONENT_LABEL.to_owned(), meta::CLONER.to_owned());
    }
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
                // The owner of a block device as the container runtime makes it.
                fs_group: (mode == VolumeMode::Block).then_some(user),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            containers: vec![Container {
                name: "mover".to_owned(),
                image: Some(settings.image.clone()),
                image_pull_policy: Some("IfNotPresent".to_owned()),
                args: Some(
                    ["--source", arguments.0, "--target", arguments.1].into_iter().map(ToOwned::to_owned).collect(),
                ),
                env: Some(vec![EnvVar {
                    name: "RUST_BACKTRACE".to_owned(),
                    value: Some("1".to_owned()),
                    ..EnvVar::default()
                }]),
                volume_mounts: mounts,
                volume_devices: devices,
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
            // The source's claim is not declared read-only, as some drivers can't attach a device so; its mount is.
            volumes: Some(vec![volume_of("source", source), volume_of("target", &volume.name)]),
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

fn volume_of(name: &str, claim: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

fn quantities(of: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    of.iter().map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned()))).collect()
}
