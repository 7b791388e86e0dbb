//! Directory tree to directory tree.

mod digest;
mod links;
mod walk;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
};

use blake3::Hash;
use rustix::{
    fs::{AtFlags, FileType, Mode},
    io::Errno,
};

pub use digest::PERMISSIONS;
use digest::{Listing, What, fingerprint};
use links::Links;
use walk::{Directory, Step, Walk, directories};

use crate::{
    attributes,
    error::{Error, Side},
    file::Ways,
    meter::Meter,
    stream::Content,
    verify,
    volume::{Entry, Meta, Place, Volume},
    writer::{Writer, Zeroing},
};

/// What is remembered of a directory until the end: digests only, so that a million files need no memory.
struct Record {
    fingerprint: Hash,
    listing: Hash,
}

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
    let records = Copier::new(&source, &target, meter)
        .run()
        .and_then(|records| target.sync().map(|()| records))
        .map_err(|error| error.judge_space(&target, size.allocated))?;
    meter.sum_up_losses();

    let written = read_back(&target, &records);
    // Asked last and answered first: a target that differs because the source changed is no fault of the target.
    unchanged(&source, &records)?;
    written?;

    let mut digest = blake3::Hasher::new();
    for record in &records {
        digest.update(record.listing.as_bytes());
    }
    Ok(digest.finalize())
}

struct Size {
    /// Bytes of regular files, holes included, each file once.
    content: u64,
    allocated: u64,
}

fn measure(source: &Volume) -> Result<Size, Error> {
    let mut size = Size { content: 0, allocated: 0 };
    let mut links = Links::default();
    for directory in directories(source) {
        let Directory { path, entries, .. } = directory?;
        for Entry { name, meta } in entries.iter().filter(|entry| entry.meta.kind() == FileType::RegularFile) {
            if links.first(meta).is_none() {
                links.remember(meta, || path.join(name));
                size.content = size.content.saturating_add(meta.size);
                size.allocated = size.allocated.saturating_add(meta.allocated());
            }
        }
    }
    Ok(size)
}

/// A name in a directory of the target, and what bears it so far.
struct Slot<'a> {
    dir: &'a OwnedFd,
    name: &'a OsStr,
    path: &'a Path,
    old: Option<Meta>,
}

struct Copier<'a, 'm> {
    source: &'a Volume,
    target: &'a Volume,
    meter: &'a mut Meter<'m>,
    ways: Ways,
    links: Links,
}

impl<'a, 'm> Copier<'a, 'm> {
    fn new(source: &'a Volume, target: &'a Volume, meter: &'a mut Meter<'m>) -> Self {
        Self { source, target, meter, ways: Ways::between(target), links: Links::default() }
    }

    fn run(mut self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        for step in Walk::of(self.source) {
            match step? {
                Step::Enter(directory) => {
                    let listing = self.fill(&directory)?;
                    records.push(Record { fingerprint: fingerprint(&directory), listing });
                }
                Step::Leave { path, meta } => self.leave(&path, &meta)?,
            }
        }
        Ok(records)
    }

    /// Makes the target's directory hold what the source's holds; directories in it are empty or not yet looked at.
    fn fill(&mut self, from: &Directory) -> Result<Hash, Error> {
        let dir = self.target.open_dir(&from.path)?;
        let mut leftovers: BTreeMap<OsString, Meta> =
            self.target.list(&dir, &from.path)?.into_iter().map(|entry| (entry.name, entry.meta)).collect();
        let kept = from.entries.iter().map(|entry| (entry, leftovers.remove(&entry.name))).collect::<Vec<_>>();
        // First of all, as it may be their space that is needed.
        for (name, meta) in leftovers {
            self.remove(&dir, &name, &from.path.join(&name), &meta)?;
        }
        let mut listing = Listing::of(&from.path);
        for (entry, old) in kept {
            self.entry(from, &dir, entry, old, &mut listing)?;
        }
        Ok(listing.finish())
    }

