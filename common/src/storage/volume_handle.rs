//! The CSI volume handle: finds a PersistentVolume that no claim refers to.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::api::snapshot::VolumeSnapshotContent;

/// A volume as its driver identifies it. Names and claims change, the handle does not (CSI specification, `volume_id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeHandle {
    /// The driver.
    pub driver: String,
    /// The driver's ID of the volume.
    pub handle: String,
}

impl VolumeHandle {
    /// The handle of a PersistentVolume; `None` if it has no CSI driver.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Self { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// The handle of the volume that a snapshot was taken from; `None` for a snapshot created outside of Kubernetes.
    pub fn of_origin(content: &VolumeSnapshotContent) -> Option<Self> {
        let handle = content.spec.source.volume_handle.clone()?;
        Some(Self { driver: content.spec.driver.clone(), handle })
    }
}
