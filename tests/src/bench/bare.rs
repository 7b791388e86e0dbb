//! What a clone takes when nobody helps: the storage's own means, used by a plain client that watches.
//!
//! Into another namespace a volume comes by a temporary claim: it is restored there, its PersistentVolume is handed to a claim in the other
//! namespace, and the temporary claim is deleted.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use common::{
    api::snapshot::{GROUP as SNAPSHOT_GROUP, VolumeSnapshot},
    quantity::Bytes,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::watch::{Watched, connect};
use crate::harness::{Disk, Named as _, Space};

/// Whose claims are to be filled by somebody else than the storage. Nobody serves it, smartclone included: a floor that smartclone has a part
/// in would be none.
const HELD_BACK_BY: &str = "measure.smartclone.dev";
const NUDGED: &str = "measure.smartclone.dev/nudged";
/// A claim that isn't bound so long after its volume was handed to it was overlooked by Kubernetes.
const NUDGE_AFTER: Duration = Duration::from_secs(1);

/// What a claim asks for.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// The StorageClass, and the VolumeSnapshotClass of the same name.
    pub class: &'a str,
    /// The size.
    pub size: Bytes,
    /// A raw device instead of a file system.
    pub block: bool,
}

impl Shape<'_> {
    fn claim(self, name: &str, from: (&str, &Value)) -> Result<PersistentVolumeClaim> {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": self.class,
            "volumeMode": if self.block { "Block" } else { "Filesystem" },
            "resources": {"requests": {"storage": self.size.to_string()}},
        });
        spec[from.0] = from.1.clone();
        Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
    }
}

/// A client with its watches open.
pub struct Bare {
    /// In the source's namespace.
    pub snapshots: Watched<VolumeSnapshot>,
    /// In the source's namespace.
    pub claims: Watched<PersistentVolumeClaim>,
    elsewhere: Option<Elsewhere>,
    nudges: AtomicUsize,
}

/// What it takes to bring a volume into another namespace.
struct Elsewhere {
    namespace: String,
    claims: Watched<PersistentVolumeClaim>,
    volumes: Watched<PersistentVolume>,
}

impl Bare {
    /// Opens the watches, and so many connections for the requests to come. The clones are made in `to`.
    pub async fn open(from: &Space, to: &Space, connections: usize, patience: Duration) -> Result<Self> {
        let elsewhere = if from.name() == to.name() {
            None
        } else {
            let claims = Watched::open(to.api(), patience).await?;
            let volumes = Watched::open(to.everywhere(), patience).await?;
            Some(Elsewhere { namespace: to.name().to_owned(), claims, volumes })
        };
        let claims = Watched::open(from.api::<PersistentVolumeClaim>(), patience).await?;
        let snapshots = Watched::open(from.api(), patience).await?;
        connect(claims.api(), connections).await?;
        Ok(Self { snapshots, claims, elsewhere, nudges: AtomicUsize::new(0) })
    }

    /// Where the clones are.
    pub fn clones(&self) -> &Api<PersistentVolumeClaim> {
        self.elsewhere.as_ref().map_or(self.claims.api(), |elsewhere| elsewhere.claims.api())
    }

    /// How many claims Kubernetes had to be reminded of.
    pub fn nudges(&self) -> usize {
        self.nudges.load(Ordering::Relaxed)
    }

