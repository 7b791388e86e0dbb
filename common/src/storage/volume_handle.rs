//! The driver's own name of a volume, by which a PersistentVolume is found that nothing else leads to.

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::api::snapshot::VolumeSnapshotContent;

/// A volume as its driver knows it. Names and claims change, and the handle stays (CSI specification, `volume_id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeHandle {
    /// The driver.
    pub driver: String,
    /// The driver's name of the volume.
    pub handle: String,
}

impl VolumeHandle {
    /// That of a PersistentVolume; nothing where it has no CSI driver.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        Some(Self { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// That of the volume that a snapshot was taken of; nothing for a snapshot that was made outside of Kubernetes.
    pub fn of_origin(content: &VolumeSnapshotContent) -> Option<Self> {
        let handle = content.spec.source.volume_handle.clone()?;
        Some(Self { driver: content.spec.driver.clone(), handle })
    }
}
