//! ObjectTransfers: move a claim with its data, or a DataVolume with its claim, to another name or namespace.
//!
//! The steps are ordered so that after any interruption the data is in exactly one claim, and no garbage collection can delete it:
//!
//! 1. The identity of the moved objects is written into the status, before anything is created.
//! 2. The target claim is created with a `dataSourceRef` that nothing else fills.
//! 3. The volume is rebound (see [the protocol](crate::rebind)), in one write with the reclaim policy `Retain`.
//! 4. When the target is bound, the former policy is restored. A target DataVolume that finds its claim populated is created, and the old
//!    DataVolume and the empty claim are deleted.
//!
//! If an ObjectTransfer is deleted before step 3, its target claim is deleted, too. After step 3, the transfer is completed. Its finalizer
//! waits for that, but never longer than [`PATIENCE`] if there is nothing to do.

mod build;
mod check;
#[cfg(test)]
mod model;
mod plan;
mod ready;
mod request;
mod seen;
mod status;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

pub use self::{
    check::{Violation, violations},
    plan::{Phase, Plan, Why, Write},
    ready::users_of,
    request::{Move, Moved, changes, parse},
    seen::{Observed, Record, Subject},
    status::status,
};
use self::{
    plan::COMPLETE,
    ready::{not_bound, ready, taken},
};
use crate::{
    api::{ObjectTransfer, Phase as DataVolumePhase},
    field, keys,
    lookup::Lookup,
    object::{self, ClaimPhase, ObjectVersion, exact},
    rebind::{self, ClaimIdentity, Impossible, Rebind, SourceClaim, Step, TargetClaim, Volume},
};

/// Maximum time for which the deletion of an ObjectTransfer waits for an event that does not come. The remains are harmless: a claim
/// without data, or a volume that nobody deletes.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// True for an ObjectTransfer that is complete or has failed and no longer has our finalizer. No event triggers a pass over it.
pub fn is_over(transfer: &ObjectTransfer) -> bool {
    let over = |phase: Phase| transfer.status.as_ref().is_some_and(|status| status.phase == phase.as_str());
    (over(Phase::Complete) || over(Phase::Error)) && !Subject::of(transfer).guarded
}

/// Returns the next plan, or `None` if nothing is left to do.
pub fn step(seen: &Observed) -> Option<Plan> {
    let transfer = &seen.transfer;
    if transfer.phase().is_final() {
        return transfer.guarded.then(|| release(seen));
    }
    match transfer.deleting {
        None => Some(living(seen)),
        // Kubernetes removes an object without finalizers.
        Some(_) if !transfer.guarded => None,
        Some(_) => {
            let plan = dying(seen);
            let limit = limit(seen);
            let overdue = limit.is_some_and(|limit| limit <= seen.now);
            Some(match plan.action {
                None if overdue || plan.phase.is_final() => Plan { action: Some(Write::Release), ..plan },
                None => Plan { look_again_at: plan.look_again_at.into_iter().chain(limit).min(), ..plan },
                Some(_) => plan,
            })
        }
    }
}

/// Returns the time until which a deletion waits. It counts from the start of the controller if that is later, because a new controller may
/// not have seen all objects yet.
fn limit(seen: &Observed) -> Option<Timestamp> {
    seen.transfer.deleting?.max(seen.since).checked_add(PATIENCE).ok()
}

/// Returns the plan after the API server refused an action: no write, except that an overdue deletion is released.
pub fn refused(seen: &Observed, plan: &Plan, why: Why) -> Plan {
    let overdue = limit(seen).is_some_and(|limit| limit <= seen.now);
    let action = (overdue && plan.action != Some(Write::Release)).then_some(Write::Release);
    Plan { action, phase: seen.transfer.phase(), record: seen.transfer.record.clone(), why, look_again_at: None }
}

