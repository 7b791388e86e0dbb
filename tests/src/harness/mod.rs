//! The actions of tests, demo and benches on a cluster: create a disk, create a clone of it, wait for its success or refusal, and check
//! that nothing is left over.
//!
//! All waits use watches, with a deadline after which the last observed state is reported.

pub mod admin;
pub mod cdi;
pub mod claim;
pub mod clone;
pub mod cluster;
pub mod install;
pub mod leftovers;
pub mod machine;
pub mod pod;
pub mod populator;
pub mod review;
pub mod snapshot;
pub mod space;
pub mod user;
pub mod wait;

use common::quantity::Bytes;

pub use self::{
    claim::Disk,
    clone::{CloneHandle, CloneRequest, Denial, clone_by, clone_of, clone_of_snapshot},
    cluster::Cluster,
    install::{install, install_by},
    pod::PodHandle,
    snapshot::Snapshot,
    space::Space,
};

/// A number of GiB.
pub const fn gi(count: u64) -> Bytes {
    Bytes(count << 30)
}

/// A number of MiB.
pub const fn mi(count: u64) -> Bytes {
    Bytes(count << 20)
}

/// An object with a name in the namespace: a claim, or an object that gets a claim of its name.
pub trait Named: Sync {
    /// The name.
    fn name(&self) -> &str;

    /// True for a VolumeSnapshot, false for a claim.
    fn is_snapshot(&self) -> bool {
        false
    }
}

impl Named for str {
    fn name(&self) -> &str {
        self
    }
}