    fn entry(
        &mut self,
        from: &Directory,
        dir: &OwnedFd,
        Entry { name, meta }: &Entry,
        old: Option<Meta>,
        listing: &mut Listing,
    ) -> Result<(), Error> {
        let path = from.path.join(name);
        let slot = Slot { dir, name: name.as_os_str(), path: &path, old };
        if let Some(first) = self.links.first(meta) {
            listing.add(name, meta, &What::Link(first));
            let (first_dir, first_name) = self.target.open_parent(first)?;
            self.clear(&slot)?;
            return rustix::fs::linkat(first_dir, first_name, dir, name, AtFlags::empty())
                .map_err(Side::Target.failed("link", &path));
        }
        match meta.kind() {
            FileType::Directory => {
                self.make_dir(&slot)?;
                listing.add(name, meta, &What::Directory);
                // Its attributes come when it is left: writing into it would change its times, and may need rights it denies.
                return Ok(());
            }
            FileType::RegularFile => {
                let content = self.file(from, meta, &slot)?;
                listing.add(name, meta, &What::File(content));
            }
            FileType::Symlink => {
                let to = read_link(&from.fd, name).map_err(Side::Source.failed("read", &path))?;
                self.clear(&slot)?;
                rustix::fs::symlinkat(&to, dir, name).map_err(Side::Target.failed("create", &path))?;
                listing.add(name, meta, &What::Symlink(&to));
            }
            kind => {
                self.clear(&slot)?;
                let device = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
                match rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device) {
                    Ok(()) => listing.add(name, meta, &What::Special),
                    Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                        self.meter.lost("special file", &path);
                        return Ok(());
                    }
                    Err(error) => return Err(Side::Target.failed("create", &path)(error)),
                }
            }
        }
        attributes::keep(Place { dir: from.fd.as_fd(), name }, Place { dir: dir.as_fd(), name }, &path, self.meter)?;
        self.links.remember(meta, || path);
        Ok(())
    }

    fn make_dir(&self, slot: &Slot<'_>) -> Result<(), Error> {
        let Slot { dir, name, path, old } = *slot;
        if let Some(old) = old
            && old.is_dir()
        {
            // An earlier attempt may have closed it already; whether this was needed shows when it is written to.
            let mode = Mode::from_raw_mode((old.permissions() | 0o700).into());
            let _ = rustix::fs::chmodat(dir, name, mode, AtFlags::empty());
            return Ok(());
        }
        self.clear(slot)?;
        rustix::fs::mkdirat(dir, name, Mode::RWXU).map_err(Side::Target.failed("create", path))
    }

    /// Copies a regular file, unless an earlier attempt has done so.
    fn file(&mut self, from: &Directory, meta: &Meta, slot: &Slot<'_>) -> Result<Hash, Error> {
        let Slot { dir, name, path, .. } = *slot;
        let file = self.source.open_file(&from.fd, name, path)?;
        let check = |file: &File| match Meta::of_open(file).map_err(Side::Source.failed("look at", path))? {
            now if now == *meta => Ok(()),
            _ => Err(Error::changed(path, "changed")),
        };
        check(&file)?;
        let content = Content { file: &file, len: meta.size, holes: meta.may_have_holes(), side: Side::Source, path };
        let base = self.meter.done();
        let digest = if let Some(digest) = self.already_copied(content, meta, slot, base)? {
            digest
        } else {
            self.clear(slot)?;
            let target = self.target.create_file(dir, name, path)?;
            target.set_len(meta.size).map_err(Side::Target.failed("grow", path))?;
            self.ways.copy(content, Writer::new(&target, path, Zeroing::Nothing), base, self.meter)?
        };
        self.meter.reach(base + meta.size);
        check(&file)?;
        Ok(digest)
    }

    /// The digest, if the target holds the content already. Size and time say whether that is worth reading it.
    fn already_copied(
        &mut self,
        content: Content<'_>,
        meta: &Meta,
        slot: &Slot<'_>,
        base: u64,
    ) -> Result<Option<Hash>, Error> {
        let likely = |old: &Meta| {
            // With a second name, what is written to one would show under the other.
            old.kind() == meta.kind() && old.links == 1 && (old.size, old.mtime) == (meta.size, meta.mtime)
        };
        let Some(old) = slot.old.filter(likely) else { return Ok(None) };
        let Ok(target) = self.target.open_file(slot.dir, slot.name, slot.path) else { return Ok(None) };
        let digest = verify::digest(content, |end| self.meter.reach(base + end))?;
        // A leftover that can't be read is replaced.
        let found = verify::read_back(&target, meta.size, old.may_have_holes(), slot.path);
        Ok(found.is_ok_and(|found| found == digest).then_some(digest))
    }

    /// Gives a directory its attributes, once nothing will be written into it any more.
    fn leave(&mut self, path: &Path, before: &Meta) -> Result<(), Error> {
        let (from, name) = self.source.open_parent(path)?;
        let (to, _) = self.target.open_parent(path)?;
        let place = |dir| Place { dir, name };
        let after = attributes::keep(place(from.as_fd()), place(to.as_fd()), path, self.meter)?;
        if after == *before { Ok(()) } else { Err(Error::changed(path, "changed")) }
    }

    /// Makes the name free.
    fn clear(&self, slot: &Slot<'_>) -> Result<(), Error> {
        slot.old.map_or(Ok(()), |old| self.remove(slot.dir, slot.name, slot.path, &old))
    }

    fn remove(&self, dir: &OwnedFd, name: &OsStr, path: &Path, meta: &Meta) -> Result<(), Error> {
        if !meta.is_dir() {
            return unlink(dir, name, path, AtFlags::empty());
        }
        for step in Walk::below(self.target, path.to_owned()) {
            match step? {
                Step::Enter(directory) => {
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

fn unlink(dir: &OwnedFd, name: &OsStr, path: &Path, flags: AtFlags) -> Result<(), Error> {
    rustix::fs::unlinkat(dir, name, flags).map_err(Side::Target.failed("remove", path))
}

fn read_link(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()))
}

/// Compares the target, as the storage has it, with what was copied.
fn read_back(target: &Volume, records: &[Record]) -> Result<(), Error> {
    let mut links = Links::default();
    let mut expected = records.iter();
    for directory in directories(target) {
        let Directory { path: dir_path, fd, entries, .. } = directory?;
        let mut listing = Listing::of(&dir_path);
        for Entry { name, meta } in &entries {
            let path = dir_path.join(name);
            if let Some(first) = links.first(meta) {
                listing.add(name, meta, &What::Link(first));
                continue;
            }
            match meta.kind() {
                FileType::Directory => listing.add(name, meta, &What::Directory),
                FileType::RegularFile => {
                    let file = target.open_file(&fd, name, &path)?;
                    let content = verify::read_back(&file, meta.size, meta.may_have_holes(), &path)?;
                    listing.add(name, meta, &What::File(content));
                }
                FileType::Symlink => {
                    let to = read_link(&fd, name).map_err(Side::Target.failed("read", &path))?;
                    listing.add(name, meta, &What::Symlink(&to));
                }
                _ => listing.add(name, meta, &What::Special),
            }
            links.remember(meta, || path);
        }
        if expected.next().is_none_or(|record| record.listing != listing.finish()) {
            return Err(verify::differs(&dir_path));
        }
    }
    // A directory that is missing shows in the one above it.
    Ok(())
}

/// Whether the source still is as it was when it was read.
fn unchanged(source: &Volume, records: &[Record]) -> Result<(), Error> {
    let mut expected = records.iter();
    for directory in directories(source) {
        let directory = directory?;
        if expected.next().is_none_or(|record| record.fingerprint != fingerprint(&directory)) {
            return Err(Error::changed(&directory.path, "or something in it changed"));
        }
    }
    Ok(())
}
