//! The status pass: the status of a DataVolume as a function of the DataVolume, its claim and the settings.

use common::{
    api::{DataVolume, DataVolumeStatus, Phase},
    keys::{POPULATOR_PROGRESS, PRE_POPULATED},
    object::annotation,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;

use crate::{
    claim::{self, ClaimPhase},
    conditions::{self, Conditions},
    event::Event,
    keys::{POD_PHASE, POD_RESTARTS},
    settings::Settings,
    source::Source,
};

/// What the status depends on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The DataVolume.
    pub data_volume: &'a DataVolume,
    /// The claim of its name.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The source, for the words of events.
    pub source: &'a Source,
    /// The settings.
    pub settings: &'a Settings,
    /// The present time.
    pub now: Timestamp,
}

/// The derived status and the events of the change.
#[derive(Debug, Clone, PartialEq)]
pub struct Derived {
    /// The status.
    pub status: DataVolumeStatus,
    /// The events that follow from the change.
    pub events: Vec<Event>,
}

/// An error of the steps before the status pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncError {
    /// No claim can be made of the spec: the phase becomes empty, and the reason is shown in the conditions and as an event each time.
    NotValid(String),
    /// The claim cannot be used: the reason is shown as an event each time; the status pass goes on.
    Shown {
        /// The reason, such as `ErrResourceExists`.
        reason: &'static str,
        /// The message.
        message: String,
    },
    /// Only CDI's log tells it; the status pass goes on.
    Logged(String),
}

/// The reason of a spec that no claim can be made of.
pub const ERR_CLAIM_NOT_VALID: &str = "ErrClaimNotValid";

impl SyncError {
    /// The message.
    pub fn message(&self) -> &str {
        match self {
            Self::NotValid(message) | Self::Shown { message, .. } | Self::Logged(message) => message,
        }
    }

    /// The event, if users are told.
    pub fn event(&self) -> Option<Event> {
        match self {
            Self::NotValid(message) => Some(Event::warning(ERR_CLAIM_NOT_VALID, message)),
            Self::Shown { reason, message } => Some(Event::warning(*reason, message)),
            Self::Logged(_) => None,
        }
    }
}

/// Derives the status. With a sync error it is always written, since times change.
pub fn status(input: &Input<'_>, error: Option<&SyncError>) -> Derived {
    let present = input.data_volume.status.clone().unwrap_or_default();
    let mut conditions = Conditions::new(&present.conditions, input.now);
    let mut status = present.clone();
    let mut events: Vec<_> = error.and_then(SyncError::event).into_iter().collect();
    if let Some(SyncError::NotValid(message)) = error {
        status.phase = Phase::Unset;
        conditions.fail(ERR_CLAIM_NOT_VALID, message);
        status.conditions = conditions.into_list();
        return Derived { status, events };
    }
    status.phase = phase(input, present.phase);
    if let Some(claim) = input.claim {
        status.claim_name = Some(claim.name_any());
        let restarts = annotation(&claim.metadata, POD_RESTARTS).and_then(|text| text.parse::<i32>().ok());
        status.restart_count = restarts.filter(|count| *count >= 0).or(status.restart_count);
        let progress = annotation(&claim.metadata, POPULATOR_PROGRESS).filter(|_| claim::has_populator(claim));
        status.progress = progress.map(str::to_owned).or(status.progress).or_else(|| Some("N/A".to_owned()));
    }
    conditions.derive(status.phase, input.claim, input.settings.version);
    if error.is_some() {
        conditions.touch();
    }
    status.conditions = conditions.into_list();
    if status.phase != present.phase {
        events.extend(phase_event(input, status.phase));
    }
    events.extend(conditions::events(&present.conditions, &status.conditions));
    Derived { status, events }
}

