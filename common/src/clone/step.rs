//! What to do next. Every pass starts from the objects and derives again what is already done, so a restart is just another pass.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    action::{Action, Kind},
    decide::{Chosen, ChosenBy, Decision, Undecided, decide},
    objects::{self, DataSource},
    plan::{Claim, Mover, MoverState, Observed, Plan, User},
    request::{Consistency, Parsed, Request},
    wait::Waiting,
};
use crate::{
    api::{CloneStrategy, Phase},
    lookup::Lookup,
    meta,
    mover::Outcome,
    names,
};

/// The next step of `seen`'s DataVolume; `None` when it is none of our business (no clone, or being deleted: everything that we make
/// in its namespace is owned by it, and Kubernetes removes it).
pub fn step(seen: &Observed) -> Option<Plan> {
    if seen.volume.deleting || seen.parsed == Parsed::NotAClone {
        return None;
    }
    let passive = seen.another_controller.clone().map(Waiting::AnotherController);
    let mut plan = match &seen.parsed {
        // Two owners of one kind would fight.
        _ if passive.is_some() => Plan { waiting: passive, ..Plan::idle(seen, recorded(seen)) },
        Parsed::Wrong(errors) => Plan::wait(seen, Phase::Pending, Waiting::Invalid(errors.clone())),
        Parsed::Clone(_) if seen.volume.status.phase == Phase::Failed => after_failure(seen),
        Parsed::Clone(request) => match &seen.claim {
            Lookup::Unknown(why) => Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
            Lookup::Present(claim) => with_claim(seen, request, claim),
            Lookup::Absent => without_claim(seen, request),
        },
        Parsed::NotAClone => return None,
    };
    if let Some(waiting) = &plan.waiting {
        let late = waiting_since(seen, waiting).saturating_add(waiting.expected()).ok();
        let late = late.filter(|late| *late > seen.now);
        plan.look_again_at = [plan.look_again_at, late].into_iter().flatten().min();
    }
    Some(plan)
}

/// Since when the status says that this is waited for; now, if it doesn't say so yet.
pub(super) fn waiting_since(seen: &Observed, waiting: &Waiting) -> Timestamp {
    let recorded = seen.volume.status.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
    recorded
        .filter(|recorded| recorded.reason.as_deref() == Some(waiting.reason()))
        .and_then(|recorded| recorded.since.as_ref())
        .map_or(seen.now, |since| since.0)
}

/// The phase as it stands, for passes that can't tell a newer one.
fn recorded(seen: &Observed) -> Phase {
    match seen.volume.status.phase {
        Phase::Unset => Phase::Pending,
        phase => phase,
    }
}

/// Failed is for ever; only what is left over is removed.
fn after_failure(seen: &Observed) -> Plan {
    let mut plan = Plan::idle(seen, Phase::Failed);
    plan.failure = failure_on_record(seen);
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

fn failure_on_record(seen: &Observed) -> Option<String> {
    let conditions = &seen.volume.status.conditions;
    conditions.iter().find(|c| c.type_ == crate::condition::types::READY).and_then(|c| c.message.clone())
}

/// A temporary object that is still there, and ours.
fn leftover(seen: &Observed) -> Option<Action> {
    let snapshot = seen.snapshot.present().filter(|s| s.ours && !s.deleting);
    let mover = seen.mover.present().filter(|m| m.ours && !m.deleting);
    snapshot
        .map(|s| Action::Delete { kind: Kind::VolumeSnapshot, what: s.exact.clone() })
        .or_else(|| mover.map(|m| Action::Delete { kind: Kind::Pod, what: m.exact.clone() }))
}

/// The decision in force. A pinned one that can no longer be had has already been replaced by the ladder.
fn decided(seen: &Observed, request: &Request) -> Result<Box<Chosen>, Waiting> {
    match decide(request, seen.volume.pinned, &seen.facts) {
        Decision::Chosen(chosen) => Ok(chosen),
        Decision::Rejected(errors) => Err(Waiting::Invalid(errors)),
        Decision::Undecided(Undecided::SourceMissing) => Err(Waiting::SourceMissing(request.source.clone())),
        Decision::Undecided(Undecided::SourceNotBound) => Err(Waiting::SourceNotBound(request.source.clone())),
        Decision::Undecided(Undecided::Unknown(why)) => Err(Waiting::CouldNotTell(why)),
    }
}

/// The annotations that say what was decided.
pub fn pin(chosen: &Chosen) -> BTreeMap<&'static str, Option<String>> {
    let note = PlanNote { chosen_by: chosen.by, reason: chosen.fallback.as_ref().map(|f| f.code.to_owned()) };
    BTreeMap::from([
        (meta::CLONE_TYPE, Some(chosen.strategy.to_string())),
        (meta::CLONE_FALLBACK_REASON, chosen.fallback.as_ref().map(ToString::to_string)),
        (meta::PLAN, serde_json::to_string(&note).ok()),
    ])
}

