//! Executes the strategy that a DataVolume's annotation names.
//!
//! A pass has five steps: observe (reads only), plan (pure, in `common`), check (the invariants), apply (writes only), report (status, then
//! events).

mod args;
mod backoff;
mod cdi;
mod cdi_config;
mod cleanup;
pub mod clone;
mod context;
mod created;
mod data_source;
mod error;
mod events;
#[cfg(test)]
mod fixture;
mod lease;
pub mod manifests;
mod metrics;
mod mode;
mod object_transfer;
mod periodic;
mod profile;
mod run;
mod triggers;
mod volume_populator;
mod watches;
mod write;

pub use args::Args;
pub use error::Error;
pub use run::run;
