//! What a DataSource stands for, and what its status says about that.
//!
//! A DataSource names a claim, a VolumeSnapshot, or one more DataSource of its own namespace, which then has to name a claim or a
//! snapshot itself (CDI's limit: chains can't grow, and no circle can come about).

use jiff::Timestamp;

use crate::{
    api::{
        Condition, DataSource, DataSourceSource, DataSourceStatus, DataVolumeSourcePvc, DataVolumeSourceSnapshot, Phase,
    },
    clone::request::{ObjectName, SourceKind, SourceName},
    condition::{self, Observation},
    lookup::Lookup,
};

/// Why a DataSource stands for nothing; the words are CDI's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// It names nothing.
    NoSource(ObjectName),
    /// There is no such DataSource.
    NotFound(ObjectName),
    /// It names itself.
    SelfReference(ObjectName),
    /// It names a DataSource of another namespace: the first names the second.
    CrossNamespaceReference(ObjectName, ObjectName),
    /// The DataSource that it names names a third one: the first names the second.
    MaxReferenceDepthReached(ObjectName, ObjectName),
}

impl Unresolved {
    /// One word for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSource(_) => "NoSource",
            Self::NotFound(_) => "NotFound",
            Self::SelfReference(_) => "SelfReference",
            Self::CrossNamespaceReference(..) => "CrossNamespaceReference",
            Self::MaxReferenceDepthReached(..) => "MaxReferenceDepthReached",
        }
    }

    /// A sentence for people.
    pub fn message(&self) -> String {
        match self {
            Self::NoSource(name) => {
                format!("DataSource {name} names no source; give it a pvc, a snapshot or another dataSource")
            }
            Self::NotFound(name) => format!("DataSource {name} doesn't exist"),
            Self::SelfReference(name) => format!("DataSource {name} names itself"),
            Self::CrossNamespaceReference(name, other) => {
                format!("DataSource {name} names DataSource {other}; only one of its own namespace may be named")
            }
            Self::MaxReferenceDepthReached(name, other) => {
                format!("DataSource {name} names DataSource {other}, which has to name a pvc or a snapshot itself")
            }
        }
    }
}

/// The answer to "what does this stand for?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// This; whether it exists is another question.
    Found(SourceName),
    /// Nothing, and this is why.
    Not(Unresolved),
    /// Nobody can say now, and this is why.
    Unknown(String),
}

/// What the DataSource of this name stands for.
pub fn resolve_named(name: &ObjectName, lookup: impl Fn(&str, &str) -> Lookup<DataSource>) -> Resolution {
    match lookup(&name.namespace, &name.name) {
        Lookup::Present(source) => resolve_source(name, &source.spec.source, lookup),
        Lookup::Absent => Resolution::Not(Unresolved::NotFound(name.clone())),
        Lookup::Unknown(why) => Resolution::Unknown(why),
    }
}

/// What `spec.source` of the DataSource `name` stands for.
pub fn resolve_source(
    name: &ObjectName,
    source: &DataSourceSource,
    lookup: impl Fn(&str, &str) -> Lookup<DataSource>,
) -> Resolution {
    let Some(other) = &source.data_source else { return direct(name, source) };
    let other = within(&name.namespace, &other.namespace, &other.name);
    if other.namespace != name.namespace {
        return Resolution::Not(Unresolved::CrossNamespaceReference(name.clone(), other));
    }
    if other == *name {
        return Resolution::Not(Unresolved::SelfReference(other));
    }
    match lookup(&other.namespace, &other.name) {
        Lookup::Present(next) if next.spec.source.data_source.is_some() => {
            Resolution::Not(Unresolved::MaxReferenceDepthReached(name.clone(), other))
        }
        Lookup::Present(next) => direct(&other, &next.spec.source),
        Lookup::Absent => Resolution::Not(Unresolved::NotFound(other)),
        Lookup::Unknown(why) => Resolution::Unknown(why),
    }
}

/// The claim or snapshot that `source` of the DataSource `name` names.
fn direct(name: &ObjectName, source: &DataSourceSource) -> Resolution {
    if let Some(pvc) = &source.pvc {
        let object = within(&name.namespace, &pvc.namespace, &pvc.name);
        Resolution::Found(SourceName { kind: SourceKind::Claim, object })
    } else if let Some(snapshot) = &source.snapshot {
        let object = within(&name.namespace, &snapshot.namespace, &snapshot.name);
        Resolution::Found(SourceName { kind: SourceKind::Snapshot, object })
    } else {
        Resolution::Not(Unresolved::NoSource(name.clone()))
    }
}

