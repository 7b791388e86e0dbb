//! What a pass looks at ([`Observed`]) and what it concludes ([`Plan`]).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Container, PersistentVolume, PersistentVolumeClaim, Pod, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    action::{Action, Exact},
    breaker::MetRefusal,
    decide::{Chosen, ChosenBy, History, PastRefusal},
    facts::Facts,
    group::Group,
    holders,
    note::PlanNote,
    ownership::{Created, Owner},
    request::{MadeFor, Parsed, Request, SourceName},
    wait::Waiting,
};
use crate::{
    api::{self, CloneStrategy, DataVolume, DataVolumeStatus, Phase},
    lookup::Lookup,
    meta,
    mover::{self, Outcome, Progress},
    names,
    quantity::Bytes,
    transfer::{self, Transfer},
};

/// Everything that a pass may look at, read and typed. `now` is part of it.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// The DataVolume itself.
    pub volume: Target,
    /// What it asks for.
    pub parsed: Parsed,
    /// Why its DataSource can't be followed, if it can't.
    pub unresolved: Option<Waiting>,
    /// What the decision needs.
    pub facts: Facts,
    /// Whether the requester may read the source; asked only where the clone crosses namespaces.
    pub authorized: Lookup<Authorization>,
    /// Whether the source is itself complete; `None` says nothing about it, as for a claim without a DataVolume.
    pub source_populated: Option<bool>,
    /// Pods that use the source.
    pub source_users: Vec<User>,
    /// Pods that use the clone, other than our own.
    pub target_users: Vec<User>,
    /// The clone's claim.
    pub claim: Lookup<Claim>,
    /// The claim beside the source that gets the content before it is handed over.
    pub temporary: Lookup<Claim>,
    /// The claim that is restored from a source snapshot to be copied from.
    pub restored: Lookup<Claim>,
    /// The hand-over of the temporary claim's volume.
    pub transfer: Transfer,
    /// Who has the temporary claim's volume, in words; asked of the API server when the volume is about to be handed over
    /// ([`is_closed`](Observed::is_closed)), and unknown before.
    pub holders: Lookup<Vec<String>>,
    /// The snapshots of the source.
    pub group: Lookup<Group>,
    /// Our data mover.
    pub mover: Lookup<Mover>,
    /// The pod that makes a volume of a class that binds late appear at once.
    pub consumer: Lookup<Mover>,
    /// How far the mover is, as far as it has been heard.
    pub progress: Option<Progress>,
    /// Who else works on DataVolumes in this cluster.
    pub another_controller: Option<String>,
    /// How movers are made.
    pub mover_settings: MoverSettings,
    /// A random ownership key, for a clone that has none yet; nothing, if the system gave none.
    pub fresh_key: Option<String>,
}

/// The API server's answer about the requester.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// The requester may read the source.
    Allowed,
    /// Not, and what would be needed.
    Denied(String),
}

/// What the admin says about data movers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoverSettings {
    /// The image.
    pub image: String,
}

/// The DataVolume; or the claim that is filled without one.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which of the two.
    pub kind: MadeFor,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its identity.
    pub uid: String,
    /// It is being deleted.
    pub deleting: bool,
    /// What was decided and tried before.
    pub history: History,
    /// Whose wish the decision in force followed.
    pub chosen_by: Option<ChosenBy>,
    /// What its `sourceRef` stands for, once that has been written down.
    pub source: Option<SourceName>,
    /// What the volume holds, as it is written.
    pub content_type: Option<String>,
    /// Its labels and annotations, for its own claim, which lives beside it.
    pub labels: BTreeMap<String, String>,
    /// See `labels`.
    pub annotations: BTreeMap<String, String>,
    /// Its fallback reason as it stands.
    pub fallback: Option<String>,
    /// The word for it.
    pub fallback_code: Option<String>,
    /// Priority class for the pods that work for it.
    pub priority_class: Option<String>,
    /// Its status as it stands.
    pub status: DataVolumeStatus,
    /// Its ownership key ([`meta::OWNERSHIP_KEY`]).
    pub key: Option<String>,
    /// UIDs of the temporary objects that were created for it: those on record in its status, and those that this process has been answered.
    pub created: Created,
}

