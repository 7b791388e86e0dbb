//! An ObjectTransfer: a claim with its data, or a DataVolume with its claim, moves to another name or namespace.
//!
//! The order is chosen so that whatever ends in between, the data is in exactly one claim, and no garbage collection can reach it:
//!
//! 1. What moves is written into the status, before anything is made.
//! 2. The target claim is made, held back so that nobody fills it.
//! 3. The volume is handed over (see [the protocol](super)), in one write with the reclaim policy `Retain`.
//! 4. When the target is bound, the former policy returns; a DataVolume is made that finds its claim filled; the old DataVolume goes,
//!    and the empty claim.
//!
//! An ObjectTransfer that is deleted before step 3 takes its target claim with it; after it, the transfer is brought to its end. Its
//! finalizer waits for that, but never longer than [`PATIENCE`] when there is nothing to be done.

mod build;
mod check;
#[cfg(test)]
mod model;
mod request;
mod status;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt;
use serde_json::{Value, json};

pub use self::{
    check::{Violation, violations},
    request::{Move, Moved, changes, parse},
    status::status,
};
use super::{ClaimIdentity, Impossible, SourceClaim, Step, TargetClaim, Transfer, Volume, exact};
use crate::{
    api::{DataVolume, ObjectTransfer, ObjectTransferStatus, Phase as DataVolumePhase},
    clone::{Exact, plan, request::ObjectName},
    field::{self, FieldError},
    lookup::Lookup,
    meta,
};

/// The UID of the ObjectTransfer for which an object was made. On target claims and target DataVolumes.
pub const TRANSFER: &str = "smartclone.dev/transfer";
/// The reclaim policy that a volume has when it isn't on its way. On the PersistentVolume, as long as it is.
pub const RECLAIM_POLICY: &str = "smartclone.dev/reclaim-policy";
/// Holds an ObjectTransfer until nothing of it is left half done (CDI's name).
pub const FINALIZER: &str = "cdi.kubevirt.io/objectTransfer";

/// How long the deletion of an ObjectTransfer waits for something that doesn't come. What is left then is harmless: a claim without
/// data, or a volume that nobody deletes.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// When to look again at what could not be told, although nothing is heard.
const SOON: SignedDuration = SignedDuration::from_secs(5);

/// While they are on a claim, a snapshot or a clone of it is being made.
const BUSY: [&str; 2] =
    ["provisioner.storage.kubernetes.io/cloning-protection", "snapshot.storage.kubernetes.io/pvc-as-source-protection"];

/// Everything that a pass looks at.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// Since when somebody has been looking.
    pub since: Timestamp,
    /// The ObjectTransfer.
    pub transfer: Subject,
    /// What it asks for, or all that is wrong with it.
    pub wanted: Result<Move, Vec<FieldError>>,
    /// The claim of the source's name.
    pub source: Lookup<PersistentVolumeClaim>,
    /// The volume that moves: the one on record, else the source's.
    pub volume: Lookup<PersistentVolume>,
    /// The claim of the target's name.
    pub target: Lookup<PersistentVolumeClaim>,
    /// The DataVolume of the source's name.
    pub source_volume: Lookup<DataVolume>,
    /// The DataVolume of the target's name.
    pub target_volume: Lookup<DataVolume>,
    /// The pods that use the source, by name.
    pub users: Lookup<Vec<String>>,
    /// Who else works on ObjectTransfers in this cluster.
    pub another_controller: Option<String>,
}

impl Observed {
    /// The volume to be looked up.
    pub fn volume_name(record: Option<&Record>, source: &Lookup<PersistentVolumeClaim>) -> Option<String> {
        record.map(|r| r.volume.clone()).or_else(|| super::volume_name(source.present()?))
    }
}

/// The ObjectTransfer itself.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Since when it is being deleted.
    pub deleting: Option<Timestamp>,
    /// It has our finalizer.
    pub guarded: bool,
    /// What has been begun.
    pub record: Option<Record>,
    /// Its status as it stands.
    pub status: ObjectTransferStatus,
}

