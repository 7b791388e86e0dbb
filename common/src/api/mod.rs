//! API types: CDI's `cdi.kubevirt.io/v1beta1`, and the part of Kubernetes' snapshot API that smartclone uses.
//!
//! Deserialization is lenient: an unknown word or an invalid quantity in one object must not break a watch over all others. The schema and
//! the webhook report invalid values.

mod cdi;
mod condition;
mod crd;
mod data_source;
mod data_volume;
mod object_transfer;
mod phase;
mod rules;
pub mod snapshot;
mod storage_profile;
mod strategy;
mod volume_clone_source;

pub use cdi::*;
pub use condition::Condition;
pub use crd::definitions;
pub use data_source::*;
pub use data_volume::*;
pub use object_transfer::*;
pub use phase::Phase;
pub use storage_profile::*;
pub use strategy::CloneStrategy;
pub use volume_clone_source::*;

/// The API group of all kinds except the snapshots.
pub const GROUP: &str = "cdi.kubevirt.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

/// A condition of a DataVolume.
pub type DataVolumeCondition = Condition;

#[cfg(test)]
mod tests;
