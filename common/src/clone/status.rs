//! The status of a DataVolume, derived from the observations and the plan.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    ownership::Created,
    plan::{Plan, Refused},
    write::Write,
};
use crate::{
    api::{Attempt, CloneStatus, DataVolumeStatus, Phase, WaitingFor},
    clone::{
        claim::Claim,
        data_mover::MoverState,
        observed::Observed,
        reconcile::waiting_since,
        wait::{EndsBy, Waiting},
    },
    condition::{self, Observation, types},
    keys,
    lookup::Lookup,
    object::ClaimPhase,
};

/// The status after a pass. Equal to the recorded one if nothing has changed, so that a second pass writes nothing.
pub fn status(seen: &Observed, plan: &Plan) -> DataVolumeStatus {
    let old = &seen.volume.status;
    let since = plan.waiting.as_ref().map(|waiting| waiting_since(seen, waiting));
    let conditions =
        condition::merge(&old.conditions, &[bound(seen, plan), running(seen, plan), ready(seen, plan)], seen.now);
    let chosen = plan.chosen.as_ref();
    let old_clone = old.clone.clone().unwrap_or_default();
    // Objects that this pass creates are reported by it, so that the next pass has nothing to write.
    let made = plan.actions.iter().find_map(|action| match action {
        Write::CreateSnapshot(snapshot) => snapshot.metadata.name.clone(),
        _ => None,
    });
    let shared = seen.group.present().and_then(|group| group.of(&seen.volume.uid));
    let snapshot = made.or_else(|| shared.map(|snapshot| snapshot.exact.name.clone()));
    let mut attempts = old_clone.attempts.clone();
    attempts.extend(plan.refused.as_ref().map(|refused| attempt(refused, seen.now)));
    // The oldest attempts are dropped.
    attempts.drain(..attempts.len().saturating_sub(ATTEMPTS));
    let claimed = plan.makes_claim(&seen.volume.name) || own_claim(seen, plan).is_some();
    DataVolumeStatus {
        claim_name: claimed.then(|| seen.volume.name.clone()).or_else(|| old.claim_name.clone()),
        phase: plan.phase,
        progress: Some(progress(plan, old)),
        restart_count: (plan.restarts > 0).then_some(plan.restarts),
        conditions,
        clone: Some(CloneStatus {
            strategy: chosen.map(|c| c.strategy).or(seen.volume.history.pinned).or(old_clone.strategy),
            fallback_reason: chosen
                .and_then(|c| c.fallback.as_ref())
                .map(ToString::to_string)
                .or_else(|| seen.volume.fallback.clone()),
            source_uid: chosen.map(|c| c.source_uid.clone()).or(old_clone.source_uid.clone()),
            create_size: chosen.map(|c| c.sizes.create_at.into()).or(old_clone.create_size.clone()),
            final_size: chosen.map(|c| c.sizes.finally.into()).or(old_clone.final_size.clone()),
            snapshot_name: if plan.phase == Phase::Succeeded { None } else { snapshot },
            waiting_for: plan.waiting.as_ref().map(|waiting| WaitingFor {
                reason: Some(waiting.reason().to_owned()),
                message: Some(waiting.message()),
                since: since.map(Time),
            }),
            plan: match chosen {
                Some(chosen) => chosen.verdicts.iter().map(Into::into).collect(),
                None => old_clone.plan,
            },
            attempts,
            notes: if plan.notes.is_empty() { old_clone.notes.clone() } else { plan.notes.clone() },
            created: if plan.phase == Phase::Succeeded { Created::new() } else { created(seen) },
        }),
    }
}

/// The UIDs of our existing temporary objects.
fn created(seen: &Observed) -> Created {
    let claims = [&seen.temporary, &seen.restored].into_iter().filter_map(Lookup::present);
    let pods = [&seen.mover, &seen.consumer].into_iter().filter_map(Lookup::present);
    let shared = seen.group.present().and_then(|group| group.of(&seen.volume.uid));
    let trusted = claims.filter(|c| c.trusted).map(|c| &c.exact).chain(pods.filter(|p| p.trusted).map(|p| &p.exact));
    trusted.chain(shared.map(|s| &s.exact)).map(|exact| (exact.name.clone(), exact.uid.clone())).collect()
}

/// The maximum number of attempts in the status.
const ATTEMPTS: usize = 10;

fn attempt(refused: &Refused, now: Timestamp) -> Attempt {
    Attempt {
        strategy: Some(refused.past.strategy),
        started_at: refused.since.map(Time),
        ended_at: Some(Time(now)),
        outcome: Some(if refused.past.too_slow { "TimedOut" } else { "Refused" }.to_owned()),
        reason: Some(if refused.past.too_slow { "DriverTooSlow" } else { "DriverRefused" }.to_owned()),
        message: Some(refused.past.message.clone()),
    }
}

/// Progress in CDI's format: `N/A` for phases without progress, `12.34%` for a copy, `100.0%` at the end.
fn progress(plan: &Plan, old: &DataVolumeStatus) -> String {
    match (&plan.phase, plan.progress) {
        (Phase::Succeeded, _) => "100.0%".to_owned(),
        (Phase::CloneInProgress, Some(progress)) => {
            // The last hundredth of a percent is reserved for the verification.
            let per_myriad = progress.per_myriad().min(9_999);
            format!("{}.{:02}%", per_myriad / 100, per_myriad % 100)
        }
        (Phase::CloneInProgress, None) => old.progress.clone().unwrap_or_else(|| "N/A".to_owned()),
        _ => "N/A".to_owned(),
    }
}

