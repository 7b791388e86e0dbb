//! The data mover against the tools that one would copy a volume with by hand, on the same loop devices and file systems, with no cluster.
//!
//! The mover syncs and verifies; a tool does neither. So each tool is timed with the sync that a copy needs to be one, and once more with
//! reading everything back and comparing it: what the mover does. Caches are dropped before every copy and before every comparison.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

use super::{
    Options,
    pairs::{Pair, Side, in_turn},
    report::{Case, Report},
    statistics::{Spread, rounded},
};
use crate::lab::{
    Lab,
    command::{command, run as finish},
    packages,
    progress::Progress,
};

const MIB: u64 = 1 << 20;
/// Of a disk, and of a device that is one.
const DISK: u64 = 512 * MIB;
/// Of a device with a file system that two disks fit on.
const VOLUME: u64 = 1280 * MIB;
/// What a disk is written in.
const PART: u64 = 8 * MIB;
/// So many files of up to [`LARGEST`] bytes in so many directories.
const DIRECTORIES: u64 = 20;
const FILES: u64 = 200;
const LARGEST: u64 = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Block,
    Ext4,
    Xfs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// A disk without a zero in it.
    Dense,
    /// A disk of which an eighth is data, 8 MiB here and there.
    Holes,
    /// Small files.
    Small,
}

#[derive(Debug, Clone, Copy)]
enum Tool {
    Cp,
    Dd,
    Tar,
    Reflink,
}

/// What is copied, and against what.
struct Kind {
    name: &'static str,
    source: Format,
    target: Format,
    content: Content,
    tools: &'static [Tool],
}

const KINDS: [Kind; 11] = {
    use Content::{Dense, Holes, Small};
    use Format::{Block, Ext4, Xfs};
    use Tool::{Cp, Dd, Reflink, Tar};
    const fn kind(name: &'static str, from: Format, to: Format, content: Content, tools: &'static [Tool]) -> Kind {
        Kind { name, source: from, target: to, content, tools }
    }
    [
        kind("block", Block, Block, Dense, &[Dd]),
        kind("block-holes", Block, Block, Holes, &[Dd]),
        kind("ext4", Ext4, Ext4, Dense, &[Cp, Dd, Tar]),
        kind("ext4-holes", Ext4, Ext4, Holes, &[Cp, Tar]),
        kind("ext4-small", Ext4, Ext4, Small, &[Cp, Tar]),
        kind("xfs", Xfs, Xfs, Dense, &[Cp]),
        kind("xfs-holes", Xfs, Xfs, Holes, &[Cp]),
        kind("xfs-small", Xfs, Xfs, Small, &[Tar]),
        kind("to-image", Block, Ext4, Holes, &[Dd]),
        kind("to-device", Ext4, Block, Holes, &[Dd]),
        // Source and target in one file system.
        kind("reflink", Xfs, Xfs, Dense, &[Reflink]),
    ]
};

/// Measures all kinds; the second text says how to read it. Whatever it was that ended it, what was set up is gone afterwards.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    packages::check_machine()?;
    progress.step("programs built", lab.build()).await?;
    let mover = std::env::current_exe().context("where is this program?")?.with_file_name("cloner");
    // On a disk, which the system's place for temporary files often isn't.
    let place = lab.layout().checkout().join("target").join("measure-copy");
    clear(&place).await?;
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    let stop = AtomicBool::new(false);
    let measured = {
        let mut terminated = signal(SignalKind::terminate())?;
        let mut measuring = std::pin::pin!(measure_all(&place, &mover, options, progress, &stop));
        tokio::select! {
            measured = &mut measuring => measured,
            () = async { tokio::select! { _ = tokio::signal::ctrl_c() => (), _ = terminated.recv() => () } } => {
                // The command that runs comes to its end first: what it has children for would hold the volumes otherwise.
                stop.store(true, Ordering::Relaxed);
                measuring.await.and(Err(anyhow::anyhow!("interrupted")))
            }
        }
    };
    match (measured, clear(&place).await) {
        (Ok(cases), Ok(())) => {
            Ok((Report { bench: "copy", unit: "MiB/s", cases, counts: Vec::new() }, NOTE.to_owned()))
        }
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

const NOTE: &str = "More is better. The floor is the named tool with a sync; with +cmp it also reads everything back and compares, as the mover \
does.\nSpeeds are of the content's whole length, holes included.\n";

async fn measure_all(
    place: &Path,
    mover: &Path,
    options: &Options,
    progress: &Progress,
    stop: &AtomicBool,
) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for kind in &KINDS {
        let volumes = Volumes::new(place, kind, stop).await.with_context(|| format!("case {}", kind.name))?;
        for tool in kind.tools {
            let measured = volumes.measure(kind, *tool, mover, options, progress).await;
            cases.extend(measured.with_context(|| format!("case {}", kind.name))?);
        }
    }
    Ok(cases)
}

