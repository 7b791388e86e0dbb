//! Reads back what was written.

use std::{fs::File, path::Path};

use blake3::Hash;
use rustix::fs::Advice;

use crate::{
    digest::Digest,
    error::{Error, Side, quoted},
    stream::Content,
};

/// The digest of the target's first `len` bytes as the storage has them; they have to be synced already.
pub fn read_back(file: &File, len: u64, holes: bool, path: &Path) -> Result<Hash, Error> {
    // What is still in the page cache would prove nothing. An advice that isn't taken loses that proof, not the comparison.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    digest(Content { file, len, holes, side: Side::Target, path }, |_| ())
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

/// The error of a target that doesn't hold what was written to it.
pub fn differs(path: &Path) -> Error {
    Error::retry(format!(
        "{} in the target reads back different from what was copied; is its storage sound?",
        quoted(path)
    ))
}
