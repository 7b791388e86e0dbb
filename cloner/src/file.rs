//! Copies of regular files to regular files: a reflink, else `copy_file_range`, else reads and
//! writes.

use std::{fs::File, os::fd::AsFd, path::Path};

use blake3::Hash;
use rustix::io::Errno;

use crate::{
    digest::Digest,
    error::{Error, Side},
    stream::{self, Content},
    transfer::transfer,
    verify,
    writer::Writer,
};

/// The minimum size for threads and for direct I/O.
pub const LARGE: u64 = 8 << 20;

/// The cheap methods to copy between two volumes. They are tried until they are known not to work.
#[derive(Clone, Copy)]
pub struct Ways {
    reflink: bool,
    offload: bool,
}

/// A file of the target that is not synced yet.
pub struct Filled {
    /// The digest of the source.
    pub digest: Hash,
    pub written: u64,
    /// True if the target's content is known to be equal: compared, or shared.
    pub proven: bool,
}

impl Ways {
    pub fn between(target: impl AsFd) -> Self {
        Self { reflink: true, offload: copies_on_server(target) }
    }

    /// Makes the target, which is new and of the source's length, equal to the source. `progress` receives the number of bytes that are
    /// done.
    pub fn copy(
        &mut self,
        source: Content<'_>,
        target: &File,
        to: Writer<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Filled, Error> {
        if self.reflink(source.file, source.len, target, source.path)? {
            return Ok(Filled { digest: verify::shared(source.len), written: 0, proven: true });
        }
        let mut writer = to.offloading(self.offload_from(source.file));
        if source.len >= LARGE {
            let (from, onto) = (stream::direct(source.file, false), stream::direct(target, true));
            let source = Content { direct: from.as_ref(), ..source };
            let target = Content { file: target, direct: onto.as_ref(), holes: true, side: Side::Target, ..source };
            let writer = writer.past_the_cache(onto.as_ref());
            let copied = transfer(source, target, writer, 0..0, progress)?;
            return Ok(Filled { digest: copied.digest, written: copied.written, proven: copied.is_proven() });
        }
        let mut digest = Digest::default();
        source.each(|piece| {
            writer.put(piece)?;
            digest.add(piece);
            progress(piece.range.end);
            Ok(())
        })?;
        Ok(Filled { digest: digest.finish(), written: writer.finish()?, proven: false })
    }

    /// The source, if a file server copies by itself.
    pub fn offload_from(self, source: &File) -> Option<&File> {
        self.offload.then_some(source)
    }

    /// Makes the target share all of the source's extents, if the file system can.
    pub fn reflink(&mut self, source: &File, len: u64, target: &File, path: &Path) -> Result<bool, Error> {
        if !self.reflink || len == 0 {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(target, source) {
            Ok(()) => Ok(true),
            Err(error @ (Errno::IO | Errno::NOSPC | Errno::DQUOT)) => Err(Side::Target.failed("reflink", path)(error)),
            // These two volumes never share extents; other errors concern this file only.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                self.reflink = false;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }
}

/// True if `copy_file_range` avoids the transfer through this machine. On a local file system it only copies from page to page, slower than
/// writing the buffer that was just read.
fn copies_on_server(target: impl AsFd) -> bool {
    const NFS: i64 = 0x6969;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const CEPH: i64 = 0x00c3_6400;
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(target).is_ok_and(|fs| [NFS, SMB2, CIFS, CEPH, FUSE].contains(&fs.f_type))
}
