//! Resolution of a DataSource to its source, and its status.
//!
//! A DataSource names a claim, a VolumeSnapshot, or another DataSource in its own namespace, which has to name a claim or a snapshot
//! itself. This limit is CDI's: it excludes longer chains and cycles.
//!
//! A status is written with the controller's permissions and read with those of users, so it contains nothing about objects in other
//! namespaces.

use jiff::Timestamp;

use crate::{
    api::{
        Condition, DataSource, DataSourceSource, DataSourceStatus, DataVolumeSourcePvc, DataVolumeSourceSnapshot, Phase,
    },
    condition::{self, Observation},
    lookup::Lookup,
    object::{ObjectName, SourceKind, SourceName},
};

/// Reason of the condition `Ready` of a DataSource whose source is in another namespace.
pub const NOT_LOOKED_AT: &str = "NotLookedAt";

/// The reason why a DataSource does not resolve to a source. The reason codes are CDI's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// It names no source.
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
    /// Returns the reason code.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSource(_) => "NoSource",
            Self::NotFound(_) => "NotFound",
            Self::SelfReference(_) => "SelfReference",
            Self::CrossNamespaceReference(..) => "CrossNamespaceReference",
            Self::MaxReferenceDepthReached(..) => "MaxReferenceDepthReached",
        }
    }

    /// Returns the message.
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

/// The result of resolving a DataSource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The source, which may not exist.
    Found(SourceName),
    /// No source, with the reason.
    Not(Unresolved),
    /// Not known at present, with the cause.
    Unknown(String),
}

/// Resolves the DataSource of this name to its source.
pub fn resolve_named(name: &ObjectName, lookup: impl Fn(&str, &str) -> Lookup<DataSource>) -> Resolution {
    match lookup(&name.namespace, &name.name) {
        Lookup::Present(source) => resolve_source(name, &source.spec.source, lookup),
        Lookup::Absent => Resolution::Not(Unresolved::NotFound(name.clone())),
        Lookup::Unknown(why) => Resolution::Unknown(why),
    }
}

/// Resolves `spec.source` of the DataSource `name`.
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

/// Returns the claim or snapshot that `source` of the DataSource `name` names.
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

/// Returns the name of an object. An object older than the schema may omit the namespace, which then is its own.
fn within(own: &str, namespace: &str, name: &str) -> ObjectName {
    let namespace = if namespace.is_empty() { own } else { namespace };
    ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The state of the claim or snapshot to which a DataSource resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be cloned.
    Ready,
    /// A DataVolume is filling the claim; it is in this phase.
    Filling(Phase),
    /// The driver is still taking the snapshot.
    SnapshotNotReady,
}

/// Returns the state of a claim. `there` is its existence, and `filled_by` the phase of the DataVolume of its name. A claim without a
/// DataVolume counts as filled. A DataVolume may exist before its claim.
pub fn claim_state(there: &Lookup<()>, filled_by: &Lookup<Phase>) -> Lookup<State> {
    match (there, filled_by) {
        (Lookup::Unknown(why), _) | (_, Lookup::Unknown(why)) => Lookup::Unknown(why.clone()),
        (_, Lookup::Present(phase)) if *phase != Phase::Succeeded => Lookup::Present(State::Filling(*phase)),
        (Lookup::Present(()), _) => Lookup::Present(State::Ready),
        (Lookup::Absent, _) => Lookup::Absent,
    }
}

/// Returns the state of a snapshot; `ready` is its `status.readyToUse`.
pub fn snapshot_state(ready: &Lookup<bool>) -> Lookup<State> {
    ready.as_ref().map(|ready| if *ready { State::Ready } else { State::SnapshotNotReady })
}

/// Returns the object to read for the status of the DataSource `name`: the source, unless it is in another namespace. The author of a
/// DataSource may name any object of any namespace, and has no right to learn anything about it.
pub fn observable<'a>(name: &ObjectName, resolution: &'a Resolution) -> Option<&'a SourceName> {
    match resolution {
        Resolution::Found(source) => Some(source).filter(|source| source.object.namespace == name.namespace),
        Resolution::Not(_) | Resolution::Unknown(_) => None,
    }
}