impl Subject {
    /// Reads an ObjectTransfer.
    pub fn of(transfer: &ObjectTransfer) -> Self {
        let status = transfer.status.clone().unwrap_or_default();
        Self {
            name: transfer.name_any(),
            uid: transfer.uid().unwrap_or_default(),
            deleting: transfer.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            guarded: transfer.finalizers().iter().any(|f| f == FINALIZER),
            record: Record::read(&status.data),
            status,
        }
    }

    fn phase(&self) -> Phase {
        Phase::read(&self.status.phase)
    }
}

/// What moves, by identity; written before the first step, in `status.data`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The UID of the source claim.
    pub source_uid: String,
    /// The name of its volume.
    pub volume: String,
    /// The UID of the DataVolume that moves with it.
    pub data_volume_uid: Option<String>,
}

const SOURCE_UID: &str = "sourceUID";
const VOLUME: &str = "persistentVolume";
const DATA_VOLUME_UID: &str = "dataVolumeUID";

impl Record {
    fn read(data: &BTreeMap<String, String>) -> Option<Self> {
        let value = |key: &str| data.get(key).filter(|v| !v.is_empty()).cloned();
        Some(Self { source_uid: value(SOURCE_UID)?, volume: value(VOLUME)?, data_volume_uid: value(DATA_VOLUME_UID) })
    }

    fn data(&self) -> BTreeMap<String, String> {
        [
            (SOURCE_UID, Some(&self.source_uid)),
            (VOLUME, Some(&self.volume)),
            (DATA_VOLUME_UID, self.data_volume_uid.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.clone())))
        .collect()
    }
}

/// `status.phase`, in CDI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for what has to be so before it begins.
    Pending,
    /// It has begun.
    Running,
    /// The data is at its target, and nothing is left at its source.
    Complete,
    /// It can't be done; the data is where it was, or where the message says.
    Error,
}

impl Phase {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Error => "Error",
        }
    }

    fn read(text: &str) -> Self {
        let all = [Self::Running, Self::Complete, Self::Error];
        all.into_iter().find(|phase| phase.as_str() == text).unwrap_or(Self::Pending)
    }

    /// Nothing follows.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Error)
    }
}

/// The reason and message of the condition `Complete`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// One word, stable.
    pub reason: &'static str,
    /// What is waited for, or has happened, and what can be done about it.
    pub message: String,
}

impl Why {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The API server refused a write.
    pub fn refused(quota: bool, message: &str) -> Self {
        Self::new(
            if quota { "ErrExceededQuota" } else { "ErrRefused" },
            format!("The API server refused to go on: {message}"),
        )
    }

    fn unknown(why: &str) -> Self {
        Self::new("CouldNotTell", format!("Could not be told yet: {why}"))
    }

    /// A machine is at work; anything else is for somebody to look at.
    pub fn needs_somebody(&self) -> bool {
        !matches!(self.reason, RUNNING | COMPLETE)
    }
}

const RUNNING: &str = "TransferRunning";
const COMPLETE: &str = "TransferComplete";

/// One write. None is repeated in vain, and none does harm when it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Put our finalizer on the ObjectTransfer.
    Guard,
    /// Take it off.
    Release,
    /// An existing one is ours or nobody's business of ours.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// Give the volume to the target, and keep it from being deleted meanwhile.
    HandOver {
        /// The volume, as it was looked at.
        volume: Exact,
        /// Whose it is to be.
        to: ClaimIdentity,
        /// The reclaim policy to return to; nothing, where it is `Retain` anyway.
        policy: Option<String>,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Make Kubernetes look at the target.
    Nudge {
        /// The claim.
        target: Exact,
        /// The time to write on it.
        at: Timestamp,
    },
    /// Give the volume its former reclaim policy.
    RestorePolicy {
        /// The volume, as it was looked at.
        volume: Exact,
        /// The policy.
        policy: String,
    },
    /// Make the target DataVolume.
    CreateDataVolume(Box<DataVolume>),
    /// Remove the DataVolume whose claim has moved.
    DeleteDataVolume(Exact),
    /// Remove a claim without data: the source when its volume has moved, or the target when it never will.
    DeleteClaim(Exact),
}

