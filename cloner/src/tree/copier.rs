//! The copier of a tree: walks the source and creates the target.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use blake3::Hash;
use common::mover::DISK_IMAGE;
use rustix::{
    fs::{AtFlags, FileType, Mode},
    io::Errno,
};

use super::{
    copied::{Copied, Record},
    digest::{Listing, What, fingerprint},
    file::{Finished, Slot, Volumes},
    is_small,
    links::Links,
    pool, read_link,
    walk::{Directory, Step, Walk},
};
use crate::{
    attributes::{self, Kept},
    error::{Error, Side},
    file::Ways,
    loss::Loss,
    meter::Meter,
    volume::{Entry, Meta, Place, Volume},
};

/// The copy of one tree, in the order of the walk.
pub(super) struct Copier<'a, 'm> {
    volumes: Volumes<'a>,
    meter: &'a mut Meter<'m>,
    links: Links,
    copied: Copied,
    /// True if only the disk image's owner and attributes matter: those of the top directory are the file system's.
    is_disk: bool,
}

impl<'a, 'm> Copier<'a, 'm> {
    /// A copy that has not begun.
    pub(super) fn new(source: &'a Volume, target: &'a Volume, meter: &'a mut Meter<'m>, is_disk: bool) -> Self {
        let volumes = Volumes { source, target, ways: Ways::between(target) };
        Self { volumes, meter, links: Links::default(), copied: Copied::default(), is_disk }
    }

    /// Copies everything.
    pub(super) fn run(mut self) -> Result<Copied, Error> {
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

    /// Copies the entries of a directory; directories among them stay empty until the walk enters them.
    fn fill(&mut self, from: &Directory) -> Result<Hash, Error> {
        let dir = self.volumes.target.open_dir(&from.path)?;
        let mut leftovers: BTreeMap<OsString, Meta> =
            self.volumes.target.list(&dir, &from.path)?.into_iter().map(|entry| (entry.name, entry.meta)).collect();
        let kept = from.entries.iter().map(|entry| (entry, leftovers.remove(&entry.name))).collect::<Vec<_>>();
        // Leftovers are removed first, because their space may be needed.
        for (name, meta) in leftovers {
            self.volumes.remove(&dir, &name, &from.path.join(&name), &meta)?;
        }
        let mut small = self.small_files(from, &dir, &kept)?;
        let mut listing = Listing::of(&from.path);
        for (entry, old) in kept {
            if let Some(content) = small.remove(entry.name.as_os_str()) {
                listing.add(&entry.name, &entry.meta, &What::File(content));
            } else {
                let path = from.path.join(&entry.name);
                let slot = Slot { dir: &dir, name: &entry.name, path: &path, old };
                self.entry(from, &entry.meta, &slot, &mut listing)?;
            }
        }
        Ok(listing.finish())
    }

    /// Copies the small files of a directory that have one name, several concurrently. Returns their digests.
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

    /// Records a copied file.
    fn finish(&mut self, finished: Finished, path: &Path, done: u64) {
        let Finished { filled, made, kept, lost } = finished;
        self.meter.add_written(filled.written);
        if let Some(made) = made.filter(|_| filled.proven) {
            self.copied.proven.insert(made.id(), filled.digest);
        }
        self.kept(&kept, &lost, path);
        self.meter.reach(done);
    }

    /// Records losses, and permissions that are set at the end.
    fn kept(&mut self, kept: &Kept, lost: &[Loss], path: &Path) {
        for loss in lost.iter().filter(|_| !self.is_disk || path == Path::new(DISK_IMAGE)) {
            self.meter.lost(*loss, path);
        }
        if let Some(permissions) = kept.sealed {
            self.copied.sealed.insert(path.to_owned(), permissions);
        }
    }

    /// Copies one entry of a directory into its slot, with its attributes unless it is a directory.
    fn entry(&mut self, from: &Directory, meta: &Meta, slot: &Slot<'_>, listing: &mut Listing) -> Result<(), Error> {
        let Slot { dir, name, path, .. } = *slot;
        if let Some(first) = self.links.first(meta) {
            listing.add(name, meta, &What::Link(first));
            let (first_dir, first_name) = self.volumes.target.open_parent(first)?;
            self.volumes.clear(slot)?;
            return rustix::fs::linkat(first_dir, first_name, dir, name, AtFlags::empty())
                .map_err(Side::Target.failed("link", path));
        }
        match meta.kind() {
            FileType::Directory => {
                self.volumes.make_dir(slot)?;
                listing.add(name, meta, &What::Directory);
                // Its attributes are set when the walk leaves it: writing into it would change its times, and may need rights that they
                // deny.
                return Ok(());
            }
            FileType::RegularFile => {
                let base = self.meter.done();
                let finished = self.volumes.file(from, meta, slot, &mut |done| self.meter.reach(base + done))?;
                listing.add(name, meta, &What::File(finished.filled.digest));
                self.finish(finished, path, base + meta.size);
                self.links.remember(meta, || path.to_owned());
                return Ok(());
            }
            FileType::Symlink => {
                let to = read_link(&from.fd, name).map_err(Side::Source.failed("read", path))?;
                self.volumes.clear(slot)?;
                rustix::fs::symlinkat(&to, dir, name).map_err(Side::Target.failed("create", path))?;
                listing.add(name, meta, &What::Symlink(&to));
            }
            kind => {
                self.volumes.clear(slot)?;
                let device = rustix::fs::makedev(meta.rdev.0, meta.rdev.1);
                match rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, device) {
                    Ok(()) => listing.add(name, meta, &What::Special),
                    Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                        self.meter.lost(Loss::Special, path);
                        return Ok(());
                    }
                    Err(error) => return Err(Side::Target.failed("create", path)(error)),
                }
            }
        }
        self.keep(Place { dir: from.fd.as_fd(), name }, Place { dir: dir.as_fd(), name }, path)?;
        self.links.remember(meta, || path.to_owned());
        Ok(())
    }

    /// Sets the attributes. Returns those of the source.
    fn keep(&mut self, source: Place<'_>, target: Place<'_>, path: &Path) -> Result<Meta, Error> {
        let mut lost = Vec::new();
        let kept = attributes::keep(source, target, path, &mut lost)?;
        self.kept(&kept, &lost, path);
        Ok(kept.meta)
    }

    /// Sets the attributes of a directory after everything was written into it.
    fn leave(&mut self, path: &Path, before: &Meta) -> Result<(), Error> {
        let (from, name) = self.volumes.source.open_parent(path)?;
        let (to, _) = self.volumes.target.open_parent(path)?;
        let place = |dir| Place { dir, name };
        let after = self.keep(place(from.as_fd()), place(to.as_fd()), path)?;
        if after == *before { Ok(()) } else { Err(Error::changed(path, "changed")) }
    }
}
