//! The phases of a DataVolume.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::words::words;

words! {
    /// The phase of a DataVolume (`status.phase`). All values are CDI's, because tools compare them. Those of imports and uploads, and
    /// those that CDI no longer writes, are only read.
    #[derive(Default)]
    pub enum Phase {
        /// Nothing has happened yet, or nothing can happen at present: the conditions give the reason.
        #[default]
        Unset = "",
        /// Waiting for something that does not exist yet, such as quota or a StorageClass.
        Pending = "Pending",
        /// The target claim is bound.
        PvcBound = "PVCBound",
        /// An import has been scheduled.
        ImportScheduled = "ImportScheduled",
        /// An import is in progress.
        ImportInProgress = "ImportInProgress",
        /// The strategy is known; work has not started.
        CloneScheduled = "CloneScheduled",
        /// A pod copies the data.
        CloneInProgress = "CloneInProgress",
        /// A snapshot of the source is being taken and restored.
        SnapshotForSmartCloneInProgress = "SnapshotForSmartCloneInProgress",
        /// The VolumeSnapshot that is the source is being restored.
        CloneFromSnapshotSourceInProgress = "CloneFromSnapshotSourceInProgress",
        /// No longer written by CDI.
        SmartClonePvcInProgress = "SmartClonePVCInProgress",
        /// The driver clones the volume.
        CsiCloneInProgress = "CSICloneInProgress",
        /// The clone is being expanded to the requested size.
        ExpansionInProgress = "ExpansionInProgress",
        /// No longer written by CDI.
        NamespaceTransferInProgress = "NamespaceTransferInProgress",
        /// An upload has been scheduled.
        UploadScheduled = "UploadScheduled",
        /// An upload may begin.
        UploadReady = "UploadReady",
        /// The StorageClass waits for a pod that uses the claim.
        WaitForFirstConsumer = "WaitForFirstConsumer",
        /// The StorageClass waits for a pod that uses the claim, which will then be filled.
        PendingPopulation = "PendingPopulation",
        /// The DataVolume is complete.
        Succeeded = "Succeeded",
        /// The DataVolume has failed.
        Failed = "Failed",
        /// The phase is not known, or is a value that this version does not know.
        Unknown = "Unknown",
        /// A multi-stage import waits for its next checkpoint.
        Paused = "Paused",
        /// The restored volume is being prepared, which includes its expansion.
        PrepClaimInProgress = "PrepClaimInProgress",
        /// The restored volume is being rebound to the target claim.
        RebindInProgress = "RebindInProgress",
    }
}

impl Phase {
    /// True if no phase has been written yet.
    pub fn is_unset(&self) -> bool {
        *self == Self::Unset
    }
}

impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(text.parse().unwrap_or(Self::Unknown))
    }
}

/// A string, not an enumeration: an object that a newer version wrote has to pass an older schema.
impl JsonSchema for Phase {
    fn schema_name() -> Cow<'static, str> {
        "Phase".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
