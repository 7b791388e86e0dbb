//! The conditions Bound, Ready and Running of a DataVolume.

use common::{
    api::{Condition, Phase},
    keys::{CONDITION_RUNNING, CONDITION_RUNNING_MESSAGE, CONDITION_RUNNING_REASON},
    object::annotation,
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt as _;

use crate::{
    claim::ClaimPhase,
    event::Event,
    keys::{CONDITION_BOUND, CONDITION_BOUND_MESSAGE, CONDITION_BOUND_REASON},
    version::Version,
};

/// The type of the condition about the claim's volume.
pub const BOUND: &str = "Bound";
/// The type of the condition about the whole DataVolume.
pub const READY: &str = "Ready";
/// The type of the condition about work in progress.
pub const RUNNING: &str = "Running";

/// The conditions while they are computed.
pub struct Conditions {
    list: Vec<Condition>,
    now: Timestamp,
}

/// What a condition says.
struct Says<'a> {
    status: &'a str,
    reason: &'a str,
    message: &'a str,
}

impl Conditions {
    /// Starts from the present ones.
    pub fn new(present: &[Condition], now: Timestamp) -> Self {
        Self { list: present.to_vec(), now }
    }

    /// The result.
    pub fn into_list(self) -> Vec<Condition> {
        self.list
    }

    /// Derives all three from the phase and the claim.
    pub fn derive(&mut self, phase: Phase, claim: Option<&PersistentVolumeClaim>, version: Version) {
        if let Some(claim) = claim {
            self.bound_of_claim(claim);
        } else {
            let status = version.bound_without_claim();
            self.set(BOUND, &Says { status, reason: "NotFound", message: "No PVC found" });
        }
        let status = match phase {
            Phase::Succeeded => "True",
            Phase::Unknown => "Unknown",
            _ => "False",
        };
        self.set(READY, &Says { status, reason: "", message: "" });
        self.running(claim);
    }

    /// Derives them from an error that keeps the DataVolume from getting a claim.
    pub fn fail(&mut self, reason: &str, message: &str) {
        self.set(BOUND, &Says { status: "Unknown", reason, message });
        self.set(READY, &Says { status: "False", reason, message });
        self.set(RUNNING, &Says { status: "False", reason: "", message: "" });
        self.touch();
    }

    /// Renews the heartbeat, so that the status is written although it says the same.
    pub fn touch(&mut self) {
        for condition in &mut self.list {
            condition.last_heartbeat_time = Some(Time(self.now));
        }
    }

    fn bound_of_claim(&mut self, claim: &PersistentVolumeClaim) {
        let name = claim.name_any();
        let says = |key| annotation(&claim.metadata, key).unwrap_or_default();
        // The populator's own words count unless they are "true".
        let waits = annotation(&claim.metadata, CONDITION_BOUND).is_some_and(|value| value != "true");
        let (status, reason, message) = match ClaimPhase::of(claim) {
            ClaimPhase::Lost => ("False", "ClaimLost", "Claim Lost".to_owned()),
            ClaimPhase::Pending | ClaimPhase::Bound if waits => {
                ("False", says(CONDITION_BOUND_REASON), says(CONDITION_BOUND_MESSAGE).to_owned())
            }
            ClaimPhase::Pending => ("False", "Pending", format!("PVC {name} Pending")),
            ClaimPhase::Bound => ("True", "Bound", format!("PVC {name} Bound")),
        };
        self.set(BOUND, &Says { status, reason, message: &message });
    }

    fn running(&mut self, claim: Option<&PersistentVolumeClaim>) {
        let says = |key| claim.and_then(|claim| annotation(&claim.metadata, key));
        let (reason, message) =
            (says(CONDITION_RUNNING_REASON).unwrap_or_default(), says(CONDITION_RUNNING_MESSAGE).unwrap_or_default());
        match says(CONDITION_RUNNING).map(str::to_lowercase).as_deref() {
            Some("true") => {
                self.set(RUNNING, &Says { status: "True", reason, message });
                // Work in progress and readiness exclude each other.
                self.set(READY, &Says { status: "False", reason: "TransferRunning", message: "" });
            }
            Some("false") => self.set(RUNNING, &Says { status: "False", reason, message }),
            Some(_) => self.set(RUNNING, &Says { status: "Unknown", reason, message }),
            None => self.set(RUNNING, &Says { status: "False", reason: "", message: "" }),
        }
    }

    fn set(&mut self, type_: &str, says: &Says<'_>) {
        let now = Some(Time(self.now));
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let new = Condition {
            type_: type_.to_owned(),
            status: says.status.to_owned(),
            last_transition_time: now.clone(),
            last_heartbeat_time: now,
            reason: text(says.reason),
            message: text(says.message),
        };
        let Some(present) = self.list.iter_mut().find(|condition| condition.type_ == type_) else {
            self.list.push(new);
            return;
        };
        let same_status = present.status == new.status;
        if same_status
            && text(present.reason.as_deref().unwrap_or_default()) == new.reason
            && text(present.message.as_deref().unwrap_or_default()) == new.message
        {
            return;
        }
        let since = if same_status { present.last_transition_time.clone() } else { new.last_transition_time.clone() };
        *present = Condition { last_transition_time: since, ..new };
    }
}

/// The events of changed conditions: Bound whenever its reason changes, Running when it fails.
pub fn events(before: &[Condition], after: &[Condition]) -> Vec<Event> {
    let reason = |list: &[Condition], type_: &str| {
        list.iter().find(|condition| condition.type_ == type_).and_then(|condition| condition.reason.clone())
    };
    let mut events = Vec::new();
    for condition in after.iter().filter(|condition| condition.type_ == BOUND) {
        let (Some(now), Some(message)) = (&condition.reason, &condition.message) else { continue };
        if reason(before, BOUND).as_ref() != Some(now) {
            events.push(Event::normal(now, message));
        }
    }
    for condition in after.iter().filter(|condition| condition.type_ == RUNNING) {
        let Some(now) = condition.reason.as_ref().filter(|reason| *reason == "Error") else { continue };
        if reason(before, RUNNING).as_ref() != Some(now) {
            events.push(Event::warning(now, condition.message.clone().unwrap_or_default()));
        }
    }
    events
}
