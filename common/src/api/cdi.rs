//! The kind CDI: the settings of the whole installation.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CloneStrategy, Condition, rules, strategy};

/// What is to hold for the whole cluster. docs/reference.md says which of CDI's settings have an effect; the others keep their schema, so
/// that existing objects stay valid.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "CDI",
    root = "Cdi",
    plural = "cdis",
    shortname = "cdi",
    shortname = "cdis",
    status = "CdiStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "The settings of the whole installation. One object, by custom named cdi.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase")
)]
#[serde(rename_all = "camelCase")]
pub struct CdiSpec {
    /// How every volume is cloned, whatever its StorageClass says: copy, snapshot or csi-clone. Left out: the cheapest way that
    /// the storage allows.
    #[serde(default, deserialize_with = "strategy::lenient", skip_serializing_if = "Option::is_none")]
    pub clone_strategy_override: Option<CloneStrategy>,
    /// Settings of sizes, pods and transfers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<CdiConfigSpec>,
    /// Where the control plane runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub infra: Option<ComponentConfig>,
    /// Where the pods run that move data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<NodePlacement>,
    /// How long certificates last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_config: Option<CdiCertConfig>,
    /// The PriorityClass of the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class: Option<String>,
    /// What happens to DataVolumes when this object is deleted: RemoveWorkloads or BlockUninstallIfWorkloadsExist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["RemoveWorkloads", "BlockUninstallIfWorkloadsExist"]))]
    pub uninstall_strategy: Option<String>,
    /// When images are pulled: Always, IfNotPresent or Never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Always", "IfNotPresent", "Never"]))]
    pub image_pull_policy: Option<String>,
    /// Changes to generated objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customize_components: Option<CustomizeComponents>,
}

/// Settings of sizes, pods and transfers: in the CDI object, and in the object `config` of the kind CDIConfig.
#[derive(CustomResource, Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cdi.kubevirt.io",
    version = "v1beta1",
    kind = "CDIConfig",
    root = "CdiConfig",
    plural = "cdiconfigs",
    status = "CdiConfigStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Settings of sizes, pods and transfers, and what follows from them. One object, named config.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CdiConfigSpec {
    /// The address of the upload proxy.
    #[serde(default, rename = "uploadProxyURLOverride", skip_serializing_if = "Option::is_none")]
    pub upload_proxy_url_override: Option<String>,
    /// The proxy for imports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_proxy: Option<ImportProxy>,
    /// The StorageClass of scratch space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_space_storage_class: Option<String>,
    /// What pods that move data may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_resource_requirements: Option<ResourceRequirements>,
    /// Features that are switched on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub feature_gates: Option<Vec<String>>,
    /// Whether claims are completed at admission: Enabled or Disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_pvc_rendering: Option<String>,
    /// The part of a volume that a file system needs for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_overhead: Option<FilesystemOverhead>,
    /// Whether all space is allocated in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<bool>,
    /// Registries whose certificates aren't checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub insecure_registries: Option<Vec<String>>,
    /// Seconds after which a finished DataVolume is deleted. Without effect.
    #[serde(default, rename = "dataVolumeTTLSeconds", skip_serializing_if = "Option::is_none")]
    pub data_volume_ttl_seconds: Option<i32>,
    /// Which versions and ciphers of TLS are spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_security_profile: Option<TlsSecurityProfile>,
    /// Secrets for pulling images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// How much is logged; more is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_verbosity: Option<i32>,
}

/// What holds, all settings considered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdiConfigStatus {
    /// The part of a volume that a file system needs for itself, in general and for every StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem_overhead: Option<FilesystemOverhead>,
    /// What pods that move data may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_pod_resource_requirements: Option<ResourceRequirements>,
    /// Whether all space is allocated in advance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<bool>,
    /// The StorageClass of scratch space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch_space_storage_class: Option<String>,
    /// Secrets for pulling images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub image_pull_secrets: Option<Vec<LocalObjectReference>>,
    /// The address of the upload proxy.
    #[serde(default, rename = "uploadProxyURL", skip_serializing_if = "Option::is_none")]
    pub upload_proxy_url: Option<String>,
}

