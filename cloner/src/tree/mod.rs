//! The copy of a directory tree: measured, copied, read back and compared; the source is checked for changes.

mod copied;
mod copier;
mod digest;
mod file;
mod links;
mod pool;
mod walk;

use std::{
    ffi::{OsStr, OsString},
    os::{fd::AsFd, unix::ffi::OsStringExt},
    path::Path,
    thread,
};

use blake3::Hash;
use common::mover::DISK_IMAGE;
use rustix::fs::{Access, AtFlags, FileType};

use self::{
    copier::Copier,
    links::Links,
    walk::{Directory, directories},
};
use crate::{
    error::{Error, Side},
    file::LARGE,
    meter::Meter,
    rights, stream,
    volume::{Entry, Meta, Volume},
};

/// Makes the directory `target` equal to the directory `source`. Returns the digest of the tree.
pub fn copy(source: &Path, target: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let source = Volume::open(source, Side::Source)?;
    let target = Volume::open(target, Side::Target)?;
    let id = |volume: &Volume| {
        Meta::of_open(volume).map_err(volume.side.failed("look at", Path::new(""))).map(|meta| meta.id())
    };
    if id(&source)? == id(&target)? {
        return Err(Error::never("source and target are the same directory"));
    }

    let size = measure(&source)?;
    meter.set_total(size.content);
    let copied = Copier::new(&source, &target, meter, size.is_disk)
        .run()
        .and_then(|copied| target.sync().map(|()| copied))
        .map_err(|error| error.judge_space(&target, size.allocated))?;

    let (written, unchanged) = thread::scope(|scope| {
        let written = stream::spawn(scope, "read back", || copied.read_back(&target));
        let unchanged = copied.check_unchanged(&source);
        let broke_off = |_| Err(Error::retry("the thread that reads back broke off"));
        (written.and_then(|thread| thread.join().unwrap_or_else(broke_off)), unchanged)
    });
    // Reported first: if the source changed, a difference is not the target's fault.
    unchanged?;
    written?;
    copied.seal(&target)?;

    Ok(copied.digest())
}

/// The size of a tree, in bytes.
struct Size {
    /// Regular files with their holes, each file counted once.
    content: u64,
    allocated: u64,
    /// True if the volume holds the disk of a virtual machine, and nothing else.
    is_disk: bool,
}

/// Measures the tree, and checks that the mover may read it.
fn measure(source: &Volume) -> Result<Size, Error> {
    let mut size = Size { content: 0, allocated: 0, is_disk: false };
    let mut links = Links::default();
    for directory in directories(source) {
        let Directory { path, fd, entries, .. } = directory?;
        if path.as_os_str().is_empty() {
            size.is_disk = holds_disk(&entries);
        }
        for Entry { name, meta } in entries.iter().filter(|entry| entry.meta.kind() == FileType::RegularFile) {
            if links.first(meta).is_none() {
                links.remember(meta, || path.join(name));
                size.content = size.content.saturating_add(meta.size);
                size.allocated = size.allocated.saturating_add(meta.allocated());
                if !rights::is_root() {
                    // An early error is better than one after hours.
                    let readable = rustix::fs::accessat(&fd, name, Access::READ_OK, AtFlags::empty());
                    readable.map_err(Side::Source.failed("read", &path.join(name)))?;
                }
            }
        }
    }
    Ok(size)
}

/// True if a volume holds only the disk of a virtual machine, apart from the entries of a new file system.
fn holds_disk(top: &[Entry]) -> bool {
    let is_image = |entry: &Entry| entry.name == DISK_IMAGE && entry.meta.kind() == FileType::RegularFile;
    top.iter().any(is_image) && top.iter().all(|entry| is_image(entry) || entry.name == "lost+found")
}

/// True for a file that is copied concurrently with others.
fn is_small(meta: &Meta) -> bool {
    meta.kind() == FileType::RegularFile && meta.links == 1 && meta.size < LARGE
}

fn read_link(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()))
}
