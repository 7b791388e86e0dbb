//! The processes: the operator with the admission server, and the controller, each with CDI's own accounts and limits.

pub mod args;
mod cache;
mod controller;
mod crds;
mod install;
mod lease;
mod limiter;
mod operator;
mod queue;
mod recorder;
mod run;
mod server;
mod tls;
mod uninstall;
mod webhooks;
mod writer;

pub use self::{args::Args, run::run};