impl Target {
    /// Reads a DataVolume.
    pub fn of(volume: &DataVolume) -> Self {
        let meta = &volume.metadata;
        let annotation = |key: &str| meta::annotation(meta, key);
        let note = annotation(meta::PLAN).and_then(PlanNote::read);
        Self {
            kind: MadeFor::DataVolume,
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            history: History {
                pinned: note.as_ref().and_then(|_| annotation(meta::CLONE_TYPE)?.parse().ok()),
                decided_for: note.as_ref().and_then(|note| note.source_uid.clone()),
                refused: note.as_ref().map(|note| note.refused.clone()).unwrap_or_default(),
            },
            chosen_by: note.as_ref().map(|note| note.chosen_by),
            source: note.as_ref().and_then(|note| note.source.clone()),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            fallback: annotation(meta::CLONE_FALLBACK_REASON).map(str::to_owned),
            fallback_code: note.and_then(|note| note.reason),
            priority_class: volume.spec.priority_class_name.clone(),
            content_type: volume.spec.content_type.clone(),
            key: annotation(meta::OWNERSHIP_KEY).filter(|key| !key.is_empty()).map(str::to_owned),
            created: volume
                .status
                .as_ref()
                .and_then(|s| s.clone.as_ref())
                .map(|c| c.created.clone())
                .unwrap_or_default(),
            status: volume.status.clone().unwrap_or_default(),
        }
    }

    /// Its user says that the claim of its name is filled already, or may be taken over.
    pub fn offers_to_take_over(&self) -> bool {
        let filled =
            [meta::PRE_POPULATED, meta::CHECK_STATIC_VOLUME].iter().any(|key| self.annotations.contains_key(*key));
        filled || self.annotations.get(meta::ALLOW_ADOPTION).is_some_and(|value| value != "false")
    }

    /// `claim`, which was there before, may be taken over: the one or the other says so, and nobody controls it.
    pub fn takes_over(&self, claim: &Claim) -> bool {
        !claim.controlled && (claim.populated || self.offers_to_take_over())
    }
}

/// A pod that uses a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The pod's name.
    pub pod: String,
    /// It has a node, so it may be running.
    pub scheduled: bool,
    /// When its containers were started, if they were.
    pub started: Option<Timestamp>,
    /// It may write.
    pub writes: bool,
}

/// The pods that use `claim` and aren't movers of ours, which `is_ours` tells. A pod that has ended uses nothing.
pub fn users_of<'a>(claim: &str, pods: impl IntoIterator<Item = &'a Pod>, is_ours: impl Fn(&Pod) -> bool) -> Vec<User> {
    let mut users: Vec<_> = pods.into_iter().filter(|pod| !is_ours(pod)).filter_map(|pod| user(claim, pod)).collect();
    users.sort_by(|a, b| a.pod.cmp(&b.pod));
    users
}

/// A pod has label and name of a data mover. That proves nothing, and is good enough where only a warning depends on it.
pub fn is_named_mover(pod: &Pod) -> bool {
    let owner = pod.metadata.labels.as_ref().and_then(|labels| labels.get(meta::OWNED_BY_UID));
    owner.is_some_and(|uid| pod.metadata.name.as_deref() == Some(&names::mover(uid)))
}

fn user(claim: &str, pod: &Pod) -> Option<User> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    if holders::has_ended(pod) {
        return None;
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut using = volumes
        .iter()
        .filter(|v| {
            v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim)
                // The claim of a generic ephemeral volume is named <pod>-<volume>.
                || v.ephemeral.is_some() && pod.metadata.name.as_ref().is_some_and(|p| format!("{p}-{}", v.name) == claim)
        })
        .peekable();
    using.peek()?;
    let containers: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let debugged = spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty());
    let writes = using.any(|volume| debugged || may_write(volume, &containers));
    Some(User {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        scheduled: spec.node_name.is_some(),
        started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        writes,
    })
}

/// A device may always be written to; a mount unless it is read-only everywhere.
fn may_write(volume: &Volume, containers: &[&Container]) -> bool {
    if volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true)) {
        return false;
    }
    let device = |c: &&Container| c.volume_devices.iter().flatten().any(|d| d.name == volume.name);
    let mounted_for_writing =
        |c: &&Container| c.volume_mounts.iter().flatten().any(|m| m.name == volume.name && m.read_only != Some(true));
    containers.iter().any(|c| device(c) || mounted_for_writing(c))
}