/// An object that predates the schema may leave the namespace out; then it means its own.
fn within(own: &str, namespace: &str, name: &str) -> ObjectName {
    let namespace = if namespace.is_empty() { own } else { namespace };
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// How the claim or the snapshot is that a DataSource stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It may be cloned.
    Ready,
    /// A DataVolume is filling the claim; it is in this phase.
    Filling(Phase),
    /// The driver is still taking the snapshot.
    SnapshotNotReady,
}

/// How a claim is: `there` says whether it exists, `filled_by` is the phase of the DataVolume of its name. A claim without a DataVolume
/// is its owner's and counts as filled; a DataVolume may exist before its claim.
pub fn claim_state(there: &Lookup<()>, filled_by: &Lookup<Phase>) -> Lookup<State> {
    match (there, filled_by) {
        (Lookup::Unknown(why), _) | (_, Lookup::Unknown(why)) => Lookup::Unknown(why.clone()),
        (_, Lookup::Present(phase)) if *phase != Phase::Succeeded => Lookup::Present(State::Filling(*phase)),
        (Lookup::Present(()), _) => Lookup::Present(State::Ready),
        (Lookup::Absent, _) => Lookup::Absent,
    }
}

/// How a snapshot is: `ready` is its `status.readyToUse`.
pub fn snapshot_state(ready: &Lookup<bool>) -> Lookup<State> {
    ready.as_ref().map(|ready| if *ready { State::Ready } else { State::SnapshotNotReady })
}

/// The next status. Equal to the old one when nothing is new, and when nobody can say what is.
pub fn status(
    old: Option<&DataSourceStatus>,
    resolution: &Resolution,
    state: &Lookup<State>,
    now: Timestamp,
) -> DataSourceStatus {
    let unchanged = || old.cloned().unwrap_or_default();
    let (source, ready, reason, message) = match (resolution, state) {
        (Resolution::Unknown(_), _) | (Resolution::Found(_), Lookup::Unknown(_)) => return unchanged(),
        (Resolution::Not(why), _) => (DataSourceSource::default(), false, why.reason(), why.message()),
        (Resolution::Found(source), state) => {
            let name = &source.object;
            let (ready, reason, message) = match state {
                Lookup::Present(State::Ready) => (true, "Ready", format!("{source} can be cloned")),
                Lookup::Present(State::SnapshotNotReady) => {
                    (false, "SnapshotNotReady", format!("{source} is still being taken"))
                }
                Lookup::Present(State::Filling(phase)) => {
                    // A condition needs a reason, and nothing written yet means that it hasn't begun.
                    let phase = if phase.is_unset() { Phase::Pending } else { *phase };
                    (false, phase.as_str(), format!("DataVolume {name} is in phase {phase}"))
                }
                Lookup::Absent | Lookup::Unknown(_) => (false, "NotFound", format!("{source} doesn't exist")),
            };
            (written(source), ready, reason, message)
        }
    };
    let seen = Observation { kind: condition::types::READY, status: Some(ready), reason, message };
    let conditions: &[Condition] = old.map(|o| o.conditions.as_slice()).unwrap_or_default();
    DataSourceStatus { source, conditions: condition::merge(conditions, &[seen], now) }
}

