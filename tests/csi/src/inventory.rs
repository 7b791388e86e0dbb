//! What a data directory holds, for whoever looks for leaks. Needs no running driver.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    image::{self, LoopDevice},
    store::{Shelf, SnapshotRecord, VolumeRecord},
};

/// What a data directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// Volumes in the order of their ids.
    pub volumes: Vec<VolumeRecord>,
    /// Snapshots in the order of their ids.
    pub snapshots: Vec<SnapshotRecord>,
    /// Files that belong to no volume or snapshot: a call is under way or was interrupted.
    pub stray: Vec<PathBuf>,
    /// Loop devices of the host with an image in this directory.
    pub loop_devices: Vec<LoopDevice>,
}

impl Inventory {
    /// Whether there is nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks through a data directory; one that a driver has not used yet is empty.
pub fn inventory(data_dir: &Path) -> Result<Inventory> {
    if !data_dir.exists() {
        return Ok(Inventory::default());
    }
    let data_dir = data_dir.canonicalize().map_err(Error::io("look at", data_dir))?;
    let (volumes, snapshots) = (Shelf::<VolumeRecord>::at(&data_dir), Shelf::<SnapshotRecord>::at(&data_dir));
    let mut loop_devices = image::loop_devices()?;
    loop_devices.retain(|device| device.backing_file.starts_with(&data_dir));
    Ok(Inventory {
        volumes: volumes.list()?,
        snapshots: snapshots.list()?,
        stray: [volumes.stray()?, snapshots.stray()?].concat(),
        loop_devices,
    })
}
