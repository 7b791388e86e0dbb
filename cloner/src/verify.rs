//! Verification: reads the written data back.

use std::{fs::File, ops::Range, path::Path};

use blake3::{Hash, Hasher};
use rustix::fs::Advice;

use crate::{
    buffer::Buffer,
    digest::Digest,
    error::{Error, Side, quoted},
    stream::{CHUNK, Content},
    zero,
};

/// The digest of the target's first `len` bytes in the storage; they have to be synced already.
pub fn read_back(file: &File, len: u64, holes: bool, path: &Path) -> Result<Hash, Error> {
    // Data in the page cache would prove nothing. If the advice is ignored, that proof is lost; the comparison remains valid.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    digest(Content { file, direct: None, len, holes, side: Side::Target, path }, |_| ())
}

/// The digest of all content; `read` receives the number of bytes that were read.
pub fn digest(content: Content<'_>, mut read: impl FnMut(u64)) -> Result<Hash, Error> {
    let mut digest = Digest::default();
    content.each(|piece| {
        digest.add(piece);
        read(piece.range.end);
        Ok(())
    })?;
    Ok(digest.finish())
}

/// Reads `range` of the target into `buffer`. Returns true if all of it was read with direct I/O.
pub fn read(target: Content<'_>, range: &Range<u64>, buffer: &mut Buffer) -> Result<bool, Error> {
    buffer.resize(usize::try_from(range.end - range.start).unwrap_or(CHUNK));
    target.read(buffer, range.start).map_err(target.side.failed("read", target.path))
}

/// True if `range` of the target is zero.
pub fn zeros(target: Content<'_>, range: Range<u64>, buffer: &mut Buffer) -> Result<bool, Error> {
    let mut at = range.start;
    let target = Content { len: range.end, ..target };
    while at < range.end {
        let data = target.extent(at)?;
        let mut start = data.start;
        while start < data.end {
            let end = data.end.min(start.saturating_add(CHUNK as u64));
            read(target, &(start..end), buffer)?;
            if !zero::data_runs(buffer).is_empty() {
                return Ok(false);
            }
            start = end;
        }
        // An empty extent means a hole up to the end.
        at = if data.is_empty() { range.end } else { data.end };
    }
    Ok(true)
}

/// A replacement for the digest of content that the target shares with the source: it can't differ, and is not read.
pub fn shared(len: u64) -> Hash {
    let mut hasher = Hasher::new();
    hasher.update(b"shared");
    hasher.update(&len.to_le_bytes());
    hasher.finalize()
}

/// The error for a target whose content differs from the written data.
pub fn differs(path: &Path) -> Error {
    Error::retry(format!(
        "{} in the target reads back different from what was copied; is its storage sound?",
        quoted(path)
    ))
}
