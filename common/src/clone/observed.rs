//! The observations of a pass over a clone: everything that the decision depends on, as values.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};

use crate::{
    api::{Cdi, CdiConfigSpec, DataVolume, DataVolumeStatus, NodePlacement},
    cdi_config::Config,
    clone::{
        claim::{Claim, Content},
        data_mover::Mover,
        facts::{Facts, Source},
        note::{ChosenBy, History, PlanNote},
        ownership::Created,
        request::{Parsed, Request},
        shared_snapshot::SharedSnapshots,
        wait::Waiting,
    },
    keys,
    lookup::Lookup,
    machine_defaults::Labels,
    mover::Progress,
    object::{self, ClaimPhase, SourceName, TargetKind},
    pods::User,
    rebind::Rebind,
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
    pub rebind: Rebind,
    /// Who has the temporary claim's volume, in words; asked of the API server when the volume is about to be handed over
    /// ([`is_closed`](Observed::is_closed)), and unknown before.
    pub holders: Lookup<Vec<String>>,
    /// The snapshots of the source.
    pub group: Lookup<SharedSnapshots>,
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
    /// The labels that the DataVolume gets from its source when it is decided.
    pub inherited: Labels,
}

/// The API server's answer about the requester.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// The requester may read the source.
    Allowed,
    /// Not, and what would be needed.
    Denied(String),
}

/// The settings of pods that work for clones: the image of the installation, and what the CDI object says about workloads.
#[derive(Debug, Clone, PartialEq)]
pub struct MoverSettings {
    /// The image.
    pub image: String,
    /// The resources of the container: `podResourceRequirements`, filled up with CDI's defaults, as `CDIConfig.status` shows them.
    pub resources: ResourceRequirements,
    /// `imagePullPolicy` of the CDI object.
    pub image_pull_policy: String,
    /// `imagePullSecrets`, by name, in the namespace of the pod.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// `workload` of the CDI object: the nodes on which the pods may run.
    pub placement: NodePlacement,
}

impl MoverSettings {
    /// The settings that follow from the CDI object and the CDIConfig in force.
    pub fn of(image: String, config: Option<&CdiConfigSpec>, cdi: Option<&Cdi>) -> Self {
        let settings = Config::of(config, cdi);
        Self {
            image,
            image_pull_policy: cdi
                .and_then(|cdi| cdi.spec.image_pull_policy.clone())
                .unwrap_or_else(|| "IfNotPresent".to_owned()),
            resources: settings.pod_resources(),
            image_pull_secrets: settings.image_pull_secrets(),
            placement: cdi.and_then(|cdi| cdi.spec.workload.clone()).unwrap_or_default(),
        }
    }
}

/// The DataVolume; or the claim that is filled without one.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Which of the two.
    pub kind: TargetKind,
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
    /// The source as it was when the decision was made.
    pub recorded_source: Option<Source>,
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
    /// Its ownership key ([`keys::OWNERSHIP_KEY`]).
    pub key: Option<String>,
    /// UIDs of the temporary objects that were created for it: those on record in its status, and those that this process has been answered.
    pub created: Created,
}

impl Target {
    /// Reads a DataVolume.
    pub fn of(volume: &DataVolume) -> Self {
        let meta = &volume.metadata;
        let annotation = |key: &str| object::annotation(meta, key);
        let note = annotation(keys::PLAN).and_then(PlanNote::read);
        Self {
            kind: TargetKind::DataVolume,
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            history: History {
                pinned: note.as_ref().and_then(|note| note.strategy_in_force(annotation(keys::CLONE_TYPE))),
                decided_for: note.as_ref().and_then(|note| note.source_uid.clone()),
                refused: note.as_ref().map(|note| note.refused.clone()).unwrap_or_default(),
            },
            chosen_by: note.as_ref().map(|note| note.chosen_by),
            source: note.as_ref().and_then(|note| note.source.clone()),
            recorded_source: note
                .as_ref()
                .and_then(|note| Some(Source::on_record(note.source_uid.clone()?, note.source_facts.as_ref()?))),
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            fallback: annotation(keys::CLONE_FALLBACK_REASON).map(str::to_owned),
            fallback_code: note.and_then(|note| note.reason),
            priority_class: volume.spec.priority_class_name.clone(),
            content_type: volume.spec.content_type.clone(),
            key: annotation(keys::OWNERSHIP_KEY).filter(|key| !key.is_empty()).map(str::to_owned),
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
            [keys::PRE_POPULATED, keys::CHECK_STATIC_VOLUME].iter().any(|key| self.annotations.contains_key(*key));
        filled || self.annotations.get(keys::ALLOW_ADOPTION).is_some_and(|value| value != "false")
    }

    /// `claim`, which was there before, may be taken over: the one or the other says so, and nobody controls it.
    pub fn takes_over(&self, claim: &Claim) -> bool {
        !claim.controlled && (claim.populated || self.offers_to_take_over())
    }

    /// `claim` was there before, and is the DataVolume's by now, or may be.
    pub fn has_taken_over(&self, claim: &Claim) -> bool {
        let offered = claim.populated || self.offers_to_take_over();
        let is_own = claim.ours && !claim.made_for_it && self.kind == TargetKind::DataVolume;
        is_own && offered || !claim.ours && self.takes_over(claim)
    }
}

/// The request, where there is one.
impl Observed {
    /// The request of a clone whose source is known.
    pub fn request(&self) -> Option<&Request> {
        self.parsed.request()
    }

    /// The temporary claim is filled and closed to new pods, and its volume is still its own: it is time to look who has the volume.
    pub fn is_closed(&self) -> bool {
        let owner = self.rebind.volume.present().and_then(|volume| volume.claim_ref.as_ref());
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
        let held_back = |claim: &Claim| claim.content == Content::HeldBack && claim.phase == ClaimPhase::Pending;
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
