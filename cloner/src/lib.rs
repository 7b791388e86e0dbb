//! The copy engine of the data mover: copies the bytes of one volume to another. It has no
//! Kubernetes client.
//!
//! A volume is a directory, or *raw*: a block device, or a regular file in its place. Two volumes of one kind become equal. Between the
//! kinds the disk of a virtual machine is converted: `disk.img` at the top of a directory has the content of the whole device. Before
//! [`copy`] returns [`Outcome::Copied`], the copy is on stable storage, was read back and compared.
//!
//! - **Everything is redone or proven.** A target may hold leftovers of an earlier attempt; the result equals the source all the same. A
//!   leftover file is kept only if its content was read and found equal. So the process may be killed at any moment and started again:
//!   nothing is guaranteed before the outcome.
//! - **Zeros take no space.** Holes stay holes, long runs of zeros become holes, and a range of a device that has to be zero is zeroed,
//!   never assumed to be zero.
//! - **Beyond the source's length** a device stays as it was provisioned; beyond a converted image
//!   it reads as zero.
//! - **A tree stays a tree**: names, types, modes, owners, times, extended attributes and ACLs, hard links, holes. Attributes that can't be
//!   kept (mostly owners and devices without root's rights) are counted, reported to the [`Observer`] and part of the outcome. The
//!   exception is the time of a top directory that belongs to another user. A directory `lost+found` at the top belongs to the file system,
//!   and the label `security.selinux` to the mount; neither is copied. No path is resolved through a symbolic link or outside the volume.
//! - **Unreadable content is a failure.** A clone without a file of its source would be no clone.
//! - **A source that changes** is detected in a tree and in a file by times, size and inode, at each file and once more at the end. A
//!   device has no such metadata: there the target is compared with the data that was read.
//!
//! Large content is read, written and read back concurrently, with direct I/O, see module `transfer`. Content that has to go through the
//! page cache is synced first and read back after the cache was dropped. Files that share the source's extents can't differ and are not
//! read.
//!
//! Digests are BLAKE3 over a length, the positions of the pages that are not zero, and those pages: equal digests mean equal bytes,
//! wherever the holes are, and zeros cost nothing. A tree's digest covers paths, types, permissions, hard links, sizes and contents.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use blake3::Hash;
use common::mover::{ContentType, Outcome};

mod attributes;
mod buffer;
mod convert;
mod digest;
mod error;
mod file;
mod format;
mod loss;
mod meter;
mod raw;
pub mod report;
mod rights;
mod stream;
mod transfer;
mod tree;
mod verify;
mod volume;
mod writer;
mod zero;

pub use meter::Observer;

use error::Error;
use meter::Meter;

/// Makes `target` equal to `source`, which is only read. Blocks until it is done; `observer` receives the progress.
pub fn copy(source: &Path, target: &Path, content: ContentType, observer: &mut dyn Observer) -> Outcome {
    let mut meter = Meter::new(observer);
    match by_kind(source, target, content, &mut meter) {
        Ok(digest) => Outcome::Copied {
            total: meter.total(),
            written: meter.written(),
            digest: digest.to_hex().to_string(),
            notes: meter.notes(),
        },
        Err(error) => error.into(),
    }
}

fn by_kind(source: &Path, target: &Path, content: ContentType, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    use Kind::{Directory, Raw};
    match (Kind::of(source)?, Kind::of(target)?) {
        (Directory, Directory) => tree::copy(source, target, meter),
        (Raw(_), Raw(_)) => raw::copy(source, target, meter),
        (from, to) if content == ContentType::Archive => Err(Error::never(format!(
            "the source is a {} and the target a {}; content of type {content} can't be converted, only a virtual machine's disk \
             (type {}) can",
            from.name(),
            to.name(),
            ContentType::Kubevirt
        ))),
        (Directory, Raw(_)) => convert::from_image(source, target, meter),
        (Raw(_), Directory) => convert::to_image(source, target, meter),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    /// Its name in messages.
    Raw(&'static str),
}

impl Kind {
    fn of(path: &Path) -> Result<Self, Error> {
        // A volume that is missing when the process starts was not mounted, and a restart in the same pod mounts nothing.
        let found = fs::metadata(path).map_err(|error| Error::never(format!("look at {}: {error}", path.display())))?;
        match found.file_type() {
            kind if kind.is_dir() => Ok(Self::Directory),
            kind if kind.is_block_device() => Ok(Self::Raw("block device")),
            kind if kind.is_file() => Ok(Self::Raw("regular file")),
            _ => Err(Error::never(format!("{} is neither a directory, a block device nor a file", path.display()))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Raw(name) => name,
        }
    }
}
