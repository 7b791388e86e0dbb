//! The pods that the controller creates: the data mover, and the consumer that triggers provisioning with late binding.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, EnvVar, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec,
        SeccompProfile, SecurityContext, Volume, VolumeDevice, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    clone::{
        claim::Claim,
        decide::Chosen,
        objects::temporary_object,
        observed::{MoverSettings, Target},
        request::Request,
        write::Kind,
    },
    keys, mover, names,
    object::{ContentType, ObjectVersion, VolumeMode},
};

/// The opt-outs of service meshes and other sidecar injectors, which read labels or annotations: both are set.
const OUT_OF_MESHES: [(&str, &str); 4] = [
    ("sidecar.istio.io/inject", "false"),
    ("linkerd.io/inject", "disabled"),
    ("kuma.io/sidecar-injection", "disabled"),
    ("consul.hashicorp.com/connect-inject", "false"),
];

/// The user ID of CDI and KubeVirt for pods that access disks.
const QEMU: i64 = 107;

/// The pod that copies the claim `source` to `target`. It has no service account token and no service environment variables. It complies
/// with Pod Security `restricted`, unless owners of files must be preserved.
#[derive(Debug, Clone, Copy)]
pub struct MoverPod<'a> {
    /// The object for which it copies.
    pub volume: &'a Target,
    /// Its request.
    pub request: &'a Request,
    /// The decision.
    pub chosen: &'a Chosen,
    /// The name of the claim to read.
    pub source: &'a str,
    /// The claim to write.
    pub target: &'a Claim,
}

impl MoverPod<'_> {
    /// The pod.
    pub fn build(self, settings: &MoverSettings) -> Pod {
        let Self { volume, request, chosen, source, target } = self;
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
        metadata.annotations.get_or_insert_default().insert(keys::FILLS.to_owned(), target.exact.uid.clone());
        let template = PodTemplate {
            metadata,
            arguments: arguments.map(ToOwned::to_owned).to_vec(),
            mounts: a.into_iter().chain(b).collect(),
            devices: c.into_iter().chain(d).collect(),
            keep_owners: files && request.keep_owners,
        };
        let mut pod = template.pod(volume, settings);
        if let Some(spec) = &mut pod.spec {
            spec.volumes = Some(vec![
                // Kubelet changes the owners of files in volumes that aren't read-only, and a source is never written to. Only some drivers
                // can attach a read-only block device.
                volume_of("source", source, from == VolumeMode::Filesystem),
                volume_of("target", &target.exact.name, false),
            ]);
        }
        pod
    }
}

/// The pod that uses `claim` and does nothing: it triggers provisioning with late binding.
pub fn consumer(volume: &Target, claim: &ObjectVersion, mode: VolumeMode, settings: &MoverSettings) -> Pod {
    let (mounts, devices) = match mode {
        VolumeMode::Filesystem => (vec![mount("target", mover::TARGET_DIR, false)], Vec::new()),
        VolumeMode::Block => (Vec::new(), vec![device("target", mover::TARGET_DEVICE)]),
    };
    let metadata = temporary_object(volume, Kind::Pod, &claim.namespace, names::consumer(&volume.uid));
    let template =
        PodTemplate { metadata, arguments: vec!["--version".to_owned()], mounts, devices, keep_owners: false };
    let mut pod = template.pod(volume, settings);
    if let Some(spec) = &mut pod.spec {
        // The pod must not change a volume that the driver populates.
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

/// The fields in which the pods differ.
struct PodTemplate {
    metadata: ObjectMeta,
    arguments: Vec<String>,
    mounts: Vec<VolumeMount>,
    devices: Vec<VolumeDevice>,
    keep_owners: bool,
}

impl PodTemplate {
    fn pod(self, volume: &Target, settings: &MoverSettings) -> Pod {
        let Self { mut metadata, arguments, mounts, devices, keep_owners } = self;
        // Preserving the owners of files requires these capabilities, all of which the Pod Security level `baseline` allows.
        let (user, capabilities) = if keep_owners {
            (0, Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"]))
        } else {
            (QEMU, None)
        };
        if let Some(labels) = &mut metadata.labels {
            labels.insert(keys::COMPONENT_LABEL.to_owned(), keys::CLONER.to_owned());
            // With a proxy sidecar the pod would never end, and keep the volume in use.
            labels.extend(OUT_OF_MESHES.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        let opt_outs = OUT_OF_MESHES.map(|(key, value)| (key.to_owned(), value.to_owned()));
        metadata.annotations.get_or_insert_default().extend(opt_outs);
        Pod {
            metadata,
            spec: Some(PodSpec {
                restart_policy: Some("Never".to_owned()),
                automount_service_account_token: Some(false),
                enable_service_links: Some(false),
                // The pod resolves no names.
                dns_policy: Some("Default".to_owned()),
                priority_class_name: volume.priority_class.clone(),
                // The pod has no state to save at termination.
                termination_grace_period_seconds: Some(1),
                security_context: Some(PodSecurityContext {
                    run_as_user: Some(user),
                    run_as_group: Some(user),
                    run_as_non_root: Some(user != 0),
                    // Allows writing to a blank file system; a block device has the owner that the container runtime sets.
                    fs_group: (user != 0).then_some(user),
                    fs_group_change_policy: (user != 0).then(|| "OnRootMismatch".to_owned()),
                    seccomp_profile: Some(SeccompProfile {
                        type_: "RuntimeDefault".to_owned(),
                        localhost_profile: None,
                    }),
                    ..PodSecurityContext::default()
                }),
                node_selector: settings.placement.node_selector.clone(),
                affinity: settings.placement.affinity.clone(),
                tolerations: settings.placement.tolerations.clone(),
                image_pull_secrets: Some(settings.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
                containers: vec![Container {
                    name: mover::CONTAINER.to_owned(),
                    image: Some(settings.image.clone()),
                    image_pull_policy: Some(settings.image_pull_policy.clone()),
                    args: Some(arguments),
                    env: Some(vec![EnvVar {
                        name: "RUST_BACKTRACE".to_owned(),
                        value: Some("1".to_owned()),
                        ..EnvVar::default()
                    }]),
                    volume_mounts: (!mounts.is_empty()).then_some(mounts),
                    volume_devices: (!devices.is_empty()).then_some(devices),
                    resources: Some(settings.resources.clone()),
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
