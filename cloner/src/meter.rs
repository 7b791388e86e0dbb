//! What is told while copying.

use std::{collections::BTreeMap, path::Path};

use common::mover::Progress;

use crate::error::quoted;

/// Who wants to hear how a copy goes. Called between reads, from the thread that copies.
pub trait Observer {
    /// After every piece; both numbers only grow. Not called before the total is known.
    fn progress(&mut self, progress: Progress);

    /// Something of the source that the target can't have, in a sentence.
    fn lost(&mut self, what: &str);
}

/// Of each kind of loss so many are told one by one; of the rest there is a number at the end.
const TOLD: u64 = 8;

pub struct Meter<'a> {
    observer: &'a mut dyn Observer,
    progress: Progress,
    written: u64,
    lost: BTreeMap<&'static str, u64>,
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

    /// The first `done` bytes of the source are dealt with. Going back (a file read again) goes unheard.
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

    pub fn lost(&mut self, what: &'static str, path: &Path) {
        let count = self.lost.entry(what).or_default();
        *count += 1;
        if *count <= TOLD {
            self.observer.lost(&format!("{}: {what} can't be kept", quoted(path)));
        }
    }

    /// Says how many losses there were in all.
    pub fn sum_up_losses(&mut self) {
        for (what, count) in &self.lost {
            self.observer.lost(&format!("{what} couldn't be kept {count} times"));
        }
    }
}
