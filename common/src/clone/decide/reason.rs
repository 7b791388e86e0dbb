//! Fallback reasons: explain why a strategy is not feasible, each with a code, the facts, and the cure.

use std::fmt;

use jiff::Timestamp;

use crate::{clone::decide::size::SizeError, keys, object::VolumeMode, quantity::Bytes, words::words};

words! {
    /// The codes of fallback reasons; CDI's where CDI has one. They are stable: events, conditions and the plan annotation contain them.
    pub enum FallbackCode {
        /// The storage driver refused this clone, or similar ones.
        DriverRefused = "DriverRefused",
        /// The storage driver did not finish within the deadline.
        DriverTooSlow = "DriverTooSlow",
        /// The source is a snapshot, and a CSI clone requires a claim.
        SourceIsSnapshot = "SourceIsSnapshot",
        /// The source's volume is not a CSI volume.
        NoCsiDriver = "NoCsiDriver",
        /// The source and the StorageClass have different drivers.
        IncompatibleProvisioners = "IncompatibleProvisioners",
        /// The StorageClasses have the same driver and different parameters.
        IncompatibleStorageClasses = "IncompatibleStorageClasses",
        /// The clone has only read-only access modes, and the data mover must write it.
        ReadOnlyAccessMode = "ReadOnlyAccessMode",
        /// The source and the clone have different volume modes.
        IncompatibleVolumeModes = "IncompatibleVolumeModes",
        /// The requested size requires expansion, and the StorageClass does not allow it.
        NoVolumeExpansion = "NoVolumeExpansion",
        /// No VolumeSnapshotClass serves the driver.
        NoVolumeSnapshotClass = "NoVolumeSnapshotClass",
        /// No StorageClass can restore the source snapshot.
        NoProvisionerMatch = "NoProvisionerMatch",
    }
}

/// A reason why a strategy is not feasible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FallbackReason {
    /// The driver refused this clone with this message.
    Refused(String),
    /// The driver did not finish this clone in time; holds its latest report.
    TooSlow(String),
    /// The driver recently refused similar clones of the same namespace.
    RefusedHere {
        /// The number of refusals in a row.
        count: u32,
        /// The gRPC code, or the code of a known text.
        code: &'static str,
        /// The driver's message, redacted.
        message: String,
        /// The time from which it is tried again.
        until: Timestamp,
    },
    /// The driver recently refused similar clones of several namespaces.
    RefusedToOthers {
        /// The gRPC code, or the code of a known text.
        code: String,
        /// The time of the latest refusal.
        last: Option<Timestamp>,
        /// The time from which it is tried again.
        until: Option<Timestamp>,
        /// The StorageClass, whose StorageProfile has the refusal.
        class: String,
    },
    /// A CSI clone of a snapshot.
    SourceIsSnapshot,
    /// A source whose volume is not a CSI volume.
    NoCsiDriver,
    /// A StorageClass of another driver.
    OtherDriver {
        /// The driver of the source's volume.
        driver: String,
        /// The StorageClass of the clone.
        class: String,
        /// Its driver.
        provisioner: String,
    },
    /// A StorageClass of the same driver, with other parameters.
    OtherParameters {
        /// The StorageClass of the source.
        source_class: String,
        /// The StorageClass of the clone.
        class: String,
    },
    /// A source whose StorageClass does not exist, or that names none.
    NoSourceClass {
        /// The StorageClass that the source names; empty for none.
        source_class: String,
        /// The StorageClass of the clone.
        class: String,
    },
    /// Access modes with which the data mover can't write.
    ReadOnly {
        /// The access modes of the clone.
        access_modes: Vec<String>,
    },
    /// A source with another volume mode than the clone, which only a copy can convert.
    OtherVolumeMode {
        /// The source's.
        source: VolumeMode,
        /// The clone's.
        clone: VolumeMode,
    },
    /// A source with another volume mode, whose files can't be converted.
    NotConverted {
        /// The source's.
        source: VolumeMode,
    },
    /// A size that requires expansion, which the StorageClass does not allow.
    NoVolumeExpansion {
        /// The error in the size.
        error: SizeError,
        /// The size that needs no expansion.
        capacity: Bytes,
        /// The StorageClass.
        class: String,
    },
    /// A cluster without the snapshot API.
    NoSnapshotApi,
    /// A StorageProfile that names a VolumeSnapshotClass which the driver does not have.
    UnknownSnapshotClass {
        /// The StorageProfile, by the name of its StorageClass.
        profile: String,
        /// The VolumeSnapshotClass that it names.
        snapshot_class: String,
        /// The driver.
        driver: String,
    },
    /// A driver without a VolumeSnapshotClass.
    NoSnapshotClass {
        /// The driver.
        driver: String,
    },
    /// A snapshot for whose driver no StorageClass exists.
    NoProvisionerMatch,
}

impl FallbackReason {
    /// The code.
    pub fn code(&self) -> FallbackCode {
        match self {
            Self::Refused(_) | Self::RefusedHere { .. } | Self::RefusedToOthers { .. } => FallbackCode::DriverRefused,
            Self::TooSlow(_) => FallbackCode::DriverTooSlow,
            Self::SourceIsSnapshot => FallbackCode::SourceIsSnapshot,
            Self::NoCsiDriver => FallbackCode::NoCsiDriver,
            Self::OtherDriver { .. } => FallbackCode::IncompatibleProvisioners,
            Self::OtherParameters { .. } | Self::NoSourceClass { .. } => FallbackCode::IncompatibleStorageClasses,
            Self::ReadOnly { .. } => FallbackCode::ReadOnlyAccessMode,
            Self::OtherVolumeMode { .. } | Self::NotConverted { .. } => FallbackCode::IncompatibleVolumeModes,
            Self::NoVolumeExpansion { .. } => FallbackCode::NoVolumeExpansion,
            Self::NoSnapshotApi | Self::UnknownSnapshotClass { .. } | Self::NoSnapshotClass { .. } => {
                FallbackCode::NoVolumeSnapshotClass
            }
            Self::NoProvisionerMatch => FallbackCode::NoProvisionerMatch,
        }
    }

