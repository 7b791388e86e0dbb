//! Image files: sparse, copied by sharing blocks, attached as loop devices.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::{Error, Result, command, patience};

/// Says at once, and not at the first snapshot, if files in a directory can't share blocks.
pub fn check_sharing(directory: &Path) -> Result<()> {
    let (from, to) = (directory.join("share-from.tmp"), directory.join("share-to.tmp"));
    create(&from, 4096)?;
    let shared = copy(&from, &to, 4096);
    for path in [from, to] {
        fs::remove_file(&path).map_err(Error::io("remove", path))?;
    }
    shared
}

/// Makes an empty sparse image, in place of whatever an interrupted call left there.
pub fn create(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    settle(&file, path, size)
}

/// Makes an image that shares its blocks with another one, then grows it.
pub fn copy(source: &Path, target: &Path, size: u64) -> Result<()> {
    let from = File::open(source).map_err(Error::io("open", source))?;
    from.sync_all().map_err(Error::io("sync", source))?;
    let to = File::create(target).map_err(Error::io("create", target))?;
    rustix::fs::ioctl_ficlone(&to, &from).map_err(|errno| Error::io("share blocks with", source)(errno.into()))?;
    settle(&to, target, size)
}

/// Makes an image larger; one that has the size or more stays as it is.
pub fn grow(path: &Path, size: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
    settle(&file, path, size)
}

/// Bytes of an image that hold data.
pub fn referenced(path: &Path) -> Result<u64> {
    // In units of 512 bytes, whatever the file system's block size.
    fs::metadata(path).map(|metadata| metadata.blocks() * 512).map_err(Error::io("look at", path))
}

fn settle(file: &File, path: &Path, size: u64) -> Result<()> {
    let current = file.metadata().map_err(Error::io("look at", path))?.len();
    if current < size {
        file.set_len(size).map_err(Error::io("grow", path))?;
    }
    file.sync_all().map_err(Error::io("sync", path))
}

/// An image that the kernel shows as a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// `7:N`, as `/proc/self/mountinfo` has it.
    pub number: String,
    /// The image.
    pub backing_file: PathBuf,
}

/// All loop devices of the host with their images.
pub fn loop_devices() -> Result<Vec<LoopDevice>> {
    let all = Path::new("/sys/block");
    let mut found = Vec::new();
    for entry in fs::read_dir(all).map_err(Error::io("list", all))? {
        let entry = entry.map_err(Error::io("list", all))?;
        // No such file: not a loop device, or one without an image.
        let Ok(backing_file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let Ok(number) = fs::read_to_string(entry.path().join("dev")) else { continue };
        found.push(LoopDevice {
            device: Path::new("/dev").join(entry.file_name()),
            number: number.trim_end().to_owned(),
            backing_file: backing_file.trim_end().trim_end_matches(" (deleted)").into(),
        });
    }
    Ok(found)
}

/// The loop device of an image, if it has one.
pub fn attached(image: &Path) -> Result<Option<LoopDevice>> {
    Ok(loop_devices()?.into_iter().find(|device| device.backing_file == image))
}

/// The loop device of an image, of the image's present size; attached if it isn't yet.
pub fn attach(image: &Path) -> Result<LoopDevice> {
    if let Some(device) = attached(image)? {
        fit(&device)?;
        return Ok(device);
    }
    // Not with direct I/O: a file that shares blocks would then get larger sectors than the one it was copied from.
    command::run(Command::new("losetup").args(["--find", "--nooverlap"]).arg(image))?;
    attached(image)?.ok_or_else(|| Error::refused(Code::Internal, format!("{} got no loop device", image.display())))
}

/// Makes a loop device as large as its image.
pub fn fit(device: &LoopDevice) -> Result<()> {
    command::run(Command::new("losetup").arg("--set-capacity").arg(&device.device)).map(drop)
}

/// Takes the loop device away from an image; one without stays as it is.
pub fn detach(image: &Path) -> Result<()> {
    let Some(device) = attached(image)? else { return Ok(()) };
    command::run(Command::new("losetup").arg("--detach").arg(&device.device))?;
    // The kernel lets go of it when the last user does, which may be a tool that is looking at all devices just now.
    if patience::soon(|| Ok(attached(image)?.is_none()))? {
        return Ok(());
    }
    let message = format!("{} of {} is still open somewhere", device.device.display(), image.display());
    Err(Error::refused(Code::Aborted, message))
}