/// The content of the annotation `smartclone.dev/plan`: that the strategy beside it was decided, not wished.
#[derive(serde::Serialize, serde::Deserialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PlanNote {
    /// Whose wish it was.
    pub chosen_by: ChosenBy,
    /// The word for why it isn't what was wanted first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl PlanNote {
    /// Whether `text` is the note of a decision that the requester's own wish led to.
    pub fn says_wished(text: &str) -> bool {
        Self::read(text).is_some_and(|note| note.chosen_by == ChosenBy::Requester)
    }

    /// The note in an annotation, if it is one.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Before there is a claim: decide, wait for the source, cut the snapshot.
fn without_claim(seen: &Observed, request: &Request) -> Plan {
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::Pending, waiting),
    };
    let mut plan = match blocked_source(seen, request, &chosen) {
        // What is decided is written down before anything is made.
        _ if seen.volume.pinned != Some(chosen.strategy) => {
            Plan::act(seen, Phase::CloneScheduled, Action::Pin(pin(&chosen)))
        }
        // A snapshot that has been cut needs the source no more.
        Some(waiting) if seen.snapshot.present().is_none_or(|s| !s.ready) => {
            Plan::wait(seen, Phase::CloneScheduled, waiting)
        }
        _ => match chosen.strategy {
            CloneStrategy::Snapshot => by_snapshot(seen, request, &chosen),
            CloneStrategy::CsiClone => {
                let claim = objects::claim(
                    &seen.volume,
                    &chosen,
                    chosen.sizes.create_at,
                    &DataSource::Claim(&request.source.name),
                );
                Plan::act(seen, Phase::CsiCloneInProgress, Action::CreateClaim(Box::new(claim)))
            }
            CloneStrategy::Copy => {
                let claim = objects::claim(&seen.volume, &chosen, chosen.sizes.create_at, &DataSource::Blank);
                Plan::act(seen, Phase::CloneScheduled, Action::CreateClaim(Box::new(claim)))
            }
        },
    };
    plan.chosen = Some(chosen);
    plan
}

/// Why the source can't be read now.
fn blocked_source(seen: &Observed, request: &Request, chosen: &Chosen) -> Option<Waiting> {
    if seen.source_populated == Some(false) {
        return Some(Waiting::SourceNotPopulated(request.source.clone()));
    }
    let writers = writers(&seen.source_users, chosen.strategy == CloneStrategy::Copy);
    let tolerated = request.consistency == Consistency::CrashConsistent && chosen.strategy == CloneStrategy::Snapshot;
    (!writers.is_empty() && !tolerated).then_some(Waiting::SourceInUse(writers))
}

/// Who may be writing. A pod without a node isn't; but it may be at any moment, which is too soon for a copy that takes a while.
fn writers(users: &[User], slow: bool) -> Vec<String> {
    users.iter().filter(|u| u.writes && (u.scheduled || slow)).map(|u| u.pod.clone()).collect()
}

