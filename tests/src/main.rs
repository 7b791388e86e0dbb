//! `lab`: the one program behind `cargo cluster` and its sisters.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    tests::cli::Cli::parse().run()
}
