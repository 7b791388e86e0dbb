//! What was called how often, and how it ended.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{Result, store};

/// A call of the CSI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Rpc {
    GetPluginInfo,
    GetPluginCapabilities,
    Probe,
    CreateVolume,
    DeleteVolume,
    ValidateVolumeCapabilities,
    ListVolumes,
    GetCapacity,
    ControllerGetCapabilities,
    CreateSnapshot,
    DeleteSnapshot,
    ListSnapshots,
    ControllerExpandVolume,
    ControllerGetVolume,
    NodeStageVolume,
    NodeUnstageVolume,
    NodePublishVolume,
    NodeUnpublishVolume,
    NodeGetVolumeStats,
    NodeExpandVolume,
    NodeGetCapabilities,
    NodeGetInfo,
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How often one RPC was called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that came in; more than the sum of the outcomes while some are under way or after the process died in one.
    pub started: u64,
    /// Calls that ended, by gRPC code as the specification writes it: `OK`, `ABORTED`, …
    pub ended: BTreeMap<String, u64>,
}

/// The calls file: every RPC that was called since the file was made, over restarts of the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Calls(pub BTreeMap<Rpc, Tally>);

impl Calls {
    /// Reads a calls file; a missing one holds no calls.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(store::read_json(path)?.unwrap_or_default())
    }

    /// How many calls of an RPC came in.
    pub fn started(&self, rpc: Rpc) -> u64 {
        self.0.get(&rpc).map_or(0, |tally| tally.started)
    }

    /// How many calls of an RPC ended with this code, such as `OK`.
    pub fn ended(&self, rpc: Rpc, code: &str) -> u64 {
        self.0.get(&rpc).and_then(|tally| tally.ended.get(code)).copied().unwrap_or(0)
    }
}

/// Keeps the calls file.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: Option<PathBuf>,
    calls: Mutex<Calls>,
}

impl Ledger {
    /// Goes on where the file ends.
    pub(crate) fn open(path: Option<PathBuf>) -> Result<Self> {
        let calls = path.as_deref().map(Calls::read).transpose()?.unwrap_or_default();
        Ok(Self { path, calls: Mutex::new(calls) })
    }

    pub(crate) fn started(&self, rpc: Rpc) -> Result<()> {
        self.update(rpc, |tally| tally.started += 1)
    }

    pub(crate) fn ended(&self, rpc: Rpc, code: &str) -> Result<()> {
        self.update(rpc, |tally| *tally.ended.entry(code.to_owned()).or_default() += 1)
    }

    fn update(&self, rpc: Rpc, count: impl FnOnce(&mut Tally)) -> Result<()> {
        // The lock is kept while writing, so that the file never goes back.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        count(calls.0.entry(rpc).or_default());
        self.path.as_deref().map_or(Ok(()), |path| store::write_atomically(path, &*calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls.json");
        for code in ["ABORTED", "OK"] {
            let ledger = Ledger::open(Some(path.clone())).unwrap();
            ledger.started(Rpc::CreateVolume).unwrap();
            ledger.ended(Rpc::CreateVolume, code).unwrap();
        }
        let calls = Calls::read(&path).unwrap();
        assert_eq!(calls.started(Rpc::CreateVolume), 2);
        assert_eq!(calls.ended(Rpc::CreateVolume, "OK"), 1);
        assert_eq!(calls.ended(Rpc::CreateVolume, "ABORTED"), 1);
        assert_eq!(calls.started(Rpc::DeleteVolume), 0);
    }
}
