//! Keys and names of CDI.

pub use common::keys::{
    CDI_OWNED_BY_UID as OWNED_BY_UID, CLONE_TOKEN, CONDITION_BOUND, CONDITION_BOUND_MESSAGE, CONDITION_BOUND_REASON,
    EXTENDED_CLONE_TOKEN, USE_POPULATOR,
};

/// The DataVolume for which CDI has made an object, as `namespace/name`.
pub const OWNED_BY_DATA_VOLUME: &str = "cdi.kubevirt.io/ownedByDataVolume";
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
