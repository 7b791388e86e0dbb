//! Clones beside CDI: which of them are smartclone's, and what CDI's controller has to be spared or told.
//!
//! CDI keeps its hands off a DataVolume with the annotation `storage.prePopulated`, and derives the DataVolume's status from its claim. So
//! smartclone marks a clone with the value [`SENTINEL`](keys::SENTINEL), writes only the claim, and CDI writes the status. A clone whose
//! mark somebody removes is CDI's, unless its claim is ours already: CDI's populator does not fill a claim of another API group.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::{
    observed::{Observed, Target},
    plan::Plan,
    populator,
    reconcile::{finish::leftover, recorded},
    request::Parsed,
    wait::Waiting,
    write::{Pin, Write},
};
use crate::{
    api::{DataVolume, DataVolumeStatus, Phase},
    clone::claim::Claim,
    condition::{Observation, merge, types},
    keys::{self, Annotations},
    mode::Mode,
    object::{self, ClaimPhase, TargetKind},
};

/// The time that CDI gets to report a complete clone. A busy CDI takes up to 2.3 s; one that was killed is back after 15 s to 19 s, when
/// its Lease has expired.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// The part of smartclone in an object beside CDI.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Part {
    /// Clones it.
    All,
    /// None: it is CDI's.
    None,
    /// This pass, before anything else.
    Pass(Box<Plan>),
}

/// What CDI's controller has reported about a clone whose own record is on its claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportedByCdi {
    /// The phase of the DataVolume.
    pub phase: Phase,
    /// True if smartclone has already reported the end of this clone in CDI's place.
    pub is_replaced: bool,
    /// True if the claim says something else to CDI than its record: somebody has changed an annotation. The record is written again.
    pub is_misled: bool,
}

/// The annotations that keep CDI off a DataVolume. A value of another author is replaced: CDI retries without end if `usePopulator` is
/// neither `true` nor `false`.
pub fn mark() -> Annotations {
    Annotations::from([
        (keys::PRE_POPULATED, Some(keys::SENTINEL.to_owned())),
        (keys::USE_POPULATOR, Some("true".to_owned())),
        (keys::BESIDE_CDI, Some("true".to_owned())),
    ])
}

/// The annotations that keep CDI's populator off a claim.
pub fn mark_of_claim() -> Annotations {
    Annotations::from([(keys::CLONE_PHASE, Some("Succeeded".to_owned())), (keys::BESIDE_CDI, Some("true".to_owned()))])
}

/// True if an annotation of the DataVolume says that smartclone clones it beside CDI.
pub fn is_marked(volume: &Target) -> bool {
    volume.annotations.get(keys::PRE_POPULATED).is_some_and(|value| value == keys::SENTINEL)
}

/// True if smartclone has taken the clone beside CDI, even if it was released since: then its record is on its claim.
pub fn is_taken(volume: &Target) -> bool {
    volume.kind == TargetKind::DataVolume && (is_marked(volume) || was_taken(volume))
}

/// True if smartclone has written that it serves the object beside CDI. Whoever gives it to CDI writes another value; a user who wants CDI
/// from the start has written that value at creation, and the object has no key of ours.
fn was_taken(volume: &Target) -> bool {
    volume.key.is_some() && volume.annotations.contains_key(keys::BESIDE_CDI)
}

impl Target {
    /// The clone with the record that is on its `claim`, and with what CDI has reported in `volume`. Only a claim that was created for it
    /// has its record.
    #[must_use]
    pub fn recorded_on_claim(self, volume: &DataVolume, claim: Option<&PersistentVolumeClaim>) -> Self {
        let own = claim.filter(|claim| {
            let made_for = object::annotation(&claim.metadata, keys::CREATED_FOR_DATA_VOLUME);
            let controller = object::controller(&claim.metadata).map(|owner| owner.uid.as_str());
            made_for == Some(&self.uid) && controller == Some(&self.uid)
        });
        let told = own.and_then(|claim| object::annotation(&claim.metadata, keys::CLONE_PHASE));
        let is_bound = own.is_some_and(|claim| ClaimPhase::of(claim) == ClaimPhase::Bound);
        let recorded = own.and_then(|claim| populator::status(&claim.metadata));
        let populated = own.map(|claim| object::annotation(&claim.metadata, keys::USE_POPULATOR));
        let is_misled = populated.is_some_and(|value| value != Some("true"))
            || recorded.as_ref().is_some_and(|status| told != Some(populator::clone_phase(status.phase)));
        // Only a complete claim is bound. The record of one that is complete may be lost, the end of the clone is not.
        let ended = || DataVolumeStatus { phase: Phase::Succeeded, ..DataVolumeStatus::default() };
        let status = recorded.or_else(|| (is_bound && told == Some("Succeeded")).then(ended)).unwrap_or_default();
        let phase = volume.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let mut created = status.clone.as_ref().map(|clone| clone.created.clone()).unwrap_or_default();
        created.extend(self.created);
        let reported_by_cdi = Some(ReportedByCdi { phase, is_replaced: false, is_misled });
        Self { status, reported_by_cdi, created, ..self }
    }
}

/// The part of smartclone in the observed object.
pub(crate) fn part(seen: &Observed) -> Part {
    match (&seen.mode, seen.volume.kind) {
        // Taken while CDI could be kept off: it is completed.
        (Mode::Passive(_), TargetKind::DataVolume) if is_taken(&seen.volume) => data_volume(seen),
        (Mode::Beside(_), TargetKind::DataVolume) => data_volume(seen),
        (Mode::Beside(_), TargetKind::Claim) => claim(seen),
        (Mode::Alone | Mode::Passive(_), _) => Part::All,
    }
}

