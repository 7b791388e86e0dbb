//! Writes pieces to a file or device, so that zeros take no space if possible.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::{
    error::{Error, Side},
    stream::{Piece, direct_part},
    zero::{self, ZEROS},
};

/// A method to make a range read as zero; each falls back to the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Zeroing {
    /// None: the range is zero already, in a new file.
    Nothing,
    /// Frees the space. On a device the kernel refuses unless zeros are guaranteed afterwards.
    Punch,
    /// The device or the file system writes the zeros.
    Range,
    Write,
}

pub struct Writer<'a> {
    pub target: &'a File,
    /// The same file, opened for direct I/O.
    direct: Option<&'a File>,
    /// The path in messages.
    pub path: &'a Path,
    zeroing: Zeroing,
    /// The source, if a file server can copy from it by itself.
    offload: Option<&'a File>,
    /// Pending zeros, not written yet, so that adjacent ranges become one.
    zeros: Range<u64>,
    written: u64,
}

impl<'a> Writer<'a> {
    pub fn new(target: &'a File, path: &'a Path, zeroing: Zeroing) -> Self {
        Self { target, direct: None, path, zeroing, offload: None, zeros: 0..0, written: 0 }
    }

    /// Writes whole pages with direct I/O.
    #[must_use]
    pub fn past_the_cache(mut self, direct: Option<&'a File>) -> Self {
        self.direct = direct;
        self
    }

    /// Tries `copy_file_range` from `source` before writing the data.
    #[must_use]
    pub fn offloading(mut self, source: Option<&'a File>) -> Self {
        self.offload = source;
        self
    }

    /// Writes a piece. Pieces come in order and without gaps. Zeros at the end may be made later, see [`Writer::pay_zeros`].
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

    /// Completes the writes. Returns the number of bytes that had to be written.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.pay_zeros()?;
        Ok(self.written)
    }

    /// Adds a range that has to be zero. Returns the number of pending bytes.
    pub fn owe_zeros(&mut self, range: Range<u64>) -> Result<u64, Error> {
        if self.zeros.end == range.start {
            self.zeros.end = range.end;
        } else if !range.is_empty() {
            self.pay_zeros()?;
            self.zeros = range;
        }
        Ok(self.zeros.end - self.zeros.start)
    }

    /// Makes the pending zeros. Returns their range, and true if they have to be verified by reading.
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
                // A device refuses a range that is not a multiple of its sector; the next range may work.
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
                // For example if sectors are larger than a page. The whole range is written again.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(Side::Target.failed("write", self.path)(error)),
            }
        }
        let rest = self.target.write_all_at(&data[done..], offset + done as u64);
        rest.map_err(Side::Target.failed("write", self.path))
    }

    /// Copies through the file server. Returns the number of the `len` bytes that it copied.
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

    /// Every method to make zeros and to copy data leads to the same result.
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
        // Pages that are not entirely zero are written as a whole.
        assert_eq!(writer.finish().unwrap(), 102_400 + (2 << 20) - 1_499_136);
        let mut copy = vec![2; bytes.len()];
        target.read_exact_at(&mut copy, 0).unwrap();
        assert!(copy == bytes);
    }
}
