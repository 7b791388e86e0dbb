//! VolumeSnapshots of users.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use common::{
    api::snapshot::VolumeSnapshot,
    clone::shared_snapshot::{Members, SharedSnapshot},
};
use futures::StreamExt as _;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher::Config,
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    Disk, Named, Space,
    wait::{self, Look},
};

/// A VolumeSnapshot that smartclone did not create.
#[derive(Debug, Clone)]
pub struct Snapshot {
    api: Api<VolumeSnapshot>,
    created: VolumeSnapshot,
    name: String,
}

impl Named for Snapshot {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_snapshot(&self) -> bool {
        true
    }
}

impl Snapshot {
    /// Waits until it can be restored.
    pub async fn ready(self) -> Result<Self> {
        wait::object(&self.api, &self.name, &format!("snapshot {} to be ready", self.name), |found| {
            let status = found.and_then(|snapshot| snapshot.status.as_ref());
            match status.and_then(|status| status.ready_to_use) {
                Some(true) => Look::Break(()),
                other => Look::Continue(format!("ready: {other:?}, {:?}", status.and_then(|it| it.error.as_ref()))),
            }
        })
        .await?;
        Ok(self)
    }

    /// Checks that nobody has deleted, replaced or changed it, its labels or its owners.
    pub async fn is_untouched(&self) -> Result<()> {
        let now = self.api.get(&self.name).await?;
        let labels_and_owners = |it: &VolumeSnapshot| (it.labels().clone(), it.owner_references().to_vec());
        ensure!(
            now.uid() == self.created.uid()
                && now.metadata.deletion_timestamp.is_none()
                && now.spec == self.created.spec
                && labels_and_owners(&now) == labels_and_owners(&self.created)
                && now.annotations().keys().all(|key| !key.contains("smartclone") && !key.contains("kubevirt")),
            "{now:?}"
        );
        Ok(())
    }
}

impl Space {
    /// Creates a snapshot of a disk with the VolumeSnapshotClass `class`, and does not wait for it.
    pub async fn snapshot(&self, name: &str, disk: &Disk, class: &str) -> Result<Snapshot> {
        let snapshot = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"volumeSnapshotClassName": class, "source": {"persistentVolumeClaimName": disk.name()}},
        }))?;
        let api: Api<VolumeSnapshot> = self.api();
        let created = api.create(&PostParams::default(), &snapshot).await?;
        Ok(Snapshot { api, created, name: name.to_owned() })
    }
}

/// The names of all VolumeSnapshots that a namespace has had since the recording began.
#[derive(Debug, Clone)]
pub struct Taken(watch::Receiver<BTreeSet<String>>);

impl Taken {
    /// The names so far.
    pub fn so_far(&self) -> BTreeSet<String> {
        self.0.borrow().clone()
    }
}

impl Space {
    /// Begins to record the VolumeSnapshots of the namespace.
    pub async fn snapshots_taken(&self) -> Result<Taken> {
        let api: Api<VolumeSnapshot> = self.api();
        let list = api.list(&ListParams::default()).await?;
        let (teller, taken) = watch::channel(BTreeSet::new());
        let since = list.metadata.resource_version.unwrap_or_default();
        let events = api.watch(&WatchParams::default(), &since).await?;
        self.beside(async move {
            let mut events = events.boxed();
            while let Some(Ok(event)) = events.next().await {
                if let WatchEvent::Added(snapshot) = event {
                    teller.send_modify(|names| names.extend([snapshot.name_any()]));
                }
            }
        });
        Ok(Taken(taken))
    }

    /// Waits for a temporary snapshot of a source in this namespace whose members match. A status mentions it only if there is time to.
    pub async fn snapshot_for(&self, wanted: impl Fn(&Members) -> bool) -> Result<SharedSnapshot> {
        wait::all(&self.api::<VolumeSnapshot>(), Config::default(), "a temporary snapshot", |snapshots| {
            let known: Vec<_> = snapshots.iter().map(|snapshot| SharedSnapshot::of(snapshot)).collect();
            match known.iter().find(|shared| shared.ours && wanted(&shared.members)) {
                Some(found) => Look::Break(found.clone()),
                None => Look::Continue(format!("there are {known:?}")),
            }
        })
        .await
    }
}