    /// Asks for a snapshot.
    pub async fn snapshot(&self, source: &Disk, name: &str, class: &str) -> Result<()> {
        let snapshot = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "source": {"persistentVolumeClaimName": source.name()},
                "volumeSnapshotClassName": class,
            },
        }))?;
        self.snapshots.api().create(&PostParams::default(), &snapshot).await.context("create the snapshot")?;
        Ok(())
    }

    /// Makes one clone of what a snapshot holds, as soon as that is ready. Returns when the clone is bound; a temporary claim that there was
    /// on the way is still to be removed.
    pub async fn make(&self, name: &str, snapshot: &str, shape: Shape<'_>) -> Result<Option<Temporary>> {
        let Some(elsewhere) = &self.elsewhere else {
            self.restore(name, snapshot, shape).await?;
            return Ok(None);
        };
        let held_back = json!({"apiGroup": HELD_BACK_BY, "kind": "Nothing", "name": "nothing"});
        let target = shape.claim(name, ("dataSourceRef", &held_back))?;
        let temporary = format!("tmp-{name}");
        let (target, restored) = tokio::try_join!(
            async { elsewhere.claims.api().create(&PostParams::default(), &target).await.context("create the claim") },
            self.restore(&temporary, snapshot, shape),
        )?;
        self.hand_over(elsewhere, &restored, &target).await?;
        Ok(Some(Temporary(restored)))
    }

    /// Deletes a temporary claim and waits until it is gone.
    pub async fn remove(&self, Temporary(claim): Temporary) -> Result<()> {
        let same = Preconditions { uid: claim.uid(), resource_version: None };
        let name = claim.name_any();
        self.claims.api().delete(&name, &DeleteParams::default().preconditions(same)).await?;
        self.claims.gone(&name).await
    }

    /// A claim that is made before its snapshot is ready costs a back-off of the provisioner's.
    async fn restore(&self, name: &str, snapshot: &str, shape: Shape<'_>) -> Result<Arc<PersistentVolumeClaim>> {
        let from = json!({"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": snapshot});
        let claim = shape.claim(name, ("dataSource", &from))?;
        let ready = |it: &VolumeSnapshot| it.status.as_ref().and_then(|status| status.ready_to_use) == Some(true);
        self.snapshots.until(snapshot, |it| Ok(ready(it))).await?;
        self.claims.api().create(&PostParams::default(), &claim).await.context("create the restored claim")?;
        self.claims.until(name, |claim| Ok(is_bound(claim))).await
    }

    async fn hand_over(
        &self,
        elsewhere: &Elsewhere,
        from: &PersistentVolumeClaim,
        to: &PersistentVolumeClaim,
    ) -> Result<()> {
        let volume =
            from.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).context("a bound claim names it")?;
        let mut outdated = None;
        loop {
            let found = elsewhere.volumes.until(volume, |it| {
                Ok(is_volume_of(it, from) && (outdated.is_none() || it.resource_version() != outdated))
            });
            let found = found.await?;
            let patch = json!({
                "metadata": {"uid": found.uid(), "resourceVersion": found.resource_version()},
                "spec": {"claimRef": {
                    "namespace": elsewhere.namespace, "name": to.name_any(), "uid": to.uid(),
                    // Was the other claim's.
                    "resourceVersion": null,
                }},
            });
            let params = PatchParams::default();
            match elsewhere.volumes.api().patch(volume, &params, &Patch::Merge(patch)).await {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 409 => outdated = found.resource_version(),
                Err(error) => return Err(error).context("hand the volume over"),
            }
        }
        let name = to.name_any();
        let mut bound = pin!(elsewhere.claims.until(&name, |claim| Ok(is_bound(claim))));
        loop {
            if let Ok(bound) = timeout(NUDGE_AFTER, &mut bound).await {
                return bound.map(drop);
            }
            let nudge = self.nudges.fetch_add(1, Ordering::Relaxed).to_string();
            let patch = Patch::Merge(json!({"metadata": {"annotations": {NUDGED: nudge}}}));
            elsewhere.claims.api().patch(&name, &PatchParams::default(), &patch).await.context("nudge the claim")?;
        }
    }
}

/// A claim that has lost its volume to another one.
#[must_use = "it is to be removed"]
pub struct Temporary(Arc<PersistentVolumeClaim>);

/// True if a claim has its volume.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether Kubernetes has finished to bind a volume to this claim.
fn is_volume_of(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let owner = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    phase == Some("Bound") && owner.and_then(|owner| owner.uid.as_ref()) == claim.metadata.uid.as_ref()
}
