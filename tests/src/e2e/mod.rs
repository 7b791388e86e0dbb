//! What is seen on a real cluster: each test proves the sentence that is its name. All run on one cluster, side by side, each in a
//! namespace of its own; those that change what all others see are [alone](Test::alone).
#![expect(clippy::large_futures, reason = "the runner boxes every test")]

/// The list of a module's tests, or of those that have to be alone. A function that isn't in one is dead code, which the compiler tells.
macro_rules! tests {
    (alone: $($name:ident),+ $(,)?) => {
        pub(super) fn alone() -> Vec<crate::e2e::Test> { tests!(@list true $($name)+) }
    };
    ($($name:ident),+ $(,)?) => {
        pub(super) fn together() -> Vec<crate::e2e::Test> { tests!(@list false $($name)+) }
    };
    (@list $alone:literal $($name:ident)+) => {
        vec![$(crate::e2e::Test {
            name: concat!(module_path!(), "::", stringify!($name)).trim_start_matches("tests::"),
            alone: $alone,
            body: |t| Box::pin($name(t)),
        }),+]
    };
}

mod admission;
mod adoption;
mod binding;
mod convert;
mod copy;
mod datasources;
mod deletion;
mod group;
mod hostile;
mod locks;
mod namespaces;
mod odd_objects;
mod populator;
mod privacy;
mod process;
mod replan;
mod report;
mod runner;
mod shared_state;
mod snapshot;
mod snapshots;
mod source;
mod strategy;
pub mod surprises;
mod tenants;
mod transfer;
mod trouble;

use anyhow::Result;
use futures::future::LocalBoxFuture;

pub use self::runner::{Outcome, run};
use crate::harness::Space;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// The path of its function, from `e2e` on.
    pub name: &'static str,
    /// It changes what others see, so it runs when no other does.
    pub alone: bool,
    body: for<'a> fn(&'a Space) -> LocalBoxFuture<'a, Result<()>>,
}

/// Every test whose name begins with `prefix`.
pub fn tests(prefix: &str) -> Vec<Test> {
    let all = [
        snapshot::together(),
        namespaces::together(),
        privacy::together(),
        snapshots::together(),
        datasources::together(),
        populator::together(),
        adoption::together(),
        copy::together(),
        convert::together(),
        binding::together(),
        replan::together(),
        group::together(),
        locks::together(),
        hostile::together(),
        shared_state::together(),
        odd_objects::together(),
        admission::together(),
        source::together(),
        trouble::together(),
        deletion::together(),
        report::together(),
        strategy::together(),
        tenants::together(),
        transfer::together(),
        strategy::alone(),
        tenants::alone(),
        namespaces::alone(),
        populator::alone(),
        transfer::alone(),
        locks::alone(),
        hostile::alone(),
        odd_objects::alone(),
        process::alone(),
    ];
    all.into_iter().flatten().filter(|test| test.name.starts_with(prefix)).collect()
}
