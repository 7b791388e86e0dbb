//! Regular file to regular file.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::mover::{ContentType, Outcome};
use proptest::prelude::*;
use rstest::rstest;

use crate::support::{Meddler, allocated, copied, killed_after, noise, outcome};

const PAGE: u64 = 4096;

/// A part of a file: its length in bytes, and what is in it.
#[derive(Debug, Clone)]
enum Part {
    Hole(u64),
    Zeros(u64),
    Data(u64),
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let pages = prop_oneof![1..20u64, 1..700u64].prop_map(|pages| pages * PAGE);
    // Not only whole pages: extents and zeros may begin anywhere.
    let len = (pages, prop_oneof![Just(0u64), 1..PAGE]).prop_map(|(pages, odd)| pages - odd);
    let part = (0..3u8, len).prop_map(|(kind, len)| match kind {
        0 => Part::Hole(len),
        1 => Part::Zeros(len),
        _ => Part::Data(len),
    });
    prop::collection::vec(part, 0..7)
}

fn make(path: &Path, parts: &[Part], seed: u64) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let mut at = 0;
    for part in parts {
        at += match *part {
            Part::Hole(len) => len,
            Part::Zeros(len) => {
                file.write_all_at(&vec![0; usize::try_from(len).unwrap()], at).unwrap();
                len
            }
            Part::Data(len) => {
                file.write_all_at(&noise(seed + at, usize::try_from(len).unwrap()), at).unwrap();
                len
            }
        };
    }
    file.set_len(at).unwrap();
    // Without it the file system doesn't say what it will allocate.
    file.sync_all().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_file_becomes_equal_and_no_larger(parts in parts()) {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        make(&source, &parts, 1);
        fs::write(&target, "").unwrap();
        let (total, written, _) = copied(&source, &target);
        prop_assert_eq!(total, fs::metadata(&source).unwrap().len());
        prop_assert!(written <= total);
        prop_assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
        let slack = 64 << 10;
        prop_assert!(
            allocated(&target) <= allocated(&source) + slack, "{} from {}", allocated(&target), allocated(&source)
        );
    }

    #[test]
    fn whatever_the_target_held_before(parts in parts(), leftover in parts()) {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        make(&source, &parts, 1);
        make(&target, &leftover, 2);
        let old = fs::read(&target).unwrap();
        copied(&source, &target);
        let (source, target) = (fs::read(&source).unwrap(), fs::read(&target).unwrap());
        prop_assert!(target[..source.len()] == source);
        // Beyond the source it stays as it was, as on a device.
        prop_assert!(target[source.len()..] == old[source.len().min(old.len())..]);
    }
}

#[test]
fn long_runs_of_zeros_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    make(&source, &[Part::Data(1 << 20), Part::Zeros(32 << 20), Part::Data(1 << 20), Part::Hole(32 << 20)], 1);
    fs::write(&target, "").unwrap();
    let (total, written, _) = copied(&source, &target);
    assert_eq!((total, written), (66 << 20, 2 << 20));
    assert!(allocated(&target) <= (2 << 20) + (64 << 10), "{}", allocated(&target));
}

#[test]
fn the_digest_tells_contents_apart_and_not_how_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let digest = |parts: &[Part], seed| {
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        make(&source, parts, seed);
        fs::write(&target, "").unwrap();
        copied(&source, &target).2
    };
    let holes = digest(&[Part::Hole(8 << 20), Part::Data(PAGE)], 1);
    assert_eq!(holes, digest(&[Part::Zeros(8 << 20), Part::Data(PAGE)], 1));
    assert_ne!(holes, digest(&[Part::Zeros(8 << 20), Part::Data(PAGE)], 2));
    assert_ne!(holes, digest(&[Part::Hole(8 << 20), Part::Data(PAGE), Part::Hole(PAGE)], 1));
}

#[test]
fn killed_anywhere_and_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    make(&source, &[Part::Data(5 << 20), Part::Hole(3 << 20), Part::Zeros(1 << 20), Part::Data(3 << 20)], 1);
    fs::write(&target, noise(9, 4 << 20)).unwrap();
    let mut steps = 0;
    while !killed_after(steps, &source, &target) {
        steps += 1;
    }
    assert!(steps > 3, "{steps} steps only");
    assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
}

#[rstest]
#[case::written(|file: &fs::File| file.write_all_at(b"other", 11 << 20).unwrap())]
#[case::grown(|file: &fs::File| file.set_len(13 << 20).unwrap())]
#[case::shrunk(|file: &fs::File| file.set_len(11 << 20).unwrap())]
fn a_source_that_changes_is_noticed(#[case] change: fn(&fs::File)) {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    make(&source, &[Part::Data(12 << 20)], 1);
    fs::write(&target, "").unwrap();
    let file = OpenOptions::new().write(true).open(&source).unwrap();
    let outcome = cloner::copy(
        &source,
        &target,
        ContentType::Kubevirt,
        &mut Meddler(|progress: common::mover::Progress| {
            if progress.done > 0 {
                change(&file);
            }
        }),
    );
    assert!(matches!(outcome, Outcome::SourceChanged { .. }), "{outcome:?}");
}

#[test]
fn kinds_that_do_not_fit_are_never_copied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for (source, target, what) in [
        (Path::new("/dev/null"), file.as_path(), "neither"),
        (file.as_path(), file.as_path(), "same file"),
        (dir.path(), dir.path(), "same directory"),
        (&dir.path().join("absent"), file.as_path(), "absent"),
    ] {
        let Outcome::Never { message } = outcome(source, target) else {
            panic!("{} {}", source.display(), target.display())
        };
        assert!(message.contains(what), "{message}");
    }
}
