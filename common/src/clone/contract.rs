//! The contract of a DataVolume: the phases, conditions and events that its clients may rely on.
//!
//! KubeVirt, Velero's plugin, Forklift and CDI's clients read them, so a state that they don't know blocks a virtual machine without an
//! explanation. [`WAITS`] and [`STATES`] are the tables of the reference page; tests compare them with [`status`](super::status::status)
//! and [`events`](super::events::events), and the model checks them in every pass.
//!
//! Sources: CDI's `pkg/controller/datavolume` (`conditions.go`, `controller-base.go`, `clone-controller-base.go`); KubeVirt's
//! `pkg/storage/types` (`HasDataVolumeErrors`, `HasDataVolumeExceededQuotaError`) and `pkg/virt-controller/watch`.

use super::wait::EndsBy;
use crate::api::Phase::{
    self, CloneFromSnapshotSourceInProgress, CloneInProgress, CloneScheduled, CsiCloneInProgress, ExpansionInProgress,
    Failed, Pending, PendingPopulation, RebindInProgress, SnapshotForSmartCloneInProgress, Succeeded,
    WaitForFirstConsumer,
};

/// A reason to wait: the phases in which it may occur, the party that ends it, and its effect in KubeVirt.
#[derive(Debug, Clone, Copy)]
pub struct WaitRow {
    /// The reason of the condition `Ready`, of the event, and of `status.clone.waitingFor`.
    pub reason: &'static str,
    /// The case, if the reason has several.
    pub case: &'static str,
    /// The party that ends the wait; determines `Running` and the type of the event.
    pub ends_by: EndsBy,
    /// The reason of `Running`, if it is a different one.
    pub running_reason: Option<&'static str>,
    /// The phases in which it may occur.
    pub phases: &'static [Phase],
    /// The effect on a virtual machine.
    pub kubevirt: &'static str,
    /// The equivalent in CDI, or the reason why there is none.
    pub source: &'static str,
}

/// All phases before the clone's own claim is bound.
const ON_THE_WAY: &[Phase] = &[
    Pending,
    CloneScheduled,
    PendingPopulation,
    SnapshotForSmartCloneInProgress,
    CloneFromSnapshotSourceInProgress,
    CsiCloneInProgress,
    CloneInProgress,
    RebindInProgress,
];

/// All phases in which a driver provisions a volume.
const PROVISIONED: &[Phase] =
    &[CloneScheduled, SnapshotForSmartCloneInProgress, CloneFromSnapshotSourceInProgress, CsiCloneInProgress];

/// All phases that an earlier pass may have recorded, but `Failed`.
const ANY_BUT_FAILED: &[Phase] = &[
    Pending,
    CloneScheduled,
    PendingPopulation,
    WaitForFirstConsumer,
    SnapshotForSmartCloneInProgress,
    CloneFromSnapshotSourceInProgress,
    CsiCloneInProgress,
    CloneInProgress,
    RebindInProgress,
    ExpansionInProgress,
    Succeeded,
];

const PROVISIONING: &str = "the machine stays `Provisioning`";
const NO_CDI: &str = "none: CDI retries without a word, or has no such step";

const fn wait(reason: &'static str, ends_by: EndsBy, phases: &'static [Phase], source: &'static str) -> WaitRow {
    WaitRow { reason, case: "", ends_by, running_reason: None, phases, kubevirt: PROVISIONING, source }
}

const fn case(row: WaitRow, case: &'static str) -> WaitRow {
    WaitRow { case, ..row }
}

