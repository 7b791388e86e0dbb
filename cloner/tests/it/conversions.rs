//! Between a file system with a virtual machine's disk in it and a device. Regular files stand in
//! for devices where no rights are needed.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use common::mover::{ContentType, Outcome};
use rstest::rstest;
use tempfile::TempDir;

use crate::support::{Loop, Mount, Notes, allocated, copied, is_root, killed_after, noise, outcome};

const MIB: u64 = 1 << 20;

/// A directory for a volume, and a path for a device.
fn volumes() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (volume, device) = (dir.path().join("volume"), dir.path().join("device"));
    fs::create_dir(&volume).unwrap();
    (dir, volume, device)
}

/// 12 MiB and a bit, most of it zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (12 << 20) + 512];
    disk[..100_000].copy_from_slice(&noise(1, 100_000));
    disk[5 << 20..6 << 20].copy_from_slice(&noise(2, 1 << 20));
    disk[12 << 20..].copy_from_slice(&noise(3, 512));
    disk
}

fn permissions(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[rstest]
#[case::into_an_empty_volume(None)]
#[case::over_a_part_of_it(Some(3 << 20))]
#[case::over_something_larger(Some(20 << 20))]
fn a_device_becomes_an_image_that_is_sparse(#[case] leftover: Option<usize>) {
    let (_dir, volume, device) = volumes();
    let image = volume.join("disk.img");
    fs::write(&device, disk()).unwrap();
    if let Some(len) = leftover {
        fs::write(&image, noise(7, len)).unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let (total, written, _) = copied(&device, &volume);
    assert_eq!((total, written), (12 * MIB + 512, 102_400 + MIB + 512));
    assert!(fs::read(&image).unwrap() == disk());
    assert_eq!(permissions(&image), 0o660);
    assert!(allocated(&image) < 2 * MIB, "{}", allocated(&image));
}

#[test]
fn what_takes_the_place_of_the_image_is_replaced_but_not_written_through() {
    let (dir, volume, device) = volumes();
    let (image, outside) = (volume.join("disk.img"), dir.path().join("outside"));
    fs::write(&device, disk()).unwrap();
    fs::write(&outside, "not to be touched").unwrap();
    for plant in [symlink::<&Path, &Path>, |from: &Path, to: &Path| fs::hard_link(from, to)] {
        plant(&outside, &image).unwrap();
        copied(&device, &volume);
        assert!(fs::read(&image).unwrap() == disk());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "not to be touched");
        fs::remove_file(&image).unwrap();
    }
}

#[test]
fn an_image_becomes_a_device_with_nothing_foreign_left_on_it() {
    let (_dir, volume, device) = volumes();
    fs::write(volume.join("disk.img"), disk()).unwrap();
    fs::write(volume.join("other"), "files beside it are no part of the disk").unwrap();
    fs::write(&device, noise(7, 20 << 20)).unwrap();
    copied(&volume, &device);
    let found = fs::read(&device).unwrap();
    assert!(found[..disk().len()] == disk());
    assert_eq!(found.len(), 20 << 20);
    assert!(found[disk().len()..].iter().all(|byte| *byte == 0), "foreign bytes are left beyond the image");
}

#[test]
fn there_and_back_on_real_devices() {
    if !is_root("there_and_back_on_real_devices") {
        return;
    }
    let (volume, source, target) = (Mount::of("ext4", 64 << 20), Loop::new(12 * MIB + 512), Loop::new(20 * MIB));
    for (device, bytes) in [(&source, disk()), (&target, noise(7, 20 << 20))] {
        let file = fs::OpenOptions::new().write(true).open(&device.device).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
    }
    let (total, _, digest) = copied(&source.device, volume.path());
    let image = volume.path().join("disk.img");
    assert!(fs::read(&image).unwrap() == disk());
    assert!(allocated(&image) < 2 * MIB, "{}", allocated(&image));
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&image).unwrap()), 107);

    let (back, _, again) = copied(volume.path(), &target.device);
    assert_eq!((back, &again), (total, &digest), "the digest is of the content, whatever the volume is");
    let found = fs::read(&target.device).unwrap();
    assert!(found[..disk().len()] == disk() && found[disk().len()..].iter().all(|byte| *byte == 0));
    assert!(allocated(&target.image) < 3 * MIB, "{} of zeros were written", allocated(&target.image));
}

#[test]
fn killed_anywhere_and_started_again() {
    let (dir, volume, device) = volumes();
    let back = dir.path().join("back");
    fs::write(&device, disk()).unwrap();
    fs::write(&back, noise(7, 16 << 20)).unwrap();
    for (source, target) in [(&device, &volume), (&volume, &back)] {
        let mut steps = 0;
        while !killed_after(steps, source, target) {
            steps += 1;
        }
        assert!(steps > 3, "{steps} steps only");
    }
    assert!(fs::read(volume.join("disk.img")).unwrap() == disk());
    assert!(fs::read(&back).unwrap()[..disk().len()] == disk());
}

#[rstest]
#[case::no_image(|_: &Path| (), "no disk.img")]
#[case::an_image_that_is_a_directory(|image: &Path| fs::create_dir(image).unwrap(), "not a regular file")]
#[case::an_image_that_is_a_link(|image: &Path| symlink("/etc/passwd", image).unwrap(), "not a regular file")]
#[case::qcow2(|image: &Path| fs::write(image, b"QFI\xfb\0\0\0\x03").unwrap(), "qcow2")]
#[case::vmdk(|image: &Path| fs::write(image, b"KDMV\x01\0\0\0").unwrap(), "VMDK")]
#[case::vhdx(|image: &Path| fs::write(image, b"vhdxfile").unwrap(), "VHDX")]
fn a_source_that_is_no_raw_image_is_refused(#[case] plant: fn(&Path), #[case] what: &str) {
    let (_dir, volume, device) = volumes();
    plant(&volume.join("disk.img"));
    fs::write(&device, noise(7, 4096)).unwrap();
    let Outcome::Never { message } = outcome(&volume, &device) else { panic!("it was copied") };
    assert!(message.contains(what), "{message}");
    assert!(fs::read(&device).unwrap() == noise(7, 4096), "the target was touched");
}

#[test]
fn an_archive_is_not_converted() {
    let (_dir, volume, device) = volumes();
    fs::write(volume.join("disk.img"), disk()).unwrap();
    fs::write(&device, "").unwrap();
    for (source, target) in [(&volume, &device), (&device, &volume)] {
        let outcome = cloner::copy(source, target, ContentType::Archive, &mut Notes::default());
        let Outcome::Never { message } = outcome else { panic!("{outcome:?}") };
        assert!(message.contains("archive") && message.contains("kubevirt"), "{message}");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_both_sizes() {
    if !is_root("what_does_not_fit_is_refused_with_both_sizes") {
        return;
    }
    let (volume, large, small) = (Mount::of("ext4", 32 << 20), Loop::new(32 * MIB), Loop::new(4 * MIB));
    let Outcome::Never { message } = outcome(&large.device, volume.path()) else { panic!("it fitted") };
    assert!(message.contains(&(32 * MIB).to_string()) && message.contains("room for"), "{message}");
    fs::write(volume.path().join("disk.img"), noise(1, 8 << 20)).unwrap();
    let Outcome::Never { message } = outcome(volume.path(), &small.device) else { panic!("it fitted") };
    assert!(message.contains(&(8 * MIB).to_string()) && message.contains(&(4 * MIB).to_string()), "{message}");
}
