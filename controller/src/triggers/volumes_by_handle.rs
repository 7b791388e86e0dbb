//! The index of PersistentVolumes by volume handle: a VolumeSnapshotContent identifies the volume that a snapshot was taken of by its
//! handle only.

use std::time::Instant;

use common::storage::volume_handle::VolumeHandle;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;

use super::names_by_key::NamesByKey;

/// The names of PersistentVolumes by handle. Deleted volumes are kept for a while. The watch of volumes fills it.
#[derive(Default)]
pub struct VolumesByHandle(NamesByKey<VolumeHandle, String>);

impl VolumesByHandle {
    /// Records a volume that was created, changed or deleted. `exists` looks a volume up in the cache.
    pub fn record(&self, volume: &PersistentVolume, now: Instant, exists: impl Fn(&str) -> bool) {
        let handle = VolumeHandle::of(volume).into_iter().collect();
        self.0.record(volume.name_any(), handle, now, |name| exists(name));
    }

    /// The volumes with this handle, by name. There is one, unless an admin has created another one.
    pub fn of(&self, handle: &VolumeHandle) -> Vec<String> {
        self.0.of(handle)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::triggers::names_by_key::MAX_CACHE_DELAY;

    #[test]
    fn a_volume_is_found_by_its_handle_until_it_is_gone() {
        let volume = |name: &str, driver: &str| -> PersistentVolume {
            let csi = json!({"driver": driver, "volumeHandle": "h"});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"csi": csi}})).unwrap()
        };
        let handle = |driver: &str| VolumeHandle { driver: driver.into(), handle: "h".into() };
        let index = VolumesByHandle::default();
        let now = Instant::now();
        index.record(&volume("a", "x"), now, |_| true);
        index.record(&volume("b", "y"), now, |_| true);
        assert_eq!((index.of(&handle("x")), index.of(&handle("y"))), (vec!["a".to_owned()], vec!["b".to_owned()]));
        index.record(&volume("by-hand", "x"), now, |_| true);
        assert_eq!(index.of(&handle("x")), ["a", "by-hand"]);
        index.record(&volume("a", "x"), now, |_| false);
        assert_eq!(index.of(&handle("x")), ["a", "by-hand"]);
        let without: PersistentVolume = serde_json::from_value(json!({"metadata": {"name": "local"}})).unwrap();
        index.record(&without, now + 2 * MAX_CACHE_DELAY, |name| name != "a");
        assert_eq!(index.of(&handle("x")), ["by-hand"]);
    }
}
