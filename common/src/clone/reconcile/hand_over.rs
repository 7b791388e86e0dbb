//! The phases in which a temporary claim beside the source is populated, and its volume is rebound to the clone's claim.

use crate::object::ClaimPhase;
use crate::{
    api::{CloneStrategy, Phase},
    clone::{
        claim::Claim,
        observed::Observed,
        plan::Plan,
        reconcile::{
            being_deleted, decided,
            fallback::{deadline, failed},
            fill::driver_fills,
            finish::{pod_to_remove, release},
            foreign, given_up, host_copy, is_unwritten,
            make::Place,
            pending::begin,
            pin_for, recorded, removal, unauthorized, withdrawn,
        },
        request::Request,
        wait::Waiting,
        write::{Kind, Write},
    },
    lookup::Lookup,
    rebind,
};

/// The plan for a held-back claim, whose content is created in a temporary claim.
pub(crate) fn filled_elsewhere(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    let temporary = match &seen.temporary {
        Lookup::Unknown(why) => return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone())),
        Lookup::Absent if belongs(seen, claim) => return hand_over(seen, request),
        Lookup::Absent => return start(seen, request, claim),
        Lookup::Present(temporary) => temporary,
    };
    if belongs(seen, claim) {
        return hand_over(seen, request);
    }
    if !temporary.ours {
        return Plan::wait(seen, recorded(seen), foreign(temporary));
    }
    let name = &temporary.exact.name;
    // Claims and volumes are watched separately: the volume's update has not arrived yet.
    if temporary.phase == ClaimPhase::Lost && belongs(seen, temporary) {
        let why = format!("the volume of PersistentVolumeClaim {name:?} has changed since it was seen");
        return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why));
    }
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::CloneScheduled, waiting);
    }
    if temporary.deleting && !(temporary.trusted && temporary.kept.is_some() && temporary.is_filled()) {
        // A pod that uses it, even one that has ended, would block its deletion.
        let waiting = being_deleted(temporary);
        return match pod_to_remove(seen).or_else(|| release(temporary)) {
            Some(action) => Plan::act(seen, recorded(seen), action).with_waiting(waiting),
            None => Plan::wait(seen, recorded(seen), waiting),
        };
    }
    if !temporary.trusted {
        return Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary));
    }
    match temporary.content.strategy() {
        // Its volume was rebound to an earlier claim of the clone's name, which is deleted.
        _ if temporary.phase == ClaimPhase::Lost => {
            Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary))
        }
        Some(_) if temporary.is_filled() => close_and_hand_over(seen, request, temporary),
        _ if given_up(seen, &temporary.content) => {
            Plan::act(seen, Phase::CloneScheduled, removal(temporary)).with_waiting(being_deleted(temporary))
        }
        Some(CloneStrategy::Copy) => host_copy::copy(seen, request, temporary),
        _ => driver_fills(seen, request, temporary),
    }
}

/// The plan for a populated temporary claim. It is deleted first, so that no pod can start with it (our finalizer keeps it and its volume),
/// and its volume is rebound when nobody else uses it.
fn close_and_hand_over(seen: &Observed, request: &Request, temporary: &Claim) -> Plan {
    let phase = Phase::RebindInProgress;
    if let Some(plan) = still_at_work(seen) {
        return plan;
    }
    if !temporary.deleting {
        let waiting = Waiting::HandOver("the temporary claim is being closed to other pods".to_owned());
        return Plan::act(seen, phase, removal(temporary)).with_waiting(waiting);
    }
    match &seen.holders {
        Lookup::Present(holders) if holders.is_empty() => hand_over(seen, request),
        Lookup::Present(holders) => {
            let waiting = Waiting::VolumeInUse(holders.clone());
            let over = deadline(seen, request, temporary.deleted_at);
            if over.is_some_and(|end| end <= seen.now) {
                return failed(seen, waiting.message());
            }
            Plan { look_again_at: over, ..Plan::wait(seen, phase, waiting) }
        }
        Lookup::Absent => Plan::wait(seen, phase, Waiting::CouldNotTell("nobody looked who has the volume".to_owned())),
        Lookup::Unknown(why) => Plan::wait(seen, phase, Waiting::CouldNotTell(why.clone())),
    }
}

/// The plan while a pod of ours has not ended. A data mover that was started by a stale pass, or that has another running container, could
/// write to the volume after the rebind; a pod that has not started can't start any more once the claim is being deleted.
fn still_at_work(seen: &Observed) -> Option<Plan> {
    [&seen.mover, &seen.consumer].into_iter().find_map(|pod| {
        let pod = match pod {
            Lookup::Absent => return None,
            Lookup::Unknown(why) => return Some(Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(why.clone()))),
            // A foreign pod is among the holders.
            Lookup::Present(pod) if !pod.ours || pod.over => return None,
            Lookup::Present(pod) => pod,
        };
        let waiting = Waiting::BeingDeleted { kind: "Pod", name: pod.exact.name.clone() };
        let delete = Write::Delete { kind: Kind::Pod, what: pod.exact.clone() };
        let wait = Plan::wait(seen, recorded(seen), waiting);
        Some(if pod.deleting { wait } else { wait.and(delete) })
    })
}

/// True if the volume to rebind refers to `claim`.
fn belongs(seen: &Observed, claim: &Claim) -> bool {
    let owner = seen.rebind.volume.present().and_then(|volume| volume.claim_ref.as_ref());
    owner.is_some_and(|owner| owner.uid == claim.exact.uid)
}

/// Starts to populate a held-back claim.
pub(crate) fn start(seen: &Observed, request: &Request, claim: &Claim) -> Plan {
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::CloneScheduled, waiting);
    }
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::CloneScheduled, waiting),
    };
    let mut plan = if is_unwritten(seen, request, &chosen) {
        let pin = pin_for(seen, request, &chosen, &seen.volume.history.refused);
        Plan::act(seen, Phase::CloneScheduled, Write::Pin(pin))
    } else if chosen.waits_for_consumer && claim.selected_node.is_none() {
        Plan::wait(seen, Phase::PendingPopulation, Waiting::FirstConsumer)
    } else {
        begin(seen, request, &chosen, Place::BesideSource(&request.source.object.namespace))
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// Rebinds the volume of the populated temporary claim to the clone's claim.
fn hand_over(seen: &Observed, request: &Request) -> Plan {
    let phase = Phase::RebindInProgress;
    match rebind::step(&seen.rebind) {
        rebind::Step::HandOver { volume, from, to, at } => match unauthorized(seen, request) {
            Some(waiting) => withdrawn(seen, phase, waiting),
            None => Plan::act(seen, phase, Write::HandOver { volume, from, to, at })
                .with_waiting(Waiting::HandOver("the volume is being handed over".to_owned())),
        },
        rebind::Step::Nudge { claim, at } => Plan::act(seen, phase, Write::Nudge { claim, at })
            .with_waiting(Waiting::HandOver("the clone's claim is being bound to the volume".to_owned())),
        rebind::Step::Wait { what, look_again_at } => {
            Plan { look_again_at, ..Plan::wait(seen, phase, Waiting::HandOver(what.to_string())) }
        }
        // The cached claim is older; its watch event has not arrived yet.
        rebind::Step::Moved => Plan::wait(seen, phase, Waiting::HandOver("the clone's claim is bound".to_owned())),
        rebind::Step::Impossible(why) => Plan::wait(seen, phase, Waiting::TransferImpossible(why.to_string())),
        rebind::Step::Unknown(why) => Plan::wait(seen, phase, Waiting::CouldNotTell(why)),
    }
}