    /// The facts, for users.
    pub fn message(&self) -> String {
        match self {
            Self::Refused(message) => format!("the driver refused: {message}"),
            Self::TooSlow(message) => format!("it was not done in time: {message}"),
            Self::RefusedHere { count, code, message, .. } => {
                format!("the driver refused a similar clone in this namespace {count} times ({code}): {message}")
            }
            Self::RefusedToOthers { code, last, .. } => {
                format!("the driver refused similar clones in several namespaces ({code}), last at {}", time(*last))
            }
            Self::SourceIsSnapshot => "the source is a snapshot, and csi-clone makes a claim from a claim".to_owned(),
            Self::NoCsiDriver => "the source's volume belongs to no CSI driver".to_owned(),
            Self::OtherDriver { driver, class, provisioner } => {
                format!("the source is on {driver:?}, StorageClass {class:?} on {provisioner:?}")
            }
            Self::OtherParameters { source_class, class } => {
                format!("StorageClass {source_class:?} of the source and {class:?} differ in their parameters")
            }
            Self::NoSourceClass { source_class, class } if source_class.is_empty() => {
                format!("the source names no StorageClass, so its parameters can't be compared with those of {class:?}")
            }
            Self::NoSourceClass { source_class, class } => format!(
                "StorageClass {source_class:?} of the source does not exist, so its parameters can't be compared with those of {class:?}"
            ),
            Self::ReadOnly { access_modes } => {
                format!("a pod writes the copy, and the clone is to be {}", access_modes.join(", "))
            }
            Self::OtherVolumeMode { source, clone } => format!("the source is {source}, the clone is to be {clone}"),
            Self::NotConverted { source } => {
                format!("the source is {source}, and contentType archive is not converted")
            }
            Self::NoVolumeExpansion { error, .. } => error.to_string(),
            Self::NoSnapshotApi => "the cluster has no snapshot API (snapshot.storage.k8s.io/v1)".to_owned(),
            Self::UnknownSnapshotClass { profile, snapshot_class, driver } => format!(
                "StorageProfile {profile:?} names VolumeSnapshotClass {snapshot_class:?}, which driver {driver:?} does not have"
            ),
            Self::NoSnapshotClass { driver } => format!("there is no VolumeSnapshotClass for driver {driver:?}"),
            Self::NoProvisionerMatch => {
                "no StorageClass has the driver of the snapshot, so it can't be restored to be copied from".to_owned()
            }
        }
    }

    /// The change that would make the strategy feasible.
    pub fn cure(&self) -> String {
        match self {
            Self::Refused(_) | Self::TooSlow(_) => "the driver's log may tell why".to_owned(),
            Self::RefusedHere { until, .. } => {
                format!("it is asked again after {until:.0}; the driver's log may tell why")
            }
            Self::RefusedToOthers { until, class, .. } => {
                format!("it is asked again after {}; kubectl describe storageprofile {class}", time(*until))
            }
            Self::SourceIsSnapshot => "choose snapshot or copy".to_owned(),
            Self::NoCsiDriver => "only a copy of the bytes is possible".to_owned(),
            Self::OtherDriver { driver, .. } => format!("choose a StorageClass of {driver:?}"),
            Self::OtherParameters { source_class, .. } => format!(
                "choose {source_class:?}, or let the admin annotate one of the two with {}",
                keys::COMPATIBLE_WITH
            ),
            Self::NoSourceClass { source_class, .. } if source_class.is_empty() => {
                "give the source's PersistentVolume and claim a storageClassName".to_owned()
            }
            Self::NoSourceClass { source_class, class } => format!(
                "if the two are alike, let the admin annotate StorageClass {class:?} with {}: {source_class}",
                keys::COMPATIBLE_WITH
            ),
            Self::ReadOnly { .. } => "ask for ReadWriteOnce as well".to_owned(),
            Self::OtherVolumeMode { source, .. } => format!("ask for volumeMode {source}"),
            Self::NotConverted { .. } => "clone it as contentType kubevirt if it holds the image of a disk".to_owned(),
            Self::NoVolumeExpansion { capacity, class, .. } => {
                format!("ask for {capacity}, or set allowVolumeExpansion in StorageClass {class:?}")
            }
            Self::NoSnapshotApi => "install the snapshot CRDs and the snapshot controller".to_owned(),
            Self::UnknownSnapshotClass { .. } => "correct spec.snapshotClass of the StorageProfile".to_owned(),
            Self::NoSnapshotClass { driver } => format!("create a VolumeSnapshotClass with driver: {driver}"),
            Self::NoProvisionerMatch => "create a StorageClass for the snapshot's driver".to_owned(),
        }
    }

    /// True if the driver refused or was too slow; false for reasons in the configuration.
    pub(super) fn is_of_the_driver(&self) -> bool {
        matches!(self.code(), FallbackCode::DriverRefused | FallbackCode::DriverTooSlow)
    }

    /// The field of the request to change, below `spec.pvc` or `spec.storage`.
    pub(super) fn field(&self) -> &'static str {
        match self.code() {
            FallbackCode::IncompatibleVolumeModes => "volumeMode",
            FallbackCode::ReadOnlyAccessMode => "accessModes",
            _ => "storageClassName",
        }
    }
}

/// Formats code, facts and cure in one line.
impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.code(), self.message(), self.cure())
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map(|time| format!("{time:.0}")).unwrap_or_default()
}