fn written(source: &SourceName) -> DataSourceSource {
    let ObjectName { namespace, name } = source.object.clone();
    match source.kind {
        SourceKind::Claim => {
            DataSourceSource { pvc: Some(DataVolumeSourcePvc { namespace, name }), ..DataSourceSource::default() }
        }
        SourceKind::Snapshot => DataSourceSource {
            snapshot: Some(DataVolumeSourceSnapshot { namespace, name }),
            ..DataSourceSource::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn name(namespace: &str, name: &str) -> ObjectName {
        ObjectName { namespace: namespace.into(), name: name.into() }
    }

    fn gold_claim(disk: &str) -> SourceName {
        SourceName { kind: SourceKind::Claim, object: name("gold", disk) }
    }

    fn gold_snapshot(snap: &str) -> SourceName {
        SourceName { kind: SourceKind::Snapshot, object: name("gold", snap) }
    }

    /// A namespace of DataSources: what is there, and one that can't be read.
    fn lookup(namespace: &str, wanted: &str) -> Lookup<DataSource> {
        let to = |name: &str| json!({ "dataSource": { "namespace": "here", "name": name } });
        let source: Value = match (namespace, wanted) {
            ("here", "disk") => json!({ "pvc": { "namespace": "gold", "name": "disk" } }),
            ("here", "snap") => json!({ "snapshot": { "namespace": "gold", "name": "snap" } }),
            ("here", "empty") => json!({}),
            ("here", "alias") => to("disk"),
            ("here", "second-alias") => to("alias"),
            ("here", "dangling") => to("gone"),
            ("here", "alias-of-empty") => to("empty"),
            ("here", "mirror") => to("mirror"),
            ("here", "unreadable-alias") => to("unreadable"),
            ("here", "abroad") => json!({ "dataSource": { "namespace": "gold", "name": "disk" } }),
            (_, "unreadable") => return Lookup::Unknown("not yet".into()),
            _ => return Lookup::Absent,
        };
        serde_json::from_value(json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataSource", "metadata": {}, "spec": { "source": source },
        }))
        .map_or(Lookup::Absent, Lookup::Present)
    }

    #[rstest]
    #[case::claim("disk", Ok(gold_claim("disk")))]
    #[case::snapshot("snap", Ok(gold_snapshot("snap")))]
    #[case::one_reference("alias", Ok(gold_claim("disk")))]
    #[case::two_references("second-alias", Err("MaxReferenceDepthReached"))]
    #[case::nothing_named("empty", Err("NoSource"))]
    #[case::reference_to_nothing_named("alias-of-empty", Err("NoSource"))]
    #[case::none_of_the_name("gone", Err("NotFound"))]
    #[case::reference_to_none("dangling", Err("NotFound"))]
    #[case::itself("mirror", Err("SelfReference"))]
    #[case::another_namespace("abroad", Err("CrossNamespaceReference"))]
    #[case::could_not_tell("unreadable", Err("unknown"))]
    #[case::reference_could_not_tell("unreadable-alias", Err("unknown"))]
    fn stands_for(#[case] wanted: &str, #[case] expected: Result<SourceName, &str>) {
        let found = match resolve_named(&name("here", wanted), lookup) {
            Resolution::Found(source) => Ok(source),
            Resolution::Not(why) => Err(why.reason()),
            Resolution::Unknown(_) => Err("unknown"),
        };
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case::bound_claim(Lookup::Present(()), Lookup::Absent, Some("Ready"))]
    #[case::filled(Lookup::Present(()), Lookup::Present(Phase::Succeeded), Some("Ready"))]
    #[case::being_filled(Lookup::Present(()), Lookup::Present(Phase::CloneInProgress), Some("CloneInProgress"))]
    #[case::about_to_be_made(Lookup::Absent, Lookup::Present(Phase::Unset), Some("Pending"))]
    #[case::deleted_since(Lookup::Absent, Lookup::Present(Phase::Succeeded), Some("NotFound"))]
    #[case::not_there(Lookup::Absent, Lookup::Absent, Some("NotFound"))]
    #[case::could_not_tell(Lookup::Unknown("not yet".into()), Lookup::Absent, None)]
    fn says(#[case] claim: Lookup<()>, #[case] filled_by: Lookup<Phase>, #[case] reason: Option<&str>) {
        let resolution = Resolution::Found(gold_claim("disk"));
        let state = claim_state(&claim, &filled_by);
        let next = status(None, &resolution, &state, Timestamp::UNIX_EPOCH);
        assert_eq!(next.conditions.first().and_then(|c| c.reason.as_deref()), reason);

        let again = status(Some(&next), &resolution, &state, Timestamp::MAX);
        assert_eq!(again, next, "a second look writes nothing");
    }

    #[test]
    fn a_snapshot_is_ready_when_the_driver_says_so() {
        let resolution = Resolution::Found(gold_snapshot("snap"));
        let reasons = [Lookup::Present(false), Lookup::Present(true)].map(|ready| {
            let next = status(None, &resolution, &snapshot_state(&ready), Timestamp::UNIX_EPOCH);
            assert_eq!(next.source.snapshot.map(|s| s.name).as_deref(), Some("snap"));
            next.conditions.into_iter().filter_map(|c| c.reason).collect::<String>()
        });
        assert_eq!(reasons, ["SnapshotNotReady", "Ready"]);
    }
}
