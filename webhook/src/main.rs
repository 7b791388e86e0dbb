//! The webhook's process.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    config::install_provider();
    config::run(webhook::run(webhook::Args::parse()))
}
