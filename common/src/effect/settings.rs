//! The settings of the CDI object, of the CDIConfig and of VolumeCloneSources.

use super::{Effect, Field, honoured, unused};

/// The values of a setting that ask for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Any value.
    Present,
    /// `true`.
    True,
    /// A list that has another word than this one, which says what is so anyway.
    OtherThan(&'static str),
}

use Setting::{OtherThan, Present, True};

const NO_IMPORTS: &str = "nothing is imported";
const NO_OPERATOR: &str = "smartclone's programs are installed by their manifests; change them there";

/// The settings of the CDI object.
pub const CDI: [Field<Setting>; 23] = [
    honoured("spec.cloneStrategyOverride"),
    honoured("spec.workload"),
    honoured("spec.imagePullPolicy"),
    honoured("spec.config.filesystemOverhead"),
    honoured("spec.config.imagePullSecrets"),
    honoured("spec.config.podResourceRequirements.limits"),
    honoured("spec.config.podResourceRequirements.requests"),
    unused("spec.config.podResourceRequirements.claims", Present, "a pod that copies uses no devices"),
    unused("spec.config.uploadProxyURLOverride", Present, "nothing is uploaded; the status of the CDIConfig shows it"),
    unused("spec.config.importProxy", Present, NO_IMPORTS),
    unused(
        "spec.config.scratchSpaceStorageClass",
        Present,
        "no scratch space is used; the status of the CDIConfig shows it",
    ),
    unused(
        "spec.config.featureGates",
        OtherThan("HonorWaitForFirstConsumer"),
        "no feature has a gate; HonorWaitForFirstConsumer is always in force",
    ),
    unused("spec.config.webhookPvcRendering", Present, "claims are completed when they are created"),
    unused(
        "spec.config.preallocation",
        True,
        "the storage driver decides when space is allocated; the status of the CDIConfig shows it",
    ),
    unused("spec.config.insecureRegistries", Present, NO_IMPORTS),
    unused("spec.config.dataVolumeTTLSeconds", Present, "finished DataVolumes stay"),
    unused("spec.config.tlsSecurityProfile", Present, "TLS 1.2 and 1.3 are spoken"),
    unused("spec.config.logVerbosity", Present, "the flag --log-level says how much is logged"),
    unused("spec.infra", Present, NO_OPERATOR),
    unused("spec.certConfig", Present, "the webhook's certificates have lifetimes of their own"),
    unused("spec.priorityClass", Present, NO_OPERATOR),
    unused("spec.uninstallStrategy", Present, "the deletion of the CDI object removes nothing and is always allowed"),
    unused("spec.customizeComponents", Present, NO_OPERATOR),
];

/// The same settings in the CDIConfig, whose `spec` is the `spec.config` of the CDI object.
pub fn cdi_config() -> impl Iterator<Item = (String, Effect<Setting>)> {
    CDI.iter().filter_map(|field| {
        let below = field.path.strip_prefix("spec.config.")?;
        Some((format!("spec.{below}"), field.effect))
    })
}

/// The fields of a VolumeCloneSource.
pub const VOLUME_CLONE_SOURCE: [Field<Setting>; 3] = [
    honoured("spec.source"),
    honoured("spec.priorityClassName"),
    unused("spec.preallocation", True, "the storage driver decides when space is allocated"),
];