fn by_snapshot(seen: &Observed, request: &Request, chosen: &Chosen) -> Plan {
    let phase = Phase::SnapshotForSmartCloneInProgress;
    let name = names::snapshot(&seen.volume.uid);
    let snapshot = match &seen.snapshot {
        Lookup::Unknown(why) => return Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone())),
        Lookup::Absent => {
            let snapshot = objects::snapshot(&seen.volume, &request.source.name, chosen.snapshot_class.as_deref());
            return Plan::act(seen, phase, Action::CreateSnapshot(Box::new(snapshot)))
                .with_waiting(Waiting::SnapshotNotReady { driver_says: None });
        }
        Lookup::Present(snapshot) if !snapshot.ours => {
            return Plan::wait(seen, phase, Waiting::Foreign { kind: "VolumeSnapshot", name });
        }
        Lookup::Present(snapshot) if snapshot.deleting => {
            return Plan::wait(seen, phase, Waiting::BeingDeleted { kind: "VolumeSnapshot", name });
        }
        Lookup::Present(snapshot) => snapshot,
    };
    // Restoring from a snapshot that isn't ready costs the provisioner a back-off of a second and more.
    if !snapshot.ready {
        return Plan::wait(seen, phase, Waiting::SnapshotNotReady { driver_says: snapshot.error.clone() });
    }
    match chosen.sizes_for(snapshot.restore_size) {
        Ok(sizes) => {
            let claim = objects::claim(&seen.volume, chosen, sizes.create_at, &DataSource::Snapshot(&name));
            Plan::act(seen, Phase::CloneFromSnapshotSourceInProgress, Action::CreateClaim(Box::new(claim)))
                .with_waiting(provisioning(seen, chosen, None))
        }
        Err(error) => Plan::wait(seen, phase, Waiting::CouldNotTell(error.to_string())),
    }
}

/// What an unbound claim waits for.
fn provisioning(seen: &Observed, chosen: &Chosen, claim: Option<&Claim>) -> Waiting {
    let complaint = claim.and_then(|c| c.complaint.clone());
    if chosen.waits_for_consumer && seen.target_users.iter().all(|u| !u.scheduled) {
        Waiting::FirstConsumer
    } else {
        Waiting::ClaimNotBound { driver_says: complaint }
    }
}

/// Once there is a claim: fill it, grow it, remove what was temporary.
fn with_claim(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let name = seen.volume.name.clone();
    if !claim.ours {
        return Plan::wait(seen, Phase::Pending, Waiting::Foreign { kind: "PersistentVolumeClaim", name });
    }
    if claim.deleting {
        return Plan::wait(seen, recorded(seen), Waiting::BeingDeleted { kind: "PersistentVolumeClaim", name });
    }
    if claim.phase == "Lost" {
        let mut plan = Plan::idle(seen, Phase::Failed);
        plan.failure = Some(format!("PersistentVolumeClaim {name:?} has lost its volume"));
        return plan;
    }
    if seen.volume.status.phase == Phase::Succeeded {
        // Complete; nothing that happens to the source, the classes or the wishes matters any more.
        return finished(seen);
    }
    match seen.volume.pinned {
        Some(CloneStrategy::Copy) => match &claim.copied {
            Some(_) => grown(seen, request, claim),
            None => by_copy(seen, request, claim),
        },
        Some(CloneStrategy::Snapshot) => {
            if claim.phase == "Bound" {
                grown(seen, request, claim)
            } else {
                unbound(seen, request, claim, Phase::CloneFromSnapshotSourceInProgress)
            }
        }
        Some(CloneStrategy::CsiClone) => {
            if claim.phase == "Bound" {
                grown(seen, request, claim)
            } else {
                unbound(seen, request, claim, Phase::CsiCloneInProgress)
            }
        }
        // The claim was made after the pin; a pin that is gone was removed by somebody.
        None => Plan::wait(
            seen,
            recorded(seen),
            Waiting::CouldNotTell(format!("the annotation {} was removed; restore it", meta::CLONE_TYPE)),
        ),
    }
}

fn unbound(seen: &Observed, request: &Request, claim: &Claim, phase: Phase) -> Plan {
    let chosen = decided(seen, request).ok();
    let waiting = match &chosen {
        Some(chosen) => provisioning(seen, chosen, Some(claim)),
        None => Waiting::ClaimNotBound { driver_says: claim.complaint.clone() },
    };
    let phase = if waiting == Waiting::FirstConsumer { Phase::WaitForFirstConsumer } else { phase };
    Plan { chosen, ..Plan::wait(seen, phase, waiting) }
}

