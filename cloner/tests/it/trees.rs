//! Directory tree to directory tree.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use common::mover::{ContentType, Outcome, Progress};
use proptest::prelude::*;
use rstest::rstest;
use rustix::fs::FileType;
use tempfile::TempDir;

use crate::support::{
    Meddler, Mount, Notes, allocated, copied, is_root, killed_after, make_special, noise, outcome, picture, root,
    set_attribute, set_times,
};

/// Two empty directories.
fn volumes() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    (dir, source, target)
}

#[track_caller]
fn assert_equal(source: &Path, target: &Path) {
    pretty(&picture(source), &picture(target));
}

#[track_caller]
fn pretty(source: &BTreeMap<PathBuf, String>, target: &BTreeMap<PathBuf, String>) {
    let paths: std::collections::BTreeSet<_> = source.keys().chain(target.keys()).collect();
    let differing: Vec<_> = paths.into_iter().filter(|path| source.get(*path) != target.get(*path)).collect();
    for path in &differing {
        eprintln!("{}\n  source {:?}\n  target {:?}", path.display(), source.get(*path), target.get(*path));
    }
    assert!(differing.is_empty(), "{differing:?}");
}

/// One of everything that needs no rights.
fn fill(top: &Path) {
    fs::create_dir_all(top.join("a/b/empty")).unwrap();
    fs::write(top.join("a/small"), "content").unwrap();
    fs::write(top.join("a/large"), noise(1, 9 << 20)).unwrap();
    fs::write(top.join("a/nothing"), "").unwrap();
    fs::hard_link(top.join("a/small"), top.join("a/b/same")).unwrap();
    fs::hard_link(top.join("a/small"), top.join("same too")).unwrap();
    symlink("/etc/passwd", top.join("outside")).unwrap();
    symlink("a/small", top.join("inside")).unwrap();
    symlink("nowhere", top.join("a/dangling")).unwrap();
    fs::hard_link(top.join("inside"), top.join("inside again")).unwrap();
    make_special(&top.join("pipe"), FileType::Fifo, 0);
    make_special(&top.join("a/socket"), FileType::Socket, 0);
    fs::write(top.join("a/read only"), "x").unwrap();
    fs::set_permissions(top.join("a/read only"), Permissions::from_mode(0o400)).unwrap();
    set_attribute(&top.join("a/small"), "user.note", b"kept");
    set_attribute(&top.join("a/b"), "user.empty", b"");
    // A default ACL, which is inherited by what is created below, and an ACL with a named user.
    let acl = |entries: &[(u16, u16, u32)]| {
        let mut value = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    let none = u32::MAX;
    let named = acl(&[(1, 7, none), (2, 5, 4321), (4, 5, none), (0x10, 5, none), (0x20, 0, none)]);
    set_attribute(&top.join("a/b"), "system.posix_acl_default", &named);
    set_attribute(&top.join("a/small"), "system.posix_acl_access", &named);
    fs::set_permissions(top.join("a/b"), Permissions::from_mode(0o1551)).unwrap();
    for path in ["a/large", "a/b", "a", "outside", "pipe", ""] {
        set_times(&top.join(path), 4_102_444_800, 1_000_000_000);
    }
}

#[test]
fn everything_is_kept() {
    let (_dir, source, target) = volumes();
    fill(&source);
    let before = picture(&source);
    let (total, written, _) = copied(&source, &target);
    assert_eq!((total, written), ((9 << 20) + 8, (9 << 20) + 8));
    assert_equal(&source, &target);
    pretty(&before, &picture(&source));
    assert_eq!(fs::metadata(target.join("a/large")).unwrap().atime(), 4_102_444_800);
}

#[test]
fn what_only_root_can_keep() {
    if !is_root("what_only_root_can_keep") {
        return;
    }
    let (_dir, source, target) = volumes();
    make_special(&source.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make_special(&source.join("disk"), FileType::BlockDevice, rustix::fs::makedev(7, 200));
    fs::write(source.join("program"), "x").unwrap();
    std::os::unix::fs::chown(source.join("program"), Some(1234), Some(5678)).unwrap();
    fs::set_permissions(source.join("program"), Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw, effective: lost if the owner is changed after it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set_attribute(&source.join("program"), "security.capability", &capability);
    symlink("x", source.join("link")).unwrap();
    std::os::unix::fs::lchown(source.join("link"), Some(1), Some(2)).unwrap();
    set_attribute(&source.join("link"), "trusted.on-a-link", b"kept");
    fs::create_dir(source.join("group")).unwrap();
    std::os::unix::fs::chown(source.join("group"), Some(11), Some(12)).unwrap();
    fs::set_permissions(source.join("group"), Permissions::from_mode(0o2770)).unwrap();
    std::os::unix::fs::chown(&source, Some(21), Some(22)).unwrap();
    copied(&source, &target);
    assert_equal(&source, &target);
}

#[test]
fn a_link_to_outside_is_neither_followed_nor_written_through() {
    let (dir, source, target) = volumes();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "not to be touched").unwrap();
    fs::create_dir(source.join("directory")).unwrap();
    fs::write(source.join("directory/file"), "new").unwrap();
    fs::write(source.join("file"), "new").unwrap();
    symlink(&outside, source.join("link")).unwrap();
    // Leftovers that would lead out of the volume.
    symlink(&outside, target.join("directory")).unwrap();
    symlink(outside.join("file"), target.join("file")).unwrap();
    symlink(&outside, target.join("stale")).unwrap();
    copied(&source, &target);
    assert_equal(&source, &target);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "not to be touched");
}

#[test]
fn lost_and_found_belongs_to_the_file_system() {
    let (_dir, source, target) = volumes();
    for (top, name) in [(&source, "theirs"), (&target, "ours")] {
        fs::create_dir(top.join("lost+found")).unwrap();
        fs::write(top.join("lost+found").join(name), name).unwrap();
    }
    fs::create_dir_all(source.join("deeper/lost+found/kept")).unwrap();
    copied(&source, &target);
    assert_equal(&source, &target);
    assert!(target.join("deeper/lost+found/kept").is_dir());
    assert_eq!(fs::read_dir(target.join("lost+found")).unwrap().count(), 1);
    assert!(target.join("lost+found/ours").exists());
}

#[test]
fn killed_anywhere_and_started_again() {
    let (_dir, source, target) = volumes();
    fill(&source);
    let mut steps = 0;
    while !killed_after(steps, &source, &target) {
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps only");
    assert_equal(&source, &target);
}

#[test]
fn what_was_copied_is_not_written_again() {
    let (_dir, source, target) = volumes();
    fill(&source);
    let (_, _, digest) = copied(&source, &target);
    let (_, written, again) = copied(&source, &target);
    // Files with several names are always made anew.
    assert_eq!((written, again), (7, digest));
    assert_equal(&source, &target);
}

#[test]
fn a_leftover_that_only_looks_equal_is_found() {
    let (_dir, source, target) = volumes();
    fill(&source);
    let (_, _, digest) = copied(&source, &target);
    let damaged = OpenOptions::new().write(true).open(target.join("a/large")).unwrap();
    damaged.write_all_at(b"?", 7 << 20).unwrap();
    set_times(&target.join("a/large"), 4_102_444_800, 1_000_000_000);
    assert_eq!(copied(&source, &target).2, digest);
    assert_equal(&source, &target);
}

#[test]
fn deeper_than_a_path_can_be() {
    let (_dir, source, target) = volumes();
    let name = "d".repeat(200);
    let mut dir = fs::File::open(&source).unwrap();
    for _ in 0..50 {
        rustix::fs::mkdirat(&dir, &name, rustix::fs::Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap().into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&dir, "bottom", flags, rustix::fs::Mode::RWXU).unwrap();
    fs::File::from(file).write_all(b"deep").unwrap();
    let digest = copied(&source, &target).2;
    // Equal digests of two copies: the second found what the first made, or made the same again.
    assert_eq!(copied(&source, &target), (4, 0, digest.clone()));
    // And back.
    let (_dir, _, back) = volumes();
    assert_eq!(copied(&target, &back).2, digest);
    // Removed as a leftover, too.
    let (_dir, empty, _) = volumes();
    copied(&empty, &target);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[rstest]
#[case::written_while_read(1 << 20, |top: &Path| {
    OpenOptions::new().write(true).open(top.join("a/large")).unwrap().write_all_at(b"x", 0).unwrap();
})]
#[case::written_after_it_was_read(9 << 20, |top: &Path| {
    OpenOptions::new().append(true).open(top.join("a/large")).unwrap().write_all(b"x").unwrap();
})]
#[case::shrunk(1 << 20, |top: &Path| {
    OpenOptions::new().write(true).open(top.join("a/large")).unwrap().set_len(5 << 20).unwrap();
})]
#[case::a_new_file(1 << 20, |top: &Path| fs::write(top.join("a/new"), "").unwrap())]
#[case::removed(1 << 20, |top: &Path| fs::remove_file(top.join("a/small")).unwrap())]
#[case::a_directory_removed(1 << 20, |top: &Path| fs::remove_dir(top.join("a/b/empty")).unwrap())]
#[case::another_mode(9 << 20, |top: &Path| fs::set_permissions(top.join("a/nothing"), Permissions::from_mode(0o777)).unwrap())]
#[case::replaced_with_a_link(1 << 20, |top: &Path| {
    fs::remove_file(top.join("a/small")).unwrap();
    symlink("/etc/passwd", top.join("a/small")).unwrap();
})]
fn a_source_that_changes_is_noticed(#[case] when: u64, #[case] change: fn(&Path)) {
    let (_dir, source, target) = volumes();
    fill(&source);
    let mut changed = false;
    let outcome = cloner::copy(
        &source,
        &target,
        ContentType::Kubevirt,
        &mut Meddler(|progress: Progress| {
            if !changed && progress.done >= when {
                changed = true;
                change(&source);
            }
        }),
    );
    assert!(changed && matches!(outcome, Outcome::SourceChanged { .. }), "{outcome:?}");
}

