//! The phase of the snapshot: sharing it, waiting for the driver, and restoring from it.

use crate::{
    api::Phase,
    clone::{
        decide::Chosen,
        objects::{DataSource, SnapshotTemplate},
        observed::Observed,
        plan::Plan,
        reconcile::{
            fallback::{Attempt, attempt, deadline},
            make::{Place, create},
            waiting_since,
        },
        request::Request,
        shared_snapshot::SharedSnapshot,
        wait::{REFUSED, Waiting},
    },
    lookup::Lookup,
    storage::driver_error,
};

/// Restores the snapshot that this clone shares, or requests one at its turn.
pub(crate) fn by_snapshot(seen: &Observed, request: &Request, chosen: &Chosen, place: Place<'_>) -> Plan {
    let phase = Phase::SnapshotForSmartCloneInProgress;
    let group = match &seen.group {
        Lookup::Present(group) => group,
        Lookup::Absent => {
            return Plan::wait(seen, phase, Waiting::CouldNotTell("the cluster has no snapshot API".to_owned()));
        }
        Lookup::Unknown(why) => return Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone())),
    };
    let Some(snapshot) = group.of(&seen.volume.uid) else {
        return for_a_turn(seen, request, chosen);
    };
    // Restoring from a snapshot that isn't ready causes a back-off of the provisioner of a second or more.
    if !snapshot.ready {
        let cutting = Attempt::to_snapshot(snapshot);
        return attempt(seen, request, chosen, &cutting).unwrap_or_else(|| {
            let waiting =
                Waiting::SnapshotNotReady { driver_says: snapshot.error.as_deref().map(driver_error::redact) };
            Plan { look_again_at: cutting.deadline(seen, request), ..Plan::wait(seen, phase, waiting) }
        });
    }
    if let Some(plan) = refused_too_long(seen, request, chosen, snapshot) {
        return plan;
    }
    let name = snapshot.exact.name.clone();
    match chosen.sizes_for(snapshot.restore_size) {
        Ok(sizes) => {
            let mut chosen = chosen.clone();
            chosen.sizes = sizes;
            let phase = Phase::CloneFromSnapshotSourceInProgress;
            create(seen, &chosen, place, &DataSource::Snapshot(&name), phase)
        }
        Err(error) => {
            let since = snapshot.created.unwrap_or(seen.now);
            let words = "the size that a restore of the snapshot needs is not possible";
            attempt(seen, request, chosen, &Attempt::to_go_on(chosen.strategy, since, words))
                .unwrap_or_else(|| Plan::wait(seen, phase, Waiting::CouldNotTell(error.to_string())))
        }
    }
}

/// The plan while other clones have all snapshots of the source. The length of that wait depends on them, so it has a deadline like every
/// other step of a strategy.
fn for_a_turn(seen: &Observed, request: &Request, chosen: &Chosen) -> Plan {
    let since = waiting_since(seen, &Waiting::SnapshotTurn);
    let turn = Attempt::to_go_on(chosen.strategy, since, "other clones of the source have all its temporary snapshots");
    attempt(seen, request, chosen, &turn).unwrap_or_else(|| {
        let wanted = SnapshotTemplate {
            source_uid: chosen.source_uid.clone(),
            class: chosen.snapshot_class.clone(),
            source: request.source.object.clone(),
            volume: seen.volume.clone(),
        };
        Plan {
            wanted_snapshot: Some(Box::new(wanted)),
            look_again_at: deadline(seen, request, Some(since)),
            ..Plan::wait(seen, Phase::SnapshotForSmartCloneInProgress, Waiting::SnapshotTurn)
        }
    })
}

/// Gives up when the API server has refused the claim to restore (a quota, a policy) for too long, which only people can cure. While the
/// clone waits for them it keeps a snapshot, of which a source has few, so the attempt's deadline applies.
fn refused_too_long(seen: &Observed, request: &Request, chosen: &Chosen, snapshot: &SharedSnapshot) -> Option<Plan> {
    let waiting = seen.volume.status.clone.as_ref()?.waiting_for.as_ref()?;
    if !waiting.reason.as_deref().is_some_and(|reason| REFUSED.contains(&reason)) {
        return None;
    }
    let since = waiting.since.as_ref()?.0.max(snapshot.created?);
    let words = "the API server did not admit the claim that was to be restored from the snapshot";
    attempt(seen, request, chosen, &Attempt::to_go_on(chosen.strategy, since, words))
}
