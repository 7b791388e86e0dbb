//! Block device to block device, on loop devices.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::mover::Outcome;

use crate::support::{Loop, allocated, copied, is_root, killed_after, noise, outcome};

const MIB: u64 = 1 << 20;

fn write(device: &Path, offset: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(data, offset).unwrap();
    file.sync_all().unwrap();
}

fn read(device: &Path, len: u64) -> Vec<u8> {
    let mut data = vec![0; usize::try_from(len).unwrap()];
    File::open(device).unwrap().read_exact_at(&mut data, 0).unwrap();
    data
}

/// 20 MiB, of which 2 MiB in three places are data.
fn source() -> Loop {
    let source = Loop::new(20 * MIB);
    write(&source.device, 0, &noise(1, 1 << 20));
    write(&source.device, 10 * MIB + 512, &noise(2, 1000 << 10));
    write(&source.device, 20 * MIB - 512, &noise(3, 512));
    source
}

#[test]
fn a_device_with_foreign_data_becomes_equal_and_sparse() {
    if !is_root("a_device_with_foreign_data_becomes_equal_and_sparse") {
        return;
    }
    let (source, target) = (source(), Loop::new(24 * MIB));
    write(&target.device, 0, &noise(7, 24 << 20));
    let (total, written, digest) = copied(&source.device, &target.device);
    assert_eq!(total, 20 * MIB);
    // Whole pages: the second part lies across one more than it fills.
    assert_eq!(written, MIB + 251 * 4096 + 4096);
    let held = read(&target.device, 24 * MIB);
    assert!(held[..20 << 20] == read(&source.device, 20 * MIB));
    assert!(held[20 << 20..] == noise(7, 24 << 20)[20 << 20..], "what lies beyond the source was touched");
    assert!(allocated(&target.image) <= 7 * MIB, "{} of zeros were written", allocated(&target.image));
    // The digest is of the content, whatever the volume is.
    assert_eq!(digest, copied(&source.image, &Loop::new(20 * MIB).image).2);
}

#[test]
fn a_device_that_ends_within_a_page() {
    if !is_root("a_device_that_ends_within_a_page") {
        return;
    }
    let len = 5 * MIB + 3 * 512;
    let (source, target) = (Loop::new(len), Loop::new(len));
    write(&target.device, 0, &noise(7, usize::try_from(len).unwrap()));
    copied(&source.device, &target.device);
    assert!(read(&target.device, len).iter().all(|byte| *byte == 0));
    write(&source.device, len - 1, b"x");
    copied(&source.device, &target.device);
    assert!(read(&target.device, len) == read(&source.device, len));
}

#[test]
fn killed_anywhere_and_started_again() {
    if !is_root("killed_anywhere_and_started_again") {
        return;
    }
    let (source, target) = (source(), Loop::new(20 * MIB));
    write(&target.device, 0, &noise(7, 20 << 20));
    let mut steps = 0;
    while !killed_after(steps, &source.device, &target.device) {
        steps += 4;
    }
    assert!(read(&target.device, 20 * MIB) == read(&source.device, 20 * MIB));
}

#[test]
fn a_smaller_target_is_refused_with_both_sizes() {
    if !is_root("a_smaller_target_is_refused_with_both_sizes") {
        return;
    }
    let (source, target) = (Loop::new(20 * MIB), Loop::new(19 * MIB));
    let Outcome::Never { message } = outcome(&source.device, &target.device) else { panic!() };
    assert!(message.contains(&(20 * MIB).to_string()) && message.contains(&(19 * MIB).to_string()), "{message}");
    let Outcome::Never { message } = outcome(&source.device, &source.device) else { panic!() };
    assert!(message.contains("same device"), "{message}");
}
