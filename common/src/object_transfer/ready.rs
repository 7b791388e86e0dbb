//! Preconditions of a transfer, checked before the volume is taken from its source, and the message for each one that is not met.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::ResourceExt;

use super::{Move, Moved, Observed, Why, build, ours};
use crate::{
    api::{DataVolume, Phase},
    keys,
    lookup::Lookup,
    object::{self, ClaimPhase, ObjectName},
    pods,
    rebind::{SourceClaim, Volume},
};

/// Finalizers that are on a claim while a snapshot or a clone of it is being created.
pub(super) const BUSY: [&str; 2] =
    ["provisioner.storage.kubernetes.io/cloning-protection", "snapshot.storage.kubernetes.io/pvc-as-source-protection"];

/// Returns the source if its volume may be taken and the target's names are free.
pub(super) fn ready<'a>(seen: &'a Observed, wanted: &Move) -> Result<&'a PersistentVolumeClaim, Why> {
    let source = ready_source(seen, wanted)?;
    let moves = match wanted.kind {
        Moved::Claim => &source.metadata,
        Moved::DataVolume => &ready_data_volume(seen, wanted)?.metadata,
    };
    required(&wanted.required, moves)?;
    unowned(seen, wanted, source)?;
    unused(seen, wanted, source)?;
    free(&seen.target, "PersistentVolumeClaim", seen, wanted)?;
    free(&seen.target_volume, "DataVolume", seen, wanted)?;
    Ok(source)
}

/// Returns the object if it exists and is not being deleted.
fn staying<'a, K: ResourceExt>(there: &'a Lookup<K>, kind: &str, name: &ObjectName) -> Result<&'a K, Why> {
    match there {
        Lookup::Unknown(why) => Err(Why::unknown(why)),
        Lookup::Absent => {
            Err(Why::new("SourceMissing", format!("{kind} {name} does not exist; the transfer begins when it appears")))
        }
        Lookup::Present(object) if object.meta().deletion_timestamp.is_some() => {
            Err(Why::new("ErrResourceMarkedForDeletion", format!("{kind} {name} is being deleted")))
        }
        Lookup::Present(object) => Ok(object),
    }
}

fn ready_source<'a>(seen: &'a Observed, wanted: &Move) -> Result<&'a PersistentVolumeClaim, Why> {
    let name = &wanted.source;
    let claim = staying(&seen.source, "PersistentVolumeClaim", name)?;
    let read = SourceClaim::of(claim);
    if read.phase != ClaimPhase::Bound || read.volume_name.is_none() || build::capacity(claim).is_none() {
        return Err(not_bound(name));
    }
    match &seen.volume {
        Lookup::Unknown(why) => return Err(Why::unknown(why)),
        Lookup::Absent => return Err(not_bound(name)),
        Lookup::Present(volume) => {
            let volume = Volume::of(volume);
            // Claim and volume have to refer to each other (CVE-2019-11255).
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
    let volume = staying(&seen.source_volume, "DataVolume", name)?;
    let phase = volume.status.as_ref().map(|s| s.phase).unwrap_or_default();
    if phase != Phase::Succeeded {
        let message =
            format!("DataVolume {name} is not Succeeded but {:?}; the transfer begins when it is", phase.as_str());
        return Err(Why::new("SourceNotReady", message));
    }
    Ok(volume)
}

fn required(wanted: &BTreeMap<String, String>, meta: &ObjectMeta) -> Result<(), Why> {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(key, value)| object::annotation(meta, key) != Some(value))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Why::new("RequiredAnnotations", format!("The source lacks the required annotations {}", missing.join(", "))))
}

/// Refuses a source that has an owner: the owner would recreate it, or wait for it forever.
fn unowned(seen: &Observed, wanted: &Move, source: &PersistentVolumeClaim) -> Result<(), Why> {
    let refuse = |what: &str, owner: String, cure: &str| {
        Err(Why::new("SourceOwned", format!("{what} {} belongs to {owner}; {cure}", wanted.source)))
    };
    let said = |owner: &OwnerReference| format!("{} {:?}", owner.kind, owner.name);
    if source.labels().contains_key(keys::OWNED_BY_UID) {
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
            if let Some(owner) = object::controller(&volume.metadata) {
                return refuse("DataVolume", said(owner), "take it off that one first");
            }
        }
        (_, Lookup::Absent) => {}
    }
    match object::controller(&source.metadata) {
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

/// Lists the first three pods and the number of the others.
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

pub(super) fn not_bound(source: &ObjectName) -> Why {
    let message =
        format!("PersistentVolumeClaim {source} has no volume yet; kubectl describe pvc tells what it waits for");
    Why::new("SourceNotBound", message)
}

pub(super) fn taken(kind: &str, target: &ObjectName) -> Why {
    Why::new("TargetExists", format!("There is a {kind} {target} already; the transfer goes on when it is deleted"))
}

/// Returns the names of the pods that use `claim`, including smartclone's own pods that copy from it or to it: none of them may continue
/// after the move.
pub fn users_of<'a>(claim: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<String> {
    pods::users_of(claim, pods, |_| false).into_iter().map(|user| user.pod).collect()
}
