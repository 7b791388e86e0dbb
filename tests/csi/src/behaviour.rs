//! How the driver differs from an ideal one, because real drivers do.
//!
//! A [`Behaviour`] comes from two places, read at each call; whatever neither of them sets is as an ideal driver would do it:
//!
//! * the parameters of a StorageClass or VolumeSnapshotClass: key `behaviour/` + the name of a field in JSON, value its JSON or,
//!   for a plain word, the word itself: `behaviour/largerRestore: outOfRange`, `behaviour/snapshotReadyAfterMs: "1500"`,
//!   `behaviour/faults: '[{"name": "busy", "rpc": "CreateVolume", "times": 3, "effect": {"fail": "ABORTED"}}]'`.
//!   Other keys are accepted and mean nothing, as is fit for a driver with pools and replicas;
//! * the control file (a `Behaviour` as JSON), which wins field by field. Faults of both add up.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tonic::Code;

use crate::{Error, Result, calls::Rpc, store};

/// What a parameter key of a class begins with when it is for [`Behaviour`].
pub const PARAMETER_PREFIX: &str = "behaviour/";

/// How the driver differs from an ideal one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Behaviour {
    /// Snapshots are refused (`FAILED_PRECONDITION`), as by a thick pool. In the StorageClass of the source or the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse_snapshots: Option<bool>,
    /// Volumes are not made from volumes (`INVALID_ARGUMENT`). In the StorageClass of the new volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refuse_clones: Option<bool>,
    /// When volumes can grow. In their StorageClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expansion: Option<Expansion>,
    /// A snapshot becomes ready this many milliseconds after it was made. In the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_ready_after_ms: Option<u64>,
    /// What a snapshot claims that a restored volume needs. In the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_size: Option<RestoreSize>,
    /// What happens when a restore or clone is asked to be larger than its source. In the StorageClass of the new volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub larger_restore: Option<LargerRestore>,
    /// One more snapshot of a volume is `RESOURCE_EXHAUSTED`. In the StorageClass of the source or the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_snapshots_per_volume: Option<usize>,
    /// `DeleteSnapshot` does not return for as long as this is so, while retries are `ABORTED`. In the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_deletion_hangs: Option<bool>,
    /// `CreateVolume` takes this many milliseconds longer, while retries are `ABORTED`. In the StorageClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_takes_ms: Option<u64>,
    /// `CreateSnapshot` takes this many milliseconds longer, while retries are `ABORTED`. In the VolumeSnapshotClass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_takes_ms: Option<u64>,
    /// Calls that fail and calls in which the driver dies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

/// When volumes can grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expansion {
    /// Always.
    #[default]
    Both,
    /// Only while staged on a node; otherwise `FAILED_PRECONDITION`.
    Online,
    /// Only while not staged on a node; otherwise `FAILED_PRECONDITION`.
    Offline,
    /// Never: `INVALID_ARGUMENT`.
    Never,
}

/// What a snapshot claims that a restored volume needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestoreSize {
    /// The source's capacity, which is the truth.
    #[default]
    Capacity,
    /// Nothing: 0.
    Absent,
    /// The bytes in use, at which a restore is refused.
    Referenced,
}

/// What happens when a restore or clone is asked to be larger than its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LargerRestore {
    /// It is made as large, and its file system with it when it is staged first.
    #[default]
    Grow,
    /// It is made as large, but its file system stays small until somebody expands the volume.
    GrowDeviceOnly,
    /// `OUT_OF_RANGE`.
    OutOfRange,
    /// `INVALID_ARGUMENT`.
    InvalidArgument,
    /// It is made with the source's size, and the call succeeds.
    KeepSmall,
}

