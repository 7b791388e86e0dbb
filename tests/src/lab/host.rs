//! What a cluster does to the machine below it, and its undoing.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags},
    process::Signal,
};
use serde_json::Value;

use super::{
    command::{Look, command, run, until, write},
    layout::Layout,
    process::signal_if,
};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Settings of the whole kernel which kubelet changes as it likes, or which we have to raise.
const SYSCTLS: [&str; 7] = [
    "fs/inotify/max_user_instances",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Loads what isn't built into the kernel, notes the kernel's settings, makes the cgroup.
pub async fn prepare(layout: &Layout) -> Result<()> {
    for (module, sign) in [
        ("overlay", "/sys/module/overlay"),
        ("loop", "/dev/loop-control"),
        ("xfs", "/sys/module/xfs"),
        ("br_netfilter", "/proc/sys/net/bridge"),
    ] {
        if !Path::new(sign).exists() {
            // Where modules can't be loaded they may be built in; if not, the step that needs it says so.
            let _ = run(command("modprobe", [module])).await;
        }
    }
    note_sysctls()?;
    raise("fs/inotify/max_user_instances", 1024)?;
    make_cgroup(layout)?;
    share(&layout.at("kubelet"))
}

/// What is mounted below a shared directory is seen by all who saw the directory, in whichever mount namespace.
fn share(directory: &Path) -> Result<()> {
    if is_mounted(directory)? {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    rustix::mount::mount_bind(directory, directory)?;
    // Private first: else it would be shared with the file system that it is part of.
    for change in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
        rustix::mount::mount_change(directory, change).with_context(|| format!("share {}", directory.display()))?;
    }
    Ok(())
}

/// Where the settings of before the first cluster on this machine are kept.
fn noted() -> PathBuf {
    Layout::home().join("sysctls.json")
}

fn note_sysctls() -> Result<()> {
    if noted().exists() {
        return Ok(());
    }
    let values: BTreeMap<_, _> = SYSCTLS
        .into_iter()
        .filter_map(|name| Some((name, std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?)))
        .collect();
    write(&noted(), serde_json::to_vec_pretty(&values)?)
}

fn raise(name: &str, least: u64) -> Result<()> {
    let file = Path::new("/proc/sys").join(name);
    let current: u64 = std::fs::read_to_string(&file)?.trim().parse()?;
    if current < least {
        std::fs::write(&file, least.to_string()).with_context(|| format!("raise {name}"))?;
    }
    Ok(())
}

/// Puts the kernel's settings back; for the last cluster on the machine.
pub fn restore_sysctls() -> Result<()> {
    let values: BTreeMap<String, String> = match std::fs::read(noted()) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for (name, value) in values {
        let file = Path::new("/proc/sys").join(&name);
        if std::fs::read_to_string(&file)? != value {
            std::fs::write(&file, value).with_context(|| format!("restore {name}"))?;
        }
    }
    std::fs::remove_file(noted())?;
    Ok(())
}

/// The cluster's directory in every hierarchy of cgroups (version 1 has one per controller).
fn cgroups(layout: &Layout) -> Result<Vec<PathBuf>> {
    let mounts = mounts()?;
    let roots = mounts.iter().filter(|mount| mount.kind.starts_with("cgroup") && mount.point.starts_with(CGROUPS));
    Ok(roots.map(|mount| mount.point.join(layout.cgroup())).collect())
}

fn make_cgroup(layout: &Layout) -> Result<()> {
    for cgroup in cgroups(layout)? {
        if cgroup.is_dir() {
            continue;
        }
        let parent = cgroup.parent().context("a cgroup has a parent")?;
        let controllers = std::fs::read_to_string(parent.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            std::fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("enable the cgroup controller {controller}"))?;
        }
        std::fs::create_dir(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        // A version 1 cpuset starts empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = std::fs::read_to_string(parent.join(file))
                && cgroup.join(file).exists()
                && !all.trim().is_empty()
            {
                std::fs::write(cgroup.join(file), all)?;
            }
        }
    }
    Ok(())
}

/// Kills what runs in the cluster's cgroups (pods) or in its network (everything else, also containerd's shims).
pub async fn kill_everything(layout: &Layout) -> Result<()> {
    until("the cluster's processes to end", Duration::from_secs(20), async || {
        let left = inhabitants(layout)?;
        for &pid in &left {
            signal_if(pid, Signal::KILL, || inhabitants(layout).is_ok_and(|still| still.contains(&pid)))?;
        }
        Ok(if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?} still run")) })
    })
    .await
}

