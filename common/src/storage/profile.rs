//! Capabilities of a StorageClass, each with its provenance, and the status of its StorageProfile.
//!
//! Precedence, highest first: learned from the driver at run time, StorageProfile, annotations of the StorageClass, built-in table
//! ([`drivers`]), default.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::{
    api::{Capability, ClaimPropertySet, CloneStrategy, StorageProfile, StorageProfileStatus},
    condition::{self, Observation},
    keys, object,
    quantity::Bytes,
    storage::{
        drivers, refusals,
        restore::RestoreRule,
        snapshot_class::{self, SnapshotClass},
    },
};

/// The condition type that reports if the driver is known (CDI's).
pub const RECOGNIZED: &str = "Recognized";

/// The default time limit for one strategy. A fast driver needs seconds, and a strategy that makes no progress is replaced before the user
/// gives up.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// The longest deadline that a requester may ask for, unless the admin sets another one ([`keys::MAX_DEADLINE`]).
pub const MAX_DEADLINE: SignedDuration = SignedDuration::from_hours(1);

/// The names of the capabilities in the status of a StorageProfile.
pub mod names {
    /// The strategy by which volumes are cloned.
    pub const CLONE_STRATEGY: &str = "cloneStrategy";
    /// The supported pairs of access mode and volume mode.
    pub const CLAIM_PROPERTY_SETS: &str = "claimPropertySets";
    /// The minimum size of a volume.
    pub const MINIMUM_SIZE: &str = "minimumSize";
    /// The restore rule for a larger volume: `exact` or `larger`.
    pub const RESTORE_SIZE: &str = "restoreSize";
    /// The time limit for one strategy.
    pub const DEADLINE: &str = "deadline";
}

/// The origin of a capability; a later variant outranks an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provenance {
    /// The built-in default.
    Default,
    /// The built-in table of drivers.
    BuiltIn,
    /// An annotation of the StorageClass.
    StorageClass,
    /// The StorageProfile's spec, or an annotation of it.
    StorageProfile,
    /// The driver itself, at run time.
    Learned,
}

impl Provenance {
    /// The value of `provenance` in a [`Capability`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "Default",
            Self::BuiltIn => "BuiltIn",
            Self::StorageClass => "StorageClass",
            Self::StorageProfile => "StorageProfile",
            Self::Learned => "Learned",
        }
    }
}

/// A value with its provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// The value.
    pub value: T,
    /// The origin of the value.
    pub provenance: Provenance,
}

impl<T> Known<T> {
    fn new(provenance: Provenance, value: T) -> Self {
        Self { value, provenance }
    }

    fn capability(&self, name: &str, value: impl Fn(&T) -> String) -> Capability {
        Capability { name: name.to_owned(), value: value(&self.value), provenance: self.provenance.as_str().to_owned() }
    }
}

/// The value with the highest provenance.
fn best<T, const N: usize>(said: [(Provenance, Option<T>); N]) -> Option<Known<T>> {
    said.into_iter()
        .filter_map(|(provenance, value)| Some(Known::new(provenance, value?)))
        .max_by_key(|known| known.provenance)
}

/// All known capabilities of a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The strategy by which its volumes are cloned, if configured or known.
    pub strategy: Option<Known<CloneStrategy>>,
    /// The supported pairs of access mode and volume mode, best first.
    pub claim_property_sets: Option<Known<Vec<ClaimPropertySet>>>,
    /// The minimum size of a volume.
    pub minimum_size: Option<Known<Bytes>>,
    /// The restore rule for a volume larger than its source.
    pub restore: Known<RestoreRule>,
    /// The time limit for one strategy, after which another one is tried.
    pub deadline: Known<SignedDuration>,
    /// The state of knowledge about the driver with these parameters.
    pub recognized: Recognized,
}

/// The state of knowledge about a driver with given parameters; reasons are CDI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognized {
    /// Driver and parameters are known.
    Yes,
    /// The driver is known, but not with these parameters.
    NotTheParameters,
    /// The driver is not known.
    No,
}