impl Action {
    /// One word for logs and metric labels.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Guard => "guard_transfer",
            Self::Release => "release_transfer",
            Self::CreateClaim(_) => "create_claim",
            Self::HandOver { .. } => "hand_over",
            Self::Nudge { .. } => "nudge",
            Self::RestorePolicy { .. } => "restore_policy",
            Self::CreateDataVolume(_) => "create_data_volume",
            Self::DeleteDataVolume(_) => "delete_data_volume",
            Self::DeleteClaim(_) => "delete_claim",
        }
    }
}

/// What a pass concludes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the transfer stands.
    pub phase: Phase,
    /// What to write.
    pub action: Option<Action>,
    /// What is waited for, or how it ended.
    pub why: Why,
    /// What is on record from now on.
    pub record: Option<Record>,
    /// When to look again although nothing happens.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    fn wait(seen: &Observed, why: Why) -> Self {
        let unknown = why.reason == "CouldNotTell";
        Self {
            phase: seen.transfer.phase(),
            action: None,
            why,
            record: seen.transfer.record.clone(),
            look_again_at: unknown.then(|| seen.now.checked_add(SOON).ok()).flatten(),
        }
    }

    fn act(seen: &Observed, action: Action) -> Self {
        let why = Why::new(RUNNING, "The transfer is under way");
        Self { phase: Phase::Running, action: Some(action), ..Self::wait(seen, why) }
    }

    fn running(seen: &Observed, message: impl Into<String>) -> Self {
        Self { phase: Phase::Running, ..Self::wait(seen, Why::new(RUNNING, message)) }
    }

    fn ends(seen: &Observed, phase: Phase, why: Why) -> Self {
        Self { phase, look_again_at: None, ..Self::wait(seen, why) }
    }

    /// What was concluded from caches has to be concluded from the API server's own answers, too: it can't be undone.
    pub fn is_irreversible(&self) -> bool {
        let ends = self.phase == Phase::Error;
        let acts = match &self.action {
            // With its policy the volume goes with its claim again, so that one had better be there.
            Some(
                Action::HandOver { .. }
                | Action::RestorePolicy { .. }
                | Action::DeleteClaim(_)
                | Action::DeleteDataVolume(_)
                | Action::Release,
            ) => true,
            Some(Action::Guard | Action::CreateClaim(_) | Action::Nudge { .. } | Action::CreateDataVolume(_))
            | None => false,
        };
        ends || acts
    }
}

/// What to do next; nothing for a transfer that is over.
pub fn step(seen: &Observed) -> Option<Plan> {
    let transfer = &seen.transfer;
    if transfer.phase().is_final() {
        return transfer.guarded.then(|| release(seen));
    }
    match transfer.deleting {
        None => Some(living(seen)),
        // Kubernetes removes what nobody holds.
        Some(_) if !transfer.guarded => None,
        Some(_) => {
            let plan = dying(seen);
            let limit = limit(seen);
            let overdue = limit.is_some_and(|limit| limit <= seen.now);
            Some(match plan.action {
                None if overdue || plan.phase.is_final() => Plan { action: Some(Action::Release), ..plan },
                None => Plan { look_again_at: plan.look_again_at.into_iter().chain(limit).min(), ..plan },
                Some(_) => plan,
            })
        }
    }
}

/// Until when a deletion waits for what doesn't come. Whoever has just begun to look may not have seen everything yet.
fn limit(seen: &Observed) -> Option<Timestamp> {
    seen.transfer.deleting?.max(seen.since).checked_add(PATIENCE).ok()
}

/// What to do when the API server won't have the action of a plan: nothing, but a deletion doesn't wait for it for ever.
pub fn refused(seen: &Observed, plan: &Plan, why: Why) -> Plan {
    let overdue = limit(seen).is_some_and(|limit| limit <= seen.now);
    let action = (overdue && plan.action != Some(Action::Release)).then_some(Action::Release);
    Plan { action, phase: seen.transfer.phase(), record: seen.transfer.record.clone(), why, look_again_at: None }
}

/// Nothing is to be done any more, so nothing has to be waited for.
fn release(seen: &Observed) -> Plan {
    let over = Plan::ends(seen, seen.transfer.phase(), Why::new(COMPLETE, "The transfer is over"));
    Plan { action: Some(Action::Release), ..over }
}

const FAILED: &str = "TransferFailed";