/// Some calls of an RPC that go wrong. Calls that find their work done already succeed, and are not counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Calls are counted under this name, over restarts of the driver; a new name arms a fault anew.
    /// Those of a class's parameters are counted for each volume or snapshot on its own.
    pub name: String,
    /// The RPC.
    pub rpc: Rpc,
    /// How many calls go well first.
    #[serde(default)]
    pub skip: u32,
    /// How many calls go wrong then.
    #[serde(default = "once")]
    pub times: u32,
    /// In which way.
    pub effect: Effect,
}

fn once() -> u32 {
    1
}

/// How a call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// It fails with this code and has done nothing.
    Fail(FailCode),
    /// The process dies when everything is done but what makes it count.
    CrashBeforeCommit,
    /// The process dies when everything is done but the answer.
    CrashAfterCommit,
}

/// A gRPC code that a driver fails with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the names are gRPC's")]
pub enum FailCode {
    Aborted,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
}

impl From<FailCode> for Code {
    fn from(code: FailCode) -> Self {
        match code {
            FailCode::Aborted => Self::Aborted,
            FailCode::DeadlineExceeded => Self::DeadlineExceeded,
            FailCode::FailedPrecondition => Self::FailedPrecondition,
            FailCode::Internal => Self::Internal,
            FailCode::InvalidArgument => Self::InvalidArgument,
            FailCode::OutOfRange => Self::OutOfRange,
            FailCode::ResourceExhausted => Self::ResourceExhausted,
            FailCode::Unavailable => Self::Unavailable,
        }
    }
}

impl Behaviour {
    /// The behaviour that the parameters of a class ask for; a key with the prefix that isn't a field is an error.
    pub fn from_parameters(parameters: &BTreeMap<String, String>) -> Result<Self> {
        let fields: Map<String, Value> = parameters
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(PARAMETER_PREFIX)?, value)))
            .map(|(field, value)| {
                let word = |_| Value::String(value.clone());
                (field.to_owned(), serde_json::from_str(value).unwrap_or_else(word))
            })
            .collect();
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| Error::refused(Code::InvalidArgument, format!("parameters {PARAMETER_PREFIX}*: {error}")))
    }

    /// Reads a control file; a missing one asks for nothing.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(store::read_json(path)?.unwrap_or_default())
    }

    /// Writes a control file, which the driver heeds from its next call on.
    pub fn write(&self, path: &Path) -> Result<()> {
        store::write_atomically(path, self)
    }

    /// This behaviour with whatever another one sets in its place.
    #[must_use]
    pub fn overlaid(self, upper: Self) -> Self {
        Self {
            refuse_snapshots: upper.refuse_snapshots.or(self.refuse_snapshots),
            refuse_clones: upper.refuse_clones.or(self.refuse_clones),
            expansion: upper.expansion.or(self.expansion),
            snapshot_ready_after_ms: upper.snapshot_ready_after_ms.or(self.snapshot_ready_after_ms),
            restore_size: upper.restore_size.or(self.restore_size),
            larger_restore: upper.larger_restore.or(self.larger_restore),
            max_snapshots_per_volume: upper.max_snapshots_per_volume.or(self.max_snapshots_per_volume),
            snapshot_deletion_hangs: upper.snapshot_deletion_hangs.or(self.snapshot_deletion_hangs),
            volume_takes_ms: upper.volume_takes_ms.or(self.volume_takes_ms),
            snapshot_takes_ms: upper.snapshot_takes_ms.or(self.snapshot_takes_ms),
            faults: [self.faults, upper.faults].concat(),
        }
    }

    /// The same, with faults that are counted for this volume or snapshot on its own.
    #[must_use]
    pub(crate) fn counted_for(mut self, id: &str) -> Self {
        for fault in &mut self.faults {
            fault.name = format!("{id}/{}", fault.name);
        }
        self
    }
}

/// Counts calls against faults, so that a driver which died of one does not die of it again.
#[derive(Debug)]
pub(crate) struct FaultCounter {
    path: PathBuf,
    seen: Mutex<BTreeMap<String, u32>>,
}