impl Record {
    /// Collects the capabilities of `class`. An unparsable value in an annotation or in a learned capability is ignored.
    pub fn of(class: &StorageClass, profile: Option<&StorageProfile>) -> Self {
        let annotation = |key: &str| object::annotation(&class.metadata, key);
        let spec = profile.map(|p| &p.spec);
        let capabilities =
            profile.and_then(|p| p.status.as_ref()).map(|s| s.capabilities.as_slice()).unwrap_or_default();
        let learned = |name: &str| {
            let by_driver = |c: &&Capability| c.name == name && c.provenance == Provenance::Learned.as_str();
            capabilities.iter().find(by_driver).map(|c| c.value.as_str())
        };
        let empty = std::collections::BTreeMap::new();
        let table = drivers::find(&class.provisioner, class.parameters.as_ref().unwrap_or(&empty));
        let row = table.driver();
        Self {
            strategy: best([
                (Provenance::StorageProfile, spec.and_then(|s| s.clone_strategy)),
                (Provenance::StorageClass, annotation(keys::CLASS_CLONE_STRATEGY).and_then(|text| text.parse().ok())),
                (Provenance::BuiltIn, row.and_then(|r| r.strategy)),
            ]),
            claim_property_sets: best([
                (
                    Provenance::StorageProfile,
                    spec.and_then(|s| s.claim_property_sets.clone()).filter(|s| !s.is_empty()),
                ),
                (Provenance::BuiltIn, row.map(|r| written(r.sets)).filter(|s| !s.is_empty())),
            ]),
            minimum_size: minimum_size(profile, row),
            restore: best([
                (Provenance::Learned, learned(names::RESTORE_SIZE).and_then(|text| text.parse().ok())),
                (Provenance::StorageClass, annotation(keys::RESTORE_SIZE).and_then(|text| text.parse().ok())),
                (Provenance::BuiltIn, row.and_then(|r| r.restore)),
            ])
            .unwrap_or(Known::new(Provenance::Default, RestoreRule::Larger)),
            deadline: best([
                (Provenance::Learned, learned(names::DEADLINE).and_then(duration)),
                (Provenance::StorageClass, annotation(keys::DEADLINE).and_then(duration)),
                (Provenance::BuiltIn, row.and_then(|r| r.minutes).map(|m| SignedDuration::from_mins(m.into()))),
            ])
            .unwrap_or(Known::new(Provenance::Default, DEADLINE)),
            recognized: match table {
                drivers::Known::Driver(_) => Recognized::Yes,
                drivers::Known::DriverOnly(_) => Recognized::NotTheParameters,
                drivers::Known::Nothing => Recognized::No,
            },
        }
    }