fn living(seen: &Observed) -> Plan {
    if let Some(which) = &seen.another_controller {
        let message = format!("{which} runs in this cluster; smartclone stays passive until it is removed");
        return Plan::wait(seen, Why::new("AnotherController", message));
    }
    let wanted = match &seen.wanted {
        Ok(wanted) => wanted,
        Err(errors) => return Plan::ends(seen, Phase::Error, Why::new("Invalid", field::joined(errors))),
    };
    match &seen.transfer.record {
        None => begin(seen, wanted),
        Some(record) => go_on(seen, wanted, record),
    }
}

/// Nothing has been made yet.
fn begin(seen: &Observed, wanted: &Move) -> Plan {
    let (Ok(()), Some(source)) = (ready(seen, wanted), seen.source.present()) else {
        let why = ready(seen, wanted).err().unwrap_or_else(|| Why::unknown("the source"));
        return Plan { phase: Phase::Pending, ..Plan::wait(seen, why) };
    };
    let data_volume = match wanted.kind {
        Moved::Claim => None,
        Moved::DataVolume => seen.source_volume.present().and_then(ResourceExt::uid),
    };
    let record = Record {
        source_uid: source.uid().unwrap_or_default(),
        volume: super::volume_name(source).unwrap_or_default(),
        data_volume_uid: data_volume,
    };
    let plan = Plan { record: Some(record), ..Plan::running(seen, "The transfer begins") };
    if seen.transfer.guarded { plan } else { Plan { action: Some(Action::Guard), ..plan } }
}

/// The protocol's view: the claims that are on record, and no others of their names.
fn protocol(seen: &Observed, record: &Record) -> Transfer {
    let source = match &seen.source {
        Lookup::Present(claim) if claim.uid().as_deref() != Some(&record.source_uid) => Lookup::Absent,
        source => source.as_ref().map(SourceClaim::of),
    };
    let target = match &seen.target {
        Lookup::Present(claim) if !ours(seen, &claim.metadata) => Lookup::Absent,
        target => target.as_ref().map(TargetClaim::of),
    };
    Transfer { source, volume: seen.volume.as_ref().map(Volume::of), target, now: seen.now }
}

/// Made for this ObjectTransfer.
fn ours(seen: &Observed, meta: &ObjectMeta) -> bool {
    meta::annotation(meta, TRANSFER) == Some(&seen.transfer.uid)
}

/// The volume is the target's by now.
fn handed_over(transfer: &Transfer) -> bool {
    let target = transfer.target.present().map(TargetClaim::identity);
    let owner = transfer.volume.present().and_then(|v| v.claim_ref.as_ref());
    target.is_some_and(|target| owner.is_some_and(|owner| owner.is(&target)))
}

fn go_on(seen: &Observed, wanted: &Move, record: &Record) -> Plan {
    let transfer = protocol(seen, record);
    match super::step(&transfer) {
        Step::Unknown(why) => Plan::wait(seen, Why::unknown(&why)),
        Step::Wait { what, look_again_at } => Plan { look_again_at, ..Plan::running(seen, what.to_string()) },
        Step::Nudge { target, at } => Plan::act(seen, Action::Nudge { target, at }),
        Step::Moved => finish(seen, wanted, record),
        // Looked at once more, as if for the first time: somebody may have begun to use it.
        Step::HandOver { .. } if replaced(seen, record) => lost(seen, &transfer, &Impossible::SourceMissing),
        Step::HandOver { volume, to, at, .. } => {
            if let Err(why) = ready(seen, wanted) {
                return Plan::wait(seen, why);
            }
            let policy = seen.volume.present().and_then(|v| v.spec.as_ref()?.persistent_volume_reclaim_policy.clone());
            let policy = policy.filter(|policy| policy != RETAIN);
            Plan::act(seen, Action::HandOver { volume, to, policy, at })
        }
        Step::Impossible(why) => impossible(seen, wanted, &transfer, &why),
    }
}

const RETAIN: &str = "Retain";