#[test]
fn a_target_that_is_too_small_never_fits() {
    if !is_root("a_target_that_is_too_small_never_fits") {
        return;
    }
    let (_dir, source, _) = volumes();
    fs::write(source.join("one"), noise(1, 3 << 20)).unwrap();
    fs::write(source.join("two"), noise(2, 3 << 20)).unwrap();
    let target = Mount::memory(4 << 20);
    let Outcome::Never { message } = outcome(&source, target.path()) else { panic!() };
    assert!(message.contains(&(4 << 20).to_string()) && message.contains("larger"), "{message}");
    // Here it would fit, were the file system not in use otherwise.
    let target = Mount::memory(8 << 20);
    fs::create_dir(target.path().join("lost+found")).unwrap();
    fs::write(target.path().join("lost+found/other"), noise(3, 4 << 20)).unwrap();
    let outcome = outcome(&source, target.path());
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
}

#[test]
fn what_cannot_be_kept_is_told() {
    if !is_root("what_cannot_be_kept_is_told") {
        return;
    }
    let source = Mount::of("xfs", 320 << 20);
    for number in 0..20 {
        let file = source.path().join(number.to_string());
        fs::write(&file, "x").unwrap();
        set_attribute(&file, "user.large", &noise(number, 3000));
    }
    // A file system whose attributes have to fit into one block.
    let target = Mount::of("ext4", 32 << 20);
    let mut notes = Notes::default();
    let outcome = cloner::copy(source.path(), target.path(), ContentType::Kubevirt, &mut notes);
    assert!(matches!(&outcome, Outcome::Copied { notes, .. } if notes.len() == 1), "{outcome:?}");
    assert!(notes.lost.iter().any(|lost| lost.contains("\": extended attributes can't")), "{:?}", notes.lost);
    assert!(
        notes.lost.iter().any(|lost| lost.contains("extended attributes of 20 files were not kept (first: \"0\")")),
        "{:?}",
        notes.lost
    );
    assert!(notes.lost.len() < 12, "{:?}", notes.lost);
}

