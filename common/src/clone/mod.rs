//! The clone of a DataVolume: the decision ([`decide()`]) and the next step ([`step()`]).
//!
//! The webhook and the controller both call [`decide()`]: what was promised at admission is derived again, not invented again.

mod candidates;
pub mod check;
pub mod claim;
pub mod cleanup;
pub mod data_mover;
pub mod decide;
pub mod events;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixtures;
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
pub mod refusals;
pub mod request;
pub mod rules;
pub mod settings;
pub mod shared_snapshot;
pub mod status;
pub mod wait;
pub mod write;

pub use decide::{Chosen, ChosenBy, Decision, History, Outcome, Route, Undecided, Verdict, decide};
pub use facts::Facts;
pub use observed::Observed;
pub use plan::Plan;
pub use reconcile::step;
pub use request::Request;
pub use settings::Settings;
pub use wait::Waiting;
pub use write::{Kind, Write};
