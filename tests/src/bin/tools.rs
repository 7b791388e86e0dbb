//! What runs inside the cluster's pods: fills volumes, tells their digests, waits.

use std::{
    collections::HashMap,
    fs::{File, Metadata, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

const CHUNK: usize = 1 << 20;

/// Fills volumes, tells their digests, waits.
#[derive(Debug, Parser)]
struct Tools {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write reproducible data to a device or a file, or a small tree of all kinds of files into a directory.
    Fill {
        /// A device, a file, or a directory.
        #[arg(long)]
        path: PathBuf,
        /// How many bytes of data.
        #[arg(long)]
        bytes: u64,
        /// Other seeds, other data.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Print a digest of what is there: bytes of a device or a file; names, modes, owners, links, holes and content of a tree.
    Digest {
        /// A device, a file, or a directory.
        #[arg(long)]
        path: PathBuf,
        /// Read no more than this many bytes of a device or a file.
        #[arg(long)]
        length: Option<u64>,
    },
    /// Print how many bytes there is room for: on a device, in a file, in the file system of a directory.
    Size {
        /// A device, a file, or a directory.
        #[arg(long)]
        path: PathBuf,
    },
    /// Create an empty file.
    Touch {
        /// The file.
        #[arg(long)]
        path: PathBuf,
    },
    /// Wait for SIGTERM. As the first process of a pod, bury the others.
    Sleep,
}

fn main() -> Result<()> {
    match Tools::parse().command {
        Command::Fill { path, bytes, seed } => fill(&path, bytes, seed),
        Command::Digest { path, length } => {
            writeln!(std::io::stdout(), "{}", digest(&path, length)?).context("write to stdout")
        }
        Command::Size { path } => {
            writeln!(std::io::stdout(), "{}", size(&path).with_context(|| format!("look at {}", path.display()))?)
                .context("write to stdout")
        }
        Command::Touch { path } => File::create(&path).map(drop).with_context(|| format!("create {}", path.display())),
        Command::Sleep => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(sleep()),
    }
}

fn fill(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    if path.is_dir() {
        return fill_directory(path, bytes, seed).with_context(|| format!("fill {}", path.display()));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    write_random(&file, bytes, seed).with_context(|| format!("write {bytes} bytes to {}", path.display()))
}

fn write_random(mut file: &File, bytes: u64, seed: u64) -> Result<()> {
    let mut source = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        source.fill(&mut chunk[..size]);
        file.write_all(&chunk[..size])?;
        left -= size as u64;
    }
    // Whoever snapshots the volume now has to find it all.
    Ok(file.sync_all()?)
}

fn size(path: &Path) -> Result<u64> {
    if path.is_dir() {
        let room = rustix::fs::statvfs(path)?;
        return Ok(room.f_blocks * room.f_frsize);
    }
    // A device's metadata doesn't tell.
    Ok(File::open(path)?.seek(SeekFrom::End(0))?)
}

/// Most of the data in one file, and beside it what copies like to lose: modes, links, holes, empty directories.
fn fill_directory(root: &Path, bytes: u64, seed: u64) -> Result<()> {
    write_random(&File::create(root.join("data"))?, bytes, seed)?;
    let deep = root.join("a directory/deep");
    std::fs::create_dir_all(&deep)?;
    std::fs::create_dir_all(root.join("empty"))?;
    let script = deep.join("script.sh");
    std::fs::write(&script, format!("#!/bin/sh\necho {seed}\n"))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o751))?;
    std::fs::write(root.join("read-only"), seed.to_string())?;
    std::fs::set_permissions(root.join("read-only"), std::fs::Permissions::from_mode(0o400))?;
    for linked in [
        symlink("a directory/deep/script.sh", root.join("link")),
        std::fs::hard_link(&script, root.join("the same script")),
    ] {
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
    }
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(64 << 20)?;
    sparse.write_all_at(&seed.to_le_bytes(), 32 << 20)?;
    // One call for everything that isn't synced yet, directories too.
    rustix::fs::syncfs(&sparse)?;
    Ok(())
}

fn digest(path: &Path, length: Option<u64>) -> Result<blake3::Hash> {
    let mut hash = blake3::Hasher::new();
    if path.is_dir() {
        add_tree(&mut hash, path, Path::new(""), &mut HashMap::new())?;
    } else {
        add_content(&mut hash, path, length.unwrap_or(u64::MAX))?;
    }
    Ok(hash.finalize())
}

fn add_content(hash: &mut blake3::Hasher, path: &Path, length: u64) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    hash.update_reader(file.take(length)).with_context(|| format!("read {}", path.display()))?;
    Ok(())
}

