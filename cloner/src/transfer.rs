//! Copies large content in three concurrent steps: one thread reads ahead, this one writes, a third reads the written data back and
//! compares it with the data that was read. So reading back takes no extra time, and the data to compare with is still in memory.
//!
//! The comparison proves something only if writing and reading back use direct I/O. For data that has to go through the page cache, the
//! hash is kept instead. [`Copied::prove`] compares it after the target was synced and the cache dropped.

use std::{ops::Range, sync::mpsc, thread};

use blake3::Hash;
use rustix::fs::Advice;

use crate::{
    buffer::Buffer,
    digest::Digest,
    error::Error,
    stream::{AHEAD, Content, Piece, spawn},
    verify,
    writer::Writer,
};

/// The number of bytes in the page cache after which write-back is started: the disk must not idle until the end.
const WRITE_BACK: u64 = 64 << 20;

/// The maximum number of zeros that are collected: few requests, and still data to read back while the rest is read.
const ZEROS_AT_ONCE: u64 = 16 << 20;

/// A copy that is not on stable storage yet.
pub struct Copied {
    /// The digest of the source.
    pub digest: Hash,
    pub written: u64,
    /// The ranges that were not compared yet.
    doubtful: Vec<Doubt>,
}

struct Doubt {
    range: Range<u64>,
    /// The hash of the expected content; `None` if it is zeros only.
    hash: Option<Hash>,
}

/// The result for a piece or a range on the target.
enum Done {
    Data(Piece),
    /// Zeros; `new` if the range never held anything else.
    Zeros {
        range: Range<u64>,
        new: bool,
    },
}

/// Makes the target's beginning equal to `source`, and then the range `rest` zero. `to` writes to `target`. `progress` receives the number
/// of bytes of the source that are done.
pub fn transfer(
    source: Content<'_>,
    target: Content<'_>,
    mut to: Writer<'_>,
    rest: Range<u64>,
    mut progress: impl FnMut(u64),
) -> Result<Copied, Error> {
    thread::scope(|scope| {
        let (empty, free) = mpsc::channel();
        let filled = source.reader().ahead(scope, free)?;
        let (done, to_check) = mpsc::sync_channel(AHEAD);
        let reuse = empty.clone();
        let checker = Checker { target, len: source.len, digest: Digest::default(), doubtful: Vec::new() };
        let checker = spawn(scope, "checker", move || checker.check(to_check, &empty))?;

        let write = move || {
            // The receiver is gone if the written data was wrong; that error is reported then.
            let say = |what| done.send(what).is_ok();
            let zeros = |(range, doubtful): (Range<u64>, bool)| Done::Zeros { range, new: !doubtful };
            for piece in filled {
                let piece = piece?;
                let end = piece.range.end;
                if piece.runs.is_empty() {
                    drop(reuse.send(piece.data));
                    if to.owe_zeros(piece.range)? >= ZEROS_AT_ONCE && !say(zeros(to.pay_zeros()?)) {
                        break;
                    }
                } else {
                    let before = to.pay_zeros()?;
                    to.put(&piece)?;
                    to.pay_zeros()?;
                    if !(say(zeros(before)) && say(Done::Data(piece))) {
                        break;
                    }
                }
                progress(end);
            }
            to.owe_zeros(rest)?;
            say(zeros(to.pay_zeros()?));
            to.finish()
        };
        let written = write();
        let proof = checker.join().map_err(|_| Error::retry("the thread that reads back broke off"))?;
        let (digest, doubtful) = proof?;
        Ok(Copied { digest, written: written?, doubtful })
    })
}

impl Copied {
    /// True if everything was compared.
    pub fn is_proven(&self) -> bool {
        self.doubtful.is_empty()
    }

    /// Compares the ranges that were not compared yet; `target` is synced.
    pub fn prove(&self, target: Content<'_>) -> Result<(), Error> {
        let mut buffer = Buffer::default();
        if !self.doubtful.is_empty() {
            // If the advice is ignored, the data may come from the page cache. The comparison remains valid.
            let _ = rustix::fs::fadvise(target.file, 0, None, Advice::DontNeed);
        }
        for Doubt { range, hash } in &self.doubtful {
            let same = match hash {
                None => verify::zeros(target, range.clone(), &mut buffer)?,
                Some(hash) => {
                    verify::read(target, range, &mut buffer)?;
                    blake3::hash(&buffer) == *hash
                }
            };
            if !same {
                return Err(verify::differs(target.path));
            }
        }
        Ok(())
    }
}

