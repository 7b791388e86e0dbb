//! What should not be there any more while the clones themselves are still there.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use common::api::snapshot::{VolumeSnapshot, VolumeSnapshotContent};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt as _, api::ListParams, runtime::watcher::Config};
use reference_csi::inventory::inventory;

use crate::{
    harness::{Space, wait},
    lab::{
        command::{Look, until},
        storage::DRIVERS,
    },
};

/// Claims as `namespace/name`.
pub type Claims = BTreeSet<String>;

/// Waits until there is nothing in these namespaces, and of theirs outside of them, but the wanted claims and their volumes; returns what
/// is there nevertheless after `patience`, one line each.
pub async fn besides(spaces: &[&Space], wanted: &Claims, patience: Duration) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let result = until("nothing to be left over", patience, async || {
        left = look(spaces, wanted).await?;
        Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?}")) })
    })
    .await;
    if left.is_empty() {
        result?;
    }
    Ok(left)
}

/// Waits until no volume belongs to these namespaces but those of the wanted claims.
pub async fn volumes_gone(spaces: &[&Space], wanted: &Claims) -> Result<()> {
    let Some(space) = spaces.first() else { return Ok(()) };
    let volumes: Api<PersistentVolume> = space.everywhere();
    wait::all(&volumes, Config::default(), "the clones' volumes to be gone", |volumes| {
        let owners = volumes.iter().filter_map(|volume| owner(volume, spaces));
        let left = owners.filter(|owner| !wanted.contains(owner)).count();
        if left == 0 { Look::Break(()) } else { Look::Continue(format!("{left} are there")) }
    })
    .await
}

async fn look(spaces: &[&Space], wanted: &Claims) -> Result<Vec<String>> {
    let (all, mut left) = (ListParams::default(), Vec::new());
    // Without any namespace there is nothing to look at.
    let Some(first) = spaces.first() else { return Ok(left) };
    for space in spaces {
        let full = |name: String| format!("{}/{name}", space.name());
        for claim in space.api::<PersistentVolumeClaim>().list(&all).await? {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
            let name = full(claim.name_any());
            if !wanted.contains(&name) || phase != "Bound" {
                left.push(format!("PersistentVolumeClaim {name} {phase}"));
            }
        }
        for snapshot in space.api::<VolumeSnapshot>().list(&all).await? {
            left.push(format!("VolumeSnapshot {}", full(snapshot.name_any())));
        }
        for pod in space.api::<Pod>().list(&all).await? {
            left.push(format!("Pod {}", full(pod.name_any())));
        }
    }
    let volumes = first.everywhere::<PersistentVolume>().list(&all).await?.items;
    for volume in &volumes {
        let Some(owner) = owner(volume, spaces) else { continue };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if !wanted.contains(&owner) || phase != "Bound" {
            left.push(format!("PersistentVolume {} of {owner} {phase}", volume.name_any()));
        }
    }
    let contents = first.everywhere::<VolumeSnapshotContent>().list(&all).await?.items;
    for content in &contents {
        let namespace = content.spec.volume_snapshot_ref.namespace.as_deref();
        if spaces.iter().any(|space| Some(space.name()) == namespace) {
            left.push(format!("VolumeSnapshotContent {}", content.name_any()));
        }
    }
    // What nobody in the API knows of.
    let volumes: BTreeSet<_> =
        volumes.iter().filter_map(|volume| Some(volume.spec.as_ref()?.csi.as_ref()?.volume_handle.as_str())).collect();
    let snapshots: BTreeSet<_> =
        contents.iter().filter_map(|content| content.status.as_ref()?.snapshot_handle.as_deref()).collect();
    for driver in DRIVERS {
        let held = inventory(&first.lab()?.driver(driver).data_dir())?;
        let unknown = held.volumes.iter().filter(|volume| !volumes.contains(volume.id.as_str()));
        left.extend(unknown.map(|volume| format!("volume {} of driver {driver}", volume.id)));
        let unknown = held.snapshots.iter().filter(|snapshot| !snapshots.contains(snapshot.id.as_str()));
        left.extend(unknown.map(|snapshot| format!("snapshot {} of driver {driver}", snapshot.id)));
    }
    Ok(left)
}

/// The claim that a volume belongs to, if that is in one of these namespaces.
fn owner(volume: &PersistentVolume, spaces: &[&Space]) -> Option<String> {
    let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let namespace = claim.namespace.as_deref()?;
    let name = claim.name.as_deref().unwrap_or_default();
    spaces.iter().any(|space| space.name() == namespace).then(|| format!("{namespace}/{name}"))
}
