//! What the tests have in common: observers, pictures of trees, and volumes that only root can
//! make.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::Command,
};

use cloner::Observer;
use common::mover::{ContentType, Outcome, Progress};
use tempfile::TempDir;

/// Notes everything, and checks what holds for every copy.
#[derive(Default)]
pub struct Notes {
    pub progress: Vec<Progress>,
    pub lost: Vec<String>,
}

impl Observer for Notes {
    fn progress(&mut self, progress: Progress) {
        if let Some(last) = self.progress.last() {
            assert!(last.done <= progress.done && last.total <= progress.total, "{last:?} then {progress:?}");
        }
        assert!(progress.done <= progress.total);
        self.progress.push(progress);
    }

    fn lost(&mut self, what: &str) {
        self.lost.push(what.to_owned());
    }
}

/// Calls a function at every progress.
pub struct Meddler<F>(pub F);

impl<F: FnMut(Progress)> Observer for Meddler<F> {
    fn progress(&mut self, progress: Progress) {
        self.0(progress);
    }

    fn lost(&mut self, _: &str) {}
}

/// Copies; it has to succeed and to lose nothing.
#[track_caller]
pub fn copied(source: &Path, target: &Path) -> (u64, u64, String) {
    let mut notes = Notes::default();
    match cloner::copy(source, target, ContentType::Kubevirt, &mut notes) {
        Outcome::Copied { total, written, digest, notes: said } => {
            assert!(notes.lost.is_empty() && said.is_empty(), "{:?} {said:?}", notes.lost);
            assert_eq!(notes.progress.last(), Some(&Progress { done: total, total }));
            (total, written, digest)
        }
        other => panic!("{other:?}"),
    }
}

pub fn outcome(source: &Path, target: &Path) -> Outcome {
    cloner::copy(source, target, ContentType::Kubevirt, &mut Notes::default())
}

/// Copies until the `steps`th sign of progress, and leaves everything as it lies there, as a killed
/// process does. Whether it came to an end before.
pub fn killed_after(steps: usize, source: &Path, target: &Path) -> bool {
    struct Killed;
    let mut seen = 0;
    let mut observer = Meddler(|_| {
        seen += 1;
        if seen > steps {
            resume_unwind(Box::new(Killed));
        }
    });
    match catch_unwind(AssertUnwindSafe(|| cloner::copy(source, target, ContentType::Kubevirt, &mut observer))) {
        Ok(outcome) => {
            assert!(matches!(outcome, Outcome::Copied { .. }), "{outcome:?}");
            true
        }
        Err(payload) if payload.is::<Killed>() => false,
        Err(payload) => resume_unwind(payload),
    }
}

/// Everything that a clone of the tree has to have too, by path; contents as they are.
pub fn picture(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut picture = BTreeMap::new();
    let mut links = HashMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = top.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.retain(|name| !(path.as_os_str().is_empty() && name == "lost+found"));
            names.sort();
            pending.extend(names.iter().rev().map(|name| path.join(name)));
            "directory".to_owned()
        } else if kind.is_file() {
            let bytes = fs::read(&full).unwrap();
            format!("file of {} bytes {}", bytes.len(), blake3::hash(&bytes))
        } else if kind.is_symlink() {
            format!("link to {}", fs::read_link(&full).unwrap().display())
        } else {
            let device = kind.is_block_device() || kind.is_char_device();
            format!("special {:o} {}", meta.mode(), if device { meta.rdev() } else { 0 })
        };
        let first = links.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let about = format!(
            "{content}, mode {:o}, owner {}:{}, modified {}.{:09}, first {}, {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            first.display(),
            attributes(&full)
        );
        picture.insert(path, about);
    }
    picture
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let size = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap_or(0);
    let names = list[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let size = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(size);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        // XFS shows ACLs a second time under names of its own.
        .filter(|(name, _)| name != "security.selinux" && !name.starts_with("trusted.SGI_ACL_"))
        .collect()
}

pub fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes that look like nothing in particular, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Runs a command that has to succeed; its output.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Whether this process may do everything.
pub fn root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Whether loop devices, mounts and foreign owners can be had. If not, it says so, and which test
/// goes without.
pub fn is_root(test: &str) -> bool {
    if !root() {
        eprintln!("NOT RUN: {test} needs root, for loop devices, mounts and owners");
    }
    root()
}

/// A loop device over a sparse file; gone when dropped.
pub struct Loop {
    pub device: PathBuf,
    pub image: PathBuf,
    _dir: TempDir,
}

impl Loop {
    pub fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]).into();
        Self { device, image, _dir: dir }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", self.device.to_str().unwrap()]);
    }
}

/// A mounted file system; gone when dropped.
pub struct Mount {
    dir: TempDir,
    // After the directory's file system is unmounted.
    _device: Option<Loop>,
}

impl Mount {
    /// Of a type that `mkfs` makes, on a device of its own.
    pub fn of(kind: &str, bytes: u64) -> Self {
        let device = Loop::new(bytes);
        let path = device.device.to_str().unwrap().to_owned();
        run(&format!("mkfs.{kind}"), &["-q", &path]);
        let dir = tempfile::tempdir().unwrap();
        run("mount", &[&path, dir.path().to_str().unwrap()]);
        Self { dir, _device: Some(device) }
    }

    pub fn memory(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", dir.path().to_str().unwrap()]);
        Self { dir, _device: None }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.path().to_str().unwrap()]);
    }
}

/// Sets both times, in seconds; without following a link.
pub fn set_times(path: &Path, accessed: i64, modified: i64) {
    let time = |seconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time(accessed), last_modification: time(modified) };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub fn make_special(path: &Path, kind: rustix::fs::FileType, device: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::from_raw_mode(0o640), device).unwrap();
}

pub fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{name} on {}: {error}", String::from_utf8_lossy(path.as_os_str().as_bytes())));
}
