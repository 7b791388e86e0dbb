//! Files with several hard links.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::volume::Meta;

/// The first path in the walk of every file that has more than one name.
#[derive(Default)]
pub struct Links(HashMap<((u32, u32), u64), PathBuf>);

impl Links {
    /// The path under which this file was found before.
    pub fn first(&self, meta: &Meta) -> Option<&Path> {
        // A directory has further links too, but those are `.` and `..`.
        if meta.links < 2 || meta.is_dir() { None } else { self.0.get(&meta.id()).map(PathBuf::as_path) }
    }

    pub fn remember(&mut self, meta: &Meta, path: impl FnOnce() -> PathBuf) {
        if meta.links > 1 && !meta.is_dir() {
            self.0.entry(meta.id()).or_insert_with(path);
        }
    }
}
