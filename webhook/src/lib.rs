//! Admission of DataVolumes, and of claims that are populated without one: HTTP requests in, decisions out.
//!
//! The mutating webhook writes the decision on a new DataVolume. The validating one checks it, and
//! checks every later change. `server` routes reviews to the handlers in `admit`; `gather` reads
//! the facts; `common` decides.

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
