//! What comes from Debian.

use anyhow::{Result, bail, ensure};

use super::{
    command::{command, find, run},
    progress::Progress,
};

/// Where Debian puts the network plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A program that is needed, and the package that brings it.
const NEEDED: [(&str, &str); 17] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("buildah", "buildah"),
    ("iptables", "iptables"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_growfs", "xfsprogs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("resize2fs", "e2fsprogs"),
    ("modprobe", "kmod"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("losetup", "util-linux"),
    ("mount", "mount"),
    ("strip", "binutils"),
];

/// Fails with advice where no cluster can be started at all.
pub fn check_machine() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "the local cluster needs Linux: its nodes' parts are plain Linux processes");
    ensure!(
        rustix::process::geteuid().is_root(),
        "the local cluster needs root (it mounts, makes network namespaces and runs containers): run this as root"
    );
    Ok(())
}

/// Installs the packages whose programs are missing.
pub async fn ensure(progress: &Progress) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("these Debian packages, or what brings the same programs, are missing: {}", missing.join(" "));
    }
    let install = || {
        let mut install = command("apt-get", ["install", "--yes", "--no-install-recommends"]);
        install.args(&missing).env("DEBIAN_FRONTEND", "noninteractive");
        run(install)
    };
    progress
        .step(&format!("install {}", missing.join(" ")), async {
            // A machine that has never asked for the packages' lists, or long ago, doesn't know them.
            if install().await.is_err() {
                run(command("apt-get", ["update"])).await?;
                install().await?;
            }
            Ok(())
        })
        .await
}

fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}