/// Which object, as it was looked at.
pub fn exact(meta: &ObjectMeta) -> Exact {
    Exact {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}

/// Whose the claim of the clone's name is: ours if the DataVolume of this UID controls it, or if it is itself what is to be filled. A name alone
/// proves nothing.
pub fn owner_of_target(meta: &ObjectMeta, uid: &str) -> Owner {
    let controlled = meta.owner_references.iter().flatten().any(|o| o.controller == Some(true) && o.uid == uid);
    if controlled || meta.uid.as_deref() == Some(uid) { Owner::Ours } else { Owner::Foreign }
}

/// Where the content of a claim comes from. It can't be changed once the claim exists, so it tells which strategy the claim was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The driver restores it from the snapshot of this name.
    Snapshot(String),
    /// The driver clones it from the claim of this name.
    Claim(String),
    /// It waits for a volume that is filled elsewhere.
    HeldBack,
    /// Nobody: it is blank, or filled by a pod.
    Blank,
}

impl Content {
    fn of(claim: &PersistentVolumeClaim) -> Self {
        let Some(source) = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref()) else { return Self::Blank };
        match (source.api_group.as_deref(), source.kind.as_str()) {
            (Some(api::snapshot::GROUP), "VolumeSnapshot") => Self::Snapshot(source.name.clone()),
            (None | Some(""), "PersistentVolumeClaim") => Self::Claim(source.name.clone()),
            (Some(api::GROUP), transfer::VOLUME_CLONE_SOURCE) => Self::HeldBack,
            _ => Self::Blank,
        }
    }

    /// What fills a claim of this content.
    pub fn strategy(&self) -> Option<CloneStrategy> {
        match self {
            Self::Snapshot(_) => Some(CloneStrategy::Snapshot),
            Self::Claim(_) => Some(CloneStrategy::CsiClone),
            Self::Blank => Some(CloneStrategy::Copy),
            Self::HeldBack => None,
        }
    }
}

/// The clone's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which one.
    pub exact: Exact,
    /// It belongs to the DataVolume, or was made for it.
    pub ours: bool,
    /// It is ours, and the very one that we created: what it says and holds counts.
    pub trusted: bool,
    /// The finalizers beside our own, if ours ([`meta::HAND_OVER_FINALIZER`]) keeps it.
    pub kept: Option<Vec<String>>,
    /// Since when it is being deleted.
    pub deleted_at: Option<Timestamp>,
    /// Somebody controls it.
    pub controlled: bool,
    /// Somebody says that it is filled for the DataVolume of its name, or may be taken over by it (backup and restore).
    pub populated: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// `Pending`, `Bound` or `Lost`.
    pub phase: String,
    /// See [`Content`].
    pub content: Content,
    /// The node that the scheduler has chosen for a pod that uses it.
    pub selected_node: Option<String>,
    /// Its volume was handed over to it by us.
    pub handed_over: bool,
    /// What is asked for.
    pub request: Bytes,
    /// What there is.
    pub capacity: Option<Bytes>,
    /// The device has grown; its file system grows when kubelet mounts it.
    pub file_system_grows_at_mount: bool,
    /// The BLAKE3 digest that a completed copy has left on it.
    pub copied: Option<String>,
    /// The newest complaint about it.
    pub complaint: Option<String>,
    /// When it was touched last to make others look at it.
    pub nudged_at: Option<Timestamp>,
}

impl Claim {
    /// It is bound, and its content is complete.
    pub fn is_filled(&self) -> bool {
        let complete = match self.content {
            Content::Blank => self.copied.is_some(),
            Content::Snapshot(_) | Content::Claim(_) => true,
            Content::HeldBack => false,
        };
        complete && self.phase == "Bound"
    }

