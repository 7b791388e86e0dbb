//! The phase in which the storage driver fills the clone's own claim.

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

/// A claim that others tripped over is touched after this time, plus some.
const PATIENCE: SignedDuration = SignedDuration::from_millis(500);

/// The driver restores or clones into `claim`, which may be the clone's or the temporary one.
pub(crate) fn driver_fills(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let phase = claim.content.strategy().map_or(Phase::CloneScheduled, |strategy| strategy.spec().fill_phase);
    let Ok(chosen) = decided(seen, request) else {
        return Plan::wait(seen, phase, Waiting::ClaimNotBound { driver_says: reported(seen, claim) });
    };
    // The strategy in force may be another one by now; it isn't that which the driver is at.
    let strategy = claim.content.strategy().unwrap_or(chosen.strategy);
    let filling = Attempt::to_fill(seen, claim, strategy);
    let waiting = match (provisioning(seen, &chosen, Some(claim)), consumer_says(seen)) {
        // The driver isn't asked before the pod has a node.
        (Waiting::ClaimNotBound { driver_says: None }, Some(text)) => Waiting::MoverNotRunning { pod_says: Some(text) },
        (waiting, _) => waiting,
    };
    let mut plan = if waiting == Waiting::FirstConsumer {
        // KubeVirt starts the machine's own pod at once at this phase, as CDI says it for every CSI class, and a throw-away pod before it at
        // `WaitForFirstConsumer`. Neither gets the volume before it is filled.
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

/// What keeps the pod that makes the volume appear from running.
fn consumer_says(seen: &Observed) -> Option<String> {
    let consumer = seen.consumer.present().filter(|pod| pod.ours && !pod.deleting)?;
    match &consumer.state {
        MoverState::Starting(text) => text.clone(),
        MoverState::Running | MoverState::Ended { .. } => None,
    }
}

/// Many restores of one snapshot at once trip over each other in the provisioner, which marks the snapshot for each of them: all but one
/// meet a newer version of it, wait twice as long, and meet again. Whoever is touched is looked at at once; each at another moment.
fn nudged(seen: &Observed, claim: &Claim, phase: Phase, waiting: &Waiting) -> Option<Plan> {
    claim.complaint.as_deref().filter(|text| driver_error::is_conflict(text))?;
    let created = claim.created?;
    let last = claim.nudged_at.unwrap_or(created);
    let pause = (last.duration_since(created) / 2).clamp(PATIENCE, rebind::LONGEST_PAUSE);
    // Not random, but as good: it differs from claim to claim and from time to time.
    let odd = claim.exact.resource_version.bytes().chain(claim.exact.uid.bytes());
    let odd = odd.fold(0u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 1000;
    let at = last.checked_add(pause).ok()?.checked_add(SignedDuration::from_millis(odd.into())).ok()?;
    Some(if seen.now < at {
        Plan { look_again_at: Some(at), ..Plan::wait(seen, phase, waiting.clone()) }
    } else {
        Plan::act(seen, phase, Write::Nudge { claim: claim.exact.clone(), at: seen.now }).with_waiting(waiting.clone())
    })
}
