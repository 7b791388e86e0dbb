//! Observed state of an ObjectTransfer: the input of a pass.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use super::{Move, Phase};
use crate::{
    api::{DataVolume, ObjectTransfer, ObjectTransferStatus},
    field::FieldError,
    keys,
    lookup::Lookup,
    rebind,
};

/// The observed state for one pass.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The time of the pass.
    pub now: Timestamp,
    /// The start of the controller.
    pub since: Timestamp,
    /// The ObjectTransfer.
    pub transfer: Subject,
    /// The requested move, or all errors of the spec.
    pub wanted: Result<Move, Vec<FieldError>>,
    /// The claim of the source's name.
    pub source: Lookup<PersistentVolumeClaim>,
    /// The volume that moves: the one on record, else the source's.
    pub volume: Lookup<PersistentVolume>,
    /// The claim of the target's name.
    pub target: Lookup<PersistentVolumeClaim>,
    /// The DataVolume of the source's name.
    pub source_volume: Lookup<DataVolume>,
    /// The DataVolume of the target's name.
    pub target_volume: Lookup<DataVolume>,
    /// The pods that use the source, by name.
    pub users: Lookup<Vec<String>>,
    /// Another controller of ObjectTransfers in this cluster, if there is one.
    pub another_controller: Option<String>,
}

impl Observed {
    /// Returns the name of the volume to read.
    pub fn volume_name(record: Option<&Record>, source: &Lookup<PersistentVolumeClaim>) -> Option<String> {
        record.map(|r| r.volume.clone()).or_else(|| rebind::volume_name(source.present()?))
    }
}

/// The ObjectTransfer itself.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its deletion timestamp.
    pub deleting: Option<Timestamp>,
    /// True if it has our finalizer.
    pub guarded: bool,
    /// The recorded identity of the moved objects, once the transfer has started.
    pub record: Option<Record>,
    /// Its current status.
    pub status: ObjectTransferStatus,
}

impl Subject {
    /// Reads an ObjectTransfer.
    pub fn of(transfer: &ObjectTransfer) -> Self {
        let status = transfer.status.clone().unwrap_or_default();
        Self {
            name: transfer.name_any(),
            uid: transfer.uid().unwrap_or_default(),
            deleting: transfer.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            guarded: transfer.finalizers().iter().any(|f| f == keys::TRANSFER_FINALIZER),
            record: Record::read(&status.data),
            status,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::read(&self.status.phase)
    }
}

/// The identity of the moved objects, written to `status.data` before the first step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The UID of the source claim.
    pub source_uid: String,
    /// The name of its volume.
    pub volume: String,
    /// The UID of the DataVolume that moves with it.
    pub data_volume_uid: Option<String>,
}

const SOURCE_UID: &str = "sourceUID";
const VOLUME: &str = "persistentVolume";
const DATA_VOLUME_UID: &str = "dataVolumeUID";

impl Record {
    pub(super) fn read(data: &BTreeMap<String, String>) -> Option<Self> {
        let value = |key: &str| data.get(key).filter(|v| !v.is_empty()).cloned();
        Some(Self { source_uid: value(SOURCE_UID)?, volume: value(VOLUME)?, data_volume_uid: value(DATA_VOLUME_UID) })
    }

    pub(super) fn data(&self) -> BTreeMap<String, String> {
        [
            (SOURCE_UID, Some(&self.source_uid)),
            (VOLUME, Some(&self.volume)),
            (DATA_VOLUME_UID, self.data_volume_uid.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.clone())))
        .collect()
    }
}
