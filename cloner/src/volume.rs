//! A confined directory tree: every path is resolved beneath the top, and never through a link.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};

use crate::{
    error::{Error, Side},
    zero::PAGE,
};

/// The result of `stat`, without the time of the last access.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    dev: (u32, u32),
    ino: u64,
    /// Type and permissions.
    pub mode: u16,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: (u32, u32),
    pub size: u64,
    blocks: u64,
    pub mtime: (i64, u32),
    ctime: (i64, u32),
}

/// The allocated space is not compared: it changes when the kernel writes back old data.
impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        let identity = |it: &Self| (it.id(), it.mode, it.links, it.uid, it.gid, it.rdev, it.size, it.mtime, it.ctime);
        identity(self) == identity(other)
    }
}

impl Meta {
    pub fn of(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<(Self, StatxTimestamp)> {
        let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        Ok((Self::from(&stat), stat.stx_atime))
    }

    pub fn of_open(file: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(|stat| Self::from(&stat))
    }

    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Permissions, set-id bits and the sticky bit.
    pub fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }

    #[must_use]
    pub fn with_permissions(self, permissions: u16) -> Self {
        Self { mode: self.mode & 0o170_000 | permissions, ..self }
    }

    pub fn id(&self) -> ((u32, u32), u64) {
        (self.dev, self.ino)
    }

    /// The number of bytes that the file takes on its volume.
    pub fn allocated(&self) -> u64 {
        self.blocks.saturating_mul(512)
    }

    pub fn may_have_holes(&self) -> bool {
        self.allocated() < self.size
    }

    /// Adds everything that reveals a change of the file.
    pub fn fingerprint(&self, to: &mut blake3::Hasher) {
        for number in [self.ino, self.mode.into(), self.size, self.links.into(), self.uid.into(), self.gid.into()] {
            to.update(&number.to_le_bytes());
        }
        for (seconds, nanoseconds) in [self.mtime, self.ctime] {
            to.update(&seconds.to_le_bytes());
            to.update(&nanoseconds.to_le_bytes());
        }
    }
}

impl From<&Statx> for Meta {
    fn from(stat: &Statx) -> Self {
        Self {
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            mode: stat.stx_mode,
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }
}

/// An entry of a directory.
pub struct Entry {
    pub name: OsString,
    pub meta: Meta,
}

/// A file, given by its directory and its name in it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a OsStr,
}

pub struct Volume {
    top: OwnedFd,
    pub side: Side,
}

impl Volume {
    pub fn open(path: &Path, side: Side) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(path, flags, Mode::empty()).map_err(side.failed("open", path))?;
        Ok(Self { top, side })
    }

    /// Opens the directory at `path`, relative to the top; the empty path is the top.
    pub fn open_dir(&self, path: &Path) -> Result<OwnedFd, Error> {
        /// The maximum length of a path in one system call; a tree may have longer paths.
        const LONGEST: usize = 4000;
        let failed = |error| self.side.failed("open", path)(error);
        let mut dir = beneath(&self.top, OsStr::new("."), OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let mut part = PathBuf::new();
        for name in path {
            if part.as_os_str().len() + name.len() > LONGEST {
                dir = beneath(&dir, part.as_os_str(), OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
                part.clear();
            }
            part.push(name);
        }
        if !part.as_os_str().is_empty() {
            dir = beneath(&dir, part.as_os_str(), OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        }
        Ok(dir)
    }

    /// The directory that contains `path`, and `path`'s name in it.
    pub fn open_parent<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Error> {
        let name = path.file_name().unwrap_or(OsStr::new("."));
        Ok((self.open_dir(path.parent().unwrap_or(path))?, name))
    }

    /// Opens the regular file `name` in `dir` for reading. `path` is for messages.
    pub fn open_file(&self, dir: impl AsFd, name: &OsStr, path: &Path) -> Result<File, Error> {
        // A pipe in the file's place would block otherwise.
        let file = beneath(dir, name, OFlags::NONBLOCK, Mode::empty());
        file.map(File::from).map_err(self.side.failed("open", path))
    }

    /// Creates the regular file `name` in `dir`, at first without rights for others.
    pub fn create_file(&self, dir: impl AsFd, name: &OsStr, path: &Path) -> Result<File, Error> {
        let file = beneath(dir, name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(self.side.failed("create", path))
    }

    /// The entries of the directory `dir` at `path`, sorted by name; at the top without
    /// `lost+found`.
    pub fn list(&self, dir: impl AsFd, path: &Path) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&dir).map_err(self.side.failed("list", path))? {
            let entry = entry.map_err(self.side.failed("list", path))?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let (meta, _) = Meta::of(&dir, &name).map_err(self.side.failed("look at", &path.join(&name)))?;
            if path.as_os_str().is_empty() && name == "lost+found" && meta.is_dir() {
                continue;
            }
            entries.push(Entry { name, meta });
        }
        entries.sort_unstable_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
        Ok(entries)
    }

    /// Writes all data to stable storage.
    pub fn sync(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.top).map_err(self.side.failed("sync", Path::new(".")))
    }
}

impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }
}

/// Opens the regular file `name` in `dir` for reading and writing.
pub fn open_to_write(dir: impl AsFd, name: &OsStr) -> rustix::io::Result<File> {
    beneath(dir, name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).map(File::from)
}

/// Opens the file behind `file` again, for direct I/O.
pub fn reopen_direct(file: &File, write: bool) -> rustix::io::Result<File> {
    let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

/// True if a file or device supports direct I/O in whole pages. Some file systems accept the flag and use the cache all the same; since
/// Linux 6.1 most report it.
pub fn takes_direct_io(file: &File) -> bool {
    let page = u32::try_from(PAGE).unwrap_or(u32::MAX);
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).is_ok_and(|stat| {
        let is_reported = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN);
        !is_reported || ((1..=page).contains(&stat.stx_dio_offset_align) && stat.stx_dio_mem_align <= page)
    })
}

fn beneath(dir: impl AsFd, path: &OsStr, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let within =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(&dir, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode, within) {
            // The kernel could not be sure because something was renamed in the meantime.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}
