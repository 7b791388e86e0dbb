//! Contract between the controller and the data mover (`cloner`): paths of volumes, progress, outcome.
//!
//! The mover has no network and no access to Kubernetes. It reports its progress on standard output, one [`Progress`] as JSON per line,
//! which the controller reads from the pod's log. It reports its outcome in the termination message, one [`Outcome`] as JSON.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Mount path of a source with volume mode `Filesystem`, read-only.
pub const SOURCE_DIR: &str = "/volumes/source";
/// Mount path of a target with volume mode `Filesystem`.
pub const TARGET_DIR: &str = "/volumes/target";
/// The device of a source with volume mode `Block`.
pub const SOURCE_DEVICE: &str = "/dev/smartclone-source";
/// The device of a target with volume mode `Block`.
pub const TARGET_DEVICE: &str = "/dev/smartclone-target";
/// The name of the mover's container in its pod.
pub const CONTAINER: &str = "mover";
/// The file whose content kubelet shows as the container's termination message (Kubernetes' default path).
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Maximum length of a termination message in bytes. Kubernetes cuts a longer one.
pub const TERMINATION_LOG_BYTES: usize = 4096;

/// Path of a virtual machine's disk in a volume with volume mode `Filesystem`, relative to its root (KubeVirt's rule).
pub const DISK_IMAGE: &str = "disk.img";
/// The permissions of a [`DISK_IMAGE`] that the mover creates: for its user and its group.
pub const DISK_IMAGE_MODE: u32 = 0o660;
/// The user and the group of KubeVirt's virtual machines, and of the mover unless it has to preserve owners.
pub const VM_USER: u32 = 107;
/// The DataVolume's annotation, in YAML, that makes the mover run as root to preserve owners.
pub const KEEP_OWNERS: &str = "smartclone.dev/file-owners: Keep";

/// The content of a volume: CDI's `contentType`. A disk (`kubevirt`) may be copied to a file or to a device; an archive remains a tree of
/// files.
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

/// The progress of a copy. Neither number decreases, and `total` grows only while a tree is still being counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Processed bytes of the source: written, reflinked, or known to be zero.
    pub done: u64,
    /// Total bytes of the source, holes included.
    pub total: u64,
}

impl Progress {
    /// Returns the progress in hundredths of a per cent, 0 ..= 10,000. An empty source is complete.
    pub fn per_myriad(self) -> u16 {
        let done = u128::from(self.done.min(self.total));
        match u128::from(self.total) {
            0 => 10_000,
            total => u16::try_from(done * 10_000 / total).unwrap_or(10_000),
        }
    }
}

/// The outcome of the mover. Written to [`TERMINATION_LOG`]; the exit code is [`Outcome::exit_code`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// The target holds the source's content, is on stable storage, and was read back and compared.
    Copied {
        /// Bytes of the source, holes included.
        total: u64,
        /// Bytes that had to be written (neither hole, zero nor reflinked).
        written: u64,
        /// BLAKE3 digest of the content in hexadecimal, equal for source and target. Zeros are counted instead of hashed, so it differs
        /// from the output of `b3sum`. For files that share their extents with the source's, it covers the length only: they were not read.
        digest: String,
        /// Properties of the source that the target does not have, as sentences for the user: for each kind of loss the number of files,
        /// the first of them, and the remedy. Empty if everything was preserved.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    /// A restart may succeed (after an I/O error, or while there is no space).
    Retry {
        /// The failure, with the path and the cause.
        message: String,
    },
    /// No restart can succeed (the target is too small, wrong arguments).
    Never {
        /// The failure and the remedy.
        message: String,
    },
    /// The source changed while it was copied; the copy is unusable.
    SourceChanged {
        /// The part that changed.
        message: String,
    },
}

impl Outcome {
    /// Returns the exit code: 0 copied, 1 retry, 2 never (as for wrong arguments), 3 source changed.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Copied { .. } => 0,
            Self::Retry { .. } => 1,
            Self::Never { .. } => 2,
            Self::SourceChanged { .. } => 3,
        }
    }
}