/// Undoes what an interrupted bench has left.
async fn clear(place: &Path) -> Result<()> {
    for name in ["source", "target"] {
        // Mostly there is none.
        let _ = finish(command("umount", [place.join(name)])).await;
        let image = place.join(format!("{name}.img"));
        let devices = finish(command(
            "losetup",
            ["--noheadings".as_ref(), "--output=NAME".as_ref(), "--associated".as_ref(), image.as_os_str()],
        ));
        for device in devices.await?.lines() {
            finish(command("losetup", ["--detach", device.trim()])).await?;
        }
    }
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", place.display()))
        }
        _ => Ok(()),
    }
}

/// A loop device, and what is mounted of it; gone when dropped.
struct Volume {
    device: PathBuf,
    mounted: Option<PathBuf>,
}

impl Volume {
    async fn new(place: &Path, name: &str, format: Format) -> Result<Self> {
        let image = place.join(format!("{name}.img"));
        File::create(&image)?.set_len(if format == Format::Block { DISK } else { VOLUME })?;
        let device = finish(command("losetup", ["--find".as_ref(), "--show".as_ref(), image.as_os_str()])).await?;
        let mut volume = Self { device: device.trim().into(), mounted: None };
        let make = match format {
            Format::Block => return Ok(volume),
            Format::Ext4 => "mkfs.ext4",
            Format::Xfs => "mkfs.xfs",
        };
        finish(command(make, ["-q".as_ref(), volume.device.as_os_str()])).await?;
        let top = place.join(name);
        fs::create_dir_all(&top)?;
        finish(command("mount", [&volume.device, &top])).await?;
        volume.mounted = Some(top);
        Ok(volume)
    }

    fn path(&self) -> &Path {
        self.mounted.as_ref().unwrap_or(&self.device)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What fails here is tried once more when everything is cleared, and told then.
        if let Some(top) = &self.mounted {
            let _ = std::process::Command::new("umount").arg(top).status();
        }
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

struct Volumes<'a> {
    source: PathBuf,
    target: PathBuf,
    /// Bytes of the source, holes included.
    bytes: u64,
    mover_log: PathBuf,
    /// Set when nothing more is to be started.
    stop: &'a AtomicBool,
    _both: Vec<Volume>,
}

impl<'a> Volumes<'a> {
    async fn new(place: &Path, kind: &Kind, stop: &'a AtomicBool) -> Result<Self> {
        let volume = Volume::new(place, "source", kind.source).await?;
        let mut both = Vec::new();
        let (source, target) = if matches!(kind.tools, [Tool::Reflink]) {
            let (source, target) = (volume.path().join("source"), volume.path().join("target"));
            fs::create_dir(&source)?;
            fs::create_dir(&target)?;
            (source, target)
        } else {
            let target = Volume::new(place, "target", kind.target).await?;
            let paths = (volume.path().to_owned(), target.path().to_owned());
            both.push(target);
            paths
        };
        both.push(volume);
        let bytes = fill(&source, kind)?;
        finish(command("sync", None::<&str>)).await?;
        Ok(Self { source, target, bytes, mover_log: place.join("outcome"), stop, _both: both })
    }

    async fn measure(
        &self,
        kind: &Kind,
        tool: Tool,
        mover: &Path,
        options: &Options,
        progress: &Progress,
    ) -> Result<[Case; 2]> {
        let name = format!("{} {}", kind.name, tool.name());
        let mut compared = Vec::new();
        let pairs = in_turn(
            options.pairs,
            async |side, number| {
                self.empty_target().await?;
                match side {
                    Side::Ours => self.time(self.by_mover(mover)).await,
                    Side::Floor => {
                        let copied = self.time(self.by_tool(kind, tool)).await?;
                        let both = copied + self.time(self.comparison(kind)).await?;
                        if number > 0 {
                            compared.push(both);
                        }
                        Ok(copied)
                    }
                }
            },
            |number, pair| {
                let counts = if number == 0 { "warm-up" } else { "pair" };
                let (ours, floor) = (self.speed(pair.ours), self.speed(pair.floor));
                progress.line(&format!("{name:<18} {counts} {number:>2}: ours {ours:6.0}, floor {floor:6.0} MiB/s"));
            },
        )
        .await?;
        let with_comparison: Vec<_> =
            pairs.iter().zip(&compared).map(|(pair, floor)| Pair { ours: pair.ours, floor: *floor }).collect();
        Ok([self.case(&name, &pairs)?, self.case(&format!("{name}+cmp"), &with_comparison)?])
    }

    /// In MiB/s instead of milliseconds.
    fn case(&self, name: &str, pairs: &[Pair]) -> Result<Case> {
        let Case { name, ours, floor, ratio: _ } = Case::of(name, pairs)?;
        let speed = |milliseconds: f64| rounded(self.speed(Duration::from_secs_f64(milliseconds / 1e3)), 1);
        let speeds = |it: Spread| Spread {
            min: speed(it.max),
            median: speed(it.median),
            p90: speed(it.p90),
            max: speed(it.min),
        };
        let (ours, floor) = (speeds(ours), speeds(floor));
        Ok(Case { name, ratio: rounded(ours.median / floor.median, 2), ours, floor })
    }