    /// Reads a claim, whose `owner` is known, as the DataVolume `uid` sees it. `volume` is the claim's, as far as it is known.
    pub fn of(
        claim: &PersistentVolumeClaim,
        owner: Owner,
        uid: &str,
        volume: Option<&PersistentVolume>,
        complaint: Option<String>,
    ) -> Self {
        let annotation = |key: &str| meta::annotation(&claim.metadata, key);
        let controlled = meta::controller(&claim.metadata).is_some();
        let for_its_name =
            annotation(meta::POPULATED_FOR).is_some_and(|name| claim.metadata.name.as_deref() == Some(name));
        // A claim of our own making has the DataVolume's annotations, and isn't filled by having them.
        let made_by_us = annotation(meta::CREATED_FOR_DATA_VOLUME).is_some_and(|made_for| made_for == uid);
        let handed_over = volume.is_some_and(|volume| {
            let marked = meta::annotation(&volume.metadata, transfer::HANDED_OVER).is_some();
            let claim_ref = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            marked && claim_ref.and_then(|c| c.uid.as_ref()) == claim.metadata.uid.as_ref()
        });
        let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
        let requests = spec.and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
        let storage = |q| Bytes::of(q).ok();
        Self {
            exact: exact(&claim.metadata),
            ours: owner != Owner::Foreign,
            trusted: owner == Owner::Ours,
            kept: kept(&claim.metadata),
            deleted_at: claim.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            controlled,
            populated: !made_by_us && (for_its_name || annotation(meta::ALLOW_ADOPTION).is_some_and(|v| v != "false")),
            created: claim.metadata.creation_timestamp.as_ref().map(|t| t.0),
            content: Content::of(claim),
            selected_node: annotation(meta::SELECTED_NODE).map(str::to_owned),
            handed_over,
            deleting: claim.metadata.deletion_timestamp.is_some(),
            phase: status.and_then(|s| s.phase.clone()).unwrap_or_default(),
            request: requests.and_then(|r| r.get("storage")).and_then(storage).unwrap_or_default(),
            capacity: status.and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage")).and_then(storage),
            file_system_grows_at_mount: status
                .and_then(|s| s.conditions.as_ref())
                .is_some_and(|c| c.iter().any(|c| c.type_ == "FileSystemResizePending" && c.status == "True")),
            copied: annotation(meta::COPIED).map(str::to_owned),
            complaint,
            nudged_at: annotation(meta::NUDGED).and_then(|text| text.parse().ok()),
        }
    }
}

/// The finalizers beside [`meta::HAND_OVER_FINALIZER`]; nothing, where that one is missing.
pub fn kept(meta: &ObjectMeta) -> Option<Vec<String>> {
    let all = meta.finalizers.as_deref().unwrap_or_default();
    let rest: Vec<_> = all.iter().filter(|name| *name != meta::HAND_OVER_FINALIZER).cloned().collect();
    (rest.len() < all.len()).then_some(rest)
}

/// Our data mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mover {
    /// Which one.
    pub exact: Exact,
    /// It belongs to the DataVolume.
    pub ours: bool,
    /// It is ours, and the very one that we created: what it reports counts.
    pub trusted: bool,
    /// All of its containers have ended for good.
    pub over: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// The UID of the claim that it fills.
    pub fills: Option<String>,
    /// What it does.
    pub state: MoverState,
}

/// What a data mover does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoverState {
    /// Not running yet, and what its pod says about it.
    Starting(Option<String>),
    /// Copying.
    Running,
    /// Over.
    Ended {
        /// When.
        at: Timestamp,
        /// How; an end without a word (killed, evicted) is one to be tried again.
        outcome: Outcome,
    },
}

impl Mover {
    /// Reads a pod, whose `owner` is known; `now` stands in for an end whose time is missing. Only the mover's own container counts,
    /// whatever others the pod has.
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
                // A result counts only together with the exit code that belongs to it.
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
                    // Kubelet's words for a start that takes its normal course.
                    let usual = |reason: &str| matches!(reason, "ContainerCreating" | "PodInitializing");
                    let waiting = state
                        .and_then(|s| s.waiting.as_ref())
                        .filter(|w| !w.reason.as_deref().is_some_and(usual))
                        .and_then(|w| w.message.clone().or(w.reason.clone()));
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
            fills: meta::annotation(&pod.metadata, meta::FILLS).map(str::to_owned),
            state,
        }
    }
}

/// A strategy that didn't work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What was refused, for this clone.
    pub past: PastRefusal,
    /// When it was begun.
    pub since: Option<Timestamp>,
    /// What it says about other clones.
    pub met: MetRefusal,
}

