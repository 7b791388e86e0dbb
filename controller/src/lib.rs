//! Executes the strategy that a DataVolume's annotation names.
//!
//! A pass is five steps: observe (reads), plan (opinions; in `common`), check (the invariants), apply (writes), report (status, events).

pub mod clone;
mod error;
pub mod manifests;
mod metrics;
mod progress;
mod run;
mod settings;
mod write;

pub use error::Error;
pub use run::run;
pub use settings::Args;
