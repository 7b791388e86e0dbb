//! File systems on block devices, and what is mounted where.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};
use serde::{Deserialize, Serialize};
use tonic::Code;

use crate::{Error, Result, command, image::LoopDevice, patience};

/// A file system that the driver can make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// The default.
    #[default]
    Ext4,
    /// Has a minimum size and an identity that a copy shares with its source.
    Xfs,
}

impl FsType {
    /// The smallest device that it fits on, in bytes.
    pub fn minimum(self) -> u64 {
        match self {
            Self::Ext4 => 0,
            Self::Xfs => 300 << 20,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

impl FromStr for FsType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "" | "ext4" => Ok(Self::Ext4),
            "xfs" => Ok(Self::Xfs),
            _ => Err(Error::refused(Code::InvalidArgument, format!("file system {name} is neither ext4 nor xfs"))),
        }
    }
}

/// Makes a file system, over whatever is there.
pub fn make(fs: FsType, device: &Path) -> Result<()> {
    // The image is sparse and empty: nothing to discard.
    let (program, options): (_, &[&str]) = match fs {
        FsType::Ext4 => ("mkfs.ext4", &["-F", "-q", "-m", "0", "-E", "nodiscard"]),
        FsType::Xfs => ("mkfs.xfs", &["-f", "-q", "-K"]),
    };
    command::run(Command::new(program).args(options).arg(device)).map(drop)
}

/// The file system on a device, if there is one of a kind that the driver can mount.
pub fn probe(device: &Path) -> Result<Option<FsType>> {
    match command::run(Command::new("blkid").args(["--probe", "--match-tag", "TYPE", "--output", "value"]).arg(device))
    {
        Ok(name) => name.parse().map(Some),
        // Nothing that it knows.
        Err(Error::Command { status, .. }) if status.code() == Some(2) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Mounts a file system.
pub fn mount(fs: FsType, device: &Path, target: &Path, options: &[String]) -> Result<()> {
    fs::create_dir_all(target).map_err(Error::io("create", target))?;
    // A copy has the identity of its source, which may be mounted too.
    let nouuid = (fs == FsType::Xfs).then_some("nouuid");
    let options: Vec<_> = options.iter().map(String::as_str).chain(nouuid).collect();
    let mut command = Command::new("mount");
    command.args(["-t", fs.name()]).arg(device).arg(target);
    if !options.is_empty() {
        command.args(["-o", &options.join(",")]);
    }
    command::run(&mut command).map(drop)
}

/// Grows a file system that is about to be mounted to the size of its device, if it is one that grows better so: ext4 while mounted
/// needs `CAP_SYS_RESOURCE`, which root in a container often lacks.
pub fn grow_unmounted(fs: FsType, device: &Path, size: u64) -> Result<()> {
    if fs != FsType::Ext4 || ext4_size(device)? >= size {
        return Ok(());
    }
    // A copy of a mounted file system has to be recovered first.
    match command::run(Command::new("e2fsck").args(["-f", "-p"]).arg(device)) {
        // It has corrected something.
        Err(Error::Command { status, .. }) if status.code() == Some(1) => {}
        checked => drop(checked?),
    }
    command::run(Command::new("resize2fs").arg(device)).map(drop)
}

fn ext4_size(device: &Path) -> Result<u64> {
    let header = command::run(Command::new("dumpe2fs").arg("-h").arg(device))?;
    let field = |name| header.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    field("Block count:").zip(field("Block size:")).map(|(count, size)| count * size).ok_or_else(|| {
        Error::refused(Code::Internal, format!("dumpe2fs does not say how large {} is", device.display()))
    })
}

/// Grows a mounted file system to the size of its device; one that fills it stays as it is.
pub fn grow(fs: FsType, device: &Path, mounted: &Path) -> Result<()> {
    let grown = match fs {
        FsType::Ext4 => command::run(Command::new("resize2fs").arg(device)),
        FsType::Xfs => command::run(Command::new("xfs_growfs").arg("-d").arg(mounted)),
    };
    match grown {
        Err(Error::Command { stderr, .. }) if fs == FsType::Ext4 && stderr.contains("Permission denied") => {
            let message = "a mounted ext4 grows only with CAP_SYS_RESOURCE, which this driver lacks; it grows when it is staged next";
            Err(Error::refused(Code::FailedPrecondition, message))
        }
        grown => grown.map(drop),
    }
}

/// Shows a directory or device at a second place.
pub fn bind(source: &Path, target: &Path, readonly: bool) -> Result<()> {
    let failed = |errno: Errno| Error::io("bind to", target)(errno.into());
    rustix::mount::mount_bind(source, target).map_err(failed)?;
    if readonly {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(target, flags, c"").map_err(failed)?;
    }
    Ok(())
}

/// Unmounts whatever is mounted at a path.
pub fn unmount(target: &Path) -> Result<()> {
    let gone = patience::soon(|| {
        while mounted_at(target)?.is_some() {
            match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) => return Ok(false),
                done => done.map_err(|errno| Error::io("unmount", target)(errno.into()))?,
            }
        }
        Ok(true)
    })?;
    if gone {
        return Ok(());
    }
    Err(Error::refused(Code::Aborted, format!("{} is still in use", target.display())))
}

/// Writes out what is cached above an image, so that the file holds all that its users were told is stored.
pub fn flush(device: &LoopDevice) -> Result<()> {
    // All mounts of one device show one file system.
    if let Some(mount) = mounts()?.into_iter().find(|mount| mount.device == device.number) {
        let directory = File::open(&mount.point).map_err(Error::io("open", &mount.point))?;
        rustix::fs::syncfs(&directory).map_err(|errno| Error::io("sync", &mount.point)(errno.into()))?;
    }
    File::open(&device.device).and_then(|device| device.sync_all()).map_err(Error::io("sync", &device.device))
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `MAJOR:MINOR` of the file system's device.
    pub device: String,
    /// The part of the file system that is shown.
    pub root: PathBuf,
    /// Where it is shown.
    pub point: PathBuf,
}

/// What is mounted at a path; of several the uppermost.
pub fn mounted_at(path: &Path) -> Result<Option<Mount>> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", path)(error)),
    };
    Ok(mounts()?.into_iter().rfind(|mount| mount.point == path))
}

/// The mount table of this process.
pub fn mounts() -> Result<Vec<Mount>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(Error::io("read", table))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(2);
    Some(Mount {
        device: fields.next()?.to_owned(),
        root: unescape(fields.next()?).into(),
        point: unescape(fields.next()?).into(),
    })
}

/// The kernel writes these four characters as octal numbers.
fn unescape(field: &str) -> String {
    field.replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", r"\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_may_hold_a_space() {
        let line = r"36 35 7:3 / /var/lib/a\040b rw,noatime master:1 - ext4 /dev/loop3 rw";
        let expected = Mount { device: "7:3".into(), root: "/".into(), point: "/var/lib/a b".into() };
        assert_eq!(parse(line), Some(expected));
    }

    #[test]
    fn the_root_is_mounted_and_a_file_is_not() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(mounted_at(file.path()).unwrap(), None);
    }
}
