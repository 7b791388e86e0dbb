//! The objects that users and other programs know: CDI's `cdi.kubevirt.io/v1beta1`, and what is read of Kubernetes' snapshot API.
//!
//! Reading is lenient everywhere: a word that this version doesn't know, or a quantity that makes no sense, must not break a watch
//! over the other thousand objects. What is wrong is told by the schema and at admission.

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

/// The API group of everything but the snapshots.
pub const GROUP: &str = "cdi.kubevirt.io";
/// Its version.
pub const VERSION: &str = "v1beta1";

/// A condition of a DataVolume.
pub type DataVolumeCondition = Condition;

#[cfg(test)]
mod tests;
