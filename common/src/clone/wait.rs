//! The reasons to wait. Most waits end with a watch event; retries, access checks and deadlines end at a given time.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use crate::{
    field::{self, FieldError},
    keys,
    object::{ObjectName, SourceKind, SourceName},
    refusal,
    storage::driver_error,
};

/// The party that ends a wait. Determines the condition `Running` and the type of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndsBy {
    /// The storage driver or the data mover is working: `Running` is `True`, and no event is published.
    Work,
    /// An event that needs no action: `Running` is `False`, the event is `Normal`.
    Event,
    /// A user or an admin: `Running` is `False`, the event is a `Warning`.
    Action,
}

/// True if kubelet can't pull the image: its reasons (`pkg/kubelet/images`) are the first word of the pod's message.
fn is_image_trouble(pod_says: &str) -> bool {
    let reason = pod_says.split(':').next().unwrap_or_default();
    let reasons = ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"];
    reasons.contains(&reason) || matches!(reason, "ImageInspectError" | "SignatureValidationFailed")
}

/// The reason to wait. Condition, event and metric are derived from this one value, so they can't disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// The DataSource doesn't resolve to a source.
    DataSource {
        /// The DataSource.
        name: ObjectName,
        /// The reason.
        why: String,
    },
    /// The source doesn't exist yet.
    SourceMissing(SourceName),
    /// The source is being deleted.
    SourceDeleting {
        /// The source.
        source: SourceName,
        /// The finalizers that keep it.
        finalizers: Vec<String>,
    },
    /// The source claim has no volume yet, or the source snapshot isn't ready.
    SourceNotReady {
        /// The source.
        source: SourceName,
        /// The driver's error.
        driver_says: Option<String>,
    },
    /// The source is still being populated by its own DataVolume.
    SourceNotPopulated(SourceName),
    /// The requester may not read the source.
    NotAuthorized(String),
    /// A claim that is annotated as populated doesn't exist, or has no volume.
    PrePopulated(ObjectName),
    /// The next snapshot of the source will be requested soon, for all waiting clones.
    SnapshotTurn,
    /// The populated volume is being rebound to the clone's claim.
    HandOver(String),
    /// The volume can't be rebound to the clone's claim.
    TransferImpossible(String),
    /// Pods may be writing to the source.
    SourceInUse(InUse),
    /// The volume to be rebound is in use by others.
    VolumeInUse(Vec<String>),
    /// The DataVolume can't be carried out as specified.
    Invalid(Vec<FieldError>),
    /// The StorageClass of the clone does not exist.
    NoStorageClass(FieldError),
    /// The source is neither a claim nor a snapshot, and CDI is not installed in this cluster.
    NotAClone,
    /// Something could not be read.
    CouldNotTell(String),
    /// The driver hasn't finished the snapshot.
    SnapshotNotReady {
        /// The driver's error, if any.
        driver_says: Option<String>,
    },
    /// The volume isn't provisioned and bound yet.
    ClaimNotBound {
        /// The latest warning about the claim, if any.
        driver_says: Option<String>,
    },
    /// The StorageClass binds when a pod uses the claim.
    FirstConsumer,
    /// The volume has not reached its final size yet.
    NotExpanded {
        /// The obstacle to the expansion, and its cure.
        trouble: Option<String>,
    },
    /// The data mover's pod isn't running.
    MoverNotRunning {
        /// The pod's message.
        pod_says: Option<String>,
    },
    /// No node can access both the source's volume and the clone's.
    NoCommonNode(SourceName),
    /// The data mover failed and is started again.
    MoverFailed {
        /// The data mover's message.
        message: String,
        /// The time of the next attempt.
        again_at: Timestamp,
    },
    /// An object with a required name belongs to another owner.
    Foreign {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// An object of smartclone with a required name is still being deleted.
    BeingDeleted {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server refused a write.
    Refused {
        /// True if a quota is exceeded.
        quota: bool,
        /// The API server's message.
        message: String,
    },
    /// CDI's own controllers run in this cluster.
    AnotherController(String),
    /// The mark of smartclone was removed, or CDI was there first: the clone is CDI's.
    LeftToCdi,
}

/// The reasons of [`Waiting::Refused`].
pub(super) const REFUSED: [&str; 2] = ["ErrExceededQuota", "ErrRefused"];

impl Waiting {
    /// The stable reason for conditions, events and metric labels; CDI's reason if there is one.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SourceMissing(_) => "CloneWithoutSource",
            Self::DataSource { .. } => "DataSourceNotReady",
            Self::SourceDeleting { .. } => "CloneSourceDeleting",
            Self::SourceNotReady { source, .. } if source.kind == SourceKind::Snapshot => "CloneSourceNotReady",
            Self::SourceNotReady { .. } => "CloneSourceNotBound",
            Self::NotAuthorized(_) => "CloneNotAuthorized",
            Self::PrePopulated(_) => "ClaimNotPopulated",
            Self::SnapshotTurn => "SnapshotShared",
            Self::HandOver(_) => "RebindInProgress",
            Self::TransferImpossible(_) => "CloneTransferFailed",
            Self::SourceNotPopulated(_) => "CloneSourceNotPopulated",
            Self::SourceInUse(_) => "CloneSourceInUse",
            Self::VolumeInUse(_) => "CloneVolumeInUse",
            Self::Invalid(_) => "CloneValidationFailed",
            Self::NoStorageClass(_) => "ErrClaimNotValid",
            Self::NotAClone => "SourceNotSupported",
            Self::CouldNotTell(_) => "CouldNotTell",
            Self::SnapshotNotReady { .. } => "SnapshotNotReady",
            Self::ClaimNotBound { .. } => "ClaimNotBound",
            Self::FirstConsumer => "WaitForFirstConsumer",
            Self::NotExpanded { .. } => "VolumeNotExpanded",
            Self::MoverNotRunning { .. } => "CloneMoverNotRunning",
            Self::NoCommonNode(_) => "NoCommonNode",
            Self::MoverFailed { .. } => "CloneMoverFailed",
            Self::Foreign { .. } => "ErrResourceExists",
            Self::BeingDeleted { .. } => "ErrResourceMarkedForDeletion",
            Self::Refused { quota, .. } => REFUSED[usize::from(!quota)],
            Self::AnotherController(_) => "AnotherController",
            Self::LeftToCdi => "LeftToCDI",
        }
    }

    /// The cause of the wait and the user's options, in a sentence or two.
    pub fn message(&self) -> String {
        match self {
            Self::DataSource { name, why } => {
                format!("The DataSource {name} does not lead to a source: {why}; the clone starts when it does")
            }
            Self::SourceMissing(source) => {
                format!("The source {source} does not exist; the clone starts when it appears")
            }
            Self::SourceDeleting { source, finalizers } => format!(
                "The source {source} is being deleted{} and can't be cloned any more; the clone starts when another one of this name appears",
                kept_by(finalizers)
            ),
            Self::SourceNotReady { source, driver_says: Some(text) } => {
                format!("The source {source} is not ready, and the storage driver reports: {text}")
            }
            Self::SourceNotReady { source, driver_says: None } => match source.kind {
                SourceKind::Claim => {
                    format!("The source {source} has no volume yet; kubectl describe pvc tells what it waits for")
                }
                SourceKind::Snapshot => format!("The source {source} is not ready to be restored yet"),
            },
            Self::SourceNotPopulated(source) => {
                format!("The source {source} is still being filled by its own DataVolume")
            }
            Self::NotAuthorized(why) => format!("The source may not be read: {why}"),
            Self::PrePopulated(claim) => format!(
                "The annotations say that PersistentVolumeClaim {claim} is filled already; it is waited for, and nothing is cloned"
            ),
            Self::SnapshotTurn => "Waiting to share the next snapshot of the source with other clones".to_owned(),
            Self::HandOver(what) => format!("The volume moves to the clone's claim: {what}"),
            Self::TransferImpossible(why) => format!("The volume can't move to the clone's claim: {why}"),
            Self::SourceInUse(pods) => format!(
                "The source may be written to by {pods}; stop them, or annotate a new DataVolume with smartclone.dev/consistency: \
                 CrashConsistent to clone a snapshot of the running disk"
            ),
            Self::VolumeInUse(holders) => format!(
                "The volume with the content is in use by {}, and is handed over to the clone when nobody else has it; delete what uses \
                 PersistentVolumeClaim smartclone-pvc-… in the namespace of the source",
                listed(holders)
            ),
            Self::Invalid(errors) => field::joined(errors),
            Self::NoStorageClass(error) => format!("{error}; the clone starts when the StorageClass exists"),
            Self::NotAClone => "smartclone only clones (spec.source.pvc, spec.source.snapshot, spec.sourceRef); this DataVolume has another \
                                source, which CDI serves, and CDI is not installed in this cluster: install CDI, or name a \
                                PersistentVolumeClaim or a VolumeSnapshot as the source"
                .to_owned(),
            Self::CouldNotTell(why) => format!("Could not be decided yet: {why}"),
            Self::SnapshotNotReady { driver_says: None } => "The storage driver is taking the snapshot".to_owned(),
            Self::SnapshotNotReady { driver_says: Some(text) } => {
                format!("The storage driver has not taken the snapshot yet and reports: {text}")
            }
            Self::ClaimNotBound { driver_says: None } => "The storage driver is making the volume".to_owned(),
            Self::ClaimNotBound { driver_says: Some(text) } => {
                format!("The storage driver has not made the volume yet and reports: {text}")
            }
            Self::FirstConsumer => {
                "The StorageClass makes the volume when a pod uses the claim (WaitForFirstConsumer); start a pod"
                    .to_owned()
            }
            Self::NotExpanded { trouble: None } => "The storage driver is expanding the volume".to_owned(),
            Self::NotExpanded { trouble: Some(text) } => text.clone(),
            Self::MoverNotRunning { pod_says: None } => "The pod that copies the data is starting".to_owned(),
            Self::MoverNotRunning { pod_says: Some(text) } => {
                format!("The pod that copies the data, or requests the volume, is not running: {text}")
            }
            Self::NoCommonNode(source) => format!(
                "There is no node on which the volumes of {source} and of the clone can both be used, as one pod copies from the one to the \
                 other; choose a StorageClass whose volumes can be on the source's node, or clone to there first"
            ),
            Self::MoverFailed { message, again_at } => {
                format!("The copy failed and is tried again at {again_at:.0}: {message}")
            }
            Self::Foreign { kind, name } => format!(
                "A {kind} {name:?} exists and does not belong to this DataVolume; it is left alone: delete or rename one of the two"
            ),
            Self::BeingDeleted { kind, name } => format!("The {kind} {name:?} is being deleted"),
            Self::Refused { message, .. } => {
                format!("The API server refused to go on: {}", refusal::explained(message))
            }
            Self::AnotherController(which) => {
                format!("{which} runs in this cluster; smartclone stays passive until it is removed")
            }
            Self::LeftToCdi => format!(
                "CDI clones this object, because the annotation {}: {} is missing, or CDI was there first; to have it cloned by smartclone, \
                 delete it and create it again",
                keys::PRE_POPULATED,
                keys::SENTINEL
            ),
        }
    }

    /// The party that ends the wait.
    pub fn ends_by(&self) -> EndsBy {
        match self {
            Self::SnapshotNotReady { driver_says } | Self::ClaimNotBound { driver_says } => {
                let trouble = driver_says.as_deref().is_some_and(|text| !driver_error::is_progress(text));
                if trouble { EndsBy::Action } else { EndsBy::Work }
            }
            Self::NotExpanded { trouble: None } | Self::SnapshotTurn | Self::HandOver(_) => EndsBy::Work,
            Self::MoverNotRunning { pod_says: None }
            | Self::SourceNotReady { driver_says: None, .. }
            | Self::FirstConsumer
            | Self::BeingDeleted { .. }
            | Self::PrePopulated(_)
            | Self::SourceNotPopulated(_)
            | Self::LeftToCdi
            | Self::CouldNotTell(_) => EndsBy::Event,
            Self::MoverNotRunning { pod_says: Some(_) }
            | Self::SourceNotReady { driver_says: Some(_), .. }
            | Self::DataSource { .. }
            | Self::SourceMissing(_)
            | Self::SourceDeleting { .. }
            | Self::NotAuthorized(_)
            | Self::TransferImpossible(_)
            | Self::SourceInUse(_)
            | Self::VolumeInUse(_)
            | Self::Invalid(_)
            | Self::NoStorageClass(_)
            | Self::NotAClone
            | Self::NotExpanded { trouble: Some(_) }
            | Self::NoCommonNode(_)
            | Self::MoverFailed { .. }
            | Self::Foreign { .. }
            | Self::Refused { .. }
            | Self::AnotherController(_) => EndsBy::Action,
        }
    }

    /// The reason of the condition `Running`. KubeVirt shows `DataVolumeError` for a virtual machine whose DataVolume has `Error` or
    /// `ImagePullFailed` there (its `HasDataVolumeErrors`), so a mover that can't run has one of them.
    pub fn running_reason(&self) -> &'static str {
        match self {
            Self::MoverFailed { .. } => "Error",
            Self::MoverNotRunning { pod_says: Some(text) } if is_image_trouble(text) => "ImagePullFailed",
            _ => self.reason(),
        }
    }

    /// The longest expected time. After it the wait is reported as late.
    pub fn expected(&self) -> Duration {
        const MINUTE: u64 = 60;
        Duration::from_secs(match self {
            Self::SnapshotNotReady { .. } | Self::ClaimNotBound { .. } | Self::NotExpanded { .. } => 10 * MINUTE,
            Self::MoverNotRunning { .. }
            | Self::CouldNotTell(_)
            | Self::BeingDeleted { .. }
            | Self::SnapshotTurn
            | Self::HandOver(_) => 2 * MINUTE,
            // Most of these wait for people.
            _ => 24 * 60 * MINUTE,
        })
    }
}

/// The finalizers that keep an object, in parentheses; empty for none.
pub(crate) fn kept_by(finalizers: &[String]) -> String {
    if finalizers.is_empty() { String::new() } else { format!(" (finalizers: {})", listed(finalizers)) }
}

/// Pods that use something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Their names.
    pub pods: Vec<String>,
    /// True if they are in another namespace than the clone, whose users may not see names from there.
    pub elsewhere: bool,
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.elsewhere, self.pods.len()) {
            (false, _) => f.write_str(&named(&self.pods)),
            (true, 1) => f.write_str("1 pod in its namespace"),
            (true, count) => write!(f, "{count} pods in its namespace"),
        }
    }
}

/// The first three pods, and the number of others.
pub(crate) fn named(pods: &[String]) -> String {
    listed(&pods.iter().map(|pod| format!("pod {pod:?}")).collect::<Vec<_>>())
}

/// The first three items, and the number of others.
fn listed(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