/// What a pass concludes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the clone stands when the actions are done.
    pub phase: Phase,
    /// What to write, in this order; at most one of them can't be undone.
    pub actions: Vec<Action>,
    /// Who is waited for.
    pub waiting: Option<Waiting>,
    /// The decision that is being carried out.
    pub chosen: Option<Box<Chosen>>,
    /// How far a copy is.
    pub progress: Option<Progress>,
    /// How often the data mover had to be started again.
    pub restarts: i32,
    /// Why it is over without a clone.
    pub failure: Option<String>,
    /// What of the source could not be kept.
    pub notes: Vec<String>,
    /// What the driver has refused in this pass, to be remembered for others.
    pub refused: Option<Refused>,
    /// It needs a snapshot and waits for its turn to ask for one.
    pub wants_snapshot: bool,
    /// When to look again although nothing happens.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do in `phase`.
    pub(super) fn idle(seen: &Observed, phase: Phase) -> Self {
        Self {
            phase,
            actions: Vec::new(),
            waiting: None,
            chosen: None,
            progress: None,
            restarts: seen.volume.status.restart_count.unwrap_or_default(),
            failure: None,
            notes: Vec::new(),
            refused: None,
            wants_snapshot: false,
            look_again_at: None,
        }
    }

    pub(super) fn wait(seen: &Observed, phase: Phase, waiting: Waiting) -> Self {
        Self { waiting: Some(waiting), ..Self::idle(seen, phase) }
    }

    pub(super) fn act(seen: &Observed, phase: Phase, action: Action) -> Self {
        Self { actions: vec![action], ..Self::idle(seen, phase) }
    }

    /// The API server won't have the actions: nothing of them is reported, and why is.
    pub fn refused(&mut self, why: Waiting, seen: &Observed) {
        self.actions.clear();
        self.phase = seen.volume.status.phase;
        self.waiting = Some(why);
    }

    /// Creates the clone's claim, which is called `name`.
    pub(super) fn makes_claim(&self, name: &str) -> bool {
        let made = |action: &Action| match action {
            Action::CreateClaim(claim) => claim.metadata.name.as_deref() == Some(name),
            _ => false,
        };
        self.actions.iter().any(made)
    }

    #[must_use]
    pub(super) fn and(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }

    #[must_use]
    pub(super) fn with_waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = Some(waiting);
        self
    }
}

/// The request, where there is one.
impl Observed {
    /// See [`Parsed::Clone`].
    pub fn request(&self) -> Option<&Request> {
        match &self.parsed {
            Parsed::Clone(request) => Some(request),
            Parsed::Wrong(_) | Parsed::NotAClone | Parsed::Reference(..) => None,
        }
    }

    /// The temporary claim is filled and closed to new pods, and its volume is still its own: it is time to look who has the volume.
    pub fn is_closed(&self) -> bool {
        let owner = self.transfer.volume.present().and_then(|volume| volume.claim_ref.as_ref());
        self.temporary.present().is_some_and(|claim| {
            claim.trusted
                && claim.deleting
                && claim.kept.is_some()
                && claim.is_filled()
                && owner.is_some_and(|owner| owner.uid == claim.exact.uid)
        })
    }

    /// Something was made by the strategy that was decided: a claim with content to come, a snapshot, a pod.
    pub fn is_begun(&self) -> bool {
        let held_back = |claim: &Claim| claim.content == Content::HeldBack && claim.phase == "Pending";
        let claim = match &self.claim {
            Lookup::Present(claim) => !held_back(claim),
            Lookup::Absent => false,
            Lookup::Unknown(_) => true,
        };
        let snapshot = match &self.group {
            Lookup::Present(group) => group.of(&self.volume.uid).is_some(),
            Lookup::Absent => false,
            Lookup::Unknown(_) => true,
        };
        let beside = [self.temporary == Lookup::Absent, self.restored == Lookup::Absent, self.mover == Lookup::Absent];
        claim || snapshot || beside.contains(&false)
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

    /// Only the mover's own container reports, in whatever order others stand beside it; only the end of all of them is the pod's end.
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

    /// A label hides no writer; only who asks knows which pods are his own.
    #[test]
    fn a_label_hides_no_writer() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "labels": {(meta::OWNED_BY_UID): "dv"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                     "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]},
        }))
        .unwrap();
        let users = users_of("disk", [&pod], |_| false);
        assert!(users.iter().any(|user| user.writes), "{users:?}");
        assert_eq!(users_of("disk", [&pod], |_| true), vec![]);
    }
}