impl FaultCounter {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let seen = store::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, seen: Mutex::new(seen) })
    }

    /// Counts one call of an RPC and says how it goes wrong, if it does.
    pub(crate) fn strike(&self, rpc: Rpc, faults: &[Fault]) -> Result<Option<Effect>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut effect = None;
        for fault in faults.iter().filter(|fault| fault.rpc == rpc) {
            let count = seen.entry(fault.name.clone()).or_default();
            let armed = *count >= fault.skip && *count - fault.skip < fault.times;
            *count = count.saturating_add(1);
            effect = effect.or(armed.then_some(fault.effect));
        }
        if faults.iter().any(|fault| fault.rpc == rpc) {
            store::write_atomically(&self.path, &*seen)?;
        }
        Ok(effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn busy(skip: u32, times: u32) -> Fault {
        Fault { name: "busy".into(), rpc: Rpc::CreateVolume, skip, times, effect: Effect::Fail(FailCode::Aborted) }
    }

    #[test]
    fn parameters_are_words_numbers_and_json() {
        let behaviour = Behaviour::from_parameters(&parameters(&[
            ("pool", "gold"),
            ("behaviour/largerRestore", "keepSmall"),
            ("behaviour/refuseClones", "true"),
            ("behaviour/snapshotReadyAfterMs", "1500"),
            (
                "behaviour/faults",
                r#"[{"name": "busy", "rpc": "CreateVolume", "times": 3, "effect": {"fail": "ABORTED"}}]"#,
            ),
        ]));
        let expected = Behaviour {
            larger_restore: Some(LargerRestore::KeepSmall),
            refuse_clones: Some(true),
            snapshot_ready_after_ms: Some(1500),
            faults: vec![busy(0, 3)],
            ..Behaviour::default()
        };
        assert_eq!(behaviour.unwrap(), expected);
    }

    #[test]
    fn a_misspelt_parameter_is_an_error() {
        let error = Behaviour::from_parameters(&parameters(&[("behaviour/largeRestore", "grow")])).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.to_string().contains("largeRestore"), "{error}");
    }

    #[test]
    fn the_control_file_wins_field_by_field() {
        let class = Behaviour {
            refuse_clones: Some(true),
            expansion: Some(Expansion::Never),
            faults: vec![busy(0, 1)],
            ..Behaviour::default()
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("control.json");
        assert_eq!(Behaviour::read(&file).unwrap(), Behaviour::default());
        Behaviour { expansion: Some(Expansion::Both), ..Behaviour::default() }.write(&file).unwrap();
        let expected = Behaviour { expansion: Some(Expansion::Both), ..class.clone() };
        assert_eq!(class.overlaid(Behaviour::read(&file).unwrap()), expected);
    }

    #[test]
    fn a_fault_strikes_the_calls_it_names_once_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("faults.json");
        let faults = [busy(1, 2)];
        let strikes: Vec<_> = (0..5)
            .map(|_| FaultCounter::open(path.clone()).unwrap().strike(Rpc::CreateVolume, &faults).unwrap().is_some())
            .collect();
        assert_eq!(strikes, [false, true, true, false, false]);
        let other = FaultCounter::open(path).unwrap().strike(Rpc::DeleteVolume, &[busy(0, 9)]).unwrap();
        assert_eq!(other, None);
    }

    #[test]
    fn a_renamed_fault_is_armed_again() {
        let directory = tempfile::tempdir().unwrap();
        let counter = FaultCounter::open(directory.path().join("faults.json")).unwrap();
        let again = Fault { name: "busy again".into(), ..busy(0, 1) };
        for (fault, strikes) in [(&busy(0, 1), true), (&busy(0, 1), false), (&again, true)] {
            let effect = counter.strike(Rpc::CreateVolume, std::slice::from_ref(fault)).unwrap();
            assert_eq!(effect.is_some(), strikes, "{fault:?}");
        }
    }
}