fn data_volume(seen: &Observed) -> Part {
    let volume = &seen.volume;
    let claim = seen.claim.present();
    let own = claim.filter(|claim| claim.ours && claim.made_for_it);
    if seen.parsed == Parsed::NotAClone {
        return Part::None;
    }
    match volume.annotations.get(keys::PRE_POPULATED) {
        Some(value) if value != keys::SENTINEL => return Part::None,
        Some(_) if own.is_some_and(|claim| claim.waits_for_cdi) => return left_to_cdi(seen),
        Some(_) => return Part::All,
        None => {}
    }
    if was_taken(volume) {
        return match own {
            Some(claim) if !claim.waits_for_cdi => Part::All,
            Some(_) | None => left_to_cdi(seen),
        };
    }
    // Admitted by smartclone before CDI came. CDI's webhook writes no key of ours.
    if volume.key.is_none() {
        return Part::None;
    }
    match (volume.status.phase, own) {
        (Phase::Succeeded, Some(claim)) if is_to_be_sealed(claim) => {
            let action = Write::Seal { claim: claim.exact.clone() };
            Part::Pass(Box::new(Plan::act(seen, Phase::Succeeded, action)))
        }
        (Phase::Succeeded | Phase::Failed, _) => Part::None,
        (_, Some(claim)) if !claim.waits_for_cdi => Part::Pass(Box::new(Plan::act(seen, recorded(seen), pin(mark())))),
        // It is CDI's, or nothing is begun that would be lost.
        (_, Some(_) | None) => Part::None,
    }
}

/// True for a complete claim from before CDI came. CDI would derive another phase from it than `Succeeded`, unless it is declared populated.
fn is_to_be_sealed(claim: &Claim) -> bool {
    claim.phase == ClaimPhase::Bound && !claim.deleting && !claim.sealed
}

/// Marks an object that was begun before CDI came.
fn pin(annotations: Annotations) -> Write {
    Write::Pin(Pin { annotations, ..Pin::default() })
}

/// A claim without a DataVolume, which names a VolumeCloneSource. CDI's populator skips one that is declared complete; without that it
/// fills the claim.
fn claim(seen: &Observed) -> Part {
    let annotations = &seen.volume.annotations;
    let declared = annotations.get(keys::CLONE_PHASE).map(String::as_str) == Some("Succeeded");
    let is_ours = annotations.contains_key(keys::REQUESTER) && seen.volume.key.is_some();
    if declared && is_ours {
        Part::All
    } else if is_ours && was_taken(&seen.volume) {
        left_to_cdi(seen)
    } else if is_ours && !matches!(seen.volume.status.phase, Phase::Unset | Phase::Succeeded | Phase::Failed) {
        // Begun before CDI came.
        Part::Pass(Box::new(Plan::act(seen, recorded(seen), pin(mark_of_claim()))))
    } else {
        Part::None
    }
}

fn left_to_cdi(seen: &Observed) -> Part {
    let plan = Plan::wait(seen, recorded(seen), Waiting::LeftToCdi);
    Part::Pass(Box::new(match leftover(seen) {
        Some(action) => plan.and(action),
        None => plan,
    }))
}

/// Adds the report of a complete clone in CDI's place to `plan`, if CDI does not report it in time: it is down, or does not look at the
/// DataVolume because a DataSource is gone. Before that, the time of the next look.
pub(crate) fn with_report(seen: &Observed, mut plan: Plan) -> Plan {
    let Some(reported) = &seen.volume.reported_by_cdi else { return plan };
    let claim = seen.claim.present().filter(|claim| claim.is_record() && claim.phase == ClaimPhase::Bound);
    let is_recorded = seen.volume.status.phase == Phase::Succeeded && plan.phase == Phase::Succeeded;
    let Some(claim) = claim.filter(|_| is_recorded) else { return plan };
    if reported.phase == Phase::Succeeded || reported.is_replaced {
        return plan;
    }
    let due = completed_at(&seen.volume.status).and_then(|at| at.saturating_add(PATIENCE).ok());
    match due {
        Some(due) if due > seen.now => {
            plan.look_again_at = [plan.look_again_at, Some(due)].into_iter().flatten().min();
            plan
        }
        Some(_) | None => plan.and(Write::ReportForCdi { claim: claim.exact.clone() }),
    }
}

/// The time at which the clone was recorded as complete.
fn completed_at(status: &DataVolumeStatus) -> Option<Timestamp> {
    let ready = status.conditions.iter().find(|it| it.type_ == types::READY && it.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// The status that CDI derives from a complete claim named `claim`. CDI, when it is back, computes the same one and writes nothing.
pub fn succeeded_as_cdi(volume: &DataVolume, claim: &str, now: Timestamp) -> DataVolumeStatus {
    let old = volume.status.clone().unwrap_or_default();
    let observation =
        |kind, status, reason, message: String| Observation { kind, status: Some(status), reason, message };
    let seen = [
        observation(types::BOUND, true, "Bound", format!("PVC {claim} Bound")),
        observation(types::READY, true, "", String::new()),
        observation(types::RUNNING, false, "Completed", String::new()),
    ];
    DataVolumeStatus {
        claim_name: Some(claim.to_owned()),
        phase: Phase::Succeeded,
        progress: Some("100.0%".to_owned()),
        conditions: merge(&old.conditions, &seen, now),
        ..old
    }
}

#[cfg(test)]
mod tests;
