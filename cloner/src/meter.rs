//! The progress meter of a copy.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use common::mover::Progress;

use crate::loss::Loss;

/// A listener to the progress of a copy. Called between reads, from the thread that copies.
pub trait Observer {
    /// After every piece; both numbers only grow. Not called before the total is known.
    fn progress(&mut self, progress: Progress);

    /// Something of the source that the target can't have, in a sentence.
    fn lost(&mut self, what: &str);
}

/// The losses of one kind that are reported one by one; all are counted in the end.
const MAX_REPORTED: u64 = 8;

pub struct Meter<'a> {
    observer: &'a mut dyn Observer,
    progress: Progress,
    written: u64,
    /// The number of files, and the name of the first.
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

    /// The first `done` bytes of the source are dealt with. Going back (a file read again) goes
    /// unheard.
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
        // Of files that are copied at once, it isn't always the same that comes first.
        if path < first.as_path() {
            path.clone_into(first);
        }
        if *count <= MAX_REPORTED {
            self.observer.lost(&what.message(path));
        }
    }

    /// All losses, in sentences; the observer gets them too.
    pub fn notes(&mut self) -> Vec<String> {
        let notes: Vec<_> = self.lost.iter().map(|(what, (count, first))| what.summed_up(*count, first)).collect();
        for note in &notes {
            self.observer.lost(note);
        }
        notes
    }
}