/// The volume has its content. See that it has its size; then it is done. The source may be gone by now, so its size is not asked for:
/// what the requester asked for is in the DataVolume, and what the source had, the claim has had from the start.
fn grown(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let wanted = request.size.unwrap_or_default().max(claim.request);
    if claim.request < wanted {
        let grow = Action::GrowClaim { claim: claim.exact.clone(), to: wanted };
        return Plan::act(seen, Phase::ExpansionInProgress, grow).with_waiting(Waiting::NotExpanded);
    }
    if claim.capacity.is_none_or(|has| has < wanted) && !claim.file_system_grows_at_mount {
        return Plan::wait(seen, Phase::ExpansionInProgress, Waiting::NotExpanded);
    }
    finished(seen)
}

/// Deleting what is left is asked for, not waited for: with some drivers it takes for ever (trident#1134).
fn finished(seen: &Observed) -> Plan {
    let plan = Plan::idle(seen, Phase::Succeeded);
    match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }
}

/// The claim is blank, and a pod fills it.
fn by_copy(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let name = names::mover(&seen.volume.uid);
    let mover = match &seen.mover {
        Lookup::Unknown(why) => return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
        Lookup::Absent => return start_mover(seen, request, claim),
        Lookup::Present(mover) if !mover.ours => {
            return Plan::wait(seen, recorded(seen), Waiting::Foreign { kind: "Pod", name });
        }
        Lookup::Present(mover) => mover,
    };
    let writers = writers(&seen.source_users, true);
    if mover.deleting {
        let waiting = if writers.is_empty() {
            Waiting::BeingDeleted { kind: "Pod", name }
        } else {
            Waiting::SourceInUse(writers)
        };
        return Plan::wait(seen, Phase::CloneScheduled, waiting);
    }
    let delete = || Action::Delete { kind: Kind::Pod, what: mover.exact.clone() };
    // Somebody may have written while we read: what was read is worth nothing.
    if !writers.is_empty() && wrote_during(&seen.source_users, mover) {
        return Plan::act(seen, Phase::CloneScheduled, delete()).with_waiting(Waiting::SourceInUse(writers));
    }
    match &mover.state {
        MoverState::Starting(pod_says) => {
            Plan::wait(seen, Phase::CloneScheduled, Waiting::MoverNotRunning { pod_says: pod_says.clone() })
        }
        MoverState::Running => Plan { progress: seen.progress, ..Plan::idle(seen, Phase::CloneInProgress) },
        MoverState::Ended { outcome: Outcome::Copied { digest, .. }, .. } => {
            let done = Action::MarkCopied { claim: claim.exact.clone(), digest: digest.clone() };
            Plan { progress: seen.progress, ..Plan::act(seen, Phase::CloneInProgress, done) }
        }
        MoverState::Ended { outcome: Outcome::Never { message }, .. } => {
            let mut plan = Plan::act(seen, Phase::Failed, delete());
            plan.failure = Some(message.clone());
            plan
        }
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

/// 2 s, 4 s, 8 s … 5 min: as kubelet restarts containers.
fn backoff(restarts: i32) -> Duration {
    let doublings = u32::try_from(restarts).unwrap_or_default().min(8);
    Duration::from_secs((2u64 << doublings).min(300))
}

fn wrote_during(users: &[User], mover: &Mover) -> bool {
    let MoverState::Ended { at, .. } = &mover.state else { return true };
    users.iter().filter(|u| u.writes).any(|u| u.started.is_none_or(|started| started <= *at) && u.scheduled)
}

fn start_mover(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::CloneScheduled, waiting),
    };
    let phase = Phase::CloneScheduled;
    let users: Vec<_> = seen.target_users.iter().map(|u| u.pod.clone()).collect();
    let mut plan = if let Some(waiting) = blocked_source(seen, request, &chosen) {
        Plan::wait(seen, phase, waiting)
    } else if claim.phase != "Bound" && !chosen.waits_for_consumer {
        // A pod would have to be scheduled twice.
        Plan::wait(seen, phase, Waiting::ClaimNotBound { driver_says: claim.complaint.clone() })
    } else if users.is_empty() {
        let pod = objects::mover(&seen.volume, &request.source.name, chosen.mode, &seen.mover_settings);
        Plan::act(seen, phase, Action::CreateMover(Box::new(pod)))
            .with_waiting(Waiting::MoverNotRunning { pod_says: None })
    } else {
        Plan::wait(seen, phase, Waiting::TargetInUse(users))
    };
    plan.chosen = Some(chosen);
    plan
}
