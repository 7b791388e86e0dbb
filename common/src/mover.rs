//! The contract between the controller and the data mover (`cloner`): paths of volumes, progress, outcome.
//!
//! The mover has no network and no Kubernetes. It says how far it is on standard output, one [`Progress`] as JSON a line,
//! which the controller follows as the pod's log; and how it ended in its termination message, one [`Outcome`] as JSON.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a source with volume mode `Filesystem` is mounted, read-only.
pub const SOURCE_DIR: &str = "/volumes/source";
/// Where a target with volume mode `Filesystem` is mounted.
pub const TARGET_DIR: &str = "/volumes/target";
/// The device of a source with volume mode `Block`.
pub const SOURCE_DEVICE: &str = "/dev/smartclone-source";
/// The device of a target with volume mode `Block`.
pub const TARGET_DEVICE: &str = "/dev/smartclone-target";
/// The name of the mover's container in its pod.
pub const CONTAINER: &str = "mover";
/// The file whose content kubelet shows as the container's termination message (Kubernetes' default path).
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Kubernetes cuts a termination message at this many bytes.
pub const TERMINATION_LOG_BYTES: usize = 4096;

/// Where a virtual machine's disk is in a volume with volume mode `Filesystem`, relative to its top (KubeVirt's rule).
pub const DISK_IMAGE: &str = "disk.img";
/// The permissions of a [`DISK_IMAGE`] that the mover makes: its user's and its group's.
pub const DISK_IMAGE_MODE: u32 = 0o660;
/// The user and the group that KubeVirt's virtual machines run as, and the mover too unless it is told to keep owners.
pub const VM_USER: u32 = 107;
/// The DataVolume's annotation that makes the mover run as root, so that owners are kept. As one writes it in YAML.
pub const KEEP_OWNERS: &str = "smartclone.dev/file-owners: Keep";

/// What a volume holds: CDI's `contentType`. A disk (`kubevirt`) may become a file or a device, an archive is a tree and stays one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentType {
    /// The disk of a virtual machine: a whole device, or [`DISK_IMAGE`] in a file system.
    #[default]
    Kubevirt,
    /// Files.
    Archive,
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubevirt => "kubevirt",
            Self::Archive => "archive",
        })
    }
}

impl FromStr for ContentType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kubevirt" => Ok(Self::Kubevirt),
            "archive" => Ok(Self::Archive),
            _ => Err(format!("{text:?} is neither kubevirt nor archive")),
        }
    }
}

/// How far a copy is. Both numbers only grow, except that `total` may grow while a tree is still being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes of the source that are dealt with: written, reflinked, or known to be zero.
    pub done: u64,
    /// Bytes of the source in all, holes included.
    pub total: u64,
}

impl Progress {
    /// Hundredths of a per cent, 0 ..= 10,000; an empty source is done.
    pub fn per_myriad(self) -> u16 {
        let done = u128::from(self.done.min(self.total));
        match u128::from(self.total) {
            0 => 10_000,
            total => u16::try_from(done * 10_000 / total).unwrap_or(10_000),
        }
    }
}

/// How the mover ended. Written to [`TERMINATION_LOG`]; the exit code is [`Outcome::exit_code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// The target holds the source's content, is on stable storage, and was read back and compared.
    Copied {
        /// Bytes of the source, holes included.
        total: u64,
        /// Bytes that had to be written (neither hole, zero nor reflinked).
        written: u64,
        /// BLAKE3 over the content in hexadecimal, equal for source and target; it counts zeros instead of hashing them, so it isn't
        /// what `b3sum` prints. Of files that share their extents with the source's it covers the length only: they were not read.
        digest: String,
        /// What of the source the target doesn't have, in sentences for the user: for each kind of loss how many files, the first
        /// of them, and the cure. Empty if everything was kept.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// It may succeed when it is started again (an I/O error, no space just now).
    Retry {
        /// What failed, with the path and the cause.
        message: String,
    },
    /// It can't succeed, however often it is started (the target is too small, wrong arguments).
    Never {
        /// What is wrong and what would cure it.
        message: String,
    },
    /// The source changed while it was copied; the copy is worthless.
    SourceChanged {
        /// Which part changed.
        message: String,
    },
}

impl Outcome {
    /// 0 copied, 1 retry, 2 never (as for wrong arguments), 3 source changed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Copied { .. } => 0,
            Self::Retry { .. } => 1,
            Self::Never { .. } => 2,
            Self::SourceChanged { .. } => 3,
        }
    }
}
