//! What is known about a StorageClass, who says so, and what its StorageProfile tells about it.
//!
//! Of several that say something, what was learned from the driver at run time outranks the StorageProfile, that the StorageClass's
//! annotations, those the built-in table ([`drivers`]), and that the default.

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

/// The condition that says whether the driver is known (CDI's).
pub const RECOGNIZED: &str = "Recognized";

/// How long one strategy may take where nobody says anything: a quick driver needs seconds, and a cut-off one is given up before the
/// user gives up.
pub const DEADLINE: SignedDuration = SignedDuration::from_mins(10);

/// The longest deadline that a requester may ask for, where the admin says nothing ([`keys::MAX_DEADLINE`]).
pub const MAX_DEADLINE: SignedDuration = SignedDuration::from_hours(1);

/// The names of capabilities.
pub mod names {
    /// How volumes are cloned.
    pub const CLONE_STRATEGY: &str = "cloneStrategy";
    /// Which access modes go with which volume mode.
    pub const CLAIM_PROPERTY_SETS: &str = "claimPropertySets";
    /// The least size of a volume.
    pub const MINIMUM_SIZE: &str = "minimumSize";
    /// `exact` or `larger`: how a larger volume is restored.
    pub const RESTORE_SIZE: &str = "restoreSize";
    /// How long one strategy may take.
    pub const DEADLINE: &str = "deadline";
}

/// Who says so; the later outranks the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provenance {
    /// Nobody.
    Default,
    /// The table.
    BuiltIn,
    /// An annotation of the StorageClass.
    StorageClass,
    /// The StorageProfile's spec, or an annotation of it.
    StorageProfile,
    /// The driver itself, at run time.
    Learned,
}

impl Provenance {
    /// The word in a [`Capability`].
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

/// Something known, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// What holds.
    pub value: T,
    /// Who says so.
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

/// Who says what, best first.
fn best<T, const N: usize>(said: [(Provenance, Option<T>); N]) -> Option<Known<T>> {
    said.into_iter()
        .filter_map(|(provenance, value)| Some(Known::new(provenance, value?)))
        .max_by_key(|known| known.provenance)
}

/// All that is known about a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How its volumes are cloned, where somebody says so.
    pub strategy: Option<Known<CloneStrategy>>,
    /// Which access modes go with which volume mode, best first.
    pub claim_property_sets: Option<Known<Vec<ClaimPropertySet>>>,
    /// The least size of a volume.
    pub minimum_size: Option<Known<Bytes>>,
    /// How a larger volume is restored.
    pub restore: Known<RestoreRule>,
    /// How long one strategy may take before another one is tried.
    pub deadline: Known<SignedDuration>,
    /// Whether the driver is known with these parameters.
    pub recognized: Recognized,
}

/// Whether the driver is known with these parameters; the words are CDI's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognized {
    /// It is.
    Yes,
    /// The driver is, these parameters aren't.
    NotTheParameters,
    /// It isn't.
    No,
}

impl Record {
    /// What is known about `class`. A word that nobody knows, in an annotation or in what was learned, counts as not given.
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

    /// The record as admins see it.
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

/// The annotation of the profile outranks the table, also by being empty. One that is no quantity counts as not given.
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

/// Reads a time such as `10m` or `1h30m`; no time at all counts as not given.
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

/// `ReadWriteMany Block, ReadWriteOnce Filesystem`.
fn in_words(sets: &[ClaimPropertySet]) -> String {
    let one = |set: &ClaimPropertySet| {
        let modes = set.access_modes.as_deref().unwrap_or_default().join("+");
        format!("{modes} {}", set.volume_mode.as_deref().unwrap_or_default())
    };
    sets.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The next status of the StorageProfile of `class`; `snapshot_classes` are all that there are. What was learned and what was refused
/// stays. A status that is already so is equal to it.
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
        // One that is of an earlier version, or written by hand, counts for nobody.
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

/// What is listed after the driver has taught something, such as `restoreSize` `exact`; nothing, if it is known already. The next
/// [`status`] keeps it.
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