/// Returns the next status of the DataSource `name`. It is equal to the old one if nothing has changed, or if the state is not known.
/// `state` is that of the [`observable`] object. For a source in another namespace, it has no effect.
pub fn status(
    name: &ObjectName,
    old: Option<&DataSourceStatus>,
    resolution: &Resolution,
    state: &Lookup<State>,
    now: Timestamp,
) -> DataSourceStatus {
    let (source, (ready, reason, message)) = match (resolution, observable(name, resolution), state) {
        (Resolution::Unknown(_), ..) | (_, Some(_), Lookup::Unknown(_)) => return old.cloned().unwrap_or_default(),
        (Resolution::Not(why), ..) => (DataSourceSource::default(), (Some(false), why.reason(), why.message())),
        (_, Some(source), state) => (written(source), described(source, state)),
        (Resolution::Found(source), None, _) => (written(source), not_looked_at(source)),
    };
    let seen = Observation { kind: condition::types::READY, status: ready, reason, message };
    let conditions: &[Condition] = old.map(|o| o.conditions.as_slice()).unwrap_or_default();
    DataSourceStatus { source, conditions: condition::merge(conditions, &[seen], now) }
}

/// Status, reason and message of the condition `Ready`.
type Ready = (Option<bool>, &'static str, String);

/// Returns the condition of a DataSource whose source is in this state.
fn described(source: &SourceName, state: &Lookup<State>) -> Ready {
    let (ready, reason, message) = match state {
        Lookup::Present(State::Ready) => (true, "Ready", format!("{source} can be cloned")),
        Lookup::Present(State::SnapshotNotReady) => {
            (false, "SnapshotNotReady", format!("{source} is still being taken"))
        }
        Lookup::Present(State::Filling(phase)) => {
            // A condition needs a reason. An unset phase means that the work has not started.
            let phase = if phase.is_unset() { Phase::Pending } else { *phase };
            (false, phase.as_str(), format!("DataVolume {} is in phase {phase}", source.object))
        }
        Lookup::Absent | Lookup::Unknown(_) => (false, "NotFound", format!("{source} doesn't exist")),
    };
    (Some(ready), reason, message)
}

/// Returns the condition of a DataSource whose source is in another namespace, for existing and missing sources alike.
fn not_looked_at(source: &SourceName) -> Ready {
    let message = format!(
        "{source} is in another namespace than the DataSource, and smartclone does not look into another namespace for a status; a \
         DataVolume that names the DataSource is answered by the rights of its requester"
    );
    (None, NOT_LOOKED_AT, message)
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

    /// The DataSources of a namespace, and one that cannot be read.
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
        let golden = name("gold", "golden");
        let next = status(&golden, None, &resolution, &state, Timestamp::UNIX_EPOCH);
        assert_eq!(next.conditions.first().and_then(|c| c.reason.as_deref()), reason);

        let again = status(&golden, Some(&next), &resolution, &state, Timestamp::MAX);
        assert_eq!(again, next, "a second look writes nothing");
    }

    #[test]
    fn a_snapshot_is_ready_when_the_driver_says_so() {
        let resolution = Resolution::Found(gold_snapshot("snap"));
        let reasons = [Lookup::Present(false), Lookup::Present(true)].map(|ready| {
            let golden = name("gold", "golden");
            let next = status(&golden, None, &resolution, &snapshot_state(&ready), Timestamp::UNIX_EPOCH);
            assert_eq!(next.source.snapshot.map(|s| s.name).as_deref(), Some("snap"));
            next.conditions.into_iter().filter_map(|c| c.reason).collect::<String>()
        });
        assert_eq!(reasons, ["SnapshotNotReady", "Ready"]);
    }

    /// The status is the same for every state of the source and every old status.
    #[rstest]
    #[case::claim(gold_claim("disk"))]
    #[case::snapshot(gold_snapshot("snap"))]
    fn says_nothing_about_another_namespace(#[case] source: SourceName) {
        let (golden, mine) = (name("gold", "golden"), name("here", "mine"));
        let resolution = Resolution::Found(source);
        assert_eq!(observable(&mine, &resolution), None);
        assert!(observable(&golden, &resolution).is_some());

        let states = [
            Lookup::Absent,
            Lookup::Unknown("not yet".into()),
            Lookup::Present(State::Ready),
            Lookup::Present(State::SnapshotNotReady),
            Lookup::Present(State::Filling(Phase::CloneInProgress)),
            Lookup::Present(State::Filling(Phase::Unset)),
        ];
        let leaked = status(&golden, None, &resolution, &states[2], Timestamp::UNIX_EPOCH);
        let next = status(&mine, None, &resolution, &states[0], Timestamp::UNIX_EPOCH);
        let ready = next.conditions.first().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref()));
        assert_eq!(ready, Some(("Ready", "Unknown", Some(NOT_LOOKED_AT))));
        for state in &states {
            let fresh = status(&mine, None, &resolution, state, Timestamp::UNIX_EPOCH);
            assert_eq!(fresh, next, "{state:?}");
            assert_eq!(status(&mine, Some(&next), &resolution, state, Timestamp::MAX), next, "{state:?}");
            assert_eq!(status(&mine, Some(&leaked), &resolution, state, Timestamp::UNIX_EPOCH), next, "{state:?}");
        }
    }
}