    /// The capabilities as listed in the status of the StorageProfile.
    fn capabilities(&self, strategy: &Known<CloneStrategy>) -> Vec<Capability> {
        let sets = self.claim_property_sets.as_ref();
        let minimum = self.minimum_size.as_ref();
        [
            Some(strategy.capability(names::CLONE_STRATEGY, ToString::to_string)),
            sets.map(|known| known.capability(names::CLAIM_PROPERTY_SETS, |sets| in_words(sets))),
            minimum.map(|known| known.capability(names::MINIMUM_SIZE, ToString::to_string)),
            Some(self.restore.capability(names::RESTORE_SIZE, ToString::to_string)),
            Some(self.deadline.capability(names::DEADLINE, |deadline| format!("{deadline:#}"))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The minimum size. The annotation of the StorageProfile outranks the table; an empty annotation removes the minimum, an invalid quantity
/// is ignored.
fn minimum_size(profile: Option<&StorageProfile>, row: Option<drivers::Driver>) -> Option<Known<Bytes>> {
    let annotation = profile.and_then(|p| object::annotation(&p.metadata, keys::MINIMUM_SIZE));
    if annotation.is_some_and(str::is_empty) {
        return None;
    }
    best([
        (Provenance::StorageProfile, annotation.and_then(|text| Bytes::parse(text).ok())),
        (Provenance::BuiltIn, row.and_then(|r| r.minimum)),
    ])
}

/// Parses a duration such as `10m` or `1h30m`; `None` if it is invalid or not positive.
pub fn duration(text: &str) -> Option<SignedDuration> {
    text.parse().ok().filter(SignedDuration::is_positive)
}

fn written(sets: &[drivers::Set]) -> Vec<ClaimPropertySet> {
    sets.iter()
        .map(|(access, mode)| ClaimPropertySet {
            access_modes: Some(vec![(*access).to_owned()]),
            volume_mode: Some(mode.to_string()),
        })
        .collect()
}

/// Formats claim property sets, such as `ReadWriteMany Block, ReadWriteOnce Filesystem`.
fn in_words(sets: &[ClaimPropertySet]) -> String {
    let one = |set: &ClaimPropertySet| {
        let modes = set.access_modes.as_deref().unwrap_or_default().join("+");
        format!("{modes} {}", set.volume_mode.as_deref().unwrap_or_default())
    };
    sets.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The next status of the StorageProfile of `class`; `snapshot_classes` are all that exist. Keeps learned capabilities and shared refusals.
/// Equal to the current status if nothing changed.
pub fn status(
    class: &StorageClass,
    profile: Option<&StorageProfile>,
    snapshot_classes: &[SnapshotClass],
    now: Timestamp,
) -> StorageProfileStatus {
    let record = Record::of(class, profile);
    let spec = profile.map(|p| &p.spec);
    let named = spec.and_then(|s| s.snapshot_class.as_deref());
    let snapshot_class = snapshot_class::choose(&class.provisioner, snapshot_classes, named);
    let wanted = record.strategy.clone().unwrap_or_else(|| {
        let value = if snapshot_class.is_some() { CloneStrategy::Snapshot } else { CloneStrategy::Copy };
        Known::new(Provenance::Default, value)
    });
    let clone_strategy = match wanted.value {
        CloneStrategy::Snapshot if snapshot_class.is_none() => CloneStrategy::Copy,
        strategy => strategy,
    };
    let old = profile.and_then(|p| p.status.as_ref());
    let seen = recognized(record.recognized, &class.provisioner);
    StorageProfileStatus {
        storage_class: class.metadata.name.clone(),
        provisioner: Some(class.provisioner.clone()),
        clone_strategy: Some(clone_strategy),
        data_import_cron_source_format: spec.and_then(|s| s.data_import_cron_source_format.clone()),
        snapshot_class: snapshot_class.map(|class| class.name.clone()),
        conditions: condition::merge(old.map(|o| o.conditions.as_slice()).unwrap_or_default(), &[seen], now),
        capabilities: record.capabilities(&wanted),
        claim_property_sets: record.claim_property_sets.map(|known| known.value),
        // Refusals of an earlier version, or written by hand, that do not name enough namespaces are dropped.
        refusals: old
            .iter()
            .flat_map(|o| &o.refusals)
            .filter(|refusal| refusals::is_shared(refusal))
            .cloned()
            .collect(),
    }
}

fn recognized(recognized: Recognized, provisioner: &str) -> Observation {
    let (status, reason, message) = match recognized {
        Recognized::Yes => (true, "RecognizedProvisioner", format!("{provisioner} is a known driver")),
        Recognized::NotTheParameters => (
            false,
            "UnrecognizedStorageClassParameters",
            format!(
                "{provisioner} is a known driver, but the StorageClass's parameters don't tell what its volumes are; \
                 set spec.claimPropertySets and spec.cloneStrategy"
            ),
        ),
        Recognized::No => (
            false,
            "UnrecognizedProvisioner",
            format!(
                "{provisioner} is not a known driver; set spec.claimPropertySets and spec.cloneStrategy to say what it can do"
            ),
        ),
    };
    Observation { kind: RECOGNIZED, status: Some(status), reason, message }
}

/// The capabilities after the driver taught a new one, such as `restoreSize` `exact`; `None` if it is known already. The next [`status`]
/// keeps it.
pub fn learned(capabilities: &[Capability], name: &str, value: &str) -> Option<Vec<Capability>> {
    let fact = Capability {
        name: name.to_owned(),
        value: value.to_owned(),
        provenance: Provenance::Learned.as_str().to_owned(),
    };
    if capabilities.contains(&fact) {
        return None;
    }
    Some(capabilities.iter().filter(|known| known.name != name).cloned().chain([fact]).collect())
}

#[cfg(test)]
mod tests;
