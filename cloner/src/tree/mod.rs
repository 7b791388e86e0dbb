//! Directory tree to directory tree.

mod digest;
mod links;
mod pool;
mod walk;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Path, PathBuf},
    thread,
};

use blake3::Hash;
use rustix::{
    fs::{Access, AtFlags, FileType, Mode},
    io::Errno,
};

pub use digest::PERMISSIONS;
use digest::{Listing, What, fingerprint};
use links::Links;
use walk::{Directory, Step, Walk, directories};

use crate::{
    attributes::{self, Kept},
    error::{Error, Side},
    file::{Filled, LARGE, Ways},
    loss::Loss,
    meter::Meter,
    rights,
    stream::{self, Content},
    verify,
    volume::{Entry, Meta, Place, Volume},
    writer::{Writer, Zeroing},
};

/// What a copy leaves to be proven and finished.
#[derive(Default)]
struct Copied {
    /// In the order of the walk.
    records: Vec<Record>,
    /// Files of the target that were compared already, or share the source's extents, and what stands for their content.
    proven: HashMap<((u32, u32), u64), Hash>,
    /// Permissions that deny the mover itself to read back; given at last. A directory comes before what is in it.
    sealed: BTreeMap<PathBuf, u16>,
}

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
    let copied = Copier::new(&source, &target, meter)
        .run()
        .and_then(|copied| target.sync().map(|()| copied))
        .map_err(|error| error.judge_space(&target, size.allocated))?;

    let (written, unchanged) = thread::scope(|scope| {
        let written = stream::spawn(scope, "read back", || read_back(&target, &copied));
        let unchanged = unchanged(&source, &copied.records);
        let broke_off = |_| Err(Error::retry("the thread that reads back broke off"));
        (written.and_then(|thread| thread.join().unwrap_or_else(broke_off)), unchanged)
    });
    // Answered first: a target that differs because the source changed is no fault of the target.
    unchanged?;
    written?;
    seal(&target, &copied.sealed)?;

    let mut digest = blake3::Hasher::new();
    for record in &copied.records {
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
        let Directory { path, fd, entries, .. } = directory?;
        for Entry { name, meta } in entries.iter().filter(|entry| entry.meta.kind() == FileType::RegularFile) {
            if links.first(meta).is_none() {
                links.remember(meta, || path.join(name));
                size.content = size.content.saturating_add(meta.size);
                size.allocated = size.allocated.saturating_add(meta.allocated());
                if !rights::is_root() {
                    // Better now than after hours.
                    let readable = rustix::fs::accessat(&fd, name, Access::READ_OK, AtFlags::empty());
                    readable.map_err(Side::Source.failed("read", &path.join(name)))?;
                }
            }
        }
    }
    Ok(size)
}

/// Whether several of these are copied at once.
fn is_small(meta: &Meta) -> bool {
    meta.kind() == FileType::RegularFile && meta.links == 1 && meta.size < LARGE
}

/// A name in a directory of the target, and what bears it so far.
struct Slot<'a> {
    dir: &'a OwnedFd,
    name: &'a OsStr,
    path: &'a Path,
    old: Option<Meta>,
}

/// A regular file that was copied, attributes and all.
struct Finished {
    filled: Filled,
    /// The file that was made, unless an earlier attempt has made it.
    made: Option<Meta>,
    kept: Kept,
    lost: Vec<Loss>,
}

struct Copier<'a, 'm> {
    volumes: Volumes<'a>,
    meter: &'a mut Meter<'m>,
    links: Links,
    copied: Copied,
}

/// All that copying one file takes; every thread may have its own.
#[derive(Clone, Copy)]
struct Volumes<'a> {
    source: &'a Volume,
    target: &'a Volume,
    ways: Ways,
}

impl<'a, 'm> Copier<'a, 'm> {
    fn new(source: &'a Volume, target: &'a Volume, meter: &'a mut Meter<'m>) -> Self {
        let volumes = Volumes { source, target, ways: Ways::between(target) };
        Self { volumes, meter, links: Links::default(), copied: Copied::default() }
    }

    fn run(mut self) -> Result<Copied, Error> {
        for step in Walk::of(self.volumes.source) {
            match step? {
                Step::Enter(directory) => {
                    let listing = self.fill(&directory)?;
                    self.copied.records.push(Record { fingerprint: fingerprint(&directory), listing });
                }
                Step::Leave { path, meta } => self.leave(&path, &meta)?,
            }
        }
        Ok(self.copied)
    }

