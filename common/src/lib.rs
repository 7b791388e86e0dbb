//! Decisions of smartclone as pure functions: the strategy of a clone, and the next step.
//!
//! Nothing in this crate waits, reads a clock, draws a random number, logs, or does I/O: every function takes its input as arguments and
//! returns its decision. The dependency tree contains no tokio, hyper or rustls, which a test checks.

#[cfg(feature = "k8s")]
pub mod admission;
#[cfg(feature = "k8s")]
pub mod api;
#[cfg(feature = "k8s")]
pub mod cdi_config;
#[cfg(feature = "k8s")]
pub mod clone;
#[cfg(feature = "k8s")]
pub mod condition;
#[cfg(feature = "k8s")]
pub mod confinement;
#[cfg(feature = "k8s")]
pub mod data_source;
#[cfg(feature = "k8s")]
pub mod decode;
#[cfg(feature = "k8s")]
pub mod effect;

pub mod field;
#[cfg(feature = "k8s")]
pub mod keys;
#[cfg(feature = "k8s")]
pub mod lease;
pub mod lookup;

pub mod machine_defaults;

#[cfg(feature = "k8s")]
pub mod manifest;
#[cfg(feature = "k8s")]
pub mod mode;
pub mod mover;
pub mod names;
#[cfg(feature = "k8s")]
pub mod object;
#[cfg(feature = "k8s")]
pub mod object_transfer;
#[cfg(feature = "k8s")]
pub mod pods;
#[cfg(feature = "k8s")]
pub mod quantity;
#[cfg(feature = "k8s")]
pub mod rebind;
pub mod refusal;
#[cfg(feature = "k8s")]
pub mod requester;
#[cfg(feature = "k8s")]
pub mod storage;
pub mod words;
