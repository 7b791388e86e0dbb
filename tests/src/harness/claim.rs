//! Claims to clone from.

use anyhow::Result;
use common::quantity::Bytes;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, ResourceQuota};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::{Value, json};

use super::{
    Named, Space, gi,
    pod::Access,
    wait::{self, Look},
};

/// A claim that smartclone did not create.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(super) space: Space,
    name: String,
    uid: String,
    /// The requested size.
    pub size: Bytes,
}

impl Disk {
    /// The UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

impl Named for Disk {
    fn name(&self) -> &str {
        &self.name
    }
}

/// A claim to be created. Defaults are 1 GiB, a file system, and the default StorageClass.
#[derive(Debug)]
#[must_use = "it is made by `filled` or `blank`"]
pub struct DiskRequest<'a> {
    space: &'a Space,
    name: String,
    size: Bytes,
    spec: Value,
}

impl Space {
    /// Begins a claim, see [`DiskRequest`].
    pub fn source(&self, name: &str) -> DiskRequest<'_> {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"});
        DiskRequest { space: self, name: name.to_owned(), size: gi(1), spec }
    }

    /// Limits the total storage requests of the namespace's claims; may be called again.
    pub async fn quota(&self, storage: Bytes) -> Result<()> {
        self.quota_of("requests.storage", &storage.to_string()).await
    }

    /// Limits `resource` (such as `count/volumesnapshots.snapshot.storage.k8s.io`) of the namespace; may be called again.
    pub async fn quota_of(&self, resource: &str, most: &str) -> Result<()> {
        let name = resource.replace('/', ".");
        let quota = json!({
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": {resource: most}}
        });
        let api: Api<ResourceQuota> = self.api();
        self.apply(&api, &name, &quota).await?;
        wait::object(&api, &name, "the quota to be in force", |quota| {
            let status = quota.and_then(|quota| quota.status.as_ref()).and_then(|status| status.hard.as_ref());
            match status.and_then(|hard| hard.get(resource)) {
                Some(hard) if hard.0 == most => Look::Break(()),
                other => Look::Continue(format!("it is {other:?}")),
            }
        })
        .await
    }
}

impl DiskRequest<'_> {
    /// Sets the size.
    pub fn size(mut self, size: Bytes) -> Self {
        self.size = size;
        self
    }

    /// Makes it a raw block device.
    pub fn block(mut self) -> Self {
        self.spec["volumeMode"] = json!("Block");
        self
    }

    /// Sets the StorageClass.
    pub fn class(mut self, class: &str) -> Self {
        self.spec["storageClassName"] = json!(class);
        self
    }

    /// Creates the claim with the content of another one in the namespace, by a clone of the storage driver.
    pub async fn with_content_of(mut self, disk: &Disk) -> Result<Disk> {
        self.spec["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": disk.name});
        self.blank().await
    }

    /// Creates the claim and waits for its volume.
    pub async fn blank(mut self) -> Result<Disk> {
        self.spec["resources"] = json!({"requests": {"storage": self.size.to_string()}});
        let claim = serde_json::from_value(json!({"metadata": {"name": self.name}, "spec": self.spec}))?;
        let api: Api<PersistentVolumeClaim> = self.space.api();
        let created = api.create(&PostParams::default(), &claim).await?;
        self.space.bound(self.name.as_str()).await?;
        Ok(Disk { space: self.space.clone(), uid: created.uid().unwrap_or_default(), name: self.name, size: self.size })
    }

    /// Creates the claim and writes this amount of data to it, always the same.
    pub async fn filled(self, bytes: Bytes) -> Result<Disk> {
        let space = self.space;
        let disk = self.blank().await?;
        let bytes = bytes.0.to_string();
        Box::pin(space.tools(&disk, Access::Write, &["fill", "--path", "{}", "--bytes", &bytes])).await?;
        Ok(disk)
    }
}

impl Space {
    /// The capacity in the status of a claim, once it has its volume.
    pub async fn capacity(&self, claim: &(impl Named + ?Sized)) -> Result<Option<Bytes>> {
        let status = self.bound(claim).await?.status;
        Ok(status.and_then(|status| Bytes::of(status.capacity?.get("storage")?).ok()))
    }

    /// Waits until a claim of this name exists.
    pub async fn claimed(&self, claim: &(impl Named + ?Sized)) -> Result<()> {
        wait::object(&self.api::<PersistentVolumeClaim>(), claim.name(), &format!("claim {}", claim.name()), |found| {
            found.map_or(Look::Continue("there is none".to_owned()), |_| Look::Break(()))
        })
        .await
    }

    /// Waits until a claim has its volume. Returns it.
    pub async fn bound(&self, claim: &(impl Named + ?Sized)) -> Result<PersistentVolumeClaim> {
        let api: Api<PersistentVolumeClaim> = self.api();
        let name = claim.name();
        wait::object(&api, name, &format!("claim {name} to be bound"), |claim| {
            let phase = claim.and_then(|claim| claim.status.as_ref()?.phase.as_deref());
            match (claim, phase) {
                (Some(claim), Some("Bound")) => Look::Break(claim.clone()),
                (_, phase) => Look::Continue(format!("it is {phase:?}")),
            }
        })
        .await
    }
}
