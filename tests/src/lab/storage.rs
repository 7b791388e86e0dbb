//! The disk that both storage drivers keep their volumes on, and what a test may look at below it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    command::{Look, command, run, until},
    host::{self, is_mounted, unmount_below},
    layout::Layout,
};

/// Apparent size of the disk, in bytes; it takes only what is written.
const DISK: u64 = 64 << 30;

/// The storage classes' common part: driver `cow` serves the classes `cow` and `cow-xfs`, driver `other` serves `other`.
pub const DRIVERS: [&str; 2] = ["cow", "other"];

/// Makes and mounts the disk: XFS, because only a file system with reflinks makes copy-on-write of files.
pub async fn ensure(layout: &Layout) -> Result<()> {
    let (image, disk) = (layout.at("disk.img"), disk(layout));
    if is_mounted(&disk)? {
        return Ok(());
    }
    std::fs::create_dir_all(&disk)?;
    if !image.exists() {
        let unfinished = layout.at("disk.img.unfinished");
        File::create(&unfinished)?.set_len(DISK).context("make a sparse file")?;
        run(command("mkfs.xfs", [Path::new("-q"), Path::new("-mreflink=1"), &unfinished])).await?;
        std::fs::rename(&unfinished, &image)?;
    }
    run(command("mount", [Path::new("-o"), Path::new("loop,noatime"), &image, &disk])).await?;
    Ok(())
}

/// Where the disk is mounted.
fn disk(layout: &Layout) -> PathBuf {
    layout.at("disk")
}

/// Unmounts every volume and the disk, frees every loop device. Nobody may run any more who uses them.
pub async fn release(layout: &Layout) -> Result<()> {
    // First of all, while the paths still tell whose they are: kubelet holds a block volume by a loop device of its own,
    // whose file is a mount below kubelet's directory. Those that are mounted go with their mounts.
    host::detach_loop_devices_below(&layout.state()).await?;
    unmount_below(&layout.at("kubelet")).await?;
    unmount_below(&disk(layout)).await?;
    // Another cluster's kubelet may have got a copy of the mount with its namespace; that one goes with the directory.
    // Only an empty one: what is still mounted is not to be emptied.
    if disk(layout).is_dir() {
        std::fs::remove_dir(disk(layout)).context("remove the disk's directory")?;
    }
    until("the loop devices to be released", Duration::from_secs(10), async || {
        let left = host::loop_devices_below(&layout.state()).await?;
        Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?}")) })
    })
    .await
}

/// One storage driver, seen from outside.
#[derive(Debug, Clone)]
pub struct Driver {
    layout: Layout,
    class: String,
}

impl Driver {
    pub(super) fn of(layout: &Layout, class: &str) -> Self {
        Self { layout: layout.clone(), class: class.to_owned() }
    }

    /// The driver's name in the API: `CSIDriver`, and the provisioner of its classes.
    pub fn name(&self) -> String {
        format!("{}.csi.smartclone.dev", self.class)
    }

    /// The name of the driver's process, for `Lab::restart`.
    pub fn process(&self) -> String {
        format!("{}-driver", self.class)
    }

    pub(super) fn sidecar(&self, program: &str) -> String {
        format!("{}-{program}", self.class)
    }

    /// The CSI socket.
    pub fn socket(&self) -> PathBuf {
        self.layout.at("kubelet/plugins").join(&self.class).join("csi.sock")
    }

    /// Where kubelet finds the driver. It sends the socket's path, percent-encoded, as the HTTP/2 authority; strict servers
    /// accept such characters only in front of an `@`, where a user's name would be.
    pub(super) fn registration_socket(&self) -> PathBuf {
        self.layout.at("kubelet/plugins_registry").join(format!("reg@{}.sock", self.name()))
    }

    /// The JSON file from which the driver takes its behaviour, anew at every call.
    pub fn control_file(&self) -> PathBuf {
        self.layout.at("drivers").join(&self.class).join("control.json")
    }

    /// The JSON file in which the driver counts its calls.
    pub fn calls_file(&self) -> PathBuf {
        self.layout.at("drivers").join(&self.class).join("calls.json")
    }

    /// The directory that holds the volumes' and the snapshots' images.
    pub fn data_dir(&self) -> PathBuf {
        disk(&self.layout).join(&self.class)
    }
}
