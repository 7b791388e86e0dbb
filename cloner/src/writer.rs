//! Writes pieces to a file or device, so that zeros take no space where that is possible.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::{
    error::{Error, Side},
    stream::{Piece, direct_part},
    zero::{self, ZEROS},
};

/// A way to make a range read as zero; each falls back to the one after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Zeroing {
    /// It is zero already: a file just created.
    Nothing,
    /// Gives the space back. On a device the kernel refuses it unless zeros are guaranteed
    /// afterwards.
    Punch,
    /// Lets the device or the file system write the zeros.
    Range,
    Write,
}

pub struct Writer<'a> {
    pub target: &'a File,
    /// The same, opened past the page cache.
    direct: Option<&'a File>,
    /// For messages.
    pub path: &'a Path,
    zeroing: Zeroing,
    /// Where a file server can copy from by itself.
    offload: Option<&'a File>,
    /// Zeros that were met but not yet made, so that neighbours become one range.
    zeros: Range<u64>,
    written: u64,
}

impl<'a> Writer<'a> {
    pub fn new(target: &'a File, path: &'a Path, zeroing: Zeroing) -> Self {
        Self { target, direct: None, path, zeroing, offload: None, zeros: 0..0, written: 0 }
    }

    /// Writes whole pages past the page cache.
    #[must_use]
    pub fn past_the_cache(mut self, direct: Option<&'a File>) -> Self {
        self.direct = direct;
        self
    }

    /// Tries `copy_file_range` from `source` before writing what was read.
    #[must_use]
    pub fn offloading(mut self, source: Option<&'a File>) -> Self {
        self.offload = source;
        self
    }

    /// Pieces come in order and without a gap. Zeros at the end may be made later, see
    /// [`Writer::pay_zeros`].
    pub fn put(&mut self, piece: &Piece) -> Result<(), Error> {
        let mut done = piece.range.start;
        for run in zero::without_short_holes(&piece.runs) {
            let start = piece.range.start + run.start as u64;
            let end = piece.range.start + run.end as u64;
            self.owe_zeros(done..start)?;
            self.pay_zeros()?;
            self.write(start, &piece.data[run])?;
            done = end;
        }
        self.owe_zeros(done..piece.range.end)?;
        Ok(())
    }

    /// The bytes that had to be written.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.pay_zeros()?;
        Ok(self.written)
    }

    /// This range is to be zero. How many bytes are owed by now.
    pub fn owe_zeros(&mut self, range: Range<u64>) -> Result<u64, Error> {
        if self.zeros.end == range.start {
            self.zeros.end = range.end;
        } else if !range.is_empty() {
            self.pay_zeros()?;
            self.zeros = range;
        }
        Ok(self.zeros.end - self.zeros.start)
    }

    /// Makes the zeros that were owed; which, and whether they have to be looked at to know that
    /// they are there.
    pub fn pay_zeros(&mut self) -> Result<(Range<u64>, bool), Error> {
        let range = std::mem::replace(&mut self.zeros, 0..0);
        if !range.is_empty() {
            self.make_zeros(range.clone())?;
        }
        let doubtful = !range.is_empty() && self.zeroing != Zeroing::Nothing;
        Ok((range, doubtful))
    }

    fn make_zeros(&mut self, range: Range<u64>) -> Result<(), Error> {
        loop {
            let flags = match self.zeroing {
                Zeroing::Nothing => return Ok(()),
                Zeroing::Punch => FallocateFlags::PUNCH_HOLE,
                Zeroing::Range => FallocateFlags::ZERO_RANGE,
                Zeroing::Write => return self.write_zeros(range),
            } | FallocateFlags::KEEP_SIZE;
            match rustix::fs::fallocate(self.target, flags, range.start, range.end - range.start) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // A device refuses what isn't a multiple of its sector; that says nothing of the
                // next range.
                Err(Errno::INVAL) => return self.write_zeros(range),
                Err(error @ (Errno::IO | Errno::NOSPC)) => {
                    return Err(Side::Target.failed("make zeros in", self.path)(error));
                }
                Err(_) => self.zeroing = if self.zeroing == Zeroing::Punch { Zeroing::Range } else { Zeroing::Write },
            }
        }
    }

    fn write_zeros(&mut self, range: Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let size = usize::try_from(range.end - at).map_or(ZEROS.0.len(), |left| left.min(ZEROS.0.len()));
            self.write_all(at, &ZEROS.0[..size])?;
            at += size as u64;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let copied = self.offload(offset, data.len())?;
        self.write_all(offset + copied as u64, &data[copied..])?;
        self.written += data.len() as u64;
        Ok(())
    }

    fn write_all(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        if let Some((direct, whole)) = direct_part(self.direct, offset, data.len()) {
            match direct.write_all_at(&data[..whole], offset) {
                Ok(()) => done = whole,
                // Larger sectors than a page, say. The whole range is written again.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(Side::Target.failed("write", self.path)(error)),
            }
        }
        let rest = self.target.write_all_at(&data[done..], offset + done as u64);
        rest.map_err(Side::Target.failed("write", self.path))
    }

    /// The number of the `len` bytes that the file server copied.
    fn offload(&mut self, offset: u64, len: usize) -> Result<usize, Error> {
        let mut copied = 0;
        while let Some(source) = self.offload
            && copied < len
        {
            let at = offset + copied as u64;
            match rustix::fs::copy_file_range(
                source,
                Some(&mut at.clone()),
                self.target,
                Some(&mut at.clone()),
                len - copied,
            ) {
                Ok(0) => self.offload = None,
                Ok(more) => copied += more,
                Err(Errno::INTR) => {}
                Err(error @ (Errno::IO | Errno::NOSPC | Errno::DQUOT)) => {
                    return Err(Side::Target.failed("copy into", self.path)(io::Error::from(error)));
                }
                Err(_) => self.offload = None,
            }
        }
        Ok(copied)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::stream::Content;

    /// Every way to make zeros and to copy data has to come to the same.
    #[rstest]
    fn overwrites_what_was_there(
        #[values(Zeroing::Punch, Zeroing::Range, Zeroing::Write)] zeroing: Zeroing,
        #[values(false, true)] offload: bool,
    ) {
        let mut bytes = vec![7; 3 << 20];
        bytes[100_000..1_500_000].fill(0);
        bytes[2 << 20..].fill(0);
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all_at(&bytes, 0).unwrap();
        target.write_all_at(&vec![1; bytes.len()], 0).unwrap();

        let path = Path::new("file");
        let len = bytes.len() as u64;
        let mut writer = Writer::new(&target, path, zeroing).offloading(offload.then_some(&source));
        let content = Content { file: &source, direct: None, len, holes: true, side: Side::Source, path };
        content.each(|piece| writer.put(piece)).unwrap();
        // Pages that are not zero only in part are written whole.
        assert_eq!(writer.finish().unwrap(), 102_400 + (2 << 20) - 1_499_136);
        let mut copy = vec![2; bytes.len()];
        target.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == bytes);
    }
}
