//! Claims of users that are populated without a DataVolume; and DataSources.

use anyhow::{Context as _, Result, bail, ensure};
use common::{
    api::{DataSource, VolumeCloneSource},
    keys,
    quantity::Bytes,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde_json::{Value, json};

use super::{
    Denial, Disk, Named, Space,
    clone::Answer,
    gi,
    wait::{self, Look},
};

/// A claim to be created. Defaults are 1 GiB, a file system, and the default StorageClass.
#[derive(Debug)]
#[must_use = "it is made by `made`"]
pub struct ClaimRequest<'a> {
    space: &'a Space,
    object: Value,
    user: Option<String>,
}

impl Space {
    /// Creates a VolumeCloneSource for a claim or a snapshot of this namespace.
    pub async fn clone_source(&self, name: &str, of: &(impl Named + ?Sized)) -> Result<()> {
        let source = if of.is_snapshot() {
            json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": of.name()})
        } else {
            json!({"kind": "PersistentVolumeClaim", "name": of.name()})
        };
        let object = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "VolumeCloneSource", "metadata": {"name": name},
            "spec": {"source": source},
        });
        self.apply(&self.api::<VolumeCloneSource>(), name, &object).await?;
        Ok(())
    }

    /// Begins a claim named `filled` that is populated from this VolumeCloneSource.
    pub fn claim_from(&self, clone_source: &str) -> ClaimRequest<'_> {
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "filled"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": gi(1).to_string()}},
                "dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": clone_source},
            },
        });
        ClaimRequest { space: self, object, user: None }
    }

    /// Creates or changes a DataSource.
    pub async fn data_source(&self, name: &str, source: Value) -> Result<()> {
        let object = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataSource", "metadata": {"name": name},
            "spec": {"source": source},
        });
        self.apply(&self.api::<DataSource>(), name, &object).await?;
        Ok(())
    }

    /// Waits until a DataSource has this condition Ready. Returns the DataSource.
    pub async fn data_source_is(&self, name: &str, ready: &str, reason: &str, words: &str) -> Result<DataSource> {
        let what = format!("DataSource {name} to have the condition Ready={ready}, reason {reason}, saying {words:?}");
        wait::object(&self.api::<DataSource>(), name, &what, |found| {
            let conditions =
                found.and_then(|it| it.status.as_ref()).map(|it| it.conditions.clone()).unwrap_or_default();
            let as_wanted = conditions.iter().any(|it| {
                it.type_ == "Ready"
                    && it.status == ready
                    && it.reason.as_deref() == Some(reason)
                    && it.message.as_deref().unwrap_or_default().contains(words)
            });
            match found {
                Some(source) if as_wanted => Look::Break(source.clone()),
                _ => Look::Continue(format!("it is {conditions:?}")),
            }
        })
        .await
    }
}

impl ClaimRequest<'_> {
    /// With this name.
    pub fn named(mut self, name: &str) -> Self {
        self.object["metadata"]["name"] = json!(name);
        self
    }

    /// Sets the namespace of the VolumeCloneSource.
    pub fn from(self, space: &Space) -> Self {
        self.annotate(keys::DATA_SOURCE_NAMESPACE, space.name())
    }

    /// Sets the size.
    pub fn size(mut self, size: Bytes) -> Self {
        self.object["spec"]["resources"]["requests"]["storage"] = json!(size.to_string());
        self
    }

    /// Makes it a raw block device.
    pub fn block(mut self) -> Self {
        self.object["spec"]["volumeMode"] = json!("Block");
        self
    }

    /// Sets the StorageClass.
    pub fn class(mut self, class: &str) -> Self {
        self.object["spec"]["storageClassName"] = json!(class);
        self
    }

    /// Adds an annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][key] = json!(value);
        self
    }

    /// Sets the user who creates it; by default a user with all rights.
    pub fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Creates the claim, which has to be admitted.
    pub async fn made(self) -> Result<ClaimHandle> {
        let (api, user) = (self.space.api(), self.user.as_deref());
        match self.space.post::<PersistentVolumeClaim>(&self.object, user, false).await? {
            Answer::Created(claim, _) => {
                let (name, uid) = (claim.name_any(), claim.uid().context("a claim has no uid")?);
                Ok(ClaimHandle { space: self.space.clone(), api, name, uid })
            }
            Answer::Denied(denial) => bail!("not admitted: {denial}"),
        }
    }

    /// Creates a claim that has to be denied.
    pub async fn refused(self) -> Result<Denial> {
        match self.space.post::<PersistentVolumeClaim>(&self.object, self.user.as_deref(), false).await? {
            Answer::Denied(denial) => Ok(*denial),
            Answer::Created(claim, warnings) => bail!("admitted with {warnings:?}: {claim:?}"),
        }
    }
}

/// A claim that is populated without a DataVolume.
#[derive(Debug)]
pub struct ClaimHandle {
    space: Space,
    api: Api<PersistentVolumeClaim>,
    name: String,
    uid: String,
}

impl Named for ClaimHandle {
    fn name(&self) -> &str {
        &self.name
    }
}

impl ClaimHandle {
    /// The UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Waits until it is bound and reported as populated; fails at once if it is reported as failed.
    pub async fn succeeds(&self) -> Result<PersistentVolumeClaim> {
        let what = format!("claim {} to be filled", self.name);
        let claim = self
            .until(&what, |claim| {
                let bound = claim.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Bound");
                match claim.annotations().get(keys::CLONE_PHASE).map(String::as_str) {
                    Some("Error") => Some(Err(format!("{:?}", claim.annotations()))),
                    Some("Succeeded") if bound => Some(Ok(claim.clone())),
                    _ => None,
                }
            })
            .await?;
        claim.or_else(|why| bail!("{} has failed: {why}", self.name))
    }

    /// Waits until it waits for this reason. Returns the message.
    pub async fn waits_for(&self, reason: &str) -> Result<String> {
        self.until(&format!("claim {} to wait for {reason}", self.name), |claim| {
            let annotation = |key: &str| claim.annotations().get(key).cloned();
            (annotation(keys::CONDITION_RUNNING_REASON).as_deref() == Some(reason))
                .then(|| annotation(keys::CONDITION_RUNNING_MESSAGE).unwrap_or_default())
        })
        .await
    }

    async fn until<T>(&self, what: &str, look: impl Fn(&PersistentVolumeClaim) -> Option<T>) -> Result<T> {
        wait::object(&self.api, &self.name, what, |claim| match claim.map(|claim| (claim, look(claim))) {
            Some((_, Some(found))) => Look::Break(found),
            Some((claim, None)) => Look::Continue(format!("it says {:?}", claim.annotations())),
            None => Look::Continue("it does not exist".to_owned()),
        })
        .await
    }

    /// Checks that it has the same content as `source`.
    pub async fn has_bytes_of(&self, source: &Disk) -> Result<()> {
        let claim = self.api.get(&self.name).await?;
        ensure!(claim.uid().as_deref() == Some(&self.uid), "another claim has its name: {claim:?}");
        Box::pin(self.space.holds_the_same(self, source)).await
    }

    /// Deletes it and waits until it is gone.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        wait::gone(&self.api, &self.name, Some(&self.uid)).await
    }
}