fn impossible(seen: &Observed, wanted: &Move, transfer: &Transfer, why: &Impossible) -> Plan {
    let target = &wanted.target;
    match why {
        Impossible::TargetMissing => without_target(seen, wanted, transfer),
        Impossible::TargetDeleting | Impossible::SourceDeleting | Impossible::VolumeDeleting => {
            Plan::wait(seen, Why::new("ErrResourceMarkedForDeletion", format!("Can't go on: {why}")))
        }
        Impossible::TargetBoundElsewhere(_) | Impossible::TargetLost | Impossible::TargetNotHeldBack => {
            let cure = format!("Can't go on: {why}; when PersistentVolumeClaim {target} is deleted, it is made anew");
            Plan::wait(seen, Why::new("TargetSpoilt", cure))
        }
        Impossible::SourceMissing
        | Impossible::SourceNamesAnother(_)
        | Impossible::VolumeMissing
        | Impossible::VolumeUnclaimed
        | Impossible::VolumeOfAnother(_) => lost(seen, transfer, why),
    }
}

/// The DataVolume isn't the one that was to move.
fn replaced(seen: &Observed, record: &Record) -> bool {
    let there = match &seen.source_volume {
        Lookup::Present(volume) => volume.uid(),
        Lookup::Absent => None,
        Lookup::Unknown(_) => return false,
    };
    record.data_volume_uid.is_some() && record.data_volume_uid != there
}

/// Somebody has come between. A target without data isn't left behind.
fn lost(seen: &Observed, transfer: &Transfer, why: &Impossible) -> Plan {
    if let Some(target) = transfer.target.present().filter(|t| !t.deleting && t.volume_name.is_none())
        && !handed_over(transfer)
    {
        return Plan::act(seen, Action::DeleteClaim(target.exact.clone()));
    }
    let volume = seen.transfer.record.as_ref().map(|r| r.volume.clone()).unwrap_or_default();
    let message = format!(
        "What was to be moved has been taken away meanwhile: {why}. PersistentVolume {volume:?} is left as it is; where it still \
         exists, the data is there"
    );
    Plan::ends(seen, Phase::Error, Why::new(FAILED, message))
}

/// The target claim isn't there (yet).
fn without_target(seen: &Observed, wanted: &Move, transfer: &Transfer) -> Plan {
    let (source, volume) = match (&transfer.source, &transfer.volume) {
        (Lookup::Unknown(why), _) | (_, Lookup::Unknown(why)) => return Plan::wait(seen, Why::unknown(why)),
        (Lookup::Absent, _) => return lost(seen, transfer, &Impossible::SourceMissing),
        (_, Lookup::Absent) => return lost(seen, transfer, &Impossible::VolumeMissing),
        (Lookup::Present(source), Lookup::Present(volume)) => (source, volume),
    };
    match &volume.claim_ref {
        None => return lost(seen, transfer, &Impossible::VolumeUnclaimed),
        // The target had the volume, and somebody has deleted it; or the volume was seen before it was handed over.
        Some(owner) if !owner.is(&source.identity()) => {
            return lost(seen, transfer, &Impossible::VolumeOfAnother(owner.clone()));
        }
        Some(_) => {}
    }
    if seen.transfer.record.as_ref().is_some_and(|record| replaced(seen, record)) {
        return lost(seen, transfer, &Impossible::SourceMissing);
    }
    if let Err(why) = ready(seen, wanted) {
        return Plan::wait(seen, why);
    }
    match seen.source.present().and_then(|source| build::claim(&seen.transfer, wanted, source)) {
        Some(claim) => Plan::act(seen, Action::CreateClaim(Box::new(claim))),
        None => Plan::wait(seen, not_bound(&wanted.source)),
    }
}

/// The target has the volume.
fn finish(seen: &Observed, wanted: &Move, record: &Record) -> Plan {
    if let Some(volume) = seen.volume.present()
        && let Some(policy) = volume.annotations().get(RECLAIM_POLICY)
    {
        let action = Action::RestorePolicy { volume: exact(&volume.metadata), policy: policy.clone() };
        return Plan::act(seen, action);
    }
    if let (Moved::DataVolume, Some(uid)) = (wanted.kind, &record.data_volume_uid)
        && let Some(plan) = finish_data_volume(seen, wanted, uid)
    {
        return plan;
    }
    match &seen.source {
        Lookup::Unknown(why) => Plan::wait(seen, Why::unknown(why)),
        Lookup::Present(claim)
            if claim.uid().as_deref() == Some(&record.source_uid) && claim.metadata.deletion_timestamp.is_none() =>
        {
            Plan::act(seen, Action::DeleteClaim(exact(&claim.metadata)))
        }
        Lookup::Present(_) | Lookup::Absent => {
            let message = format!("{} {} is now {}", wanted.kind.as_str(), wanted.source, wanted.target);
            Plan::ends(seen, Phase::Complete, Why::new(COMPLETE, message))
        }
    }
}