fn inhabitants(layout: &Layout) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for cgroup in cgroups(layout)? {
        for directory in directories(&cgroup)? {
            let inside = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(inside.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    if is_mounted(&layout.netns())? {
        let network = std::fs::metadata(layout.netns())?;
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            // A process that ends meanwhile is in no network.
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
                && let Ok(its) = std::fs::metadata(entry.path().join("ns/net"))
                && (its.dev(), its.ino()) == (network.dev(), network.ino())
            {
                pids.push(pid);
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    // Pid 0 is a process that this pid namespace can't see.
    pids.retain(|pid| *pid > 0);
    Ok(pids)
}

/// Removes the cluster's cgroups, which have to be empty.
pub async fn remove_cgroup(layout: &Layout) -> Result<()> {
    for cgroup in cgroups(layout)? {
        // The kernel needs a moment after the last process's death.
        until("the cgroups to become empty", Duration::from_secs(10), async || {
            for directory in directories(&cgroup)?.iter().rev() {
                match std::fs::remove_dir(directory) {
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                        return Ok(Look::Continue(format!("{} is busy", directory.display())));
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    result => result.with_context(|| format!("remove {}", directory.display()))?,
                }
            }
            Ok(Look::Break(()))
        })
        .await?;
    }
    Ok(())
}

/// `root` and all directories below it, parents first.
fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => {
                for entry in entries?.flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        ahead.push(entry.path());
                    }
                }
            }
        }
        found.push(directory);
    }
    Ok(found)
}

struct Mount {
    point: PathBuf,
    kind: String,
}

fn mounts() -> Result<Vec<Mount>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let parse = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        // Space, tab, newline and backslash are written in octal; none is in a path of ours.
        Some(Mount { point: mount.split(' ').nth(4)?.into(), kind: source.split(' ').next()?.to_owned() })
    };
    Ok(table.lines().filter_map(parse).collect())
}

/// Whether something is mounted exactly there.
pub fn is_mounted(path: &Path) -> Result<bool> {
    Ok(mounts()?.iter().any(|mount| mount.point == path))
}

/// The mount points at and below `path`, in the order in which they were mounted.
pub fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(path)).collect())
}

/// Unmounts what is mounted at and below `path`, the latest first.
pub async fn unmount_below(path: &Path) -> Result<()> {
    for point in mounts_below(path)?.into_iter().rev() {
        // The kernel needs a moment after the last user's death.
        until(&format!("{} to be unused", point.display()), Duration::from_secs(10), async || {
            match rustix::mount::unmount(&point, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) => Ok(Look::Continue("somebody uses it".to_owned())),
                // Unmounting one of several at the same place can take others away.
                Err(Errno::INVAL) => Ok(Look::Break(())),
                result => result.map(Look::Break).with_context(|| format!("unmount {}", point.display())),
            }
        })
        .await?;
    }
    Ok(())
}

/// A loop device and the file behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// `/dev/loopN`.
    pub device: PathBuf,
    /// The file, which may have been deleted meanwhile.
    pub file: PathBuf,
}

/// The loop devices whose file is below `path`, and those on top of them: kubelet holds a block volume by a loop device of
/// its own, whose file is the volume's device node, by a path that is gone with kubelet.
pub async fn loop_devices_below(path: &Path) -> Result<Vec<LoopDevice>> {
    let columns = "NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN";
    let list = run(command("losetup", ["--list", "--json", "--output", columns])).await?;
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    let list: Value = serde_json::from_str(&list).context("losetup's list")?;
    let devices = list["loopdevices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let parse = |entry: &Value| {
        let file = entry["back-file"].as_str()?;
        let file = file.strip_suffix(" (deleted)").unwrap_or(file).into();
        let identity = (entry["back-maj:min"].as_str()?.trim().to_owned(), entry["back-ino"].as_u64()?);
        Some((LoopDevice { device: entry["name"].as_str()?.into(), file }, identity))
    };
    let (below, others): (Vec<_>, Vec<_>) =
        devices.iter().filter_map(parse).partition(|(device, _)| device.file.starts_with(path));
    let mut found: Vec<_> = below.into_iter().map(|(device, _)| device).collect();
    let nodes: Vec<_> = found.iter().filter_map(|device| identity(&device.device)).collect();
    found.extend(others.into_iter().filter(|(_, file)| nodes.contains(file)).map(|(device, _)| device));
    Ok(found)
}

/// What tells a file from all others, whatever its paths: its file system's number as losetup writes it, and its inode.
fn identity(file: &Path) -> Option<(String, u64)> {
    let found = std::fs::metadata(file).ok()?;
    Some((format!("{}:{}", rustix::fs::major(found.dev()), rustix::fs::minor(found.dev())), found.ino()))
}

/// Detaches them.
pub async fn detach_loop_devices_below(path: &Path) -> Result<()> {
    for found in loop_devices_below(path).await? {
        run(command("losetup", [Path::new("--detach"), &found.device])).await?;
    }
    Ok(())
}

/// Removes the directories that kubelet, containerd and network plugins make at fixed places, if nobody else uses them.
pub fn sweep_fixed_places() {
    for directory in [
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd",
    ] {
        // Only an empty directory goes; one that holds something is somebody else's.
        let _ = std::fs::remove_dir(directory);
    }
}
