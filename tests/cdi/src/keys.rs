//! Keys and names of CDI that smartclone itself never writes.

/// `true` where the claim is filled by a populator. On the DataVolume and on its claim.
pub const USE_POPULATOR: &str = "cdi.kubevirt.io/storage.usePopulator";
/// The permission of the requester to clone the source, valid for a few minutes. On the DataVolume.
pub const CLONE_TOKEN: &str = "cdi.kubevirt.io/storage.clone.token";
/// The permission of the controller to clone the source, made from [`CLONE_TOKEN`] and valid for years. On the DataVolume and on its claim.
pub const EXTENDED_CLONE_TOKEN: &str = "cdi.kubevirt.io/storage.extended.clone.token";
/// `false` with a reason while the claim is not bound. On the claim.
pub const CONDITION_BOUND: &str = "cdi.kubevirt.io/storage.condition.bound";
/// The reason code of [`CONDITION_BOUND`].
pub const CONDITION_BOUND_REASON: &str = "cdi.kubevirt.io/storage.condition.bound.reason";
/// The message of [`CONDITION_BOUND`].
pub const CONDITION_BOUND_MESSAGE: &str = "cdi.kubevirt.io/storage.condition.bound.message";
/// The phase of the pod that fills a claim without a populator. On the claim.
pub const POD_PHASE: &str = "cdi.kubevirt.io/storage.pod.phase";
/// The number of restarts of the pod that fills a claim. On the claim.
pub const POD_RESTARTS: &str = "cdi.kubevirt.io/storage.pod.restarts";

/// The feature gate of claims that wait for their first consumer.
pub const GATE_FIRST_CONSUMER: &str = "HonorWaitForFirstConsumer";
/// The feature gate by which every DataVolume may adopt a claim of its name.
pub const GATE_ADOPTION: &str = "DataVolumeClaimAdoption";

/// The namespace of CDI.
pub const NAMESPACE: &str = "cdi";
/// The account of CDI's controller in [`NAMESPACE`].
pub const CONTROLLER_ACCOUNT: &str = "cdi-sa";
/// The account of CDI's admission server in [`NAMESPACE`].
pub const ADMISSION_ACCOUNT: &str = "cdi-apiserver";
/// The name of the CDI object.
pub const CDI: &str = "cdi";
/// The name of the CDIConfig.
pub const CONFIG: &str = "config";