/// The top directory of a disk's volume is the work of mkfs: what it can't keep is nobody's loss. Of a tree it is somebody's.
#[test]
fn of_a_disk_only_the_image_counts() {
    if !is_root("of_a_disk_only_the_image_counts") {
        return;
    }
    let source = Mount::of("xfs", 320 << 20);
    set_attribute(source.path(), "user.large", &noise(1, 3000));
    fs::write(source.path().join("disk.img"), noise(2, 1 << 20)).unwrap();
    let notes = || match outcome(source.path(), Mount::of("ext4", 32 << 20).path()) {
        Outcome::Copied { notes, .. } => notes,
        other => panic!("{other:?}"),
    };
    assert_eq!(notes(), Vec::<String>::new());
    set_attribute(&source.path().join("disk.img"), "user.large", &noise(3, 3000));
    assert!(notes().iter().any(|note| note.contains("of 1 file were not kept (first: \"disk.img\")")), "{:?}", notes());
    fs::write(source.path().join("notes.txt"), "x").unwrap();
    assert!(
        notes().iter().any(|note| note.contains("of 2 files were not kept (first: the top directory)")),
        "{:?}",
        notes()
    );
}

#[test]
fn between_file_systems() {
    if !is_root("between_file_systems") {
        return;
    }
    let (source, target) = (Mount::of("ext4", 64 << 20), Mount::of("xfs", 320 << 20));
    fill(source.path());
    let sparse = fs::File::create(source.path().join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(&noise(5, 5000), 777 << 20).unwrap();
    let (_, written, _) = copied(source.path(), target.path());
    assert!(written < 10 << 20, "{written}");
    assert!(allocated(&target.path().join("sparse")) <= 128 << 10);
    assert_equal(source.path(), target.path());
    // Once more, over what is there.
    let (_, written, _) = copied(source.path(), target.path());
    assert_eq!(written, 7);
    assert_equal(source.path(), target.path());
    // And back.
    let back = Mount::of("ext4", 64 << 20);
    copied(target.path(), back.path());
    assert_equal(source.path(), back.path());
}

#[test]
fn where_files_can_share_extents_nothing_is_written() {
    if !is_root("where_files_can_share_extents_nothing_is_written") {
        return;
    }
    let volume = Mount::of("xfs", 320 << 20);
    let (source, target) = (volume.path().join("source"), volume.path().join("target"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fill(&source);
    let (total, written, _) = copied(&source, &target);
    assert_eq!((total, written), ((9 << 20) + 8, 0));
    assert_equal(&source, &target);
}

/// A tree in few words; paths are few, so that two trees often disagree on what is at one.
#[derive(Debug, Clone)]
enum Node {
    Directory,
    File { seed: u64, len: usize, mode: u32, time: i64 },
    Symlink(String),
    Pipe,
    HardLink(String),
}

fn paths() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c\n"]), 1..4).prop_map(|names| names.join("/"))
}

fn trees() -> impl Strategy<Value = Vec<(String, Node)>> {
    let node = prop_oneof![
        2 => Just(Node::Directory),
        4 => (0..3u64, prop_oneof![Just(0usize), Just(100), Just(70_000)], prop::sample::select(vec![0o600, 0o000, 0o755]), 1..3i64)
            .prop_map(|(seed, len, mode, time)| Node::File { seed, len, mode, time }),
        1 => paths().prop_map(Node::Symlink),
        1 => Just(Node::Pipe),
        2 => paths().prop_map(Node::HardLink),
    ];
    prop::collection::vec((paths(), node), 0..14)
}

/// Makes what can be made; what contradicts something earlier is left out.
fn plant(top: &Path, tree: &[(String, Node)]) {
    for (path, node) in tree {
        let path = top.join(path);
        // Through real directories only: a link may lead to anywhere.
        let parents: Vec<_> =
            path.strip_prefix(top).unwrap().ancestors().skip(1).map(|parent| top.join(parent)).collect();
        if fs::create_dir_all(path.parent().unwrap()).is_err()
            || path.symlink_metadata().is_ok()
            || parents.iter().any(|parent| parent.is_symlink())
        {
            continue;
        }
        match node {
            Node::Directory => fs::create_dir(&path).unwrap(),
            Node::File { seed, len, mode, time } => {
                fs::write(&path, noise(*seed, *len)).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(*mode)).unwrap();
                set_times(&path, *time, *time);
            }
            Node::Symlink(to) => symlink(to, &path).unwrap(),
            Node::Pipe => make_special(&path, FileType::Fifo, 0),
            Node::HardLink(to) => {
                // To a directory it isn't possible, to what isn't there neither.
                let _ = fs::hard_link(top.join(to), &path);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_the_target_held_before(tree in trees(), leftover in trees()) {
        // Files without permissions can be read by root only.
        if !root() && format!("{tree:?}").contains("mode: 0,") {
            return Ok(());
        }
        let (_dir, source, target) = volumes();
        plant(&source, &tree);
        plant(&target, &leftover);
        copied(&source, &target);
        assert_equal(&source, &target);
    }
}