/// Reads back, and hashes the data that was read from the source.
struct Checker<'a> {
    target: Content<'a>,
    /// The length of the source.
    len: u64,
    digest: Digest,
    doubtful: Vec<Doubt>,
}

impl Checker<'_> {
    fn check(
        mut self,
        written: mpsc::Receiver<Done>,
        empty: &mpsc::Sender<Buffer>,
    ) -> Result<(Hash, Vec<Doubt>), Error> {
        let mut buffer = Buffer::default();
        let mut cached = 0;
        for done in written {
            match done {
                Done::Zeros { range, .. } if range.is_empty() => {}
                Done::Zeros { range, new } => {
                    self.digest.add_zeros(range.end.min(self.len));
                    if new {
                        continue;
                    }
                    if self.target.direct.is_none() {
                        self.doubtful.push(Doubt { range, hash: None });
                    } else if !verify::zeros(self.target, range, &mut buffer)? {
                        return Err(verify::differs(self.target.path));
                    }
                }
                Done::Data(piece) => {
                    // Direct reads first write cached data to the device.
                    if self.target.direct.is_none() || !verify::read(self.target, &piece.range, &mut buffer)? {
                        self.doubtful.push(Doubt { range: piece.range.clone(), hash: Some(blake3::hash(&piece.data)) });
                        cached += piece.data.len() as u64;
                    } else if *buffer != *piece.data {
                        return Err(verify::differs(self.target.path));
                    }
                    self.digest.add(&piece);
                    // The reader may have ended already; then the buffer is simply freed.
                    drop(empty.send(piece.data));
                    if cached >= WRITE_BACK {
                        cached = 0;
                        // An error here is reported again when everything is synced.
                        let _ = self.target.file.sync_data();
                    }
                }
            }
        }
        Ok((self.digest.finish(), self.doubtful))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt, path::Path};

    use rstest::rstest;

    use super::*;
    use crate::{error::Side, stream, writer::Zeroing};

    const LEN: usize = (20 << 20) + 700;
    const REST: usize = 1 << 20;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[rstest]
    fn what_was_foreign_is_gone_and_what_is_damaged_later_is_found(#[values(false, true)] past_the_cache: bool) {
        let mut bytes = vec![3; LEN];
        bytes[3 << 20..15 << 20].fill(0);
        bytes[(16 << 20) + 100..17 << 20].fill(0);
        let (source, target) = (file(&bytes), file(&vec![7; LEN + REST]));
        let direct = past_the_cache.then(|| stream::direct(&target, true)).flatten();
        let content =
            |file, direct, len, side| Content { file, direct, len, holes: true, side, path: Path::new("disk") };
        let from = content(&source, None, LEN as u64, Side::Source);
        let onto = content(&target, direct.as_ref(), (LEN + REST) as u64, Side::Target);
        let writer = Writer::new(&target, Path::new("disk"), Zeroing::Punch).past_the_cache(direct.as_ref());
        let mut reached = 0;
        let copied = transfer(from, onto, writer, LEN as u64..(LEN + REST) as u64, |done| reached = done).unwrap();
        assert_eq!(reached, LEN as u64);
        assert_eq!(copied.digest, verify::digest(from, |_| ()).unwrap());
        target.sync_all().unwrap();
        copied.prove(onto).unwrap();
        let mut found = vec![1; LEN + REST];
        target.read_exact_at(&mut found, 0).unwrap();
        assert!(found[..LEN] == bytes && found[LEN..].iter().all(|byte| *byte == 0));

        // The end is not a whole page: that part is always proven after the sync.
        for damaged in [LEN as u64 - 1, 5 << 20, 0].into_iter().take(if direct.is_some() { 1 } else { 3 }) {
            let mut byte = [0];
            target.read_exact_at(&mut byte, damaged).unwrap();
            target.write_all_at(b"?", damaged).unwrap();
            assert!(copied.prove(onto).is_err(), "the damage at {damaged} went unseen");
            target.write_all_at(&byte, damaged).unwrap();
        }
    }
}
