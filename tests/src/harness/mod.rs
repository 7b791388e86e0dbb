//! What tests, demo and benches do on a cluster, in the words of whoever uses it: a disk is filled, a clone is asked for and
//! succeeds, waits, or is refused; and in the end nothing is left.
//!
//! Everything that is waited for is watched, with a deadline after which the last state that was seen is told.

pub mod admin;
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

/// So many GiB.
pub const fn gi(count: u64) -> Bytes {
    Bytes(count << 30)
}

/// So many MiB.
pub const fn mi(count: u64) -> Bytes {
    Bytes(count << 20)
}

/// Something with a name in the namespace that is talked about: a claim, or what gets a claim of its name.
pub trait Named: Sync {
    /// The name.
    fn name(&self) -> &str;

    /// It is a VolumeSnapshot, and no claim.
    fn is_snapshot(&self) -> bool {
        false
    }
}

impl Named for str {
    fn name(&self) -> &str {
        self
    }
}
