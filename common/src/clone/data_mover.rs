//! The data mover: the state of the pod that copies the data.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    clone::{holders, ownership::Owner},
    keys,
    mover::{self, Outcome},
    object::{self, ObjectVersion, exact},
};

/// A data mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover {
    /// Its identity and version.
    pub exact: ObjectVersion,
    /// True if it belongs to the DataVolume.
    pub ours: bool,
    /// True if it is the pod that we created: only then its report counts.
    pub trusted: bool,
    /// True if all of its containers have ended for good.
    pub over: bool,
    /// True if it is being deleted.
    pub deleting: bool,
    /// The UID of the claim that it populates.
    pub fills: Option<String>,
    /// Its state.
    pub state: MoverState,
}

/// The state of a data mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoverState {
    /// Not running yet; holds the pod's message.
    Starting(Option<String>),
    /// Copying.
    Running,
    /// Ended.
    Ended {
        /// The time.
        at: Timestamp,
        /// The outcome; an end without a report (killed, evicted) is retried.
        outcome: Outcome,
    },
}

impl Mover {
    /// Reads a pod with this `owner`; `now` replaces a missing time of the end. Only the data mover's own container counts, not injected
    /// ones.
    pub fn of(pod: &Pod, owner: Owner, now: Timestamp) -> Self {
        let over = holders::has_ended(pod);
        let status = pod.status.clone().unwrap_or_default();
        let container = status.container_statuses.iter().flatten().find(|c| c.name == mover::CONTAINER);
        let ended = container.and_then(|c| c.state.as_ref()).and_then(|s| s.terminated.as_ref());
        let state = match (ended, over) {
            (Some(ended), _) => {
                let said = ended.message.as_deref().unwrap_or_default();
                let unsaid = || Outcome::Retry {
                    message: format!(
                        "the pod ended with exit code {} ({}) and without a result",
                        ended.exit_code,
                        ended.reason.as_deref().unwrap_or("no reason given")
                    ),
                };
                let outcome = serde_json::from_str(said).unwrap_or_else(|_| unsaid());
                // A report counts only with the matching exit code.
                let outcome = if i32::from(outcome.exit_code()) == ended.exit_code { outcome } else { unsaid() };
                MoverState::Ended { at: ended.finished_at.as_ref().map_or(now, |t| t.0), outcome }
            }
            (None, true) => {
                let why = status.message.or(status.reason).unwrap_or_else(|| "no reason given".to_owned());
                MoverState::Ended {
                    at: now,
                    outcome: Outcome::Retry { message: format!("the pod was stopped: {why}") },
                }
            }
            (None, false) => {
                let state = container.and_then(|c| c.state.as_ref());
                if state.is_some_and(|s| s.running.is_some()) {
                    MoverState::Running
                } else {
                    // Kubelet's reasons during a normal start.
                    let usual = |reason: &str| matches!(reason, "ContainerCreating" | "PodInitializing");
                    let waiting = state
                        .and_then(|s| s.waiting.as_ref())
                        .filter(|w| !w.reason.as_deref().is_some_and(usual))
                        .and_then(|w| {
                            let parts: Vec<_> = [&w.reason, &w.message].into_iter().flatten().cloned().collect();
                            (!parts.is_empty()).then(|| parts.join(": "))
                        });
                    let unscheduled = status
                        .conditions
                        .iter()
                        .flatten()
                        .find(|c| c.type_ == "PodScheduled" && c.status == "False")
                        .and_then(|c| c.message.clone());
                    MoverState::Starting(unscheduled.or(waiting))
                }
            }
        };
        Self {
            exact: exact(&pod.metadata),
            ours: owner != Owner::Foreign,
            trusted: owner == Owner::Ours,
            over,
            deleting: pod.metadata.deletion_timestamp.is_some(),
            fills: object::annotation(&pod.metadata, keys::FILLS).map(str::to_owned),
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const COPIED: &str = r#"{"outcome":"copied","total":1,"written":1,"digest":"d"}"#;

    fn ended(name: &str, message: &str) -> Value {
        json!({
            "name": name, "image": "i", "imageID": "i", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": message, "finishedAt": "2026-01-01T00:00:00Z"}},
        })
    }

    fn running(name: &str) -> Value {
        json!({"name": name, "image": "i", "imageID": "i", "ready": true, "restartCount": 0, "state": {"running": {}}})
    }

    fn mover(phase: &str, containers: &[Value]) -> Mover {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "m", "namespace": "n", "uid": "u"},
            "status": {"phase": phase, "containerStatuses": containers},
        }))
        .unwrap();
        Mover::of(&pod, Owner::Ours, Timestamp::UNIX_EPOCH)
    }

    /// Only the data mover's container reports, in any order of containers; the pod has ended only when all of them have.
    #[rstest]
    #[case::alone("Succeeded", &[ended("mover", COPIED)], true, true)]
    #[case::before_another("Running", &[ended("mover", COPIED), running("proxy")], true, false)]
    #[case::after_another("Running", &[running("proxy"), ended("mover", COPIED)], true, false)]
    #[case::forged_before_it("Running", &[ended("a", COPIED), running("mover")], false, false)]
    #[case::forged_without_it("Running", &[ended("a", COPIED)], false, false)]
    fn only_the_mover_s_container_reports(
        #[case] phase: &str,
        #[case] containers: &[Value],
        #[case] copied: bool,
        #[case] over: bool,
    ) {
        let mover = mover(phase, containers);
        let reported = matches!(mover.state, MoverState::Ended { outcome: Outcome::Copied { .. }, .. });
        assert_eq!((reported, mover.over), (copied, over), "{mover:?}");
    }
}
