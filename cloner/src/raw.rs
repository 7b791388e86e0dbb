//! Block devices, and regular files that are copied as one piece of content.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use blake3::Hash;
use rustix::fs::FileType;

use crate::{
    error::{Error, Side},
    file::Ways,
    meter::Meter,
    stream::{self, Content},
    transfer::transfer,
    verify,
    volume::Meta,
    writer::{Writer, Zeroing},
};

/// One side of a copy.
pub struct Raw<'a> {
    file: File,
    /// The same file, opened for direct I/O, if that is possible.
    direct: Option<File>,
    meta: Meta,
    pub len: u64,
    side: Side,
    /// The path in messages.
    path: &'a Path,
}

/// Makes a device or file equal to another; the part beyond the source's length is not changed.
pub fn copy(source: &Path, target: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let source = Raw::open(source, Side::Source)?;
    let target = Raw::open(target, Side::Target)?;
    if source.is_device() && target.is_device() && source.meta.rdev == target.meta.rdev {
        return Err(Error::never("source and target are the same device"));
    }
    if source.meta.id() == target.meta.id() {
        return Err(Error::never("source and target are the same file"));
    }
    target.copy_from(&source, 0..0, meter)
}

impl<'a> Raw<'a> {
    pub fn open(path: &'a Path, side: Side) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(side == Side::Target).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied if path.is_file() => side.failed("open", path)(error),
            ErrorKind::PermissionDenied => Error::never(format!(
                "open {}: {error}; a pod that isn't root may open block volumes only if the node's container runtime has \
                 device_ownership_from_security_context = true (containerd: in its CRI plugin's configuration)",
                path.display()
            )),
            _ => side.failed("open", path)(error),
        })?;
        Self::of(file, path, side)
    }

    pub fn of(mut file: File, path: &'a Path, side: Side) -> Result<Self, Error> {
        let meta = Meta::of_open(&file).map_err(side.failed("look at", path))?;
        // A device's size is the position of its end; `stat` reports 0.
        let len = file.seek(SeekFrom::End(0)).map_err(side.failed("measure", path))?;
        let direct = stream::direct(&file, side == Side::Target);
        Ok(Self { file, direct, meta, len, side, path })
    }

    fn is_device(&self) -> bool {
        self.meta.kind() == FileType::BlockDevice
    }

    fn content(&self, len: u64) -> Content<'_> {
        let holes = !self.is_device() && (self.side == Side::Target || self.meta.may_have_holes());
        Content { file: &self.file, direct: self.direct.as_ref(), len, holes, side: self.side, path: self.path }
    }

    /// The first bytes, at most `most`.
    pub fn head(&self, most: usize) -> Result<Vec<u8>, Error> {
        let mut head = vec![0; usize::try_from(self.len).map_or(most, |len| len.min(most))];
        let content = Content { direct: None, ..self.content(self.len) };
        content.read(&mut head, 0).map_err(self.side.failed("read", self.path))?;
        Ok(head)
    }

    /// Checks that `len` bytes fit from the beginning. A file grows, unlike a device.
    pub fn has_room(&self, len: u64) -> Result<(), Error> {
        if self.len >= len || !self.is_device() {
            return Ok(());
        }
        Err(Error::never(format!(
            "the target device has {} bytes, the source {len}; the target has to be at least as large",
            self.len
        )))
    }

    /// Makes the beginning equal to `source`, and the range `rest` zero. The result is synced, read back and compared.
    pub fn copy_from(&self, source: &Raw<'_>, rest: Range<u64>, meter: &mut Meter<'_>) -> Result<Hash, Error> {
        self.has_room(source.len)?;
        meter.set_total(source.len);
        if !self.is_device() && self.len < source.len {
            self.file.set_len(source.len).map_err(self.side.failed("grow", self.path))?;
        }
        let digest = self.fill(source, rest, meter);
        // Checked last and reported first: if the source changed, a difference is not the target's fault.
        let after = Meta::of_open(&source.file).map_err(source.side.failed("look at", source.path))?;
        if !source.is_device() && after != source.meta {
            return Err(Error::changed(source.path, "changed"));
        }
        digest.map_err(|error| error.judge_space(&self.file, source.meta.allocated()))
    }

    fn fill(&self, source: &Raw<'_>, rest: Range<u64>, meter: &mut Meter<'_>) -> Result<Hash, Error> {
        let target = self.content(source.len.max(rest.end));
        let zeroing = if !self.is_device() && self.len == 0 { Zeroing::Nothing } else { Zeroing::Punch };
        let mut ways = Ways::between(&self.file);
        let shared = !source.is_device()
            && !self.is_device()
            && rest.is_empty()
            && ways.reflink(&source.file, source.len, &self.file, self.path)?;
        if shared {
            meter.reach(source.len);
            self.sync()?;
            return Ok(verify::shared(source.len));
        }
        let writer = Writer::new(&self.file, self.path, zeroing)
            .past_the_cache(self.direct.as_ref())
            .offloading(ways.offload_from(&source.file));
        let copied = transfer(source.content(source.len), target, writer, rest, |done| meter.reach(done))?;
        meter.add_written(copied.written);
        self.sync()?;
        copied.prove(target)?;
        Ok(copied.digest)
    }

    fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(self.side.failed("sync", self.path))
    }
}
