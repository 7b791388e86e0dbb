//! The tests on a cluster for plain cargo: `cargo test -p tests --test e2e -- NAME`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tests::e2e::main()
}
