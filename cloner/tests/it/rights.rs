//! The mover as the controller starts it by default: as user 107 with group 107, without any right
//! but that.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use common::mover::Outcome;
use rstest::rstest;
use rustix::fs::FileType;

use crate::support::{Mount, is_root, make_special, noise, set_attribute, set_times};

const USER: u32 = 107;

/// Two volumes, the target as kubelet hands it over: its top belongs to root and the pod's
/// `fsGroup`.
struct Volumes {
    source: Mount,
    target: Mount,
    /// Where that user can execute the mover from, and write its outcome to.
    dir: tempfile::TempDir,
}

impl Volumes {
    fn new() -> Self {
        let (source, target) = (Mount::of("ext4", 64 << 20), Mount::of("ext4", 64 << 20));
        give_to_group(target.path());
        let dir = tempfile::tempdir().unwrap();
        fs::copy(env!("CARGO_BIN_EXE_cloner"), dir.path().join("cloner")).unwrap();
        for mount in [&source, &target] {
            // What the mounts are made in is closed to others.
            fs::set_permissions(mount.path(), Permissions::from_mode(permissions(mount.path()) | 0o055)).unwrap();
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        Self { source, target, dir }
    }

    fn source(&self, path: &str) -> PathBuf {
        self.source.path().join(path)
    }

    fn target(&self, path: &str) -> PathBuf {
        self.target.path().join(path)
    }

    #[track_caller]
    fn copy(&self) -> Outcome {
        let log = self.dir.path().join("log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(self.dir.path().join("cloner"));
        command.arg("--source").arg(self.source.path()).arg("--target").arg(self.target.path());
        let output = command.arg("--termination-log").arg(&log).uid(USER).gid(USER).output().unwrap();
        let outcome: Outcome = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
        assert_eq!(output.status.code(), Some(outcome.exit_code().into()));
        outcome
    }
}

fn give_to_group(top: &Path) {
    chown(top, Some(0), Some(USER)).unwrap();
    fs::set_permissions(top, Permissions::from_mode(0o2775)).unwrap();
}

fn permissions(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_virtual_machines_disk_loses_nothing() {
    if !is_root("a_virtual_machines_disk_loses_nothing") {
        return;
    }
    let volumes = Volumes::new();
    give_to_group(volumes.source.path());
    let image = volumes.source("disk.img");
    fs::write(&image, noise(1, 9 << 20)).unwrap();
    fs::set_permissions(&image, Permissions::from_mode(0o660)).unwrap();
    chown(&image, Some(USER), Some(USER)).unwrap();
    let outcome = volumes.copy();
    assert!(matches!(&outcome, Outcome::Copied { notes, .. } if notes.is_empty()), "{outcome:?}");
    let found = fs::metadata(volumes.target("disk.img")).unwrap();
    assert_eq!((found.uid(), found.gid(), permissions(&volumes.target("disk.img"))), (USER, USER, 0o660));
    assert!(fs::read(volumes.target("disk.img")).unwrap() == noise(1, 9 << 20));
}

#[test]
fn what_only_root_could_keep_is_said_and_the_rest_is_kept() {
    if !is_root("what_only_root_could_keep_is_said_and_the_rest_is_kept") {
        return;
    }
    let volumes = Volumes::new();
    fs::create_dir_all(volumes.source("closed to its owner/below")).unwrap();
    for (path, mode) in
        [("program", 0o4755), ("open", 0o666), ("read by others", 0o044), ("closed to its owner/below/file", 0o404)]
    {
        fs::write(volumes.source(path), path).unwrap();
        set_times(&volumes.source(path), 1_000_000_000, 1_000_000_001);
        fs::set_permissions(volumes.source(path), Permissions::from_mode(mode)).unwrap();
    }
    fs::hard_link(volumes.source("read by others"), volumes.source("same")).unwrap();
    set_attribute(&volumes.source("open"), "user.note", b"kept");
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_attribute(&volumes.source("open"), "security.capability", &capability);
    make_special(&volumes.source("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make_special(&volumes.source("pipe"), FileType::Fifo, 0);
    fs::set_permissions(volumes.source("closed to its owner"), Permissions::from_mode(0o055)).unwrap();

    // Twice: what the first attempt has closed is no obstacle.
    for _ in 0..2 {
        let outcome = volumes.copy();
        let Outcome::Copied { notes, .. } = &outcome else { panic!("{outcome:?}") };
        for said in [
            "owners of ",
            "set-id bits of 1 file",
            "security attributes of 1 file",
            "1 special file was not copied (first: \"null\")",
        ] {
            let note = notes.iter().find(|note| note.contains(said)).unwrap_or_else(|| panic!("{said}: {notes:?}"));
            assert!(note.contains("smartclone.dev/file-owners: Keep"), "{note}");
        }
        for (path, mode) in [
            ("program", 0o755),
            ("open", 0o666),
            ("read by others", 0o044),
            ("closed to its owner", 0o055),
            ("closed to its owner/below/file", 0o404),
        ] {
            assert_eq!(permissions(&volumes.target(path)), mode, "{path}");
        }
        let [one, same] = ["read by others", "same"].map(|path| fs::metadata(volumes.target(path)).unwrap());
        assert_eq!(one.ino(), same.ino());
        assert_eq!((one.mtime(), one.mtime_nsec()), (1_000_000_001, 123_456_789));
        assert!(
            fs::read(volumes.target("closed to its owner/below/file")).unwrap() == b"closed to its owner/below/file"
        );
        assert!(volumes.target("pipe").exists() && !volumes.target("null").exists());
    }
    // And what it has closed can be removed again.
    fs::remove_dir_all(volumes.source("closed to its owner")).unwrap();
    let outcome = volumes.copy();
    assert!(matches!(outcome, Outcome::Copied { .. }), "{outcome:?}");
    assert!(!volumes.target("closed to its owner").exists());
}

#[rstest]
#[case::a_file(|volumes: &Volumes| {
    fs::write(volumes.source("secret"), "x").unwrap();
    fs::set_permissions(volumes.source("secret"), Permissions::from_mode(0o600)).unwrap();
}, "secret")]
#[case::a_directory(|volumes: &Volumes| {
    fs::create_dir(volumes.source("private")).unwrap();
    fs::set_permissions(volumes.source("private"), Permissions::from_mode(0o700)).unwrap();
}, "private")]
#[case::a_target_of_somebody_else(|volumes: &Volumes| {
    fs::write(volumes.source("file"), "x").unwrap();
    chown(volumes.target.path(), Some(0), Some(0)).unwrap();
}, "fsGroup")]
fn what_may_not_be_read_or_written_ends_it_with_advice(#[case] plant: fn(&Volumes), #[case] what: &str) {
    if !is_root("what_may_not_be_read_or_written_ends_it_with_advice") {
        return;
    }
    let volumes = Volumes::new();
    plant(&volumes);
    let outcome = volumes.copy();
    let Outcome::Never { message } = outcome else { panic!("{outcome:?}") };
    assert!(message.contains(what) && message.contains("smartclone.dev/file-owners: Keep"), "{message}");
}
