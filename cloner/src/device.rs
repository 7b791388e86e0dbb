//! Block device to block device.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
};

use blake3::Hash;
use rustix::fs::Advice;

use crate::{
    digest::Digest,
    error::{Error, Side},
    meter::Meter,
    stream::Content,
    verify,
    writer::{Writer, Zeroing},
};

pub fn copy(source_path: &Path, target_path: &Path, meter: &mut Meter<'_>) -> Result<Hash, Error> {
    let source = open(source_path, OpenOptions::new().read(true), Side::Source)?;
    let target = open(target_path, OpenOptions::new().read(true).write(true), Side::Target)?;
    let device = |file: &File, side: Side, path| Ok(file.metadata().map_err(side.failed("look at", path))?.rdev());
    if device(&source, Side::Source, source_path)? == device(&target, Side::Target, target_path)? {
        return Err(Error::never("source and target are the same device"));
    }

    let len = length(&source, Side::Source, source_path)?;
    let room = length(&target, Side::Target, target_path)?;
    if room < len {
        return Err(Error::never(format!(
            "the target device has {room} bytes, the source {len}; the target has to be at least as large"
        )));
    }

    meter.set_total(len);
    let _ = rustix::fs::fadvise(&source, 0, None, Advice::Sequential);
    let mut writer = Writer::new(&target, target_path, Zeroing::Punch);
    let mut digest = Digest::default();
    Content { file: &source, len, holes: false, side: Side::Source, path: source_path }.each(|piece| {
        writer.put(piece)?;
        digest.add(piece);
        meter.reach(piece.range.end);
        Ok(())
    })?;
    meter.add_written(writer.finish()?);
    target.sync_all().map_err(Side::Target.failed("sync", target_path))?;

    let digest = digest.finish();
    if verify::read_back(&target, len, false, target_path)? != digest {
        return Err(verify::differs(target_path));
    }
    Ok(digest)
}

fn open(path: &Path, options: &OpenOptions, side: Side) -> Result<File, Error> {
    options.open(path).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Error::never(format!(
            "open {}: {error}; a pod that isn't root may open block volumes only if the node's container runtime has \
             device_ownership_from_security_context = true (containerd: in its CRI plugin's configuration)",
            path.display()
        )),
        _ => side.failed("open", path)(error),
    })
}

/// A device's size is where its end is; `stat` says 0.
fn length(mut device: &File, side: Side, path: &Path) -> Result<u64, Error> {
    device.seek(SeekFrom::End(0)).map_err(side.failed("measure", path))
}