/// Plans the removal of the finalizer from a transfer that is over.
fn release(seen: &Observed) -> Plan {
    let over = Plan::ends(seen, seen.transfer.phase(), Why::new(COMPLETE, "The transfer is over"));
    Plan { action: Some(Write::Release), ..over }
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

/// Plans the start of a transfer, before anything is created.
fn begin(seen: &Observed, wanted: &Move) -> Plan {
    let source = match ready(seen, wanted) {
        Ok(source) => source,
        Err(why) => return Plan { phase: Phase::Pending, ..Plan::wait(seen, why) },
    };
    let data_volume = match wanted.kind {
        Moved::Claim => None,
        Moved::DataVolume => seen.source_volume.present().and_then(ResourceExt::uid),
    };
    let record = Record {
        source_uid: source.uid().unwrap_or_default(),
        volume: rebind::volume_name(source).unwrap_or_default(),
        data_volume_uid: data_volume,
    };
    let plan = Plan { record: Some(record), ..Plan::running(seen, "The transfer begins") };
    if seen.transfer.guarded { plan } else { Plan { action: Some(Write::Guard), ..plan } }
}

/// Returns the input of the rebind protocol: the recorded claims, and no others of their names.
fn protocol(seen: &Observed, record: &Record) -> Rebind {
    let source = match &seen.source {
        Lookup::Present(claim) if claim.uid().as_deref() != Some(&record.source_uid) => Lookup::Absent,
        source => source.as_ref().map(SourceClaim::of),
    };
    let target = match &seen.target {
        Lookup::Present(claim) if !ours(seen, &claim.metadata) => Lookup::Absent,
        target => target.as_ref().map(TargetClaim::of),
    };
    Rebind { source, volume: seen.volume.as_ref().map(Volume::of), target, now: seen.now }
}

/// True for an object that was created for this ObjectTransfer.
fn ours(seen: &Observed, meta: &ObjectMeta) -> bool {
    object::annotation(meta, keys::TRANSFER) == Some(&seen.transfer.uid)
}

/// True for a claim that never had a volume: its deletion loses nothing.
fn is_unfilled(target: &TargetClaim) -> bool {
    !target.deleting && target.volume_name.is_none() && target.phase == ClaimPhase::Pending
}

/// True if the volume's `claimRef` refers to the target.
fn handed_over(transfer: &Rebind) -> bool {
    let target = transfer.target.present().map(TargetClaim::identity);
    let owner = transfer.volume.present().and_then(|v| v.claim_ref.as_ref());
    target.is_some_and(|target| owner.is_some_and(|owner| owner.is(&target)))
}

fn go_on(seen: &Observed, wanted: &Move, record: &Record) -> Plan {
    let transfer = protocol(seen, record);
    match rebind::step(&transfer) {
        Step::Unknown(why) => Plan::wait(seen, Why::unknown(&why)),
        Step::Wait { what, look_again_at } => Plan { look_again_at, ..Plan::running(seen, what.to_string()) },
        Step::Nudge { claim, at } => Plan::act(seen, Write::Nudge { claim, at }),
        Step::Moved => finish(seen, wanted, record, &transfer),
        // The preconditions are checked again: a pod may use the source by now.
        Step::HandOver { .. } if replaced(seen, record) => lost(seen, &transfer, &Impossible::SourceMissing),
        Step::HandOver { volume, to, at, .. } => {
            if let Err(why) = ready(seen, wanted) {
                return Plan::wait(seen, why);
            }
            let policy = seen.volume.present().and_then(|v| v.spec.as_ref()?.persistent_volume_reclaim_policy.clone());
            let policy = policy.filter(|policy| policy != RETAIN);
            Plan::act(seen, Write::HandOver { volume, to, policy, at })
        }
        Step::Impossible(why) => impossible(seen, wanted, &transfer, &why),
    }
}

const RETAIN: &str = "Retain";

fn impossible(seen: &Observed, wanted: &Move, transfer: &Rebind, why: &Impossible) -> Plan {
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

/// True if the DataVolume is not the recorded one.
fn replaced(seen: &Observed, record: &Record) -> bool {
    let there = match &seen.source_volume {
        Lookup::Present(volume) => volume.uid(),
        Lookup::Absent => None,
        Lookup::Unknown(_) => return false,
    };
    record.data_volume_uid.is_some() && record.data_volume_uid != there
}

/// Plans the failure of a transfer whose source or volume somebody has taken or deleted. A target without data is deleted first.
fn lost(seen: &Observed, transfer: &Rebind, why: &Impossible) -> Plan {
    if let Some(target) = transfer.target.present().filter(|t| is_unfilled(t))
        && !handed_over(transfer)
    {
        return Plan::act(seen, Write::DeleteClaim(target.exact.clone()));
    }
    let volume = seen.transfer.record.as_ref().map(|r| r.volume.clone()).unwrap_or_default();
    let message = format!(
        "What was to be moved has been taken away meanwhile: {why}. PersistentVolume {volume:?} is left as it is; where it still \
         exists, the data is there"
    );
    Plan::ends(seen, Phase::Error, Why::new(FAILED, message))
}

/// Plans the next step while there is no target claim.
fn without_target(seen: &Observed, wanted: &Move, transfer: &Rebind) -> Plan {
    let (source, volume) = match (&transfer.source, &transfer.volume) {
        (Lookup::Unknown(why), _) | (_, Lookup::Unknown(why)) => return Plan::wait(seen, Why::unknown(why)),
        (Lookup::Absent, _) => return lost(seen, transfer, &Impossible::SourceMissing),
        (_, Lookup::Absent) => return lost(seen, transfer, &Impossible::VolumeMissing),
        (Lookup::Present(source), Lookup::Present(volume)) => (source, volume),
    };
    match &volume.claim_ref {
        None => return lost(seen, transfer, &Impossible::VolumeUnclaimed),
        // The volume belongs to another claim, such as a target that had the volume and was deleted.
        Some(owner) if !owner.is(&source.identity()) => {
            return lost(seen, transfer, &Impossible::VolumeOfAnother(owner.clone()));
        }
        Some(_) => {}
    }
    if seen.transfer.record.as_ref().is_some_and(|record| replaced(seen, record)) {
        return lost(seen, transfer, &Impossible::SourceMissing);
    }
    let source = match ready(seen, wanted) {
        Ok(source) => source,
        Err(why) => return Plan::wait(seen, why),
    };
    match build::claim(&seen.transfer, wanted, source) {
        Some(claim) => Plan::act(seen, Write::CreateClaim(Box::new(claim))),
        None => Plan::wait(seen, not_bound(&wanted.source)),
    }
}

/// Plans the next step after the target has got the volume.
fn finish(seen: &Observed, wanted: &Move, record: &Record, transfer: &Rebind) -> Plan {
    // First, because Kubernetes needs a moment for it.
    let emptied = rebind::empty_source(transfer);
    if let Step::Nudge { claim, at } = emptied {
        return Plan::act(seen, Write::Nudge { claim, at });
    }
    if let Some(volume) = seen.volume.present()
        && let Some(policy) = object::annotation(&volume.metadata, keys::RECLAIM_POLICY)
    {
        let action = Write::RestorePolicy { volume: exact(&volume.metadata), policy: policy.to_owned() };
        return Plan::act(seen, action);
    }
    if let (Moved::DataVolume, Some(uid)) = (wanted.kind, &record.data_volume_uid)
        && let Some(plan) = finish_data_volume(seen, wanted, uid)
    {
        return plan;
    }
    match (&transfer.source, emptied) {
        (Lookup::Unknown(why), _) => Plan::wait(seen, Why::unknown(why)),
        (_, Step::Wait { what, look_again_at }) => Plan { look_again_at, ..Plan::running(seen, what.to_string()) },
        (Lookup::Present(source), _) if !source.deleting => Plan::act(seen, Write::DeleteClaim(source.exact.clone())),
        (Lookup::Present(_) | Lookup::Absent, _) => {
            let message = format!("{} {} is now {}", wanted.kind.as_str(), wanted.source, wanted.target);
            Plan::ends(seen, Phase::Complete, Why::new(COMPLETE, message))
        }
    }
}

/// Plans the creation of the new DataVolume, then the deletion of the old one. Returns `None` if both are done.
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
            return Some(Plan::act(seen, Write::CreateDataVolume(Box::new(new))));
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
    Some(Plan::act(seen, Write::DeleteDataVolume(exact(&old.metadata))))
}

/// Plans the next step of an ObjectTransfer that is being deleted.
fn dying(seen: &Observed) -> Plan {
    let Some(record) = &seen.transfer.record else {
        return Plan { action: Some(Write::Release), ..Plan::running(seen, "Nothing had begun") };
    };
    let transfer = protocol(seen, record);
    if handed_over(&transfer) {
        return living(seen);
    }
    match (&transfer.target, &transfer.volume) {
        (Lookup::Unknown(why), _) | (Lookup::Present(_), Lookup::Unknown(why)) => Plan::wait(seen, Why::unknown(why)),
        (Lookup::Present(target), Lookup::Present(_) | Lookup::Absent) if is_unfilled(target) => {
            Plan::act(seen, Write::DeleteClaim(target.exact.clone()))
        }
        (Lookup::Present(target), Lookup::Present(_) | Lookup::Absent) if !target.deleting => match &target.volume_name
        {
            Some(name) if *name == record.volume => {
                Plan::wait(seen, Why::unknown(&format!("PersistentVolume {name:?} has changed since it was seen")))
            }
            Some(_) | None => {
                Plan { action: Some(Write::Release), ..Plan::running(seen, "The target claim has another volume") }
            }
        },
        (Lookup::Present(_) | Lookup::Absent, _) => {
            Plan { action: Some(Write::Release), ..Plan::running(seen, "Nothing is left of the transfer") }
        }
    }
}

/// Annotation of Kubernetes on a volume that it bound by its own choice. Such a volume is released when its claim turns out to have another
/// volume; without the annotation it stays reserved.
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Returns the JSON merge patch of [`Write::HandOver`].
pub fn hand_over(volume: &ObjectVersion, to: &ClaimIdentity, policy: Option<&str>, at: Timestamp) -> Value {
    let mut patch = rebind::hand_over(volume, to, at);
    if let Some(annotations) = patch.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), Value::Null);
        if let Some(policy) = policy {
            annotations.insert(keys::RECLAIM_POLICY.to_owned(), json!(policy));
        }
    }
    if let Some(spec) = patch.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!(RETAIN));
    }
    patch
}

/// Returns the JSON merge patch of [`Write::RestorePolicy`].
pub fn restore_policy(volume: &ObjectVersion, policy: &str) -> Value {
    json!({
        "metadata": {
            "uid": volume.uid, "resourceVersion": volume.resource_version, "annotations": { keys::RECLAIM_POLICY: null },
        },
        "spec": { "persistentVolumeReclaimPolicy": policy },
    })
}