/// The claim that is the clone's, or becomes so with this pass.
fn own_claim<'a>(seen: &'a Observed, plan: &Plan) -> Option<&'a Claim> {
    let adopted = |claim: &Claim| plan.actions.iter().any(|it| matches!(it, Write::Adopt(it) if *it == claim.exact));
    seen.claim.present().filter(|claim| claim.ours || adopted(claim))
}

fn bound(seen: &Observed, plan: &Plan) -> Observation {
    let name = &seen.volume.name;
    let (status, reason, message) = match (own_claim(seen, plan), &plan.waiting) {
        (Some(claim), _) if claim.phase == ClaimPhase::Bound => {
            (true, "Bound", format!("PersistentVolumeClaim {name} is bound"))
        }
        (Some(claim), _) if claim.phase == ClaimPhase::Lost => {
            (false, "ClaimLost", format!("PersistentVolumeClaim {name} has lost its volume"))
        }
        _ if plan.phase == Phase::Failed => (false, "Failed", plan.failure.clone().unwrap_or_default()),
        // KubeVirt looks for an exceeded quota here.
        (_, Some(waiting @ Waiting::Refused { .. })) => (false, waiting.reason(), told(seen, plan).unwrap_or_default()),
        (None, waiting) if !plan.makes_claim(name) => match waiting {
            Some(waiting) => (false, waiting.reason(), told(seen, plan).unwrap_or_default()),
            None => (false, "NotFound", format!("PersistentVolumeClaim {name} is not created yet")),
        },
        (Some(_) | None, _) => {
            (false, "Pending", told(seen, plan).unwrap_or_else(|| format!("PersistentVolumeClaim {name} is pending")))
        }
    };
    Observation { kind: types::BOUND, status: Some(status), reason, message }
}

fn running(seen: &Observed, plan: &Plan) -> Observation {
    let (status, reason, message) = match (&plan.phase, &plan.waiting) {
        // CDI's words, which tools compare.
        (Phase::Succeeded, _) => {
            (false, "Completed", taken_over(seen, plan).unwrap_or_else(|| "Clone complete".to_owned()))
        }
        (Phase::Failed, _) => (false, "Failed", plan.failure.clone().unwrap_or_default()),
        (_, Some(waiting)) => {
            let at_work = waiting.ends_by() == EndsBy::Work;
            (at_work, waiting.running_reason(), told(seen, plan).unwrap_or_default())
        }
        (Phase::CloneInProgress, None) => {
            let copying = seen.mover.present().is_some_and(|m| m.state == MoverState::Running);
            let message = if copying { "The data is being copied" } else { "The copy is being recorded" };
            (true, "CopyInProgress", message.to_owned())
        }
        (Phase::Pending | Phase::CloneScheduled, None) => (false, "Pending", "The clone is scheduled".to_owned()),
        (_, None) => (true, "CloneRunning", "The clone is under way".to_owned()),
    };
    Observation { kind: types::RUNNING, status: Some(status), reason, message }
}

/// `True` if and only if the phase is `Succeeded`, as in CDI.
fn ready(seen: &Observed, plan: &Plan) -> Observation {
    let (status, reason, message) = match (&plan.phase, &plan.waiting) {
        (Phase::Succeeded, _) => (true, "Ready", completed(seen, plan)),
        (Phase::Failed, _) => (false, "Failed", plan.failure.clone().unwrap_or_default()),
        (_, Some(waiting)) if waiting.ends_by() != EndsBy::Work => {
            (false, waiting.reason(), told(seen, plan).unwrap_or_default())
        }
        (Phase::Pending | Phase::CloneScheduled, None) => (false, "Pending", "The clone is scheduled".to_owned()),
        _ => (false, "TransferRunning", "The clone is under way".to_owned()),
    };
    Observation { kind: types::READY, status: Some(status), reason, message }
}

/// The end of a clone in a sentence.
pub(super) fn completed(seen: &Observed, plan: &Plan) -> String {
    taken_over(seen, plan).unwrap_or_else(|| "The clone is complete and may be used".to_owned())
}

/// The end of a DataVolume that took over a claim, in a sentence; nothing for one that was cloned.
fn taken_over(seen: &Observed, plan: &Plan) -> Option<String> {
    own_claim(seen, plan)
        .filter(|claim| seen.volume.has_taken_over(claim))
        .map(|_| format!("PersistentVolumeClaim {} was taken over as it is; nothing was cloned", seen.volume.name))
}

/// The message about the wait, with a notice if it is late.
fn told(seen: &Observed, plan: &Plan) -> Option<String> {
    let waiting = plan.waiting.as_ref()?;
    let since = waiting_since(seen, waiting);
    let late = since.saturating_add(waiting.expected()).is_ok_and(|limit| limit <= seen.now);
    Some(if late {
        format!(
            "{}. Waiting since {since:.0}, longer than the {} min that it should take at most; kubectl get events, and the log of \
             the storage driver, may tell why. Annotate a new DataVolume with {}: copy to do without the driver's help",
            waiting.message(),
            waiting.expected().as_secs() / 60,
            keys::CLONE_TYPE,
        )
    } else {
        waiting.message()
    })
}
