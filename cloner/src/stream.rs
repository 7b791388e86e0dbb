//! Reads a file or device from its beginning to its end, holes known, one thread ahead of who uses it.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, path::Path, sync::mpsc, thread};

use rustix::{fs::SeekFrom, io::Errno};

use crate::{
    error::{Error, Side},
    zero::{self, PAGE},
};

/// Bytes read at once: large enough to hide system calls, small enough that a buffer stays in the cache until it is written.
const CHUNK: usize = 1 << 20;
/// How many chunks the reading thread may be ahead.
const AHEAD: usize = 8;
/// Below this a thread costs more than it saves.
const WORTH_A_THREAD: u64 = 4 << 20;

/// The first `len` bytes of an open file or device.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    pub file: &'a File,
    pub len: u64,
    /// Whether to ask the file system for holes; a device has none to tell of.
    pub holes: bool,
    pub side: Side,
    /// For messages.
    pub path: &'a Path,
}

/// A part of the content. What isn't in a run is zero.
pub struct Piece {
    pub range: Range<u64>,
    /// Empty for a hole.
    pub data: Vec<u8>,
    /// The parts of `data` that are not zero, in order, with page granularity.
    pub runs: Vec<Range<usize>>,
}

impl Content<'_> {
    /// Gives every piece to `take`, in order and without a gap.
    pub fn each(self, mut take: impl FnMut(&Piece) -> Result<(), Error>) -> Result<(), Error> {
        let mut reader = Reader { content: self, offset: 0, extent: 0..0 };
        if self.len < WORTH_A_THREAD {
            let mut buffer = Vec::new();
            while let Some(piece) = reader.next(buffer)? {
                take(&piece)?;
                buffer = piece.data;
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let (full, filled) = mpsc::sync_channel(AHEAD);
            let (empty, free) = mpsc::channel();
            let read = move || {
                while let Some(piece) = reader.next(free.try_recv().unwrap_or_default()).transpose() {
                    let failed = piece.is_err();
                    // Nobody listens any more once taking has failed.
                    if full.send(piece).is_err() || failed {
                        break;
                    }
                }
            };
            let spawned = thread::Builder::new().name("reader".into()).spawn_scoped(scope, read);
            spawned.map_err(|error| Error::retry(format!("start a thread: {error}")))?;
            for piece in filled {
                let piece = piece?;
                take(&piece)?;
                // The reader may be done already; then the buffer is simply freed.
                drop(empty.send(piece.data));
            }
            Ok(())
        })
    }

    /// The next range that may hold data, at or after `offset`; empty at the end if there is none.
    fn extent(&self, offset: u64) -> Result<Range<u64>, Error> {
        if !self.holes {
            return Ok(offset..self.len);
        }
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(self.len..self.len),
            // Not every file system knows its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(offset..self.len),
            Err(error) => return Err(self.side.failed("seek in", self.path)(error)),
        };
        let hole = rustix::fs::seek(self.file, SeekFrom::Hole(data)).unwrap_or(self.len);
        // Whole pages, so that what is zero doesn't depend on where a file system's blocks begin.
        let page = PAGE as u64;
        let start = (data / page * page).clamp(offset, self.len);
        Ok(start..hole.next_multiple_of(page).clamp(start, self.len))
    }
}

struct Reader<'a> {
    content: Content<'a>,
    offset: u64,
    extent: Range<u64>,
}

impl Reader<'_> {
    fn next(&mut self, mut data: Vec<u8>) -> Result<Option<Piece>, Error> {
        let Content { file, len, side, path, .. } = self.content;
        if self.offset == len {
            return Ok(None);
        }
        if self.offset >= self.extent.end {
            self.extent = self.content.extent(self.offset)?;
        }
        let start = self.offset;
        if start < self.extent.start {
            data.clear();
            self.offset = self.extent.start;
        } else {
            let size = usize::try_from(self.extent.end - start).map_or(CHUNK, |left| left.min(CHUNK));
            data.resize(size, 0);
            file.read_exact_at(&mut data, start).map_err(side.failed("read", path))?;
            self.offset = start + size as u64;
        }
        let runs = zero::data_runs(&data);
        Ok(Some(Piece { range: start..self.offset, data, runs }))
    }
}
