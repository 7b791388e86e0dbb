//! The phase of the host-assisted copy: a pod copies the data into the temporary claim.

use crate::object::ClaimPhase;
use std::time::Duration;

use crate::{
    api::{CloneStrategy, Phase},
    clone::{
        claim::Claim,
        data_mover::{Mover, MoverState},
        objects,
        observed::Observed,
        plan::Plan,
        reconcile::{
            decided,
            fallback::{Attempt, attempt, deadline, failed, reported},
            finish::discarded,
            pending::{blocked_source, writers},
            recorded,
        },
        request::Request,
        wait::{InUse, Waiting},
        write::{Kind, Write},
    },
    lookup::Lookup,
    mover::Outcome,
    names,
    object::SourceKind,
    pods::User,
};

/// Populates the blank claim `target`. The volume of a temporary restore gets the reclaim policy Delete from the beginning, because
/// deleting the clone or its namespace deletes the claim without involving smartclone.
pub(super) fn copy(seen: &Observed, request: &Request, target: &Claim) -> Plan {
    let mut plan = copied(seen, request, target);
    // A pass makes at most one irreversible write, and the decision is recorded first.
    let goes_on = plan.actions.iter().all(|action| matches!(action, Write::CreatePod(_) | Write::MarkCopied { .. }));
    if let Some(discard) = seen.restored.present().filter(|claim| claim.trusted && goes_on).and_then(discarded) {
        // Before the pod, which a quota may refuse for long.
        plan.actions.insert(0, discard);
    }
    plan
}

fn copied(seen: &Observed, request: &Request, target: &Claim) -> Plan {
    let name = names::mover(&seen.volume.uid);
    let mover = match &seen.mover {
        Lookup::Unknown(why) => return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
        Lookup::Absent => return start(seen, request, target),
        Lookup::Present(mover) if !mover.ours => {
            return Plan::wait(seen, recorded(seen), Waiting::Foreign { kind: "Pod", name });
        }
        // It is not the pod that was created; its report does not count.
        Lookup::Present(mover) if !mover.trusted && !mover.deleting => {
            let delete = Write::Delete { kind: Kind::Pod, what: mover.exact.clone() };
            return Plan::act(seen, Phase::CloneScheduled, delete)
                .with_waiting(Waiting::BeingDeleted { kind: "Pod", name });
        }
        Lookup::Present(mover) => mover,
    };
    // Only the data mover uses the temporary restore.
    let users = if request.source.kind == SourceKind::Snapshot { &[] } else { seen.source_users.as_slice() };
    let writers = writers(users);
    let in_use = |pods| Waiting::SourceInUse(InUse { pods, elsewhere: request.crosses() });
    if mover.deleting {
        let waiting = if writers.is_empty() { Waiting::BeingDeleted { kind: "Pod", name } } else { in_use(writers) };
        return Plan::wait(seen, Phase::CloneScheduled, waiting);
    }
    let delete = || Write::Delete { kind: Kind::Pod, what: mover.exact.clone() };
    // The claim that it was started for is deleted.
    if mover.fills.as_ref() != Some(&target.exact.uid) {
        let waiting = Waiting::BeingDeleted { kind: "Pod", name };
        return Plan::act(seen, Phase::CloneScheduled, delete()).with_waiting(waiting);
    }
    // A pod may have written during the copy: the copy is discarded.
    if !writers.is_empty() && wrote_during(users, mover) {
        return Plan::act(seen, Phase::CloneScheduled, delete()).with_waiting(in_use(writers));
    }
    match &mover.state {
        MoverState::Starting(pod_says) => {
            let pod_says = pod_says.clone();
            let waiting = if pod_says.as_deref().is_some_and(nowhere) {
                Waiting::NoCommonNode(request.source.clone())
            } else {
                Waiting::MoverNotRunning { pod_says }
            };
            // A node that can access both may appear, or never.
            let over = deadline(seen, request, target.created);
            if matches!(waiting, Waiting::NoCommonNode(_)) && over.is_some_and(|end| end <= seen.now) {
                return failed(seen, waiting.message()).and(delete());
            }
            Plan { look_again_at: over, ..Plan::wait(seen, Phase::CloneScheduled, waiting) }
        }
        MoverState::Running => Plan { progress: seen.progress, ..Plan::idle(seen, Phase::CloneInProgress) },
        MoverState::Ended { outcome: Outcome::Copied { digest, notes, .. }, .. } => {
            let done = Write::MarkCopied { claim: target.exact.clone(), digest: digest.clone() };
            // The pod stays until the clone has the volume: as long as its name is taken, a pass with a stale claim can't start a second
            // one, which would write to a volume that is no longer the temporary claim's.
            let notes = notes.clone();
            Plan { progress: seen.progress, notes, ..Plan::act(seen, Phase::CloneInProgress, done) }
        }
        MoverState::Ended { outcome: Outcome::Never { message }, .. } => failed(seen, message.clone()).and(delete()),
        MoverState::Ended { at, outcome: Outcome::Retry { message } | Outcome::SourceChanged { message } } => {
            let restarts = seen.volume.status.restart_count.unwrap_or_default();
            let again_at = at.saturating_add(backoff(restarts)).unwrap_or(seen.now);
            if seen.now < again_at {
                let waiting = Waiting::MoverFailed { message: message.clone(), again_at };
                return Plan { look_again_at: Some(again_at), ..Plan::wait(seen, Phase::CloneInProgress, waiting) };
            }
            Plan { restarts: restarts.saturating_add(1), ..Plan::act(seen, Phase::CloneScheduled, delete()) }
        }
    }
}