/// `linked` holds where a file with several names was met first.
fn add_tree(hash: &mut blake3::Hasher, root: &Path, inside: &Path, linked: &mut HashMap<u64, PathBuf>) -> Result<()> {
    let directory = root.join(inside);
    let entries = std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let mut names = entries.map(|entry| entry.map(|it| it.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    // The file system's own, not the user's.
    names.retain(|name| !(inside.as_os_str().is_empty() && name == "lost+found"));
    for name in names {
        let inside = inside.join(name);
        let path = root.join(&inside);
        let found = std::fs::symlink_metadata(&path)?;
        let kind = found.file_type();
        hash.update(inside.as_os_str().as_encoded_bytes());
        hash.update(format!("\0{:o} {} {} ", found.mode(), found.uid(), found.gid()).as_bytes());
        if kind.is_dir() {
            add_tree(hash, root, &inside, linked)?;
        } else if kind.is_symlink() {
            hash.update(std::fs::read_link(&path)?.as_os_str().as_encoded_bytes());
        } else if kind.is_file() {
            let first = linked.entry(found.ino()).or_insert_with(|| inside.clone());
            hash.update(first.as_os_str().as_encoded_bytes());
            hash.update(&found.len().to_le_bytes()).update(&[u8::from(has_holes(&found))]);
            add_content(hash, &path, u64::MAX)?;
        } else if kind.is_block_device() || kind.is_char_device() {
            hash.update(&found.rdev().to_le_bytes());
        }
    }
    Ok(())
}

/// Whether it takes less room than its length. How much less is each file system's own affair.
fn has_holes(file: &Metadata) -> bool {
    file.blocks() * 512 < file.len()
}

async fn sleep() -> Result<()> {
    let mut children = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = children.recv() => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_digest_and_another_another() -> Result<()> {
        let mut digests = Vec::new();
        for seed in [1, 1, 2] {
            let directory = tempfile::tempdir()?;
            fill(directory.path(), 3 << 20, seed)?;
            digests.push(digest(directory.path(), None)?);
        }
        assert_eq!(digests[0], digests[1]);
        assert_ne!(digests[0], digests[2]);
        Ok(())
    }

    #[test]
    fn a_lost_mode_changes_the_digest() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fill(directory.path(), 10, 1)?;
        let before = digest(directory.path(), None)?;
        std::fs::set_permissions(directory.path().join("sparse"), std::fs::Permissions::from_mode(0o600))?;
        assert_ne!(before, digest(directory.path(), None)?);
        Ok(())
    }

    #[test]
    fn a_lost_link_and_a_filled_hole_change_the_digest() -> Result<()> {
        let directory = tempfile::tempdir()?;
        fill(directory.path(), 10, 1)?;
        let whole = digest(directory.path(), None)?;
        let (script, again) =
            (directory.path().join("a directory/deep/script.sh"), directory.path().join("the same script"));
        std::fs::remove_file(&again)?;
        std::fs::copy(&script, &again)?;
        let unlinked = digest(directory.path(), None)?;
        assert_ne!(whole, unlinked);
        let sparse = directory.path().join("sparse");
        std::fs::write(&sparse, std::fs::read(&sparse)?)?;
        assert_ne!(unlinked, digest(directory.path(), None)?);
        Ok(())
    }

    #[test]
    fn a_size_is_that_of_what_is_there() -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(12_345)?;
        assert_eq!(size(file.path())?, 12_345);
        Ok(())
    }

    #[test]
    fn a_length_cuts_the_file() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (long, short) = (directory.path().join("long"), directory.path().join("short"));
        fill(&long, 2_000_000, 7)?;
        fill(&short, 1_500_000, 7)?;
        assert_eq!(digest(&long, Some(1_500_000))?, digest(&short, None)?);
        assert_ne!(digest(&long, None)?, digest(&short, None)?);
        Ok(())
    }
}