/// The new DataVolume before the end of the old one; nothing, when both is done.
fn finish_data_volume(seen: &Observed, wanted: &Move, uid: &str) -> Option<Plan> {
    let old = match &seen.source_volume {
        Lookup::Unknown(why) => return Some(Plan::wait(seen, Why::unknown(why))),
        Lookup::Present(old) if old.uid().as_deref() == Some(uid) => Some(old),
        Lookup::Present(_) | Lookup::Absent => None,
    };
    match (&seen.target_volume, old) {
        (Lookup::Unknown(why), _) => return Some(Plan::wait(seen, Why::unknown(why))),
        (Lookup::Absent, Some(old)) => {
            let new = build::data_volume(&seen.transfer, wanted, old);
            return Some(Plan::act(seen, Action::CreateDataVolume(Box::new(new))));
        }
        (Lookup::Absent, None) => {
            let message = format!(
                "DataVolume {} was deleted before its successor was made; the data is in PersistentVolumeClaim {}",
                wanted.source, wanted.target
            );
            return Some(Plan::ends(seen, Phase::Error, Why::new(FAILED, message)));
        }
        (Lookup::Present(new), _) if !ours(seen, &new.metadata) => {
            return Some(Plan::wait(seen, taken("DataVolume", &wanted.target)));
        }
        (Lookup::Present(new), _) => {
            let phase = new.status.as_ref().map(|s| s.phase).unwrap_or_default();
            if phase != DataVolumePhase::Succeeded {
                let message =
                    format!("DataVolume {} is taking over its claim (phase {:?})", wanted.target, phase.as_str());
                return Some(Plan::running(seen, message));
            }
        }
    }
    let old = old.filter(|old| old.metadata.deletion_timestamp.is_none())?;
    Some(Plan::act(seen, Action::DeleteDataVolume(exact(&old.metadata))))
}

/// The ObjectTransfer is being deleted.
fn dying(seen: &Observed) -> Plan {
    let Some(record) = &seen.transfer.record else {
        return Plan { action: Some(Action::Release), ..Plan::running(seen, "Nothing had begun") };
    };
    let transfer = protocol(seen, record);
    if handed_over(&transfer) {
        return living(seen);
    }
    match (&transfer.target, &transfer.volume) {
        (Lookup::Unknown(why), _) | (Lookup::Present(_), Lookup::Unknown(why)) => Plan::wait(seen, Why::unknown(why)),
        (Lookup::Present(target), Lookup::Present(_) | Lookup::Absent) if !target.deleting => match &target.volume_name
        {
            None => Plan::act(seen, Action::DeleteClaim(target.exact.clone())),
            Some(name) if *name == record.volume => {
                Plan::wait(seen, Why::unknown(&format!("PersistentVolume {name:?} has changed since it was seen")))
            }
            Some(_) => {
                Plan { action: Some(Action::Release), ..Plan::running(seen, "The target claim has another volume") }
            }
        },
        (Lookup::Present(_) | Lookup::Absent, _) => {
            Plan { action: Some(Action::Release), ..Plan::running(seen, "Nothing is left of the transfer") }
        }
    }
}

fn not_bound(source: &ObjectName) -> Why {
    let message =
        format!("PersistentVolumeClaim {source} has no volume yet; kubectl describe pvc tells what it waits for");
    Why::new("SourceNotBound", message)
}

fn taken(kind: &str, target: &ObjectName) -> Why {
    Why::new("TargetExists", format!("There is a {kind} {target} already; the transfer goes on when it is deleted"))
}

/// Whether the volume may be taken from its source, and the target has a place.
fn ready(seen: &Observed, wanted: &Move) -> Result<(), Why> {
    let source = ready_source(seen, wanted)?;
    let moves = match wanted.kind {
        Moved::Claim => &source.metadata,
        Moved::DataVolume => &ready_data_volume(seen, wanted)?.metadata,
    };
    required(&wanted.required, moves)?;
    unowned(seen, wanted, source)?;
    unused(seen, wanted, source)?;
    free(&seen.target, "PersistentVolumeClaim", seen, wanted)?;
    free(&seen.target_volume, "DataVolume", seen, wanted)
}