    /// Makes the target's directory hold what the source's holds; directories in it are empty or not yet looked at.
    fn fill(&mut self, from: &Directory) -> Result<Hash, Error> {
        let dir = self.volumes.target.open_dir(&from.path)?;
        let mut leftovers: BTreeMap<OsString, Meta> =
            self.volumes.target.list(&dir, &from.path)?.into_iter().map(|entry| (entry.name, entry.meta)).collect();
        let kept = from.entries.iter().map(|entry| (entry, leftovers.remove(&entry.name))).collect::<Vec<_>>();
        // First of all, as it may be their space that is needed.
        for (name, meta) in leftovers {
            self.volumes.remove(&dir, &name, &from.path.join(&name), &meta)?;
        }
        let mut small = self.small_files(from, &dir, &kept)?;
        let mut listing = Listing::of(&from.path);
        for (entry, old) in kept {
            if let Some(content) = small.remove(entry.name.as_os_str()) {
                listing.add(&entry.name, &entry.meta, &What::File(content));
            } else {
                self.entry(from, &dir, entry, old, &mut listing)?;
            }
        }
        Ok(listing.finish())
    }

    /// Copies the files of a directory that have one name and no great size, several at once; what stands for their contents.
    fn small_files<'e>(
        &mut self,
        from: &Directory,
        dir: &OwnedFd,
        entries: &[(&'e Entry, Option<Meta>)],
    ) -> Result<HashMap<&'e OsStr, Hash>, Error> {
        let small: Vec<_> = entries.iter().copied().filter(|(entry, _)| is_small(&entry.meta)).collect();
        let mut contents = HashMap::new();
        let volumes = self.volumes;
        let copy = |(entry, old): &(&Entry, Option<Meta>)| {
            let path = from.path.join(&entry.name);
            let slot = Slot { dir, name: &entry.name, path: &path, old: *old };
            { volumes }.file(from, &entry.meta, &slot, &mut |_| ())
        };
        pool::each(&small, copy, |number, finished| {
            if let Some((Entry { name, meta }, _)) = small.get(number) {
                contents.insert(name.as_os_str(), finished.filled.digest);
                self.finish(finished, &from.path.join(name), self.meter.done() + meta.size);
            }
            Ok(())
        })?;
        Ok(contents)
    }

    /// Remembers what is left to do for a file.
    fn finish(&mut self, finished: Finished, path: &Path, done: u64) {
        let Finished { filled, made, kept, lost } = finished;
        self.meter.add_written(filled.written);
        if let Some(made) = made.filter(|_| filled.proven) {
            self.copied.proven.insert(made.id(), filled.digest);
        }
        self.kept(&kept, &lost, path);
        self.meter.reach(done);
    }

    fn kept(&mut self, kept: &Kept, lost: &[Loss], path: &Path) {
        for loss in lost {
            self.meter.lost(*loss, path);
        }
        if let Some(permissions) = kept.sealed {
            self.copied.sealed.insert(path.to_owned(), permissions);
        }
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
            let (first_dir, first_name) = self.volumes.target.open_parent(first)?;
            self.volumes.clear(&slot)?;
            return rustix::fs::linkat(first_dir, first_name, dir, name, AtFlags::empty())
                .map_err(Side::Target.failed("link", &path));
        }
        match meta.kind() {
            FileType::Directory => {
                self.volumes.make_dir(&slot)?;
                listing.add(name, meta, &What::Directory);
                // Its attributes come when it is left: writing into it would change its times, and may need rights it denies.
                return Ok(());
            }
            FileType::RegularFile => {
                let base = self.meter.done();
                let finished = self.volumes.file(from, meta, &slot, &mut |done| self.meter.reach(base + done))?;
                listing.add(name, meta, &What::File(finished.filled.digest));
                self.finish(finished, &path, base + meta.size);
                self.links.remember(meta, || path);
                return Ok(());
            }
            FileType::Symlink => {
                let to = read_link(&from.fd, name).map_err(Side::Source.failed("read", &path))?;
                self.volumes.clear(&slot)?;
                rustix::fs::symlinkat(&to, dir, name).map_err(Side::Target.failed("create", &path))?;
                listing.add(name, meta, &What::Symlink(&to));
            }
            kind => {
                self.volumes.clear(&slot)?;
                let device = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
                match rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device) {
                    Ok(()) => listing.add(name, meta, &What::Special),
                    Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                        self.meter.lost(Loss::Special, &path);
                        return Ok(());
                    }
                    Err(error) => return Err(Side::Target.failed("create", &path)(error)),
                }
            }
        }
        self.keep(Place { dir: from.fd.as_fd(), name }, Place { dir: dir.as_fd(), name }, &path)?;
        self.links.remember(meta, || path);
        Ok(())
    }

    /// Gives a file its attributes; those of the source.
    fn keep(&mut self, source: Place<'_>, target: Place<'_>, path: &Path) -> Result<Meta, Error> {
        let mut lost = Vec::new();
        let kept = attributes::keep(source, target, path, &mut lost)?;
        self.kept(&kept, &lost, path);
        Ok(kept.meta)
    }

    /// Gives a directory its attributes, once nothing will be written into it any more.
    fn leave(&mut self, path: &Path, before: &Meta) -> Result<(), Error> {
        let (from, name) = self.volumes.source.open_parent(path)?;
        let (to, _) = self.volumes.target.open_parent(path)?;
        let place = |dir| Place { dir, name };
        let after = self.keep(place(from.as_fd()), place(to.as_fd()), path)?;
        if after == *before { Ok(()) } else { Err(Error::changed(path, "changed")) }
    }
}

