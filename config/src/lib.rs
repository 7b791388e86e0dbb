//! The process runtime shared by both binaries: arguments, telemetry, admin endpoint, shutdown,
//! supervisor, client, cache.
//!
//! A `main` installs the TLS provider, parses its arguments and hands an async function to [`run`]:
//!
//! ```no_run
//! # use clap::Parser;
//! # use config::{admin::{Admin, Readiness}, args::{AdminArgs, ShutdownArgs}, shutdown::Shutdown, supervisor::Supervisor, telemetry::LogArgs};
//! # use std::{process::ExitCode, sync::Arc};
//! #[derive(Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     log: LogArgs,
//!     #[command(flatten)]
//!     admin: AdminArgs,
//!     #[command(flatten)]
//!     shutdown: ShutdownArgs,
//! }
//!
//! fn main() -> ExitCode {
//!     config::install_provider();
//!     let args = Args::parse();
//!     config::run(async move {
//!         let log = config::telemetry::install(&args.log)?;
//!         let shutdown = Shutdown::new(&args.shutdown);
//!         let readiness = Readiness::new(shutdown.clone());
//!         let registry = Arc::new(prometheus_client::registry::Registry::with_prefix("smartclone"));
//!         let admin = Admin::bind(&args.admin, readiness, registry, log)?;
//!         Supervisor::new(shutdown).companion("admin", admin.serve()).run().await?;
//!         Ok(())
//!     })
//! }
//! ```

pub mod admin;
pub mod api;
pub mod args;
pub mod cache;
pub mod client;
mod error;
mod listen;
pub mod metrics;
pub mod random;
mod run;
pub mod shutdown;
pub mod supervisor;
pub mod telemetry;

pub use error::Chain;
pub use listen::listen;
pub use run::{install_provider, run};
