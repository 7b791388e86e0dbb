//! Model checker: runs the shipped functions in a miniature cluster through all possible events within small bounds. Each state of the
//! cluster is visited once, breadth first, so that a counterexample is a shortest one.
//!
//! Shipped functions are [`step()`](super::step()), [`status()`](super::status::status), the invariants of [`check`](super::check), and the
//! conditions of the cleanup ([`cleanup`](super::cleanup), [`shared_snapshot`](super::shared_snapshot)). The rest is a model: the API
//! server (UIDs, versions, name conflicts, owners), Kubernetes' controllers, the sidecars, a driver that refuses once or is too slow, the
//! data mover, a user who deletes one object at any time, a crash before or after any write, and caches of which one, or all, are stale.

#![expect(clippy::print_stdout, reason = "how large a search was, and how a mistake shows, is worth reading")]

mod controller;
mod run;
mod search;
mod world;

use rstest::rstest;

use controller::Wish;
use run::{Mistake, Scenario};
use search::search;
use world::Budget;

const FAULTS: Budget =
    Budget { crash: true, deed: true, stale: true, trouble: false, stranger: false, unmark: false, most: 4 };

fn scenario(name: &'static str, strategy: &'static str, crosses: bool) -> Scenario {
    Scenario {
        name,
        wish: Wish { strategy, crosses, grows: false, beside_cdi: false },
        clones: 1,
        budget: FAULTS,
        mistake: None,
    }
}

/// Two clones of one source share snapshots.
fn group_commit() -> Scenario {
    Scenario {
        clones: 2,
        budget: Budget { most: 1, ..FAULTS },
        ..scenario("two clones of one source, by snapshot", "snapshot", false)
    }
}

/// The volume is populated beside the source, rebound, and expanded.
fn rebind() -> Scenario {
    let here = scenario("into another namespace, by snapshot", "snapshot", true);
    Scenario { wish: Wish { grows: true, ..here.wish }, budget: Budget { most: 2, ..FAULTS }, ..here }
}

fn csi_clone() -> Scenario {
    scenario("into another namespace, by csi-clone", "csi-clone", true)
}

fn copy() -> Scenario {
    scenario("into another namespace, by copy", "copy", true)
}

/// The driver refuses the blank claim, or the data mover fails.
fn troubled_copy() -> Scenario {
    let budget = Budget { trouble: true, most: 2, ..FAULTS };
    Scenario { budget, ..scenario("in the same namespace, by copy", "copy", false) }
}

/// The driver refuses, or is too slow, once.
fn planned_again(crosses: bool) -> Scenario {
    let name = if crosses { "planned again, into another namespace" } else { "planned again" };
    Scenario { budget: Budget { trouble: true, most: 2, ..FAULTS }, ..scenario(name, "snapshot", crosses) }
}

/// Two clones share a snapshot into another namespace.
fn two_transfers() -> Scenario {
    let one = scenario("two into another namespace, by snapshot", "snapshot", true);
    Scenario { clones: 2, budget: Budget { deed: false, stale: false, most: 1, ..FAULTS }, ..one }
}

/// A foreign pod uses the temporary claim at any time.
fn with_a_stranger(strategy: &'static str) -> Scenario {
    let budget = Budget { stranger: true, most: 2, ..FAULTS };
    Scenario { budget, ..scenario("a pod of somebody else uses the temporary claim", strategy, true) }
}

/// CDI's controller acts on the same DataVolume, whose mark may be removed.
fn beside_cdi(strategy: &'static str, crosses: bool) -> Scenario {
    let one = scenario("beside CDI", strategy, crosses);
    // Stale caches multiply the states of shared snapshots.
    let faults = Budget { stale: strategy == "copy", ..FAULTS };
    let budget = Budget { unmark: true, most: 2, ..faults };
    Scenario { wish: Wish { beside_cdi: true, ..one.wish }, budget, ..one }
}

/// No event breaks an invariant. Once faults end, the clone is complete or has failed, or its DataVolume is deleted, and no temporary
/// object is left.
#[rstest]
#[case::group_commit(group_commit())]
#[case::rebind(rebind())]
#[case::csi_clone(csi_clone())]
#[case::copy(copy())]
#[case::troubled_copy(troubled_copy())]
#[case::planned_again(planned_again(false))]
#[case::planned_again_and_transferred(planned_again(true))]
#[case::two_transfers(two_transfers())]
#[case::a_stranger_during_a_copy(with_a_stranger("copy"))]
#[case::a_stranger_during_a_restore(with_a_stranger("snapshot"))]
#[case::beside_cdi_by_snapshot(beside_cdi("snapshot", false))]
#[case::beside_cdi_by_copy(beside_cdi("copy", true))]
fn model_holds(#[case] scenario: Scenario) {
    match search(scenario) {
        Ok(found) => println!("{}: {found}", scenario.name),
        Err(wrong) => panic!("{}:\n{wrong}", scenario.name),
    }
}

/// The model finds each of these planted mistakes.
#[rstest]
#[case::without_preconditions(Mistake::NoPreconditions, "before the clone's claim is bound")]
#[case::claim_ref_cleared(Mistake::ClearsClaimRef, "claimRef is cleared")]
#[case::temporary_claim_deleted_early(Mistake::DeletesEarly, "before the clone's claim is bound")]
#[case::holders_ignored(Mistake::IgnoresHolders, "somebody else has volume")]
#[case::cdi_reported_early(Mistake::ReportsEarly, "without a complete volume")]
#[case::cdi_s_claim_touched(Mistake::TakesCdisClaim, "is left")]
fn model_finds(#[case] mistake: Mistake, #[case] what: &str) {
    let scenario = match mistake {
        Mistake::IgnoresHolders => with_a_stranger("copy"),
        Mistake::ReportsEarly | Mistake::TakesCdisClaim => beside_cdi("snapshot", false),
        _ => csi_clone(),
    };
    let planted = Scenario { mistake: Some(mistake), ..scenario };
    let wrong = search(planted).expect_err("the model is blind");
    println!("{mistake:?}, {} events:\n{wrong}", wrong.trace.len());
    assert!(wrong.what.contains(what), "{wrong}");
}
