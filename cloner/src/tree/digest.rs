//! Digests of one directory: of its contents, and of the metadata that reveals a change.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use blake3::{Hash, Hasher};

use super::walk::Directory;
use crate::{attributes::PERMISSIONS, volume::Meta};

/// An entry of a directory, apart from its name and permissions.
pub enum What<'a> {
    /// A directory, whose entries have a digest of their own.
    Directory,
    File(Hash),
    Symlink(&'a OsStr),
    /// A hard link to the file at this path, which comes earlier in the walk.
    Link(&'a Path),
    /// A pipe, socket or device.
    Special,
}

/// BLAKE3 of a directory's path and entries, in the order of the walk.
pub struct Listing(Hasher);

impl Listing {
    pub fn of(path: &Path) -> Self {
        let mut listing = Self(Hasher::new());
        listing.put(path.as_os_str());
        listing
    }

    pub fn add(&mut self, name: &OsStr, meta: &Meta, what: &What<'_>) {
        self.put(name);
        // Permissions of symbolic links are meaningless, and a hard link has those of its first name.
        self.0.update(&(meta.mode & (0o170_000 | PERMISSIONS)).to_le_bytes());
        match what {
            What::Directory => self.tag(0),
            What::File(content) => {
                self.tag(1);
                self.0.update(&meta.size.to_le_bytes());
                self.0.update(content.as_bytes());
            }
            What::Symlink(to) => {
                self.tag(2);
                self.put(to);
            }
            What::Link(first) => {
                self.tag(3);
                self.put(first.as_os_str());
            }
            What::Special => {
                self.tag(4);
                self.0.update(&meta.rdev.0.to_le_bytes());
                self.0.update(&meta.rdev.1.to_le_bytes());
            }
        }
    }

    pub fn finish(&self) -> Hash {
        self.0.finalize()
    }

    fn tag(&mut self, tag: u8) {
        self.0.update(&[tag]);
    }

    /// Adds the length too, so that following bytes can't be taken for a part of the name.
    fn put(&mut self, name: &OsStr) {
        self.0.update(&(name.len() as u64).to_le_bytes());
        self.0.update(name.as_bytes());
    }
}

/// A hash that differs if the directory or one of its direct entries was changed in between.
pub fn fingerprint(directory: &Directory) -> Hash {
    let mut hasher = Hasher::new();
    directory.meta.fingerprint(&mut hasher);
    for entry in &directory.entries {
        hasher.update(&(entry.name.len() as u64).to_le_bytes());
        hasher.update(entry.name.as_bytes());
        entry.meta.fingerprint(&mut hasher);
    }
    hasher.finalize()
}
