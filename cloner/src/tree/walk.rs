//! A walk through a tree, depth first and sorted by name, without recursion: a tree may be deeper than the stack allows.

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, vec};

use crate::{
    error::Error,
    volume::{Entry, Meta, Volume},
};

/// A directory that was just entered.
pub struct Directory {
    /// Relative to the top, which is the empty path.
    pub path: PathBuf,
    pub fd: OwnedFd,
    pub meta: Meta,
    pub entries: Vec<Entry>,
}

pub enum Step {
    Enter(Directory),
    /// The directory was left: everything below it was visited.
    Leave {
        path: PathBuf,
        /// The metadata when it was entered.
        meta: Meta,
    },
}

/// Both visits of every directory, starting with a given one. Only the names of directories that are still to be visited are in memory.
pub struct Walk<'a> {
    volume: &'a Volume,
    path: PathBuf,
    entered: bool,
    open: Vec<Level>,
}

struct Level {
    meta: Meta,
    directories: vec::IntoIter<OsString>,
}

impl<'a> Walk<'a> {
    pub fn of(volume: &'a Volume) -> Self {
        Self::below(volume, PathBuf::new())
    }

    pub fn below(volume: &'a Volume, path: PathBuf) -> Self {
        Self { volume, path, entered: false, open: Vec::new() }
    }

    fn enter(&mut self) -> Result<Step, Error> {
        let fd = self.volume.open_dir(&self.path)?;
        let meta = Meta::of_open(&fd).map_err(self.volume.side.failed("look at", &self.path))?;
        let entries = self.volume.list(&fd, &self.path)?;
        let directories: Vec<_> =
            entries.iter().filter(|entry| entry.meta.is_dir()).map(|entry| entry.name.clone()).collect();
        self.open.push(Level { meta, directories: directories.into_iter() });
        Ok(Step::Enter(Directory { path: self.path.clone(), fd, meta, entries }))
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Step, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.entered {
            self.entered = true;
            return Some(self.enter());
        }
        if let Some(name) = self.open.last_mut()?.directories.next() {
            self.path.push(name);
            return Some(self.enter());
        }
        let level = self.open.pop()?;
        let path = self.path.clone();
        self.path.pop();
        Some(Ok(Step::Leave { path, meta: level.meta }))
    }
}

/// Every directory of the volume, each before its subdirectories.
pub fn directories(volume: &Volume) -> impl Iterator<Item = Result<Directory, Error>> {
    Walk::of(volume).filter_map(|step| match step {
        Ok(Step::Enter(directory)) => Some(Ok(directory)),
        Ok(Step::Leave { .. }) => None,
        Err(error) => Some(Err(error)),
    })
}