/// True if the volumes are accessible only from different nodes, in the scheduler's message.
fn nowhere(pod_says: &str) -> bool {
    pod_says.contains("volume node affinity conflict")
}

/// The delay before the next attempt: 2 s, 4 s, 8 s … 5 min, as kubelet restarts containers.
fn backoff(restarts: i32) -> Duration {
    let doublings = u32::try_from(restarts).unwrap_or_default().min(8);
    Duration::from_secs((2u64 << doublings).min(300))
}

fn wrote_during(users: &[User], mover: &Mover) -> bool {
    let MoverState::Ended { at, .. } = &mover.state else { return true };
    users.iter().filter(|u| u.writes).any(|u| u.started.is_none_or(|started| started <= *at) && u.scheduled)
}

fn start(seen: &Observed, request: &Request, target: &Claim) -> Plan {
    let phase = Phase::CloneScheduled;
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, phase, waiting),
    };
    let unbound = |claim: &Claim| {
        attempt(seen, request, &chosen, &Attempt::to_fill(seen, claim, CloneStrategy::Copy)).unwrap_or_else(|| {
            let look_again_at = deadline(seen, request, claim.created);
            let waiting = Waiting::ClaimNotBound { driver_says: reported(seen, claim) };
            Plan { look_again_at, ..Plan::wait(seen, phase, waiting) }
        })
    };
    let restored = match (request.source.kind, &seen.restored) {
        (SourceKind::Claim, _) => None,
        (SourceKind::Snapshot, Lookup::Present(claim)) if claim.trusted && !claim.deleting => Some(claim),
        (SourceKind::Snapshot, Lookup::Unknown(why)) => {
            return Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone()));
        }
        (SourceKind::Snapshot, Lookup::Present(claim)) if !claim.ours => {
            let name = claim.exact.name.clone();
            return Plan::wait(seen, phase, Waiting::Foreign { kind: "PersistentVolumeClaim", name });
        }
        // The temporary restore was deleted; the claim to be populated from it must be, too, and the copy starts again.
        (SourceKind::Snapshot, _) => {
            return Plan::act(
                seen,
                phase,
                Write::Delete { kind: Kind::PersistentVolumeClaim, what: target.exact.clone() },
            );
        }
    };
    let restored_late = seen.facts.source_class.present().is_some_and(|class| class.waits_for_consumer);
    let mut plan = if let Some(waiting) = blocked_source(seen, request, &chosen) {
        Plan::wait(seen, phase, waiting)
    } else if target.phase != ClaimPhase::Bound && !chosen.binds_late {
        // The pod would have to be scheduled twice.
        unbound(target)
    } else if let Some(restored) = restored.filter(|claim| claim.phase != ClaimPhase::Bound && !restored_late) {
        unbound(restored)
    } else {
        let source = restored.map_or(request.source.object.name.as_str(), |claim| claim.exact.name.as_str());
        let pod = objects::MoverPod { volume: &seen.volume, request, chosen: &chosen, source, target }
            .build(&seen.mover_settings);
        Plan::act(seen, phase, Write::CreatePod(Box::new(pod)))
            .with_waiting(Waiting::MoverNotRunning { pod_says: None })
    };
    plan.chosen.get_or_insert(chosen);
    plan
}
