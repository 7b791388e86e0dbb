//! The clone of a DataVolume: the decision ([`decide()`]) and the next step ([`step()`]).
//!
//! Webhook and controller both call [`decide()`], so that the controller derives the same decision as admission did.

pub mod beside;
pub mod check;
pub mod claim;
pub mod cleanup;
pub mod cluster_storage;
pub mod contract;
pub mod data_mover;
pub mod decide;
pub mod events;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod former;
pub mod holders;
#[cfg(test)]
mod model;
pub mod note;
pub mod objects;
pub mod observed;
pub mod ownership;
pub mod plan;
pub mod populator;
pub mod reconcile;
pub mod request;
pub mod shared_snapshot;
pub mod status;
pub mod wait;
pub mod write;

pub use cluster_storage::ClusterStorage;
pub use decide::{Chosen, Decision, Outcome, Route, Undecided, Verdict, decide};
pub use facts::Facts;
pub use note::{ChosenBy, History};
pub use observed::Observed;
pub use plan::Plan;
pub use reconcile::step;
pub use request::Request;
pub use wait::Waiting;
pub use write::{Kind, Write};
