//! A test double of KubeVirt: it creates DataVolumes as virt-controller does (its own ServiceAccount, an owner reference, its annotations),
//! starts a machine's pods in the same phases, and shows the machine's printable status.
//!
//! Source of the rules: KubeVirt 1.9, `pkg/virt-controller/watch/vm` and `watch/vmi`, `pkg/storage/types` and `pkg/storage/snapshot`.

use anyhow::Result;
use common::{
    api::{DataVolume, Phase},
    keys,
};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{CloneHandle, CloneRequest, Named, PodHandle, Snapshot, Space, gi, wait};

/// A virtual machine with one disk.
#[derive(Debug)]
pub struct Machine {
    space: Space,
    name: String,
    /// The DataVolume of its disk, which has the machine's name.
    pub disk: CloneHandle,
}

/// The status of a machine, as `kubectl get vm` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printable {
    /// Its disk does not exist yet.
    Provisioning,
    /// Its disk failed.
    DataVolumeError,
    /// A quota forbids its disk: the condition `Failure`.
    Failure,
    /// Its claim is missing.
    ErrorPvcNotFound,
    /// Its pod may start.
    Starting,
}

impl Space {
    /// The user name of the double in this namespace.
    pub fn virt_controller(&self) -> String {
        format!("system:serviceaccount:{}:kubevirt-controller", self.name())
    }

    /// Grants the double its rights in this namespace.
    pub async fn with_virt_controller(&self) -> Result<()> {
        self.administered_by(&self.virt_controller()).await
    }

    /// Creates a machine with the disk `disk`.
    pub async fn machine(&self, name: &str, disk: CloneRequest) -> Result<Machine> {
        let owner = ConfigMap {
            metadata: serde_json::from_value(json!({"name": format!("vm-{name}")}))?,
            ..ConfigMap::default()
        };
        let owner = self.api::<ConfigMap>().create(&PostParams::default(), &owner).await?;
        let reference = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner.name_any(), "uid": owner.uid(),
            "controller": true, "blockOwnerDeletion": true,
        });
        let disk = disk.named(name).owned_by(&reference).by(&self.virt_controller());
        Ok(Machine { space: self.clone(), name: name.to_owned(), disk: self.create(disk).await? })
    }

    /// Creates the claim that a VirtualMachineRestore creates from a snapshot.
    pub async fn restored_claim(&self, name: &str, class: &str, snapshot: &Snapshot) -> Result<PersistentVolumeClaim> {
        let claim = json!({
            "metadata": {"name": name, "annotations": {keys::POPULATED_FOR: name}},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": gi(1).to_string()}},
                "dataSource": {
                    "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot.name(),
                },
            },
        });
        let api = self.api::<PersistentVolumeClaim>();
        Ok(api.create(&PostParams::default(), &serde_json::from_value(claim)?).await?)
    }
}

impl Machine {
    /// The status that `kubectl get vm` prints.
    pub async fn printable(&self) -> Result<Printable> {
        let volume = self.disk.now();
        if let Some(shown) = of_volume(&volume) {
            return Ok(shown);
        }
        let claim = self.space.api::<PersistentVolumeClaim>().get_opt(&self.name).await?;
        Ok(if claim.is_some() { Printable::Starting } else { Printable::ErrorPvcNotFound })
    }

    /// Waits until the machine shows this status.
    pub async fn shows(&self, expected: Printable) -> Result<()> {
        self.disk
            .until(&format!("the machine to show {expected:?}"), |volume| {
                (of_volume(volume) == Some(expected)).then_some(())
            })
            .await
    }

    /// Starts the machine as virt-controller does. Returns its pod, and the number of pods that were needed.
    pub async fn starts(&self) -> Result<(PodHandle, usize)> {
        let phase = self.disk.until("a phase at which the machine's pod is created", |volume| {
            let phase = volume.status.as_ref().map(|status| status.phase)?;
            let starts = matches!(phase, Phase::Succeeded | Phase::WaitForFirstConsumer | Phase::PendingPopulation);
            starts.then_some(phase)
        });
        let mut pods = 1;
        if phase.await? == Phase::WaitForFirstConsumer {
            // A pod that only binds the claim; the machine's own one follows.
            Box::pin(self.space.pod_using(&self.disk)).await?.delete().await?;
            pods += 1;
        }
        let pod = Box::pin(self.space.pod_using(&self.disk)).await?;
        self.disk.succeeds().await?;
        Ok((pod, pods))
    }

    /// Replaces the disk's claim by one that is restored from `snapshot`, as an in-place VirtualMachineRestore does.
    pub async fn is_restored_in_place(&self, class: &str, snapshot: &Snapshot) -> Result<PersistentVolumeClaim> {
        let volumes = self.space.api::<DataVolume>();
        let patch = json!({"metadata": {"annotations": {keys::PRE_POPULATED: self.name}}});
        volumes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        let claims = self.space.api::<PersistentVolumeClaim>();
        let before = claims.get(&self.name).await?;
        claims.delete(&self.name, &DeleteParams::default()).await?;
        wait::gone(&claims, &self.name, before.uid().as_deref()).await?;
        self.space.restored_claim(&self.name, class, snapshot).await
    }
}

/// The status according to the DataVolume alone; `None` if the machine may start.
fn of_volume(volume: &DataVolume) -> Option<Printable> {
    let status = volume.status.clone().unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
    let has = |kind: &str, value: &str, reasons: &[&str]| {
        condition(kind)
            .is_some_and(|it| it.status == value && it.reason.as_deref().is_some_and(|it| reasons.contains(&it)))
    };
    match status.phase {
        Phase::Failed => Some(Printable::DataVolumeError),
        _ if has("Running", "False", &["Error", "ImagePullFailed"]) => Some(Printable::DataVolumeError),
        Phase::Pending if has("Bound", "False", &["ErrExceededQuota"]) => Some(Printable::Failure),
        Phase::Succeeded | Phase::WaitForFirstConsumer | Phase::PendingPopulation => None,
        _ => Some(Printable::Provisioning),
    }
}

impl Named for Machine {
    fn name(&self) -> &str {
        &self.name
    }
}