impl Volumes<'_> {
    fn make_dir(&self, slot: &Slot<'_>) -> Result<(), Error> {
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

    /// Copies a regular file, unless an earlier attempt has done so. `progress` hears how much of it was dealt with.
    fn file(
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

    /// The digest, if the target holds the content already. Size and time say whether that is worth reading it.
    fn already_copied(
        &self,
        content: Content<'_>,
        meta: &Meta,
        slot: &Slot<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Hash>, Error> {
        let likely = |old: &Meta| {
            // With a second name, what is written to one would show under the other.
            old.kind() == meta.kind() && old.links == 1 && (old.size, old.mtime) == (meta.size, meta.mtime)
        };
        let Some(old) = slot.old.filter(likely) else { return Ok(None) };
        let Ok(target) = self.target.open_file(slot.dir, slot.name, slot.path) else { return Ok(None) };
        let digest = verify::digest(content, progress)?;
        // A leftover that can't be read is replaced.
        let found = verify::read_back(&target, meta.size, old.may_have_holes(), slot.path);
        Ok(found.is_ok_and(|found| found == digest).then_some(digest))
    }

    /// Makes the name free.
    fn clear(&self, slot: &Slot<'_>) -> Result<(), Error> {
        slot.old.map_or(Ok(()), |old| self.remove(slot.dir, slot.name, slot.path, &old))
    }

    fn remove(&self, dir: &OwnedFd, name: &OsStr, path: &Path, meta: &Meta) -> Result<(), Error> {
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

/// An earlier attempt may have closed a directory already; whether this was needed shows when it is entered.
fn unlock(dir: &OwnedFd, name: &OsStr, meta: &Meta) {
    if meta.permissions() & 0o700 != 0o700 {
        let mode = Mode::from_raw_mode((meta.permissions() | 0o700).into());
        let _ = rustix::fs::chmodat(dir, name, mode, AtFlags::empty());
    }
}

fn unlink(dir: &OwnedFd, name: &OsStr, path: &Path, flags: AtFlags) -> Result<(), Error> {
    rustix::fs::unlinkat(dir, name, flags).map_err(Side::Target.failed("remove", path))
}

fn read_link(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()))
}

/// Compares the target, as the storage has it, with what was copied.
fn read_back(target: &Volume, copied: &Copied) -> Result<(), Error> {
    let mut links = Links::default();
    let mut expected = copied.records.iter();
    for directory in directories(target) {
        let Directory { path: dir_path, fd, entries, .. } = directory?;
        let content = |name: &OsStr, meta: &Meta| {
            let path = dir_path.join(name);
            let file = target.open_file(&fd, name, &path)?;
            verify::read_back(&file, meta.size, meta.may_have_holes(), &path)
        };
        let mut contents = HashMap::new();
        let small: Vec<_> = entries.iter().filter(|entry| is_small(&entry.meta)).collect();
        let unproven =
            small.into_iter().filter(|entry| !copied.proven.contains_key(&entry.meta.id())).collect::<Vec<_>>();
        pool::each(
            &unproven,
            |Entry { name, meta }| Ok((meta.id(), content(name, meta)?)),
            |_, (id, found)| {
                contents.insert(id, found);
                Ok(())
            },
        )?;
        let mut listing = Listing::of(&dir_path);
        for Entry { name, meta } in &entries {
            let path = dir_path.join(name);
            // Permissions as they will be.
            let meta = &copied.sealed.get(&path).map_or(*meta, |sealed| meta.with_permissions(*sealed));
            if let Some(first) = links.first(meta) {
                let meta = &copied.sealed.get(first).map_or(*meta, |sealed| meta.with_permissions(*sealed));
                listing.add(name, meta, &What::Link(first));
                continue;
            }
            match meta.kind() {
                FileType::Directory => listing.add(name, meta, &What::Directory),
                FileType::RegularFile => {
                    let known = copied.proven.get(&meta.id()).or_else(|| contents.get(&meta.id()));
                    let content = known.copied().map_or_else(|| content(name, meta), Ok)?;
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

/// Gives the permissions that reading back would have been denied by: of a directory after those of what is in it.
fn seal(target: &Volume, sealed: &BTreeMap<PathBuf, u16>) -> Result<(), Error> {
    for (path, permissions) in sealed.iter().rev() {
        let (dir, name) = target.open_parent(path)?;
        rustix::fs::chmodat(&dir, name, Mode::from_raw_mode((*permissions).into()), AtFlags::empty())
            .map_err(Side::Target.failed("set the mode of", path))?;
    }
    if sealed.is_empty() { Ok(()) } else { target.sync() }
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