/// All reasons to wait.
pub const WAITS: &[WaitRow] = &[
    wait("CloneWithoutSource", EndsBy::Action, ON_THE_WAY, "`CloneWithoutSource`"),
    wait("DataSourceNotReady", EndsBy::Action, &[Pending], "an error in CDI's log"),
    wait("CloneSourceDeleting", EndsBy::Action, ON_THE_WAY, NO_CDI),
    case(wait("CloneSourceNotBound", EndsBy::Event, ON_THE_WAY, NO_CDI), "a claim"),
    case(wait("CloneSourceNotReady", EndsBy::Event, ON_THE_WAY, NO_CDI), "a snapshot"),
    case(
        wait("CloneSourceNotReady", EndsBy::Action, ON_THE_WAY, NO_CDI),
        "a snapshot, and the driver reports an error",
    ),
    wait("CloneSourceNotPopulated", EndsBy::Event, ON_THE_WAY, NO_CDI),
    wait("CloneNotAuthorized", EndsBy::Action, ON_THE_WAY, "a rejection at admission only"),
    wait("ClaimNotPopulated", EndsBy::Event, ANY_BUT_FAILED, "`NotFound`; the phase stays"),
    wait("SnapshotShared", EndsBy::Work, &[SnapshotForSmartCloneInProgress], NO_CDI),
    wait("CloneSourceInUse", EndsBy::Action, ON_THE_WAY, "the event `CloneSourceInUse`"),
    wait("CloneVolumeInUse", EndsBy::Action, &[RebindInProgress], NO_CDI),
    wait("CloneValidationFailed", EndsBy::Action, ON_THE_WAY, "`CloneValidationFailed`"),
    wait("ErrClaimNotValid", EndsBy::Action, ON_THE_WAY, "`ErrClaimNotValid`; CDI's phase is empty"),
    wait("SourceNotSupported", EndsBy::Action, &[Pending], "none: CDI serves other sources"),
    wait("CouldNotTell", EndsBy::Event, ANY_BUT_FAILED, NO_CDI),
    case(
        wait("SnapshotNotReady", EndsBy::Work, &[SnapshotForSmartCloneInProgress], "`SnapshotForSmartCloneInProgress`"),
        "the driver is at it",
    ),
    case(
        wait("SnapshotNotReady", EndsBy::Action, &[SnapshotForSmartCloneInProgress], NO_CDI),
        "and the driver reports an error",
    ),
    case(wait("ClaimNotBound", EndsBy::Work, PROVISIONED, "`CSICloneInProgress` and others"), "the driver is at it"),
    case(wait("ClaimNotBound", EndsBy::Action, PROVISIONED, NO_CDI), "and the driver reports an error"),
    WaitRow {
        kubevirt: "starts the machine's own pod at once",
        ..wait("WaitForFirstConsumer", EndsBy::Event, &[PendingPopulation], "`PendingPopulation` for every CSI class")
    },
    case(
        wait("VolumeNotExpanded", EndsBy::Work, &[ExpansionInProgress], "`PrepClaimInProgress`"),
        "the driver is at it",
    ),
    case(wait("VolumeNotExpanded", EndsBy::Action, &[ExpansionInProgress], NO_CDI), "the expansion failed"),
    case(wait("CloneMoverNotRunning", EndsBy::Event, &[CloneScheduled], "`CloneScheduled`"), "it is starting"),
    case(wait("CloneMoverNotRunning", EndsBy::Action, &[CloneScheduled], NO_CDI), "its pod reports an error"),
    WaitRow {
        running_reason: Some("ImagePullFailed"),
        kubevirt: "`DataVolumeError`, until the image is there",
        ..case(
            wait("CloneMoverNotRunning", EndsBy::Action, &[CloneScheduled], "`ImagePullFailed`"),
            "its image can't be pulled",
        )
    },
    wait("NoCommonNode", EndsBy::Action, &[CloneScheduled], NO_CDI),
    WaitRow {
        running_reason: Some("Error"),
        kubevirt: "`DataVolumeError`, until the next attempt runs",
        ..wait("CloneMoverFailed", EndsBy::Action, &[CloneInProgress], "`Error`")
    },
    wait("RebindInProgress", EndsBy::Work, &[RebindInProgress], "`RebindInProgress`"),
    wait("CloneTransferFailed", EndsBy::Action, ANY_BUT_FAILED, NO_CDI),
    WaitRow {
        kubevirt: "event `FailedDataVolumeImport`, condition `Failure` with this message",
        ..wait("ErrExceededQuota", EndsBy::Action, &[Pending], "`Pending`, `ErrExceededQuota`")
    },
    wait("ErrRefused", EndsBy::Action, ANY_BUT_FAILED, NO_CDI),
    wait("ErrResourceExists", EndsBy::Action, ON_THE_WAY, "the event `ErrResourceExists`"),
    wait("ErrResourceMarkedForDeletion", EndsBy::Event, ANY_BUT_FAILED, "the Warning `ErrResourceMarkedForDeletion`"),
    wait("AnotherController", EndsBy::Action, ANY_BUT_FAILED, "none"),
    WaitRow {
        kubevirt: "follows what CDI reports",
        ..case(
            wait("LeftToCDI", EndsBy::Event, ANY_BUT_FAILED, "its own phases"),
            "an event only: CDI writes the status",
        )
    },
];

/// A state without a wait.
#[derive(Debug, Clone, Copy)]
pub struct StateRow {
    /// The phases.
    pub phases: &'static [Phase],
    /// The case.
    pub case: &'static str,
    /// `Bound`: status and reason; no status if both are possible.
    pub bound: &'static str,
    /// `Running`: status and reason.
    pub running: &'static str,
    /// `Ready`: status and reason.
    pub ready: &'static str,
    /// The event when the phase changes.
    pub event: &'static str,
    /// The effect on a virtual machine.
    pub kubevirt: &'static str,
}

/// All states without a wait.
pub const STATES: &[StateRow] = &[
    StateRow {
        phases: &[Pending, CloneScheduled],
        case: "the decision or the first object has just been written",
        bound: "False `Pending`, `NotFound`",
        running: "False `Pending`",
        ready: "False `Pending`",
        event: "Normal `CloneScheduled`",
        kubevirt: PROVISIONING,
    },
    StateRow {
        phases: &[
            SnapshotForSmartCloneInProgress,
            CloneFromSnapshotSourceInProgress,
            CsiCloneInProgress,
            RebindInProgress,
            ExpansionInProgress,
        ],
        case: "driver, sidecars and Kubernetes are at work",
        bound: "False `Pending`; True `Bound`",
        running: "True `CloneRunning`",
        ready: "False `TransferRunning`",
        event: "Normal, the phase",
        kubevirt: PROVISIONING,
    },
    StateRow {
        phases: &[CloneInProgress],
        case: "a pod copies",
        bound: "False `Pending`",
        running: "True `CopyInProgress`",
        ready: "False `TransferRunning`",
        event: "Normal `CloneInProgress`",
        kubevirt: PROVISIONING,
    },
    StateRow {
        phases: &[Succeeded],
        case: "cloned",
        bound: "True `Bound`",
        running: "False `Completed`",
        ready: "True `Ready`",
        event: "Normal `CloneSucceeded`",
        kubevirt: "the machine starts",
    },
    StateRow {
        phases: &[Succeeded],
        case: "a claim was taken over; it may be bound later",
        bound: "True `Bound`; False `Pending`",
        running: "False `Completed`",
        ready: "True `Ready`",
        event: "Normal `CloneSucceeded`",
        kubevirt: "the machine starts, and its pod binds the claim",
    },
    StateRow {
        phases: &[Failed],
        case: "final; the claim stays, without content, as long as the DataVolume does",
        bound: "False `Failed`, `ClaimLost`; True `Bound`",
        running: "False `Failed`",
        ready: "False `Failed`",
        event: "Warning `CloneFailed`",
        kubevirt: "`DataVolumeError`",
    },
];

#[cfg(test)]
pub(crate) mod tests;
