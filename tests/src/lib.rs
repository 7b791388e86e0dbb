//! The local cluster, the demo, the checks and the benches; one integration crate.

pub mod bench;
pub mod cli;
pub mod demo;
pub mod e2e;
pub mod harness;
pub mod lab;
pub mod manifests;
pub mod verify;
