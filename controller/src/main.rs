//! The controller's process.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    config::install_provider();
    config::run(controller::run(controller::Args::parse()))
}
