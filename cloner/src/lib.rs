//! Copies the bytes of one volume to another. Knows no Kubernetes.
//!
//! Both volumes are of one kind: two directories, two block devices, or two regular files (which stand in for
//! devices where there are none). What was copied is on stable storage, was read back and compared before
//! [`copy`] says [`Outcome::Copied`].
//!
//! - **Everything is redone or proven.** A target may hold leftovers of an earlier attempt; the result equals the source
//!   all the same. A leftover file is kept only when its content was read and found equal. So the process may be killed
//!   at any moment and started again: nothing is promised before the outcome.
//! - **Zeros take no space.** Holes stay holes, long runs of zeros become holes, and a range of a device that has to be zero
//!   is made so, never assumed to be so.
//! - **Beyond the source's length** a device, or a file that stands in for one, stays as it was provisioned.
//! - **A tree stays a tree**: names, types, modes, owners, times, extended attributes and ACLs, hard links, holes. What
//!   can't be kept (mostly: owners and devices without root's rights) is told to the [`Observer`], not passed over. A
//!   directory `lost+found` at the top belongs to the file system, and the label `security.selinux` to the mount; neither
//!   is copied. Nothing is looked up through a symbolic link or outside the volume.
//! - **A source that changes** is noticed in a tree and in a file by times, size and inode, at each file and once more at the
//!   end. A device has no such marks: there the target is compared with what was read.
//!
//! Digests are BLAKE3 over a length, the places of the pages that are not zero, and those pages: equal digests mean
//! equal bytes, however the holes lie, and zeros cost nothing. A tree's digest covers paths, types, permissions, hard
//! links, sizes and contents.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use common::mover::Outcome;

mod attributes;
mod device;
mod digest;
mod error;
mod file;
mod meter;
pub mod report;
mod stream;
mod tree;
mod verify;
mod volume;
mod writer;
mod zero;

pub use meter::Observer;

use error::Error;
use meter::Meter;

/// Makes `target` equal to `source`, which is only read. Blocks until it is done; `observer` hears how far it is.
pub fn copy(source: &Path, target: &Path, observer: &mut dyn Observer) -> Outcome {
    let mut meter = Meter::new(observer);
    match by_kind(source, target, &mut meter) {
        Ok(digest) => {
            Outcome::Copied { total: meter.total(), written: meter.written(), digest: digest.to_hex().to_string() }
        }
        Err(error) => error.into(),
    }
}

fn by_kind(source: &Path, target: &Path, meter: &mut Meter<'_>) -> Result<blake3::Hash, Error> {
    match (Kind::of(source)?, Kind::of(target)?) {
        (Kind::Directory, Kind::Directory) => tree::copy(source, target, meter),
        (Kind::Device, Kind::Device) => device::copy(source, target, meter),
        (Kind::File, Kind::File) => file::copy(source, target, meter),
        (from, to) => Err(Error::never(format!(
            "the source {} is a {} and the target {} is a {}; both have to be of one kind",
            source.display(),
            from.name(),
            target.display(),
            to.name()
        ))),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    Device,
    File,
    Other,
}

impl Kind {
    fn of(path: &Path) -> Result<Self, Error> {
        // What isn't there when the process starts was not mounted, and a restart in the same pod mounts nothing.
        let found = fs::metadata(path).map_err(|error| Error::never(format!("look at {}: {error}", path.display())))?;
        Ok(match found.file_type() {
            kind if kind.is_dir() => Self::Directory,
            kind if kind.is_block_device() => Self::Device,
            kind if kind.is_file() => Self::File,
            _ => Self::Other,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Device => "block device",
            Self::File => "regular file",
            Self::Other => "special file",
        }
    }
}