    #[expect(clippy::cast_precision_loss, reason = "speeds are told in few digits")]
    fn speed(&self, took: Duration) -> f64 {
        self.bytes as f64 / MIB as f64 / took.as_secs_f64().max(1e-3)
    }

    async fn time(&self, command: Command) -> Result<Duration> {
        ensure!(!self.stop.load(Ordering::Relaxed), "interrupted");
        finish(self::command("sync", None::<&str>)).await?;
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop the caches")?;
        let start = Instant::now();
        finish(command).await?;
        Ok(start.elapsed())
    }

    async fn empty_target(&self) -> Result<()> {
        if !self.target.is_dir() {
            finish(command("blkdiscard", [&self.target])).await?;
            return Ok(());
        }
        for entry in fs::read_dir(&self.target)? {
            let path = entry?.path();
            if path.ends_with("lost+found") {
                continue;
            }
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        finish(command("sync", ["--file-system".as_ref(), self.target.as_os_str()])).await?;
        // A directory in a file system can't be trimmed by itself.
        let _ = finish(command("fstrim", [&self.target])).await;
        Ok(())
    }

    fn by_mover(&self, mover: &Path) -> Command {
        let mut copy = command(mover, ["--source"]);
        copy.arg(&self.source).arg("--target").arg(&self.target).arg("--termination-log").arg(&self.mover_log);
        copy
    }

    fn by_tool(&self, kind: &Kind, tool: Tool) -> Command {
        let disk = |path: &Path| if path.is_dir() { path.join("disk.img") } else { path.to_owned() };
        let (from, to) = match tool {
            Tool::Dd => (disk(&self.source), disk(&self.target)),
            _ => (self.source.clone(), self.target.clone()),
        };
        let script = match tool {
            Tool::Cp => "cp --archive --sparse=always \"$0/.\" \"$1\" && sync --file-system \"$1\"",
            Tool::Reflink => "cp --archive --reflink=always \"$0/.\" \"$1\" && sync --file-system \"$1\"",
            Tool::Tar => {
                "tar --create --sparse --directory \"$0\" . | tar --extract --directory \"$1\" && sync --file-system \"$1\""
            }
            // Into a file holes can be left out; on a device whatever was there has to be written over.
            Tool::Dd if kind.target != Format::Block => "dd if=\"$0\" of=\"$1\" bs=4M conv=sparse,fsync status=none",
            Tool::Dd => "dd if=\"$0\" of=\"$1\" bs=4M conv=fsync status=none",
        };
        script_with(script, &from, &to)
    }

    fn comparison(&self, kind: &Kind) -> Command {
        let (source, target) = (&self.source, &self.target);
        match (kind.source, kind.target) {
            (Format::Block, Format::Block) => script_with("cmp \"$0\" \"$1\"", source, target),
            (Format::Block, _) => script_with("cmp \"$0\" \"$1/disk.img\"", source, target),
            (_, Format::Block) => script_with(
                "cmp --bytes \"$(stat --format %s \"$0/disk.img\")\" \"$0/disk.img\" \"$1\"",
                source,
                target,
            ),
            _ => script_with("diff --recursive --brief --exclude lost+found \"$0\" \"$1\"", source, target),
        }
    }
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Cp | Self::Reflink => "cp",
            Self::Dd => "dd",
            Self::Tar => "tar",
        }
    }
}

fn script_with(script: &str, source: &Path, target: &Path) -> Command {
    let mut shell = command("sh", ["-c", script]);
    shell.arg(source).arg(target);
    shell
}

/// Puts the content there; how many bytes it is, holes included.
fn fill(source: &Path, kind: &Kind) -> Result<u64> {
    let mut noise = blake3::Hasher::new().update(kind.name.as_bytes()).finalize_xof();
    if kind.content == Content::Small {
        let mut bytes = 0;
        for directory in 0..DIRECTORIES {
            let directory = source.join(directory.to_string());
            fs::create_dir(&directory)?;
            for file in 0..FILES {
                let mut data = vec![0; usize::try_from(LARGEST * (file + 1) / FILES)?];
                noise.fill(&mut data);
                fs::write(directory.join(file.to_string()), &data)?;
                bytes += data.len() as u64;
            }
        }
        return Ok(bytes);
    }
    let device = kind.source == Format::Block;
    let file = if device { File::options().write(true).open(source)? } else { File::create(source.join("disk.img"))? };
    if !device {
        file.set_len(DISK)?;
    }
    let every = if kind.content == Content::Dense { PART } else { 8 * PART };
    let mut data = vec![0; usize::try_from(PART)?];
    let mut at = 0;
    while at < DISK {
        noise.fill(&mut data);
        file.write_all_at(&data, at)?;
        at += every;
    }
    file.sync_all()?;
    Ok(DISK)
}
