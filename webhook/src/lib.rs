//! Admission of DataVolumes, and of claims that are filled without one: HTTP in, decision out.
//!
//! The mutating webhook writes the decision on a new DataVolume; the validating one looks again and refuses what doesn't fit, then and
//! at every change. What is decided is in `common`; here are the facts and the answers.

mod admit;
mod args;
pub mod body;
#[cfg(test)]
mod fake_cluster;
pub mod gather;
pub mod manifests;
pub mod metrics;
mod object;
pub mod policies;
mod port;
pub mod review;
mod run;
pub mod server;

pub use args::Args;
pub use run::run;
