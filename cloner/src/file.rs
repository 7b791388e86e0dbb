//! Regular file to regular file: inside of a tree, and by itself where it stands in for a device.

use std::{
    fs::{File, OpenOptions},
    os::fd::AsFd,
    path::Path,
};

use blake3::Hash;
use rustix::io::Errno;

use crate::{
    digest::Digest,
    error::{Error, Side},
    meter::Meter,
    stream::Content,
    verify,
    volume::Meta,
    writer::{Writer, Zeroing},
};

/// The cheap ways to copy between two volumes, tried until they are known not to work.
pub struct Ways {
    reflink: bool,
    offload: bool,
}

impl Ways {
    pub fn between(target: impl AsFd) -> Self {
        Self { reflink: true, offload: copies_on_server(target) }
    }

    /// Makes the first `source.len` bytes of the target equal to the source's, and returns the digest of what was read.
    /// `base` is how much of the source was dealt with before.
    pub fn copy(
        &mut self,
        source: Content<'_>,
        to: Writer<'_>,
        base: u64,
        meter: &mut Meter<'_>,
    ) -> Result<Hash, Error> {
        if self.reflink(source, &to)? {
            return verify::digest(source, |end| meter.reach(base + end));
        }
        let mut writer = to.offloading(self.offload.then_some(source.file));
        let mut digest = Digest::default();
        source.each(|piece| {
            writer.put(piece)?;
            digest.add(piece);
            meter.reach(base + piece.range.end);
            Ok(())
        })?;
        meter.add_written(writer.finish()?);
        Ok(digest.finish())
    }

    fn reflink(&mut self, source: Content<'_>, to: &Writer<'_>) -> Result<bool, Error> {
        if !self.reflink || source.len == 0 {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to.target, source.file) {
            Ok(()) => Ok(true),
            Err(error @ (Errno::IO | Errno::NOSPC | Errno::DQUOT)) => {
                Err(Side::Target.failed("reflink", to.path)(error))
            }
            // These two volumes never share extents; others are a matter of this file.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                self.reflink = false;
                Ok(false)
            }
            Err(_) => Ok(false),
        }
    }
}

/// Whether `copy_file_range` saves the way through this machine. On a local file system it only copies from page
/// to page, slower than writing the buffer that was just read.
fn copies_on_server(target: impl AsFd) -> bool {
    const NFS: i64 = 0x6969;
    const SMB2: i64 = 0xfe53_4d42;
    const CIFS: i64 = 0xff53_4d42;
    const CEPH: i64 = 0x00c3_6400;
    const FUSE: i64 = 0x6573_5546;
    rustix::fs::fstatfs(target).is_ok_and(|fs| [NFS, SMB2, CIFS, CEPH, FUSE].contains(&fs.f_type))
}

pub fn copy(source_path: &Path, target_path: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let source = File::open(source_path).map_err(Side::Source.failed("open", source_path))?;
    let target = OpenOptions::new().read(true).write(true).open(target_path);
    let target = target.map_err(Side::Target.failed("open", target_path))?;
    let before = Meta::of_open(&source).map_err(Side::Source.failed("look at", source_path))?;
    let old = Meta::of_open(&target).map_err(Side::Target.failed("look at", target_path))?;
    if before.id() == old.id() {
        return Err(Error::never("source and target are the same file"));
    }

    meter.set_total(before.size);
    // Unlike a device, a file grows.
    if old.size < before.size {
        target.set_len(before.size).map_err(Side::Target.failed("grow", target_path))?;
    }
    let zeroing = if old.size == 0 { Zeroing::Nothing } else { Zeroing::Punch };
    let content = Content {
        file: &source,
        len: before.size,
        holes: before.may_have_holes(),
        side: Side::Source,
        path: source_path,
    };
    let digest = Ways::between(&target)
        .copy(content, Writer::new(&target, target_path, zeroing), 0, meter)
        .and_then(|digest| target.sync_all().map_err(Side::Target.failed("sync", target_path)).map(|()| digest))
        .map_err(|error| error.judge_space(&target, before.allocated()))?;

    let found = verify::read_back(&target, before.size, true, target_path)?;
    let after = Meta::of_open(&source).map_err(Side::Source.failed("look at", source_path))?;
    if after != before {
        return Err(Error::changed(source_path, "changed"));
    }
    if found != digest {
        return Err(verify::differs(target_path));
    }
    Ok(digest)
}
