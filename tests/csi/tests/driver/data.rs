//! What users have written is where it belongs, and nowhere else.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use bpfman_csi::v1::VolumeCapability;
use reference_csi::{
    FsType,
    store::{Content, Shelf, VolumeRecord},
};
use rstest::rstest;
use tonic::Code;

use crate::lab::{GIB, Lab, MIB, block, mount, volume};

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(File::open(path)?.sync_all()?)
}

/// Not quite the device: a file system needs something for itself.
fn fills(mounted: &Path, size: u64) -> Result<()> {
    let space = rustix::fs::statvfs(mounted)?;
    let bytes = space.f_blocks * space.f_frsize;
    ensure!(bytes > size / 10 * 9, "{bytes} bytes of {size}");
    Ok(())
}

#[rstest]
#[case::ext4(mount("ext4"))]
#[case::xfs(mount("xfs"))]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn copies_hold_what_was_synced_when_they_were_made(#[case] how: VolumeCapability) -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &how)).await?.volume_id;
    let path = lab.put_to_use(&disk, &how).await?;
    write(&path.join("file"), "first")?;
    let snapshot = lab.snapshot("snapshot", &disk).await?;
    write(&path.join("file"), "second")?;
    let clone = lab.create(volume("clone", GIB, &how).cloning(&disk)).await?.volume_id;
    write(&path.join("file"), "third")?;
    // Neither needs its source any more, and all can be mounted at the same time.
    let restored = volume("restored", GIB, &how).restoring(&snapshot.snapshot_id);
    let restored = lab.create(restored).await?.volume_id;
    lab.delete_snapshot(&snapshot.snapshot_id).await?;
    for (copy, text) in [(&restored, "first"), (&clone, "second"), (&disk, "third")] {
        let path = lab.put_to_use(copy, &how).await?;
        assert_eq!(fs::read_to_string(path.join("file"))?, text);
    }
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_device_is_copied_while_it_is_open() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let device = File::options().read(true).write(true).open(lab.put_to_use(&disk, &block()).await?)?;
    // Not synced: the driver does that.
    device.write_all_at(b"first", 32 * MIB)?;
    let snapshot = lab.snapshot("snapshot", &disk).await?;
    device.write_all_at(b"other", 32 * MIB)?;
    drop(device);
    let restored = volume("restored", 128 * MIB, &block()).restoring(&snapshot.snapshot_id);
    let restored = lab.create(restored).await?.volume_id;
    let device = File::open(lab.put_to_use(&restored, &block()).await?)?;
    let mut found = [0; 5];
    device.read_exact_at(&mut found, 32 * MIB)?;
    assert_eq!(&found, b"first");
    // All of the larger device is there, and empty.
    device.read_exact_at(&mut found, 128 * MIB - 5)?;
    assert_eq!(&found, &[0; 5]);
    drop(device);
    lab.clear().await
}

#[rstest]
#[case::ext4(mount("ext4"))]
#[case::xfs(mount("xfs"))]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_larger_restore_has_a_larger_file_system(#[case] how: VolumeCapability) -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &how)).await?.volume_id;
    write(&lab.put_to_use(&disk, &how).await?.join("file"), "kept")?;
    let snapshot = lab.snapshot("snapshot", &disk).await?;
    let larger = volume("larger", 3 * GIB, &how).restoring(&snapshot.snapshot_id);
    let larger = lab.create(larger).await?.volume_id;
    let path = lab.put_to_use(&larger, &how).await?;
    fills(&path, 3 * GIB)?;
    assert_eq!(fs::read_to_string(path.join("file"))?, "kept");
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_file_system_grows_in_use() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount("xfs"))).await?.volume_id;
    let path = lab.put_to_use(&disk, &mount("xfs")).await?;
    write(&path.join("file"), "kept")?;
    assert!(lab.expand(&disk, 2 * GIB).await?, "the node has to grow the file system");
    lab.node_expand(&disk).await?;
    fills(&path, 2 * GIB)?;
    assert_eq!(fs::read_to_string(path.join("file"))?, "kept");
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn an_ext4_in_use_grows_or_says_what_it_needs() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount("ext4"))).await?.volume_id;
    let path = lab.put_to_use(&disk, &mount("ext4")).await?;
    lab.expand(&disk, 2 * GIB).await?;
    match lab.node_expand(&disk).await {
        Ok(()) => fills(&path, 2 * GIB)?,
        Err(status) => {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            assert!(status.message().contains("CAP_SYS_RESOURCE"), "{status}");
            assert!(!has_cap_sys_resource()?, "{status}");
        }
    }
    lab.release(&disk).await?;
    fills(&lab.put_to_use(&disk, &mount("ext4")).await?, 2 * GIB)?;
    lab.clear().await
}

fn has_cap_sys_resource() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(effective.trim(), 16)? & 1 << 24 != 0)
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_volume_that_grew_unused_is_larger_when_it_is_used() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    lab.put_to_use(&disk, &mount("")).await?;
    lab.release(&disk).await?;
    lab.expand(&disk, 2 * GIB).await?;
    fills(&lab.put_to_use(&disk, &mount("")).await?, 2 * GIB)?;
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_device_grows_in_use_without_its_node() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let device = File::open(lab.put_to_use(&disk, &block()).await?)?;
    assert!(!lab.expand(&disk, 96 * MIB).await?);
    device.read_exact_at(&mut [0], 96 * MIB - 1)?;
    drop(device);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_disk_is_never_formatted() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let device = File::options().write(true).open(lab.put_to_use(&disk, &block()).await?)?;
    device.write_all_at(b"a virtual machine's", 32 * MIB)?;
    drop(device);
    let clone = lab.create(volume("clone", 64 * MIB, &mount("")).cloning(&disk)).await?.volume_id;
    let refused = lab.stage(&clone, &mount("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_file_system_that_was_half_made_is_made_again() -> Result<()> {
    let mut lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    lab.kill()?;
    lab.ended().await?;
    let volumes = Shelf::<VolumeRecord>::open(&lab.storage.data())?;
    let record = volumes.get(&disk)?.context("no record")?;
    volumes.put(&VolumeRecord { content: Content::Formatting, ..record })?;
    // Where an ext4 has its superblock.
    File::options().write(true).open(volumes.image(&disk))?.write_all_at(&[0xff; 4096], 1024)?;
    lab.restart().await?;
    lab.put_to_use(&disk, &mount("")).await?;
    let content = volumes.get(&disk)?.map(|record| record.content);
    assert_eq!(content, Some(Content::Formatted(FsType::Ext4)));
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_volume_in_use_is_not_deleted() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    lab.put_to_use(&disk, &mount("")).await?;
    assert_eq!(lab.delete(&disk).await.unwrap_err().code(), Code::FailedPrecondition);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_name_stands_for_one_volume() -> Result<()> {
    let lab = Lab::start().await?;
    let gold = [("pool", "gold")];
    let wanted = || volume("disk", GIB, &block()).parameters(&gold);
    let disk = lab.create(wanted()).await?;
    assert_eq!(lab.create(wanted()).await?, disk);
    let snapshot = lab.snapshot("snapshot", &disk.volume_id).await?;
    for other in [
        volume("disk", GIB, &block()),
        volume("disk", 2 * GIB, &block()).parameters(&gold),
        volume("disk", GIB, &mount("")).parameters(&gold),
        wanted().restoring(&snapshot.snapshot_id),
    ] {
        assert_eq!(lab.create(other).await.unwrap_err().code(), Code::AlreadyExists);
    }
    lab.clear().await
}
