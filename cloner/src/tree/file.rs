//! The entries of the target: regular files are copied, leftovers of earlier attempts are kept or
//! removed.

use std::{
    ffi::OsStr,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use blake3::Hash;
use rustix::fs::{AtFlags, Mode};

use super::walk::{Directory, Step, Walk};
use crate::{
    attributes::{self, Kept},
    error::{Error, Side},
    file::{Filled, Ways},
    loss::Loss,
    stream::Content,
    verify,
    volume::{Entry, Meta, Place, Volume},
    writer::{Writer, Zeroing},
};

/// A name in a directory of the target, and its existing entry.
pub(super) struct Slot<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a OsStr,
    pub(super) path: &'a Path,
    pub(super) old: Option<Meta>,
}

/// A regular file that was copied with its attributes.
pub(super) struct Finished {
    pub(super) filled: Filled,
    /// The created file; `None` if an earlier attempt created it.
    pub(super) made: Option<Meta>,
    pub(super) kept: Kept,
    pub(super) lost: Vec<Loss>,
}

/// Source and target of a copy; every thread may have its own.
#[derive(Clone, Copy)]
pub(super) struct Volumes<'a> {
    pub(super) source: &'a Volume,
    pub(super) target: &'a Volume,
    pub(super) ways: Ways,
}

impl Volumes<'_> {
    /// Creates the directory, or keeps the existing one.
    pub(super) fn make_dir(&self, slot: &Slot<'_>) -> Result<(), Error> {
        let Slot { dir, name, path, old } = *slot;
        if let Some(old) = old
            && old.is_dir()
        {
            unlock(dir, name, &old);
            return Ok(());
        }
        self.clear(slot)?;
        rustix::fs::mkdirat(dir, name, Mode::RWXU).map_err(Side::Target.failed("create", path))
    }

    /// Copies a regular file, unless an earlier attempt has done so. `progress` receives the number of bytes that are done.
    pub(super) fn file(
        &mut self,
        from: &Directory,
        meta: &Meta,
        slot: &Slot<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Finished, Error> {
        let Slot { dir, name, path, .. } = *slot;
        let file = self.source.open_file(&from.fd, name, path)?;
        let check = |file: &File| match Meta::of_open(file).map_err(Side::Source.failed("look at", path))? {
            now if now == *meta => Ok(()),
            _ => Err(Error::changed(path, "changed")),
        };
        check(&file)?;
        let holes = meta.may_have_holes();
        let content = Content { file: &file, direct: None, len: meta.size, holes, side: Side::Source, path };
        let (filled, made) = if let Some(digest) = self.already_copied(content, meta, slot, progress)? {
            (Filled { digest, written: 0, proven: false }, None)
        } else {
            self.clear(slot)?;
            let target = self.target.create_file(dir, name, path)?;
            target.set_len(meta.size).map_err(Side::Target.failed("grow", path))?;
            let filled = self.ways.copy(content, &target, Writer::new(&target, path, Zeroing::Nothing), progress)?;
            (filled, Some(Meta::of_open(&target).map_err(Side::Target.failed("look at", path))?))
        };
        check(&file)?;
        let mut lost = Vec::new();
        let place = |dir| Place { dir, name };
        let kept = attributes::keep(place(from.fd.as_fd()), place(dir.as_fd()), path, &mut lost)?;
        Ok(Finished { filled, made, kept, lost })
    }

    /// The digest, if the target has the content already. Size and time decide if it is read to find out.
    fn already_copied(
        &self,
        content: Content<'_>,
        meta: &Meta,
        slot: &Slot<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Hash>, Error> {
        let likely = |old: &Meta| {
            // With another hard link, the data would also change under the other name.
            old.kind() == meta.kind() && old.links == 1 && (old.size, old.mtime) == (meta.size, meta.mtime)
        };
        let Some(old) = slot.old.filter(likely) else { return Ok(None) };
        let Ok(target) = self.target.open_file(slot.dir, slot.name, slot.path) else { return Ok(None) };
        let digest = verify::digest(content, progress)?;
        // A leftover that can't be read is replaced.
        let found = verify::read_back(&target, meta.size, old.may_have_holes(), slot.path);
        Ok(found.is_ok_and(|found| found == digest).then_some(digest))
    }

    /// Removes the existing entry of the name.
    pub(super) fn clear(&self, slot: &Slot<'_>) -> Result<(), Error> {
        slot.old.map_or(Ok(()), |old| self.remove(slot.dir, slot.name, slot.path, &old))
    }

    /// Removes an entry of the target; a directory with its contents.
    pub(super) fn remove(&self, dir: &OwnedFd, name: &OsStr, path: &Path, meta: &Meta) -> Result<(), Error> {
        if !meta.is_dir() {
            return unlink(dir, name, path, AtFlags::empty());
        }
        unlock(dir, name, meta);
        for step in Walk::below(self.target, path.to_owned()) {
            match step? {
                Step::Enter(directory) => {
                    for Entry { name, meta } in directory.entries.iter().filter(|entry| entry.meta.is_dir()) {
                        unlock(&directory.fd, name, meta);
                    }
                    for Entry { name, .. } in directory.entries.iter().filter(|entry| !entry.meta.is_dir()) {
                        unlink(&directory.fd, name, &directory.path.join(name), AtFlags::empty())?;
                    }
                }
                Step::Leave { path, .. } => {
                    let (dir, name) = self.target.open_parent(&path)?;
                    unlink(&dir, name, &path, AtFlags::REMOVEDIR)?;
                }
            }
        }
        Ok(())
    }
}

/// Gives the mover rights to a directory whose final permissions an earlier attempt has set. A failure is detected when the directory is
/// entered.
fn unlock(dir: &OwnedFd, name: &OsStr, meta: &Meta) {
    if meta.permissions() & 0o700 != 0o700 {
        let mode = Mode::from_raw_mode((meta.permissions() | 0o700).into());
        let _ = rustix::fs::chmodat(dir, name, mode, AtFlags::empty());
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, path: &Path, flags: AtFlags) -> Result<(), Error> {
    rustix::fs::unlinkat(dir, name, flags).map_err(Side::Target.failed("remove", path))
}
