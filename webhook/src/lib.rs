//! Admission of DataVolumes, and of claims that are filled without one: HTTP in, decision out.
//!
//! The mutating webhook writes the decision on a new DataVolume; the validating one looks again and refuses what doesn't fit, then and
//! at every change. What is decided is in `common`; here are the facts and the answers.

pub mod body;
pub mod claim;
pub mod cluster;
#[cfg(test)]
mod fake_cluster;
pub mod judge;
pub mod manifests;
pub mod memory;
pub mod metrics;
mod object;
pub mod policies;
mod port;
pub mod review;
pub mod rights;
mod run;
pub mod server;
mod settings;
pub mod transfer;

pub use run::run;
pub use settings::Args;
