//! The observations of a pass over a clone: all inputs of the decision and the next step, as values.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};

use crate::{
    api::{Cdi, CdiConfigSpec, DataVolume, DataVolumeStatus, NodePlacement},
    cdi_config::Config,
    clone::{
        beside::ReportedByCdi,
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
    mode::Mode,
    mover::Progress,
    object::{self, ClaimPhase, SourceName, TargetKind},
    pods::User,
    rebind::Rebind,
};

/// All inputs of a pass, read and typed, including `now`.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// The DataVolume, or the claim that is populated without one.
    pub volume: Target,
    /// The parsed request.
    pub parsed: Parsed,
    /// The reason why its DataSource can't be resolved, if it can't.
    pub unresolved: Option<Waiting>,
    /// The facts of the decision.
    pub facts: Facts,
    /// The access of the requester to the source; checked only if the clone crosses namespaces.
    pub authorized: Lookup<Authorization>,
    /// True if the source itself is populated; `None` if that isn't known, as for a claim without a DataVolume.
    pub source_populated: Option<bool>,
    /// Pods that use the source.
    pub source_users: Vec<User>,
    /// Pods that use the clone, other than our own.
    pub target_users: Vec<User>,
    /// The clone's claim.
    pub claim: Lookup<Claim>,
    /// The temporary claim beside the source that is populated before its volume is rebound.
    pub temporary: Lookup<Claim>,
    /// The claim that is restored from a source snapshot to copy from.
    pub restored: Lookup<Claim>,
    /// The rebind of the temporary claim's volume.
    pub rebind: Rebind,
    /// The holders of the temporary claim's volume, in words; read from the API server when the volume is about to be rebound
    /// ([`is_closed`](Observed::is_closed)), and unknown before.
    pub holders: Lookup<Vec<String>>,
    /// The shared snapshots of the source.
    pub group: Lookup<SharedSnapshots>,
    /// The data mover.
    pub mover: Lookup<Mover>,
    /// The pod that triggers provisioning for a StorageClass with late binding.
    pub consumer: Lookup<Mover>,
    /// The latest known progress of the data mover.
    pub progress: Option<Progress>,
    /// How smartclone works in this cluster.
    pub mode: Mode,
    /// The settings of data movers.
    pub mover_settings: MoverSettings,
    /// A random ownership key for a clone that has none yet; `None` if the system could not generate one.
    pub fresh_key: Option<String>,
    /// The labels that the DataVolume inherits from its source when it is decided.
    pub inherited: Labels,
}

/// The result of the access review for the requester.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// The requester may read the source.
    Allowed,
    /// The requester may not; holds the missing permission.
    Denied(String),
}

/// The settings of pods that work for clones: the installation's image, and the CDI object's settings for workloads.
#[derive(Debug, Clone, PartialEq)]
pub struct MoverSettings {
    /// The image.
    pub image: String,
    /// The resources of the container: `podResourceRequirements`, completed with CDI's defaults, as in `CDIConfig.status`.
    pub resources: ResourceRequirements,
    /// `imagePullPolicy` of the CDI object.
    pub image_pull_policy: String,
    /// `imagePullSecrets`, by name, in the namespace of the pod.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// `workload` of the CDI object: the nodes on which the pods may run.
    pub placement: NodePlacement,
}

impl MoverSettings {
    /// Derives the settings from the CDI object and the effective CDIConfig.
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

/// The DataVolume, or the claim that is populated without one.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The kind.
    pub kind: TargetKind,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its identity.
    pub uid: String,
    /// True if it is being deleted.
    pub deleting: bool,
    /// The earlier decision and refusals.
    pub history: History,
    /// The origin of the strategy in force.
    pub chosen_by: Option<ChosenBy>,
    /// The source that its `sourceRef` resolved to, once that is recorded.
    pub source: Option<SourceName>,
    /// The source as recorded at the time of the decision.
    pub recorded_source: Option<Source>,
    /// `spec.contentType`, unparsed.
    pub content_type: Option<String>,
    /// Its labels, which its claim inherits.
    pub labels: BTreeMap<String, String>,
    /// Its annotations, which its claim inherits.
    pub annotations: BTreeMap<String, String>,
    /// Its recorded fallback reason.
    pub fallback: Option<String>,
    /// The code of the fallback reason.
    pub fallback_code: Option<String>,
    /// The priority class of pods that work for it.
    pub priority_class: Option<String>,
    /// Its recorded status.
    pub status: DataVolumeStatus,
    /// What CDI has reported; `None` for a clone whose status smartclone writes.
    pub reported_by_cdi: Option<ReportedByCdi>,
    /// Its ownership key ([`keys::OWNERSHIP_KEY`]).
    pub key: Option<String>,
    /// UIDs of the temporary objects created for it: those recorded in its status, and those that this process has created since.
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
            reported_by_cdi: None,
        }
    }

    /// True if its annotations declare that the claim of its name is populated already, or may be adopted.
    pub fn offers_to_take_over(&self) -> bool {
        keys::declares_filled(&self.annotations)
            || self.annotations.get(keys::ALLOW_ADOPTION).is_some_and(|value| value != "false")
    }

    /// True if `claim` existed before and is adopted, or may be: an annotation of either allows it, and no other object controls it.
    pub fn has_taken_over(&self, claim: &Claim) -> bool {
        let is_adopted = claim.ours && !claim.made_for_it && self.kind == TargetKind::DataVolume;
        let is_adoptable = !claim.ours && !claim.controlled;
        (is_adopted || is_adoptable) && (claim.populated || self.offers_to_take_over())
    }
}

/// Accessors and derived states.
impl Observed {
    /// The request of a clone whose source is known.
    pub fn request(&self) -> Option<&Request> {
        self.parsed.request()
    }

    /// True if the temporary claim is populated and being deleted, so that no new pod starts with it, and the volume is still bound to it:
    /// the holders of the volume are to be checked.
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

    /// True if the decided strategy has created something: a claim to be populated, a snapshot, a pod.
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
