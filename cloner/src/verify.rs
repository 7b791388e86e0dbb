//! Reads back what was written.

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

/// The digest of the target's first `len` bytes as the storage has them; they have to be synced
/// already.
pub fn read_back(file: &File, len: u64, holes: bool, path: &Path) -> Result<Hash, Error> {
    // What is still in the page cache would prove nothing. An advice that isn't taken loses that
    // proof, not the comparison.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    digest(Content { file, direct: None, len, holes, side: Side::Target, path }, |_| ())
}

/// Reads all of it; `read` hears how many bytes are behind.
pub fn digest(content: Content<'_>, mut read: impl FnMut(u64)) -> Result<Hash, Error> {
    let mut digest = Digest::default();
    content.each(|piece| {
        digest.add(piece);
        read(piece.range.end);
        Ok(())
    })?;
    Ok(digest.finish())
}

/// Reads `range` of the target into `buffer`. Whether all of it came past the page cache.
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
        // Nothing but a hole up to the end, if the extent is empty.
        at = if data.is_empty() { range.end } else { data.end };
    }
    Ok(true)
}

/// Stands for content that the target shares with the source: it can't differ, and isn't read.
pub fn shared(len: u64) -> Hash {
    let mut hasher = Hasher::new();
    hasher.update(b"shared");
    hasher.update(&len.to_le_bytes());
    hasher.finalize()
}

/// The error of a target that doesn't hold what was written to it.
pub fn differs(path: &Path) -> Error {
    Error::retry(format!(
        "{} in the target reads back different from what was copied; is its storage sound?",
        quoted(path)
    ))
}
