//! The local cluster, the demo, the checks and the benches; one integration crate.

pub mod cli;
pub mod cluster;
pub mod demo;
pub mod e2e;
pub mod harness;
pub mod manifests;
pub mod measure;
pub mod verify;
