//! One reconcile of a DataVolume that is a clone: the writes, in order, and the status.
//!
//! **Flow**: cleanup, rendering, annotations and labels, the claim's owner, and, unless the DataVolume is handed off, everything that makes
//! CDI clone: token, finalizer, claim, VolumeCloneSource. The status pass follows in any case.
//!
//! **Guarantees**: a DataVolume with `storage.prePopulated` gets no claim, no VolumeCloneSource, no finalizer.

mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use common::api::{DataVolume, DataVolumeStatus, VolumeCloneSource};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::api::resource::Quantity};

use self::steps::Steps;
use crate::{
    edit::Edit,
    event::Event,
    settings::Settings,
    source::Source,
    status::{self, SyncError},
    token::Tokens,
};

/// What a pass has read from its caches.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The DataVolume.
    pub data_volume: &'a DataVolume,
    /// The claim of its name.
    pub claim: Option<&'a PersistentVolumeClaim>,
    /// The source that the spec names.
    pub source: &'a Source,
    /// What is known of the source, if it is there.
    pub source_object: Option<&'a SourceObject>,
    /// The DataVolume's VolumeCloneSource.
    pub clone_source: Option<&'a VolumeCloneSource>,
    /// The settings.
    pub settings: &'a Settings,
    /// The present time.
    pub now: Timestamp,
}

/// What the rules need of a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceObject {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its size.
    pub size: Option<Quantity>,
    /// False if it is a snapshot that is not ready.
    pub ready: bool,
}

/// A write of the sync steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A PUT of the DataVolume.
    DataVolume(Edit),
    /// A PUT of its claim.
    Claim(Edit),
    /// The creation of its claim.
    CreateClaim(Box<PersistentVolumeClaim>),
    /// The creation of its VolumeCloneSource.
    CreateCloneSource(Box<VolumeCloneSource>),
    /// The deletion of its VolumeCloneSource.
    DeleteCloneSource {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The result of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass {
    /// The writes, in this order.
    pub writes: Vec<Write>,
    /// The status, which is written if it differs.
    pub status: DataVolumeStatus,
    /// The events.
    pub events: Vec<Event>,
    /// The error after which the pass is repeated, later each time.
    pub error: Option<SyncError>,
}

/// Decides what to write. Pure.
pub fn reconcile(observed: &Observed<'_>, tokens: &Tokens) -> Pass {
    let mut steps = Steps { observed: *observed, tokens, writes: Vec::new() };
    let error = steps.run().err();
    let input = status::Input {
        data_volume: observed.data_volume,
        claim: observed.claim,
        source: observed.source,
        settings: observed.settings,
        now: observed.now,
    };
    let derived = status::status(&input, error.as_ref());
    Pass { writes: steps.writes, status: derived.status, events: derived.events, error }
}
