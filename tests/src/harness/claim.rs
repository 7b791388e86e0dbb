//! Disks to clone from.

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

/// A claim that is not the work of smartclone.
#[derive(Debug, Clone)]
pub struct Disk {
    pub(super) space: Space,
    name: String,
    uid: String,
    /// The size that was asked for.
    pub size: Bytes,
}

impl Disk {
    /// Its identity.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}

impl Named for Disk {
    fn name(&self) -> &str {
        &self.name
    }
}

/// A disk to be. What isn't said is 1 GiB, a file system, and of the default StorageClass.
#[derive(Debug)]
#[must_use = "it is made by `filled` or `blank`"]
pub struct DiskRequest<'a> {
    space: &'a Space,
    name: String,
    size: Bytes,
    spec: Value,
}

impl Space {
    /// A disk to be, see [`DiskRequest`].
    pub fn source(&self, name: &str) -> DiskRequest<'_> {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem"});
        DiskRequest { space: self, name: name.to_owned(), size: gi(1), spec }
    }

    /// Limits what the namespace's claims may ask for together; may be called again.
    pub async fn quota(&self, storage: Bytes) -> Result<()> {
        self.quota_of("requests.storage", &storage.to_string()).await
    }

    /// Limits the namespace to so much of `resource` (such as `count/volumesnapshots.snapshot.storage.k8s.io`); may be called again.
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
    /// Of this size.
    pub fn size(mut self, size: Bytes) -> Self {
        self.size = size;
        self
    }

    /// A raw device.
    pub fn block(mut self) -> Self {
        self.spec["volumeMode"] = json!("Block");
        self
    }

    /// Of this StorageClass.
    pub fn class(mut self, class: &str) -> Self {
        self.spec["storageClassName"] = json!(class);
        self
    }

    /// With the content of another disk of the namespace from its first moment on, by the storage driver's own means.
    pub async fn with_content_of(mut self, disk: &Disk) -> Result<Disk> {
        self.spec["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": disk.name});
        self.blank().await
    }

    /// Makes the claim and waits for its volume.
    pub async fn blank(mut self) -> Result<Disk> {
        self.spec["resources"] = json!({"requests": {"storage": self.size.to_string()}});
        let claim = serde_json::from_value(json!({"metadata": {"name": self.name}, "spec": self.spec}))?;
        let api: Api<PersistentVolumeClaim> = self.space.api();
        let created = api.create(&PostParams::default(), &claim).await?;
        self.space.bound(self.name.as_str()).await?;
        Ok(Disk { space: self.space.clone(), uid: created.uid().unwrap_or_default(), name: self.name, size: self.size })
    }

    /// Makes the claim and writes so many bytes of data to it, always the same ones.
    pub async fn filled(self, bytes: Bytes) -> Result<Disk> {
        let space = self.space;
        let disk = self.blank().await?;
        let bytes = bytes.0.to_string();
        Box::pin(space.tools(&disk, Access::Write, &["fill", "--path", "{}", "--bytes", &bytes])).await?;
        Ok(disk)
    }
}

impl Space {
    /// What the API says that a claim has, once it has its volume.
    pub async fn capacity(&self, claim: &(impl Named + ?Sized)) -> Result<Option<Bytes>> {
        let status = self.bound(claim).await?.status;
        Ok(status.and_then(|status| Bytes::of(status.capacity?.get("storage")?).ok()))
    }

    /// Waits until there is a claim of this name.
    pub async fn claimed(&self, claim: &(impl Named + ?Sized)) -> Result<()> {
        wait::object(&self.api::<PersistentVolumeClaim>(), claim.name(), &format!("claim {}", claim.name()), |found| {
            found.map_or(Look::Continue("there is none".to_owned()), |_| Look::Break(()))
        })
        .await
    }

    /// Waits until a claim has its volume; returns it.
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
