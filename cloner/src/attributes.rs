//! Owner, permissions, times, extended attributes and ACLs (which are extended attributes), as far as the mover's rights allow.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::AsRawFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    buffer::spare_capacity,
    fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    error::{Error, Side, quoted},
    loss::Loss,
    rights,
    volume::{Meta, Place},
};

/// The permissions that a clone must have. Set-id bits are not among them: without rights the kernel drops them, which is a loss.
pub const PERMISSIONS: u16 = 0o1777;

/// Permissions that a user other than root needs to read back its own file.
const FILE_RIGHTS: u16 = 0o400;
const DIRECTORY_RIGHTS: u16 = 0o500;

/// The attributes that were set, and the permissions that are set at the end.
pub struct Kept {
    /// The attributes of the source.
    pub meta: Meta,
    /// The final permissions, if they deny the mover itself to read the file back.
    pub sealed: Option<u16>,
}

/// Gives the file at `target` the attributes of the one at `source`; both exist and are of one
/// type. `path` is for messages.
///
/// An attribute that can't be set is no error but a loss, which is found by comparing afterwards. So every loss is reported, and a refusal
/// without effect is not in `lost`. Permissions are different: without them the clone would expose data to others.
pub fn keep(source: Place<'_>, target: Place<'_>, path: &Path, lost: &mut Vec<Loss>) -> Result<Kept, Error> {
    let look = |side: Side, place: Place<'_>| Meta::of(place.dir, place.name).map_err(side.failed("look at", path));
    let (wanted, accessed) = look(Side::Source, source)?;
    let (mut new, _) = look(Side::Target, target)?;
    let is_link = wanted.kind() == FileType::Symlink;
    let is_top = path.as_os_str().is_empty();
    let refused = |doing: &str, result: rustix::io::Result<()>| match result {
        Err(error @ (Errno::IO | Errno::NOENT | Errno::STALE)) => Err(Side::Target.failed(doing, path)(error)),
        _ => Ok(()),
    };
    let chmod = |permissions: u16| {
        let mode = Mode::from_raw_mode(permissions.into());
        refused("set the mode of", rustix::fs::chmodat(target.dir, target.name, mode, AtFlags::empty()))
    };

    // The order matters: changing the owner drops set-id bits and capabilities, and ACLs change the
    // permissions.
    if (new.uid, new.gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
        let owner = rustix::fs::chownat(target.dir, target.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        refused("set the owner of", owner)?;
        if owner.is_err() {
            // The group alone is often allowed.
            let group = rustix::fs::chownat(target.dir, target.name, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            refused("set the group of", group)?;
        }
        new = look(Side::Target, target)?.0;
    }
    if !is_link && !rights::is_root() && new.permissions() & 0o200 == 0 {
        // A file that an earlier attempt has made read-only does not accept attributes.
        chmod(new.permissions() | 0o200)?;
    }
    extended(source, target, path, lost)?;
    let mut sealed = None;
    // With another owner, a set-id program would run with other rights.
    let mut permissions = wanted.permissions();
    if !wanted.is_dir() {
        let foreign = |bit: u16, other: bool| if other { bit } else { 0 };
        permissions &= !(foreign(0o4000, new.uid != wanted.uid) | foreign(0o2000, new.gid != wanted.gid));
    }
    if !is_link {
        let needed = match wanted.kind() {
            FileType::RegularFile => FILE_RIGHTS,
            FileType::Directory => DIRECTORY_RIGHTS,
            _ => 0,
        };
        if !rights::is_root() && !is_top && permissions & needed != needed {
            sealed = Some(permissions);
            permissions |= needed;
        }
        chmod(permissions)?;
    }
    let times = Timestamps {
        last_access: timespec(accessed.tv_sec, accessed.tv_nsec),
        last_modification: timespec(wanted.mtime.0, wanted.mtime.1),
    };
    refused("set the times of", rustix::fs::utimensat(target.dir, target.name, &times, AtFlags::SYMLINK_NOFOLLOW))?;

    let (new, _) = look(Side::Target, target)?;
    if (new.uid, new.gid) != (wanted.uid, wanted.gid) {
        lost.push(Loss::Owner);
    }
    // The provisioner created the top directory. If it belongs to another user, only root can set its time.
    if new.mtime != wanted.mtime && (!is_top || rights::is_own(new.uid)) {
        lost.push(Loss::Time);
    }
    let missing = if is_link { 0 } else { new.permissions() ^ permissions };
    if missing & PERMISSIONS != 0 {
        if !is_top {
            return Err(Error::never(format!(
                "the target doesn't keep the permissions of {}: {:o} became {:o}",
                quoted(path),
                wanted.permissions(),
                new.permissions()
            )));
        }
        lost.push(Loss::Permissions);
    } else if missing != 0 || (!is_link && (permissions ^ wanted.permissions()) & !PERMISSIONS != 0) {
        lost.push(Loss::SetId);
    }
    Ok(Kept { meta: wanted, sealed })
}

const NOT_COPIED: [&[u8]; 3] = [
    // The label depends on the mount, not on the content; the container runtime sets it.
    b"security.selinux",
    // XFS shows its ACLs to root a second time. They are copied as `system.posix_acl_*`, and removing one removes both.
    b"trusted.SGI_ACL_FILE",
    b"trusted.SGI_ACL_DEFAULT",
];

fn timespec(seconds: i64, nanoseconds: u32) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() }
}

fn extended(source: Place<'_>, target: Place<'_>, path: &Path, lost: &mut Vec<Loss>) -> Result<(), Error> {
    let (from, to) = (magic_path(source), magic_path(target));
    let wanted = names(&from).map_err(Side::Source.failed("read attributes of", path))?;
    let old = names(&to).map_err(Side::Target.failed("read attributes of", path))?;
    for name in &wanted {
        let value = match value(&from, name) {
            Ok(value) => value,
            Err(Errno::IO) => return Err(Side::Source.failed("read attributes of", path)(Errno::IO)),
            Err(_) => {
                lost.push(Loss::of_attribute(name.as_bytes()));
                continue;
            }
        };
        if old.contains(name) && self::value(&to, name).is_ok_and(|old| old == value) {
            continue;
        }
        match rustix::fs::lsetxattr(&to, name.as_os_str(), &value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::IO) => return Err(Side::Target.failed("set attributes of", path)(Errno::IO)),
            Err(_) => lost.push(Loss::of_attribute(name.as_bytes())),
        }
    }
    for name in old.iter().filter(|name| !wanted.contains(name)) {
        match rustix::fs::lremovexattr(&to, name.as_os_str()) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(Errno::IO) => return Err(Side::Target.failed("remove attributes of", path)(Errno::IO)),
            Err(_) => lost.push(Loss::ForeignAttribute),
        }
    }
    Ok(())
}

/// The path for system calls that accept only paths: through the open directory, so that no component is resolved again.
fn magic_path(place: Place<'_>) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", place.dir.as_raw_fd()));
    path.push(place.name);
    path
}

fn names(path: &Path) -> rustix::io::Result<Vec<OsString>> {
    let size = match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        size => size?,
    };
    let mut list = Vec::with_capacity(size);
    rustix::fs::llistxattr(path, spare_capacity(&mut list))?;
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !NOT_COPIED.contains(name));
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}

fn value(path: &Path, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
    let size = rustix::fs::lgetxattr_query(path, name)?;
    let mut value = Vec::with_capacity(size.max(1));
    rustix::fs::lgetxattr(path, name, spare_capacity(&mut value))?;
    Ok(value)
}
