//! What is seen on a real cluster: each test proves the sentence that is its name. All run on one cluster, side by side, each in a
//! namespace of its own; those that change what all others see are [alone](Test::alone).
#![expect(clippy::large_futures, reason = "the runner boxes every test")]

/// The tests of a module, `; alone:` before those that have to be alone. A function that isn't named here is dead code, which the
/// compiler tells; so is a module whose tests [`all`] doesn't name. The modules are not declared by a macro because rustfmt would not
/// find them.
macro_rules! tests {
    ($($name:ident),* $(,)? $(; alone: $($alone:ident),+ $(,)?)?) => {
        pub(super) fn tests() -> Vec<crate::e2e::Test> {
            vec![$(tests!(@one false $name),)* $($(tests!(@one true $alone)),+)?]
        }
    };
    (@one $alone:literal $name:ident) => {
        crate::e2e::Test {
            name: concat!(module_path!(), "::", stringify!($name)).trim_start_matches("tests::"),
            alone: $alone,
            beside_cdi: false,
            body: |t| Box::pin($name(t)),
        }
    };
}

mod admission;
mod adoption;
mod beside;
mod binding;
mod convert;
mod copy;
mod datasources;
mod deletion;
mod front;
mod group;
mod hostile;
mod kubevirt;
mod locks;
mod namespaces;
mod odd_objects;
mod populator;
mod privacy;
mod process;
mod replan;
mod report;
mod reports;
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

pub use self::{
    front::main,
    runner::{Ending, Outcome, run},
};
use crate::harness::Space;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// The path of its function, from `e2e` on.
    pub name: &'static str,
    /// It changes what others see, so it runs when no other does.
    pub alone: bool,
    /// It runs in a cluster with CDI.
    pub beside_cdi: bool,
    body: for<'a> fn(&'a Space) -> LocalBoxFuture<'a, Result<()>>,
}

/// Every test, in the order in which they begin; those that are alone come last.
pub fn all() -> Vec<Test> {
    let modules = [
        snapshot::tests,
        namespaces::tests,
        privacy::tests,
        snapshots::tests,
        datasources::tests,
        populator::tests,
        adoption::tests,
        copy::tests,
        convert::tests,
        binding::tests,
        replan::tests,
        group::tests,
        locks::tests,
        hostile::tests,
        kubevirt::tests,
        shared_state::tests,
        odd_objects::tests,
        admission::tests,
        source::tests,
        trouble::tests,
        deletion::tests,
        report::tests,
        reports::tests,
        strategy::tests,
        tenants::tests,
        transfer::tests,
        process::tests,
    ];
    let (alone, mut all): (Vec<_>, Vec<_>) = modules.iter().flat_map(|tests| tests()).partition(|test| test.alone);
    all.extend(alone);
    all.extend(beside::tests().into_iter().map(|test| Test { beside_cdi: true, ..test }));
    all
}

/// Every test whose name begins with `prefix`.
pub fn beginning_with(prefix: &str) -> Vec<Test> {
    all().into_iter().filter(|test| test.name.starts_with(prefix)).collect()
}
