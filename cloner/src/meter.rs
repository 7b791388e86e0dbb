//! The progress meter of a copy.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::mover::Progress;

use crate::loss::Loss;

/// A listener to the progress of a copy. It is called between reads, from the copying thread.
pub trait Observer {
    /// Called after every piece. Both numbers only grow. Not called before the total is known.
    fn progress(&mut self, progress: Progress);

    /// Called for a part of the source that the target can't have, with a sentence about it.
    fn lost(&mut self, what: &str);
}

/// The maximum number of losses of one kind that are reported individually; all are counted at the end.
const MAX_REPORTED: u64 = 8;

pub struct Meter<'a> {
    observer: &'a mut dyn Observer,
    progress: Progress,
    written: u64,
    /// The number of files, and the path of the first, for each kind of loss.
    lost: BTreeMap<Loss, (u64, PathBuf)>,
}

impl<'a> Meter<'a> {
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self { observer, progress: Progress::default(), written: 0, lost: BTreeMap::new() }
    }

    pub fn set_total(&mut self, total: u64) {
        self.progress.total = total;
        self.observer.progress(self.progress);
    }

    pub fn total(&self) -> u64 {
        self.progress.total
    }

    pub fn done(&self) -> u64 {
        self.progress.done
    }

    /// Records that the first `done` bytes of the source are done. A smaller number (a file that is read again) is ignored.
    pub fn reach(&mut self, done: u64) {
        if done > self.progress.done {
            self.progress.done = done.min(self.progress.total);
            self.observer.progress(self.progress);
        }
    }

    pub fn add_written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    pub fn written(&self) -> u64 {
        self.written
    }

    pub fn lost(&mut self, what: Loss, path: &Path) {
        let (count, first) = self.lost.entry(what).or_insert_with(|| (0, path.to_owned()));
        *count += 1;
        // With files that are copied concurrently, the order varies.
        if path < first.as_path() {
            path.clone_into(first);
        }
        if *count <= MAX_REPORTED {
            self.observer.lost(&what.message(path));
        }
    }

    /// All losses as sentences, which the observer receives too.
    pub fn notes(&mut self) -> Vec<String> {
        let notes: Vec<_> = self.lost.iter().map(|(what, (count, first))| what.summed_up(*count, first)).collect();
        for note in &notes {
            self.observer.lost(note);
        }
        notes
    }
}
