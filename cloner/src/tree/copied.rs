//! The records of a copied tree: proof that the target equals the data that was read, and the permissions that are set at the end.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    path::PathBuf,
};

use blake3::{Hash, Hasher};
use rustix::fs::{AtFlags, FileType, Mode};

use super::{
    digest::{Listing, What, fingerprint},
    is_small,
    links::Links,
    pool, read_link,
    walk::{Directory, directories},
};
use crate::{
    error::{Error, Side},
    verify,
    volume::{Entry, Meta, Volume},
};

/// The records of a copy.
#[derive(Default)]
pub(super) struct Copied {
    /// The directories in the order of the walk.
    pub(super) records: Vec<Record>,
    /// Digests of the target's files that were compared already, or that share the source's extents.
    pub(super) proven: HashMap<((u32, u32), u64), Hash>,
    /// Permissions that deny the mover itself to read back; they are set at the end. A directory comes before its entries.
    pub(super) sealed: BTreeMap<PathBuf, u16>,
}

/// The record of one directory: digests only, so that memory does not grow with the number of files.
pub(super) struct Record {
    pub(super) fingerprint: Hash,
    pub(super) listing: Hash,
}

impl Copied {
    /// The digest of the tree.
    pub(super) fn digest(&self) -> Hash {
        let mut digest = Hasher::new();
        for record in &self.records {
            digest.update(record.listing.as_bytes());
        }
        digest.finalize()
    }

    /// Compares the content of the target in the storage with the records of the copy.
    pub(super) fn read_back(&self, target: &Volume) -> Result<(), Error> {
        let mut links = Links::default();
        let mut expected = self.records.iter();
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
                small.into_iter().filter(|entry| !self.proven.contains_key(&entry.meta.id())).collect::<Vec<_>>();
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
                // The final permissions.
                let meta = &self.sealed.get(&path).map_or(*meta, |sealed| meta.with_permissions(*sealed));
                if let Some(first) = links.first(meta) {
                    let meta = &self.sealed.get(first).map_or(*meta, |sealed| meta.with_permissions(*sealed));
                    listing.add(name, meta, &What::Link(first));
                    continue;
                }
                match meta.kind() {
                    FileType::Directory => listing.add(name, meta, &What::Directory),
                    FileType::RegularFile => {
                        let known = self.proven.get(&meta.id()).or_else(|| contents.get(&meta.id()));
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
        // A missing directory is detected in its parent.
        Ok(())
    }

    /// Sets the permissions that would have denied reading back, those of a directory after those of its entries.
    pub(super) fn seal(&self, target: &Volume) -> Result<(), Error> {
        for (path, permissions) in self.sealed.iter().rev() {
            let (dir, name) = target.open_parent(path)?;
            rustix::fs::chmodat(&dir, name, Mode::from_raw_mode((*permissions).into()), AtFlags::empty())
                .map_err(Side::Target.failed("set the mode of", path))?;
        }
        if self.sealed.is_empty() { Ok(()) } else { target.sync() }
    }

    /// Checks that the source has not changed since it was read.
    pub(super) fn check_unchanged(&self, source: &Volume) -> Result<(), Error> {
        let mut expected = self.records.iter();
        for directory in directories(source) {
            let directory = directory?;
            if expected.next().is_none_or(|record| record.fingerprint != fingerprint(&directory)) {
                return Err(Error::changed(&directory.path, "or something in it changed"));
            }
        }
        Ok(())
    }
}
