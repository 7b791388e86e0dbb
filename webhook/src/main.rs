//! The webhook's process.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    config::tls::install_provider();
    config::run(webhook::run(webhook::Args::parse()))
}