fn phase(input: &Input<'_>, present: Phase) -> Phase {
    let Input { data_volume, claim, settings, .. } = input;
    let Some(claim) = claim else {
        let hands_off = annotation(&data_volume.metadata, PRE_POPULATED).is_some();
        return if hands_off || present == Phase::Unset { Phase::Pending } else { present };
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return present;
    }
    let requires_work = claim::requires_work(claim, data_volume, settings);
    let late = claim::waits_for_consumer(claim, settings);
    match ClaimPhase::of(claim) {
        ClaimPhase::Lost => Phase::Failed,
        ClaimPhase::Pending | ClaimPhase::Bound if !requires_work => Phase::Succeeded,
        ClaimPhase::Pending if claim::has_populator(claim) => {
            // The gate HonorWaitForFirstConsumer has no part in this: without it, CDI puts `bind.immediate.requested` on its own claims.
            if late { Phase::PendingPopulation } else { phase_of_clone(claim::clone_phase(claim)).unwrap_or(present) }
        }
        ClaimPhase::Bound if claim::has_populator(claim) => {
            phase_of_clone(claim::clone_phase(claim)).unwrap_or(present)
        }
        ClaimPhase::Pending if late => Phase::WaitForFirstConsumer,
        ClaimPhase::Pending => Phase::Pending,
        ClaimPhase::Bound if annotation(&claim.metadata, POD_PHASE) == Some("Succeeded") => Phase::Succeeded,
        ClaimPhase::Bound => Phase::PvcBound,
    }
}

/// The phase of a DataVolume whose claim is in this phase of its clone. A word that is not in the table leaves the phase as it was.
pub fn phase_of_clone(clone_phase: Option<&str>) -> Option<Phase> {
    Some(match clone_phase {
        None | Some("" | "Pending") => Phase::CloneScheduled,
        Some("Snapshot") => Phase::SnapshotForSmartCloneInProgress,
        Some("SnapshotClone") => Phase::CloneFromSnapshotSourceInProgress,
        Some("CSIClone") => Phase::CsiCloneInProgress,
        Some("HostClone") => Phase::CloneInProgress,
        Some("PrepClaim") => Phase::PrepClaimInProgress,
        Some("Rebind") => Phase::RebindInProgress,
        Some("Succeeded") => Phase::Succeeded,
        Some(_) => return None,
    })
}

/// The event of a new phase, in CDI's reasons. Pending has none of its own: the condition Bound tells it.
fn phase_event(input: &Input<'_>, phase: Phase) -> Option<Event> {
    let Input { data_volume, source, .. } = input;
    let target = format!("{}/{}", data_volume.namespace().unwrap_or_default(), data_volume.name_any());
    let normal = |reason: &str, message: String| Some(Event::normal(reason, message));
    match phase {
        Phase::CloneScheduled => normal("CloneScheduled", format!("Cloning from {source} into {target} scheduled")),
        Phase::CloneInProgress => normal("CloneInProgress", format!("Cloning from {source} into {target} in progress")),
        Phase::SnapshotForSmartCloneInProgress => {
            normal(phase.as_str(), format!("Creating snapshot for smart-clone is in progress (for pvc {source})"))
        }
        Phase::CloneFromSnapshotSourceInProgress => {
            normal(phase.as_str(), format!("Creating PVC from snapshot source is in progress (for {source})"))
        }
        Phase::CsiCloneInProgress => normal(phase.as_str(), format!("CSI Volume clone in progress (for pvc {source})")),
        Phase::PrepClaimInProgress | Phase::RebindInProgress => {
            normal(phase.as_str(), format!("Preparing the claim of DataVolume {target}"))
        }
        Phase::PendingPopulation => normal(phase.as_str(), format!("PVC {target} waits for a consumer")),
        Phase::WaitForFirstConsumer => normal(phase.as_str(), format!("PVC {target} waits for its first consumer")),
        Phase::Succeeded => {
            let clone = input.claim.is_some_and(|claim| claim::requires_work(claim, data_volume, input.settings));
            let reason = if clone { "CloneSucceeded" } else { "Succeeded" };
            normal(reason, format!("Successfully cloned from {source} into {target}"))
        }
        Phase::Failed => Some(Event::warning("ErrClaimLost", format!("PVC {} lost", data_volume.name_any()))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
