//! The phases before anything exists for the clone: the decision, the wait for the source, and the first object.

use crate::{
    api::{CloneStrategy, Phase},
    clone::{
        decide::{Chosen, Route},
        objects::{self, DataSource},
        observed::Observed,
        plan::Plan,
        reconcile::{
            again, decided, foreign, is_unwritten,
            make::{Place, create},
            pin_for, recorded,
            snapshot::by_snapshot,
            unauthorized, withdrawn,
        },
        request::{Consistency, Request},
        wait::{InUse, Waiting},
        write::Write,
    },
    lookup::Lookup,
    object::{SourceKind, TargetKind},
    pods::User,
};

/// The plan without a claim: decides, then creates the claim, populated by the driver or held back.
pub(crate) fn without_claim(seen: &Observed, request: &Request) -> Plan {
    if request.made_for == TargetKind::Claim {
        return Plan::idle(seen, recorded(seen));
    }
    if request.pre_populated {
        // A restore in place deletes the claim and creates it again: in between the DataVolume's phase stays.
        return Plan::wait(seen, recorded(seen), Waiting::PrePopulated(request.target.clone()));
    }
    if seen.volume.status.phase == Phase::Succeeded {
        return again(seen);
    }
    // Access is checked before anything about the source is used.
    if let Some(waiting) = unauthorized(seen, request) {
        return withdrawn(seen, Phase::Pending, waiting);
    }
    let chosen = match decided(seen, request) {
        Ok(chosen) => chosen,
        Err(waiting) => return Plan::wait(seen, Phase::Pending, waiting),
    };
    let phase = Phase::CloneScheduled;
    let mut plan = if is_unwritten(seen, request, &chosen) {
        // The decision is recorded before anything is created.
        Plan::act(seen, phase, Write::Pin(pin_for(seen, request, &chosen, &seen.volume.history.refused)))
    } else if chosen.route == Route::Rebind {
        // The claim exists from the start: quota is charged early, and the scheduler and KubeVirt see it.
        let claim = objects::claim(&seen.volume, &chosen, chosen.sizes.create_at, &DataSource::Later);
        Plan::act(seen, phase, Write::CreateClaim(Box::new(claim)))
    } else {
        begin(seen, request, &chosen, Place::Clone)
    };
    plan.chosen.get_or_insert(chosen);
    plan
}

/// The first step to populate the claim in `place`.
pub(crate) fn begin(seen: &Observed, request: &Request, chosen: &Chosen, place: Place<'_>) -> Plan {
    let phase = Phase::CloneScheduled;
    // Once its snapshot is taken, the source is not needed any more.
    let cut = seen.group.present().and_then(|group| group.of(&seen.volume.uid)).is_some_and(|snapshot| snapshot.ready);
    if let Some(waiting) = blocked_source(seen, request, chosen).filter(|_| !cut) {
        return Plan::wait(seen, phase, waiting);
    }
    if let Lookup::Present(claim) = &seen.restored
        && !claim.ours
    {
        return Plan::wait(seen, phase, foreign(claim));
    }
    match (chosen.strategy, request.source.kind) {
        (CloneStrategy::Snapshot, SourceKind::Claim) => by_snapshot(seen, request, chosen, place),
        (CloneStrategy::Snapshot, SourceKind::Snapshot) => {
            let from = DataSource::Snapshot(&request.source.object.name);
            create(seen, chosen, place, &from, chosen.strategy.spec().fill_phase)
        }
        (CloneStrategy::CsiClone, _) => {
            let from = DataSource::Claim(&request.source.object.name);
            create(seen, chosen, place, &from, chosen.strategy.spec().fill_phase)
        }
        (CloneStrategy::Copy, SourceKind::Snapshot) if seen.restored == Lookup::Absent => {
            let claim = objects::restored(&seen.volume, request, chosen);
            Plan::act(seen, phase, Write::CreateClaim(Box::new(claim)))
        }
        (CloneStrategy::Copy, _) => create(seen, chosen, place, &DataSource::Blank, phase),
    }
}

/// The reason why the source can't be read now.
pub(crate) fn blocked_source(seen: &Observed, request: &Request, chosen: &Chosen) -> Option<Waiting> {
    if request.source.kind == SourceKind::Snapshot {
        return None;
    }
    if seen.source_populated == Some(false) {
        return Some(Waiting::SourceNotPopulated(request.source.clone()));
    }
    let pods = in_the_way(request, chosen.strategy, &seen.source_users);
    (!pods.is_empty()).then_some(Waiting::SourceInUse(InUse { pods, elsewhere: request.crosses() }))
}

/// The pods that must end before the source may be read.
pub fn in_the_way(request: &Request, strategy: CloneStrategy, users: &[User]) -> Vec<String> {
    let tolerated = request.consistency == Consistency::CrashConsistent && strategy.spec().takes_snapshot;
    if tolerated { Vec::new() } else { writers(users) }
}

/// The pods that may write now or later. An unscheduled one counts: with late binding a claim is bound because its first pod is about to
/// start, and it has no content before that pod has written it.
pub(crate) fn writers(users: &[User]) -> Vec<String> {
    users.iter().filter(|user| user.writes).map(|user| user.pod.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clone::{
            fixtures::{facts, observed, request, volume},
            write::Pin,
        },
        keys,
    };

    /// The labels are written before the claim is created, which inherits them from the DataVolume.
    #[test]
    fn what_is_inherited_is_written_with_the_decision() {
        let volume = volume(|_| {});
        let mut seen = observed(&volume, facts());
        seen.inherited = [(keys::DEFAULT_INSTANCE_TYPE.to_owned(), "u1".to_owned())].into();
        let plan = without_claim(&seen, &request(&volume));
        let [Write::Pin(Pin { annotations, labels })] = plan.actions.as_slice() else { panic!("{plan:?}") };
        assert!(annotations.contains_key(keys::PLAN));
        assert_eq!(*labels, seen.inherited);
    }
}
