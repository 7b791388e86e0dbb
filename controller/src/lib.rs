//! Executes the strategy that a DataVolume's annotation names.
//!
//! A pass is five steps: observe (reads), plan (opinions; in `common`), check (the invariants), apply (writes), report (status, events).

mod cdi_config;
pub mod clone;
mod created;
mod data_source;
mod error;
mod index;
mod level;
pub mod manifests;
mod metrics;
mod profile;
mod progress;
mod rally;
mod retry;
mod run;
mod settings;
mod sweep;
mod transfer;
mod users;
mod write;

pub use error::Error;
pub use run::run;
pub use settings::Args;
