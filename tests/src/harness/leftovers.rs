//! Leftover objects, which tests must not leave behind.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail};
use common::{
    api::snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    keys,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt as _, runtime::watcher::Config};
use reference_csi::{inventory::inventory, store::Record};

use super::{
    Cluster, Named, Space,
    wait::{self, Kind, Look},
};
use crate::lab::{command::until, storage::DRIVERS};

/// Keys that the sidecars add to the parameters of volumes and snapshots (`--extra-create-metadata`).
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const SNAPSHOT_NAMESPACE: &str = "csi.storage.k8s.io/volumesnapshot/namespace";
const SNAPSHOT_NAME: &str = "csi.storage.k8s.io/volumesnapshot/name";

impl Space {
    /// Waits until the namespace has only these claims and snapshots, and no pods of smartclone; until only these claims' volumes and these
    /// snapshots' contents exist in the cluster; and until the storage drivers have nothing else of the namespace.
    pub async fn nothing_left_but(&self, named: &[&dyn Named]) -> Result<()> {
        let of_kind = |snapshots: bool| named.iter().filter(move |it| it.is_snapshot() == snapshots);
        let kept: BTreeSet<_> = of_kind(true).map(|it| it.name().to_owned()).collect();
        let named: BTreeSet<_> = of_kind(false).map(|it| it.name().to_owned()).collect();
        let none = BTreeSet::new();
        self.only::<PersistentVolumeClaim>(&self.api(), &named, |claim| Some(claim.name_any())).await?;
        self.only::<VolumeSnapshot>(&self.api(), &kept, |snapshot| Some(snapshot.name_any())).await?;
        let ours = |pod: &Pod| pod.labels().contains_key(keys::OWNED_BY_UID).then(|| pod.name_any());
        self.only::<Pod>(&self.api(), &none, ours).await?;
        self.only::<PersistentVolume>(&self.everywhere(), &named, |volume| {
            let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
            (claim.namespace.as_deref() == Some(self.name())).then(|| claim.name.clone().unwrap_or_default())
        })
        .await?;
        self.only::<VolumeSnapshotContent>(&self.everywhere(), &kept, |content| {
            let snapshot = &content.spec.volume_snapshot_ref;
            (snapshot.namespace.as_deref() == Some(self.name())).then(|| snapshot.name.clone().unwrap_or_default())
        })
        .await?;
        self.only_in_the_drivers(&kept).await
    }

    /// Waits until the claims that `claim` finds in the objects of a kind are exactly the given ones.
    async fn only<K: Kind>(
        &self,
        api: &Api<K>,
        named: &BTreeSet<String>,
        claim: impl Fn(&K) -> Option<String>,
    ) -> Result<()> {
        let what = format!("no {} to be left but of {named:?}", K::kind(&()));
        wait::all(api, Config::default(), &what, |objects| {
            let found: Vec<_> = objects.iter().filter_map(|object| claim(object)).collect();
            let as_wanted = found.len() == named.len() && found.iter().all(|name| named.contains(name));
            if as_wanted { Look::Break(()) } else { Look::Continue(format!("there are {found:?}")) }
        })
        .await
    }

    /// The drivers are checked last, and only in the lab: they are done when the objects in the API are gone, except for volumes that
    /// kubelet unmounts later.
    ///
    /// They know the claim for which a volume was created, which may have changed: the PersistentVolume names the current one.
    async fn only_in_the_drivers(&self, kept: &BTreeSet<String>) -> Result<()> {
        let Ok(lab) = self.lab() else { return Ok(()) };
        until("the storage drivers to hold nothing else", Duration::from_secs(30), async || {
            let mut left = Vec::new();
            let volumes: Api<PersistentVolume> = self.everywhere();
            let volumes = volumes.list(&kube::api::ListParams::default()).await?;
            let handle = |volume: &PersistentVolume| Some(volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone());
            let known: BTreeSet<_> = volumes.items.iter().filter_map(handle).collect();
            for class in DRIVERS {
                let found = inventory(&lab.driver(class).data_dir())?;
                let devices = |id: &str| {
                    let of_it = found.loop_devices.iter().filter(|it| it.backing_file.to_string_lossy().contains(id));
                    of_it.map(|it| it.device.display().to_string()).collect::<Vec<_>>()
                };
                for volume in &found.volumes {
                    let of = |key: &str| volume.parameters.get(key).map(String::as_str).unwrap_or_default();
                    if of(CLAIM_NAMESPACE) == self.name() && !known.contains(volume.id()) {
                        left.push(format!("volume {} of {} {:?}", volume.id(), of(CLAIM_NAME), devices(volume.id())));
                    }
                }
                for snapshot in &found.snapshots {
                    let of = |key: &str| snapshot.parameters.get(key).map(String::as_str).unwrap_or_default();
                    if of(SNAPSHOT_NAMESPACE) == self.name() && !kept.contains(of(SNAPSHOT_NAME)) {
                        left.push(format!("snapshot {}", snapshot.id()));
                    }
                }
            }
            Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("there are {left:?}")) })
        })
        .await
    }
}

/// Everything that volumes leave on the cluster and the machine, one line each.
pub async fn of_the_cluster(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let client = cluster.client()?;
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, name: String| found.insert(format!("{kind} {name}"));
    let full = |namespace: Option<String>, name: String| format!("{}/{name}", namespace.unwrap_or_default());
    for it in Api::<PersistentVolumeClaim>::all(client.clone()).list(&kube::api::ListParams::default()).await? {
        add("PersistentVolumeClaim", full(it.namespace(), it.name_any()));
    }
    for it in Api::<PersistentVolume>::all(client.clone()).list(&kube::api::ListParams::default()).await? {
        add("PersistentVolume", it.name_any());
    }
    for it in Api::<VolumeSnapshot>::all(client.clone()).list(&kube::api::ListParams::default()).await? {
        add("VolumeSnapshot", full(it.namespace(), it.name_any()));
    }
    for it in Api::<VolumeSnapshotContent>::all(client.clone()).list(&kube::api::ListParams::default()).await? {
        add("VolumeSnapshotContent", it.name_any());
    }
    let movers = kube::api::ListParams::default().labels(keys::OWNED_BY_UID);
    for it in Api::<Pod>::all(client).list(&movers).await? {
        add("Pod", full(it.namespace(), it.name_any()));
    }
    // Other clusters are checked through their API only.
    let Ok(lab) = cluster.lab() else { return Ok(found) };
    for class in DRIVERS {
        let held = inventory(&lab.driver(class).data_dir())?;
        for it in held.volumes {
            add("volume of the driver", it.id);
        }
        for it in held.snapshots {
            add("snapshot of the driver", it.id);
        }
        for it in held.stray {
            add("stray file of the driver", it.display().to_string());
        }
        for it in held.loop_devices {
            add("loop device", it.backing_file.display().to_string());
        }
    }
    for mount in lab.volume_mounts()? {
        add("mount", mount.display().to_string());
    }
    Ok(found)
}

/// Waits until the cluster and the machine have nothing that is not in `before`.
pub async fn nothing_new_since(cluster: &Cluster, before: &BTreeSet<String>) -> Result<()> {
    until("nothing to be left over", Duration::from_mins(1), async || {
        let now = of_the_cluster(cluster).await?;
        let new: Vec<_> = now.difference(before).collect();
        Ok(if new.is_empty() { Look::Break(()) } else { Look::Continue(format!("left over: {new:#?}")) })
    })
    .await
    .or_else(|error| bail!("{error:#}"))
}