/// The part of a volume that a file system needs for itself, between 0 and 1 with up to three decimals, such as 0.055.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemOverhead {
    /// For every StorageClass that isn't listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = rules::PERCENT))]
    pub global: Option<String>,
    /// By name of StorageClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = rules::percent_values)]
    pub storage_class: Option<BTreeMap<String, String>>,
}

/// The proxy for imports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportProxy {
    /// For http.
    #[serde(default, rename = "HTTPProxy", skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    /// For https.
    #[serde(default, rename = "HTTPSProxy", skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    /// Hosts that are asked directly, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
    /// A ConfigMap with the proxy's certificate authorities.
    #[serde(default, rename = "trustedCAProxy", skip_serializing_if = "Option::is_none")]
    pub trusted_ca_proxy: Option<String>,
}

/// Which versions and ciphers of TLS are spoken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecurityProfile {
    /// Old, Intermediate, Modern or Custom.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["Old", "Intermediate", "Modern", "Custom"]))]
    pub type_: String,
    /// Present for `type: Old`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<NamedTlsProfile>,
    /// Present for `type: Intermediate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<NamedTlsProfile>,
    /// Present for `type: Modern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modern: Option<NamedTlsProfile>,
    /// Present for `type: Custom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomTlsProfile>,
}

/// A profile that its name says everything about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct NamedTlsProfile {}

/// A profile of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomTlsProfile {
    /// Ciphers, best first.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ciphers: Vec<String>,
    /// The least version: VersionTLS10, VersionTLS11, VersionTLS12 or VersionTLS13.
    #[serde(rename = "minTLSVersion")]
    #[schemars(extend("enum" = ["VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"]))]
    pub min_tls_version: String,
}

/// On which nodes pods may run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePlacement {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Which nodes are preferred or required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Which taints are put up with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Option<Vec<Toleration>>,
}

/// Where and how often the control plane runs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComponentConfig {
    /// On which nodes.
    #[serde(flatten)]
    pub placement: NodePlacement,
    /// How many controllers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_replicas: Option<i32>,
    /// How many admission servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server_replicas: Option<i32>,
    /// How many upload proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_proxy_replicas: Option<i32>,
}

/// How long certificates last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdiCertConfig {
    /// Certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CertConfig>,
    /// Servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<CertConfig>,
    /// Clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<CertConfig>,
}

/// How long a certificate lasts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertConfig {
    /// From issue to expiry, such as 48h0m0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// How long before its expiry it is replaced, such as 24h0m0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_before: Option<String>,
}

/// Changes to generated objects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomizeComponents {
    /// Patches, applied in this order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub patches: Option<Vec<CustomizeComponentsPatch>>,
    /// Further command-line flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Flags>,
}

/// A change to one generated object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CustomizeComponentsPatch {
    /// The object's name.
    #[schemars(length(min = 1))]
    pub resource_name: String,
    /// The object's kind.
    #[schemars(length(min = 1))]
    pub resource_type: String,
    /// The patch.
    pub patch: String,
    /// How the patch is written: json, merge or strategic.
    #[serde(rename = "type")]
    pub type_: String,
}

/// Further command-line flags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flags {
    /// Of the admission server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<BTreeMap<String, String>>,
    /// Of the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<BTreeMap<String, String>>,
    /// Of the upload proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_proxy: Option<BTreeMap<String, String>>,
}

/// How the installation is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CdiStatus {
    /// Deploying, Deployed, Upgrading, Deleting, Deleted or Error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Available, Progressing and Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The version of whoever keeps this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,
    /// The version that is being installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_version: Option<String>,
    /// The version that is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_version: Option<String>,
}
