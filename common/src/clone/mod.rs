//! How a DataVolume is cloned ([`decide()`]), and what to do next about it ([`step()`]).
//!
//! The webhook and the controller both call [`decide()`]: what was promised at admission is derived again, not invented again.

pub mod action;
pub(crate) mod attempt;
pub mod breaker;
pub mod check;
mod copy;
pub mod decide;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod group;
pub mod holders;
mod ladder;
#[cfg(test)]
mod model;
pub mod note;
pub mod objects;
pub mod ownership;
pub mod plan;
pub mod populate;
pub mod request;
pub mod rules;
pub mod settings;
pub mod status;
pub mod step;
pub mod sweep;
pub mod wait;

pub use action::{Action, Exact, Kind};
pub use decide::{Chosen, ChosenBy, Decision, History, Outcome, Route, Undecided, Verdict, decide};
pub use facts::Facts;
pub use plan::{Observed, Plan};
pub use request::Request;
pub use settings::Settings;
pub use step::step;
pub use wait::Waiting;
