//! The phase in which the storage driver populates a claim.

use jiff::SignedDuration;

use crate::{
    api::Phase,
    clone::{
        claim::Claim,
        data_mover::MoverState,
        objects,
        observed::Observed,
        plan::Plan,
        reconcile::{
            decided,
            fallback::{Attempt, attempt, reported},
            make::{provisioning, used},
        },
        request::Request,
        wait::Waiting,
        write::Write,
    },
    lookup::Lookup,
    rebind,
    storage::driver_error,
};

/// The minimum delay before a claim with an update conflict is annotated again; a pseudo-random part is added.
const PATIENCE: SignedDuration = SignedDuration::from_millis(500);

/// The plan while the driver restores or clones into `claim`, the clone's or the temporary one.
pub(crate) fn driver_fills(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let phase = claim.content.strategy().map_or(Phase::CloneScheduled, |strategy| strategy.spec().fill_phase);
    let Ok(chosen) = decided(seen, request) else {
        return Plan::wait(seen, phase, Waiting::ClaimNotBound { driver_says: reported(seen, claim) });
    };
    // The strategy in force may be a newer one; the claim's own strategy counts.
    let strategy = claim.content.strategy().unwrap_or(chosen.strategy);
    let filling = Attempt::to_fill(seen, claim, strategy);
    let waiting = match (provisioning(seen, &chosen, Some(claim)), consumer_says(seen)) {
        // The driver is called only after the pod is scheduled.
        (Waiting::ClaimNotBound { driver_says: None }, Some(text)) => Waiting::MoverNotRunning { pod_says: Some(text) },
        (waiting, _) => waiting,
    };
    let mut plan = if waiting == Waiting::FirstConsumer {
        // At this phase, which CDI has for every CSI class, KubeVirt starts the virtual machine's own pod; at `WaitForFirstConsumer` it
        // would start a temporary pod first. Neither gets the volume before it is populated.
        Plan::wait(seen, Phase::PendingPopulation, waiting)
    } else if let Some(plan) = attempt(seen, request, &chosen, &filling) {
        plan
    } else if let Some(plan) = nudged(seen, claim, phase, &waiting) {
        plan
    } else if chosen.binds_late && claim.selected_node.is_none() && seen.consumer == Lookup::Absent && !used(seen) {
        let pod = objects::consumer(&seen.volume, &claim.exact, chosen.mode, &seen.mover_settings);
        Plan::act(seen, phase, Write::CreatePod(Box::new(pod))).with_waiting(waiting)
    } else {
        Plan { look_again_at: filling.deadline(seen, request), ..Plan::wait(seen, phase, waiting) }
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// The message of the consumer pod that has not started.
fn consumer_says(seen: &Observed) -> Option<String> {
    let consumer = seen.consumer.present().filter(|pod| pod.ours && !pod.deleting)?;
    match &consumer.state {
        MoverState::Starting(text) => text.clone(),
        MoverState::Running | MoverState::Ended { .. } => None,
    }
}

/// Annotates a claim after an update conflict, to trigger the provisioner. Parallel restores of one snapshot conflict in the provisioner,
/// which updates the snapshot for each of them: all but one fail, back off for twice the time, and conflict again. An annotated claim is
/// processed at once; each at a different time.
fn nudged(seen: &Observed, claim: &Claim, phase: Phase, waiting: &Waiting) -> Option<Plan> {
    claim.complaint.as_deref().filter(|text| driver_error::is_conflict(text))?;
    let created = claim.created?;
    let last = claim.nudged_at.unwrap_or(created);
    let pause = (last.duration_since(created) / 2).clamp(PATIENCE, rebind::LONGEST_PAUSE);
    // Pseudo-random: it differs between claims and attempts.
    let odd = claim.exact.resource_version.bytes().chain(claim.exact.uid.bytes());
    let odd = odd.fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 1000;
    let at = last.checked_add(pause).ok()?.checked_add(SignedDuration::from_millis(odd.into())).ok()?;
    Some(if seen.now < at {
        Plan { look_again_at: Some(at), ..Plan::wait(seen, phase, waiting.clone()) }
    } else {
        Plan::act(seen, phase, Write::Nudge { claim: claim.exact.clone(), at: seen.now }).with_waiting(waiting.clone())
    })
}
