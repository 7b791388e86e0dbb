//! Conversion between a block device and the file that holds a virtual machine's disk in a file system.

use std::{
    ffi::OsStr,
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use blake3::Hash;
use common::mover::{DISK_IMAGE, DISK_IMAGE_MODE, VM_USER};
use rustix::{
    fs::{AtFlags, FileType, Gid, Uid},
    io::Errno,
};

use crate::{
    error::{Error, Side},
    format,
    meter::Meter,
    raw::Raw,
    rights,
    volume::{self, Meta, Volume},
};

/// Copies the image in the directory `source` to the device `target`, which reads as zero beyond it.
pub fn from_image(source: &Path, target: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let (name, path) = (OsStr::new(DISK_IMAGE), Path::new(DISK_IMAGE));
    let volume = Volume::open(source, Side::Source)?;
    match Meta::of(&volume, name) {
        Ok((meta, _)) if meta.kind() == FileType::RegularFile => {}
        Ok(_) => return Err(Error::never(format!("{DISK_IMAGE} in the source is not a regular file"))),
        Err(Errno::NOENT) => {
            return Err(Error::never(format!(
                "the source has no {DISK_IMAGE} at its top; only a file system that holds a virtual machine's disk can become a block volume"
            )));
        }
        Err(error) => return Err(Side::Source.failed("look at", path)(error)),
    }
    let image = Raw::of(volume.open_file(&volume, name, path)?, path, Side::Source)?;
    if let Some(format) = format::not_raw(&image.head(format::HEAD)?) {
        return Err(Error::never(format!(
            "{DISK_IMAGE} in the source is a {format} image; only raw images can be converted to a block volume"
        )));
    }
    let device = Raw::open(target, Side::Target)?;
    device.copy_from(&image, image.len..device.len.max(image.len), meter)
}

/// Copies the device `source` to an image in the directory `target`, of the same length.
pub fn to_image(source: &Path, target: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let path = Path::new(DISK_IMAGE);
    let device = Raw::open(source, Side::Source)?;
    let volume = Volume::open(target, Side::Target)?;
    let file = open_image(&volume, path)?;
    has_room(&volume, &file, device.len)?;
    // A longer image may be left from an earlier attempt.
    let old = file.metadata().map_err(Side::Target.failed("look at", path))?.len();
    file.set_len(old.min(device.len)).map_err(Side::Target.failed("shorten", path))?;
    if rights::is_root() {
        // The virtual machine's user could not open it otherwise. A file system without owners refuses, and needs none.
        let _ = rustix::fs::fchown(&file, Some(Uid::from_raw(VM_USER)), Some(Gid::from_raw(VM_USER)));
    }
    // Independent of the process's umask.
    file.set_permissions(Permissions::from_mode(DISK_IMAGE_MODE))
        .map_err(Side::Target.failed("set the mode of", path))?;

    let image = Raw::of(file, path, Side::Target)?;
    let digest = image.copy_from(&device, 0..0, meter)?;
    // Also syncs the directory entry.
    volume.sync()?;
    Ok(digest)
}

/// Opens the image of an earlier attempt if it can be overwritten, or else a new one.
fn open_image(volume: &Volume, path: &Path) -> Result<File, Error> {
    let name = path.as_os_str();
    match Meta::of(volume, name) {
        Err(Errno::NOENT) => {}
        Ok((meta, _)) if meta.is_dir() => {
            return Err(Error::never(format!(
                "the target has a directory in the place of {DISK_IMAGE}; it has to be empty"
            )));
        }
        Ok((meta, _)) => {
            // With another hard link, the data would also change under the other name.
            if meta.kind() == FileType::RegularFile
                && meta.links == 1
                && let Ok(file) = volume::open_to_write(volume, name)
            {
                return Ok(file);
            }
            rustix::fs::unlinkat(volume, name, AtFlags::empty()).map_err(Side::Target.failed("remove", path))?;
        }
        Err(error) => return Err(Side::Target.failed("look at", path)(error)),
    }
    volume.create_file(volume, name, path)
}

/// Checks that an image of `len` bytes would fit without holes: a disk that can't be filled fails later in the virtual machine.
fn has_room(volume: &Volume, image: &File, len: u64) -> Result<(), Error> {
    let path = Path::new(DISK_IMAGE);
    let held = Meta::of_open(image).map_err(Side::Target.failed("look at", path))?.allocated();
    let fs = rustix::fs::fstatvfs(volume).map_err(Side::Target.failed("measure", path))?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize).saturating_add(held);
    if free >= len {
        return Ok(());
    }
    Err(Error::never(format!(
        "the source device has {len} bytes, the target's file system room for {free}; it has to be larger by what a file system takes for \
         itself"
    )))
}
