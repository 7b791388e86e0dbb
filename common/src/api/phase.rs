//! The phases of a DataVolume.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use crate::words::words;

words! {
    /// `status.phase` of a DataVolume. All words are CDI's, since tools compare them; those of imports and uploads, and those that
    /// CDI once wrote, are here to be read, not to be written.
    #[derive(Default)]
    pub enum Phase {
        /// Nothing has happened yet, or it can't happen as things are: the conditions say why.
        #[default]
        Unset = "",
        /// Waiting for something that isn't there yet, such as quota or a StorageClass.
        Pending = "Pending",
        /// The target claim is bound.
        PvcBound = "PVCBound",
        /// An import has been scheduled.
        ImportScheduled = "ImportScheduled",
        /// An import is under way.
        ImportInProgress = "ImportInProgress",
        /// The strategy is known, work hasn't begun.
        CloneScheduled = "CloneScheduled",
        /// A pod copies the bytes.
        CloneInProgress = "CloneInProgress",
        /// A snapshot of the source is being taken and restored.
        SnapshotForSmartCloneInProgress = "SnapshotForSmartCloneInProgress",
        /// The VolumeSnapshot that is the source is being restored.
        CloneFromSnapshotSourceInProgress = "CloneFromSnapshotSourceInProgress",
        /// No longer written by CDI.
        SmartClonePvcInProgress = "SmartClonePVCInProgress",
        /// The driver clones the volume.
        CsiCloneInProgress = "CSICloneInProgress",
        /// The clone grows to the size that was asked for.
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
        /// Done.
        Succeeded = "Succeeded",
        /// Given up.
        Failed = "Failed",
        /// Can't be told; also whatever word this version doesn't know.
        Unknown = "Unknown",
        /// A multi-stage import waits for its next checkpoint.
        Paused = "Paused",
        /// The restored volume is being prepared, which includes its growth.
        PrepClaimInProgress = "PrepClaimInProgress",
        /// The restored volume moves to the target claim.
        RebindInProgress = "RebindInProgress",
    }
}

impl Phase {
    /// Nothing written yet.
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

/// Not an enumeration: an object that a newer version wrote has to pass an older schema.
impl JsonSchema for Phase {
    fn schema_name() -> Cow<'static, str> {
        "Phase".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
