//! Reads a file or device from its beginning to its end, and knows its holes.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::Path, sync::mpsc, thread};

use rustix::{fs::SeekFrom, io::Errno};

use crate::{
    buffer::Buffer,
    error::{Error, Side},
    volume,
    zero::{self, PAGE},
};

/// The number of bytes in one read: large enough to hide system calls and a device's latency.
pub const CHUNK: usize = 4 << 20;
/// The number of chunks by which the reading thread may be ahead.
pub const AHEAD: usize = 3;
/// The minimum size for a reading thread; below it a thread costs more than it saves.
const WORTH_A_THREAD: u64 = 4 << 20;

/// The first `len` bytes of an open file or device.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    pub file: &'a File,
    /// The same file, opened for direct I/O, if that is possible.
    pub direct: Option<&'a File>,
    pub len: u64,
    /// True if the file system has to be asked for holes; a device has none.
    pub holes: bool,
    pub side: Side,
    /// The path in messages.
    pub path: &'a Path,
}

/// A part of the content. Bytes outside of the runs are zero.
pub struct Piece {
    pub range: Range<u64>,
    /// Empty for a hole.
    pub data: Buffer,
    /// The parts of `data` that are not zero, in order, with page granularity.
    pub runs: Vec<Range<usize>>,
}

/// Opens `file` again for direct I/O: written data is on the device, and data is read from there.
pub fn direct(file: &File, write: bool) -> Option<File> {
    volume::reopen_direct(file, write).ok().filter(volume::takes_direct_io)
}

/// The part of an access to `len` bytes at `offset` that may use direct I/O: whole pages only.
pub fn direct_part(direct: Option<&File>, offset: u64, len: usize) -> Option<(&File, usize)> {
    let whole = len / PAGE * PAGE;
    direct.filter(|_| whole > 0 && offset.is_multiple_of(PAGE as u64)).map(|file| (file, whole))
}

impl<'a> Content<'a> {
    /// Passes every piece to `take`, in order and without gaps.
    pub fn each(self, mut take: impl FnMut(&Piece) -> Result<(), Error>) -> Result<(), Error> {
        let mut reader = self.reader();
        if self.len < WORTH_A_THREAD {
            let mut buffer = Buffer::default();
            while let Some(piece) = reader.next(buffer)? {
                take(&piece)?;
                buffer = piece.data;
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let (empty, free) = mpsc::channel();
            let filled = reader.ahead(scope, free)?;
            for piece in filled {
                let piece = piece?;
                take(&piece)?;
                // The reader may have ended already; then the buffer is simply freed.
                drop(empty.send(piece.data));
            }
            Ok(())
        })
    }

    pub fn reader(self) -> Reader<'a> {
        Reader { content: self, offset: 0, extent: 0..0 }
    }

    /// Fills `data` from `offset`. Returns true if all of it was read with direct I/O.
    pub fn read(&self, data: &mut [u8], offset: u64) -> io::Result<bool> {
        let mut done = 0;
        if let Some((direct, whole)) = direct_part(self.direct, offset, data.len()) {
            match direct.read_exact_at(&mut data[..whole], offset) {
                Ok(()) => done = whole,
                // For example if sectors are larger than a page.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        self.file.read_exact_at(&mut data[done..], offset + done as u64)?;
        Ok(done == data.len())
    }

    /// The next range that may hold data, at or after `offset`; empty at the end if there is none.
    pub fn extent(&self, offset: u64) -> Result<Range<u64>, Error> {
        if !self.holes {
            return Ok(offset..self.len);
        }
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(self.len..self.len),
            // Not every file system reports its holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(offset..self.len),
            Err(error) => return Err(self.side.failed("seek in", self.path)(error)),
        };
        let hole = rustix::fs::seek(self.file, SeekFrom::Hole(data)).unwrap_or(self.len);
        // Whole pages, so that zero detection does not depend on the positions of a file system's blocks.
        let page = PAGE as u64;
        let start = (data / page * page).clamp(offset, self.len);
        Ok(start..hole.next_multiple_of(page).clamp(start, self.len))
    }
}

/// Iterates over a content.
pub struct Reader<'a> {
    content: Content<'a>,
    offset: u64,
    extent: Range<u64>,
}

impl<'a> Reader<'a> {
    /// Reads in a separate thread, into buffers that come back through `free`.
    pub fn ahead<'scope>(
        mut self,
        scope: &'scope thread::Scope<'scope, '_>,
        free: mpsc::Receiver<Buffer>,
    ) -> Result<mpsc::Receiver<Result<Piece, Error>>, Error>
    where
        'a: 'scope,
    {
        let (full, filled) = mpsc::sync_channel(AHEAD);
        let read = move || {
            while let Some(piece) = self.next(free.try_recv().unwrap_or_default()).transpose() {
                let failed = piece.is_err();
                // The receiver is gone once another step has failed.
                if full.send(piece).is_err() || failed {
                    break;
                }
            }
        };
        spawn(scope, "reader", read)?;
        Ok(filled)
    }

    fn next(&mut self, mut data: Buffer) -> Result<Option<Piece>, Error> {
        let Content { len, side, path, .. } = self.content;
        if self.offset == len {
            return Ok(None);
        }
        if self.offset >= self.extent.end {
            self.extent = self.content.extent(self.offset)?;
        }
        let start = self.offset;
        if start < self.extent.start {
            data.resize(0);
            self.offset = self.extent.start;
        } else {
            let size = usize::try_from(self.extent.end - start).map_or(CHUNK, |left| left.min(CHUNK));
            data.resize(size);
            self.content.read(&mut data, start).map_err(side.failed("read", path))?;
            self.offset = start + size as u64;
        }
        let runs = zero::data_runs(&data);
        Ok(Some(Piece { range: start..self.offset, data, runs }))
    }
}

/// Starts a thread of `scope`.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    run: impl FnOnce() -> T + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, T>, Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run);
    spawned.map_err(|error| Error::retry(format!("start a thread: {error}")))
}