fn missing(kind: &str, source: &ObjectName) -> Why {
    Why::new("SourceMissing", format!("{kind} {source} does not exist; the transfer begins when it appears"))
}

fn leaving(kind: &str, source: &ObjectName) -> Why {
    Why::new("ErrResourceMarkedForDeletion", format!("{kind} {source} is being deleted"))
}

fn ready_source<'a>(seen: &'a Observed, wanted: &Move) -> Result<&'a PersistentVolumeClaim, Why> {
    let name = &wanted.source;
    let claim = match &seen.source {
        Lookup::Present(claim) => claim,
        Lookup::Absent => return Err(missing("PersistentVolumeClaim", name)),
        Lookup::Unknown(why) => return Err(Why::unknown(why)),
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(leaving("PersistentVolumeClaim", name));
    }
    let read = SourceClaim::of(claim);
    if read.phase != super::ClaimPhase::Bound || read.volume_name.is_none() || build::capacity(claim).is_none() {
        return Err(not_bound(name));
    }
    match &seen.volume {
        Lookup::Unknown(why) => return Err(Why::unknown(why)),
        Lookup::Absent => return Err(not_bound(name)),
        Lookup::Present(volume) => {
            let volume = Volume::of(volume);
            // Both have to say whose it is (CVE-2019-11255).
            let agree = volume.claim_ref.is_some_and(|owner| owner.is(&read.identity()));
            if !agree || volume.deleting || read.volume_name.as_ref() != Some(&volume.exact.name) {
                return Err(not_bound(name));
            }
        }
    }
    let conditions = claim.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let grows = |kind: &str| matches!(kind, "Resizing" | "FileSystemResizePending");
    if conditions.iter().any(|c| c.status == "True" && grows(&c.type_)) {
        let message = format!(
            "PersistentVolumeClaim {name} is being expanded; a file system grows when a pod mounts it, so start one and stop it again"
        );
        return Err(Why::new("SourceResizing", message));
    }
    Ok(claim)
}

fn ready_data_volume<'a>(seen: &'a Observed, wanted: &Move) -> Result<&'a DataVolume, Why> {
    let name = &wanted.source;
    let volume = match &seen.source_volume {
        Lookup::Present(volume) => volume,
        Lookup::Absent => return Err(missing("DataVolume", name)),
        Lookup::Unknown(why) => return Err(Why::unknown(why)),
    };
    if volume.metadata.deletion_timestamp.is_some() {
        return Err(leaving("DataVolume", name));
    }
    let phase = volume.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase != DataVolumePhase::Succeeded {
        let message =
            format!("DataVolume {name} is not Succeeded but {:?}; the transfer begins when it is", phase.as_str());
        return Err(Why::new("SourceNotReady", message));
    }
    Ok(volume)
}

fn required(wanted: &BTreeMap<String, String>, meta: &ObjectMeta) -> Result<(), Why> {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(key, value)| meta::annotation(meta, key) != Some(value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Why::new("RequiredAnnotations", format!("The source lacks the required annotations {}", missing.join(", "))))
}

fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whoever owns what moves would make it anew, or wait for it in vain.
fn unowned(seen: &Observed, wanted: &Move, source: &PersistentVolumeClaim) -> Result<(), Why> {
    let refuse = |what: &str, owner: String, cure: &str| {
        Err(Why::new("SourceOwned", format!("{what} {} belongs to {owner}; {cure}", wanted.source)))
    };
    let said = |owner: &OwnerReference| format!("{} {:?}", owner.kind, owner.name);
    if source.labels().contains_key(meta::OWNED_BY_UID) {
        return refuse("PersistentVolumeClaim", "a clone that is under way".to_owned(), "it can't be moved");
    }
    match (wanted.kind, &seen.source_volume) {
        (_, Lookup::Unknown(why)) => return Err(Why::unknown(why)),
        (Moved::Claim, Lookup::Present(volume)) => {
            return refuse(
                "PersistentVolumeClaim",
                format!("DataVolume {:?}", volume.name_any()),
                MOVE_THE_DATA_VOLUME,
            );
        }
        (Moved::DataVolume, Lookup::Present(volume)) => {
            if let Some(owner) = controller(&volume.metadata) {
                return refuse("DataVolume", said(owner), "take it off that one first");
            }
        }
        (_, Lookup::Absent) => {}
    }
    match controller(&source.metadata) {
        Some(owner) if wanted.kind == Moved::DataVolume && Some(&owner.uid) == uid(&seen.source_volume).as_ref() => {
            Ok(())
        }
        Some(owner) if owner.kind == "DataVolume" => refuse("PersistentVolumeClaim", said(owner), MOVE_THE_DATA_VOLUME),
        Some(owner) => refuse("PersistentVolumeClaim", said(owner), "take it off that one first"),
        None => Ok(()),
    }
}

const MOVE_THE_DATA_VOLUME: &str = "move that one, with spec.source.kind DataVolume";

fn uid(volume: &Lookup<DataVolume>) -> Option<String> {
    volume.present().and_then(ResourceExt::uid)
}

fn unused(seen: &Observed, wanted: &Move, source: &PersistentVolumeClaim) -> Result<(), Why> {
    match &seen.users {
        Lookup::Unknown(why) => return Err(Why::unknown(why)),
        Lookup::Present(pods) if !pods.is_empty() => {
            let message = format!(
                "PersistentVolumeClaim {} is used by {}; the transfer goes on when they have ended",
                wanted.source,
                named(pods)
            );
            return Err(Why::new("SourceInUse", message));
        }
        Lookup::Present(_) | Lookup::Absent => {}
    }
    match source.finalizers().iter().find(|f| BUSY.contains(&f.as_str())) {
        Some(finalizer) => {
            let message = format!(
                "A snapshot or a clone of PersistentVolumeClaim {} is being made (its finalizer {finalizer} says so)",
                wanted.source
            );
            Err(Why::new("SourceBusy", message))
        }
        None => Ok(()),
    }
}

/// The first three, and how many more.
fn named(pods: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = pods.iter().take(SHOWN).map(|pod| format!("pod {pod:?}")).collect::<Vec<_>>().join(", ");
    match pods.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn free<K: ResourceExt>(there: &Lookup<K>, kind: &str, seen: &Observed, wanted: &Move) -> Result<(), Why> {
    match there {
        Lookup::Unknown(why) => Err(Why::unknown(why)),
        Lookup::Present(object) if !ours(seen, object.meta()) => Err(taken(kind, &wanted.target)),
        Lookup::Present(_) | Lookup::Absent => Ok(()),
    }
}

/// The names of the pods that use `claim`, those of our own that copy from it or to it among them: none of them may go on after it has moved.
pub fn users_of<'a>(claim: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<String> {
    let pods: Vec<Pod> = pods
        .into_iter()
        .cloned()
        .map(|mut pod| {
            pod.labels_mut().remove(meta::OWNED_BY_UID);
            pod
        })
        .collect();
    plan::users_of(claim, &pods).into_iter().map(|user| user.pod).collect()
}

/// Kubernetes' mark on a volume whose claim it chose itself. Such a volume is given free when its claim turns out to have another one;
/// without the mark it stays reserved.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// The JSON merge patch of [`Action::HandOver`].
pub fn hand_over(volume: &Exact, to: &ClaimIdentity, policy: Option<&str>, at: Timestamp) -> Value {
    let mut patch = super::hand_over(volume, to, at);
    if let Some(annotations) = patch.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), Value::Null);
        if let Some(policy) = policy {
            annotations.insert(RECLAIM_POLICY.to_owned(), json!(policy));
        }
    }
    if let Some(spec) = patch.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!(RETAIN));
    }
    patch
}

/// The JSON merge patch of [`Action::RestorePolicy`].
pub fn restore_policy(volume: &Exact, policy: &str) -> Value {
    json!({
        "metadata": {
            "uid": volume.uid, "resourceVersion": volume.resource_version, "annotations": { RECLAIM_POLICY: null },
        },
        "spec": { "persistentVolumeReclaimPolicy": policy },
    })
}
