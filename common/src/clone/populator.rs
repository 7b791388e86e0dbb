//! Volume populator: represents a claim that is populated without a DataVolume by an equivalent DataVolume, so that one step function
//! serves both.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, TypedLocalObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use crate::{
    api::{
        self, DataVolume, DataVolumeSource, DataVolumeSourcePvc, DataVolumeSourceSnapshot, DataVolumeSpec,
        DataVolumeStatus, Phase, VolumeCloneSource, VolumeCloneSourceSpec,
    },
    condition::types,
    keys::{self, Annotations},
    names,
    object::{self, ObjectName},
    rebind,
};

use super::wait::Waiting;

/// The VolumeCloneSource that populates `claim`, by namespace and name; `None` if there is none or the claim belongs to a DataVolume.
pub fn wanted(claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let source = claim.spec.as_ref()?.data_source_ref.as_ref()?;
    // The claim of a DataVolume, whose UID is in the reference that holds the claim back. Other owners don't matter: the reference decides.
    let controller = object::controller(&claim.metadata);
    let of_volume = controller
        .is_some_and(|owner| owner.kind == "DataVolume" && source.name == names::volume_clone_source(&owner.uid));
    // The target of an ObjectTransfer is held back in the same way, and must not be populated.
    let moves = object::annotation(&claim.metadata, keys::TRANSFER).is_some();
    if of_volume || moves || !rebind::names_clone_source(source) {
        return None;
    }
    let elsewhere = object::annotation(&claim.metadata, keys::DATA_SOURCE_NAMESPACE);
    let namespace = elsewhere.filter(|n| !n.is_empty()).or(claim.metadata.namespace.as_deref())?;
    Some((namespace.to_owned(), source.name.clone()))
}

/// A placeholder for a VolumeCloneSource that the requester may not read: it does not reveal if the object exists.
pub fn unread(name: &ObjectName) -> VolumeCloneSource {
    let source = TypedLocalObjectReference {
        kind: "PersistentVolumeClaim".to_owned(),
        name: name.name.clone(),
        ..TypedLocalObjectReference::default()
    };
    let spec = VolumeCloneSourceSpec { source, preallocation: None, priority_class_name: None };
    let mut unread = VolumeCloneSource::new(&name.name, spec);
    unread.metadata.namespace = Some(name.namespace.clone());
    unread
}

/// Represents `claim` as a DataVolume that clones the source of `source`.
pub fn as_data_volume(claim: &PersistentVolumeClaim, source: &VolumeCloneSource) -> DataVolume {
    let namespace = source.metadata.namespace.clone().unwrap_or_default();
    let name = source.spec.source.name.clone();
    let source_of = match source.spec.source.kind.as_str() {
        "PersistentVolumeClaim" => {
            DataVolumeSource { pvc: Some(DataVolumeSourcePvc { namespace, name }), ..DataVolumeSource::default() }
        }
        "VolumeSnapshot" => DataVolumeSource {
            snapshot: Some(DataVolumeSourceSnapshot { namespace, name }),
            ..DataVolumeSource::default()
        },
        // An unknown kind is reported as a source without a name.
        _ => DataVolumeSource { pvc: Some(DataVolumeSourcePvc::default()), ..DataVolumeSource::default() },
    };
    let mut spec = claim.spec.clone().unwrap_or_default();
    (spec.data_source, spec.data_source_ref, spec.volume_name) = (None, None, None);
    DataVolume {
        metadata: claim.metadata.clone(),
        spec: DataVolumeSpec {
            source: Some(source_of),
            pvc: Some(spec),
            priority_class_name: source.spec.priority_class_name.clone(),
            content_type: object::annotation(&claim.metadata, keys::CONTENT_TYPE).map(str::to_owned),
            ..DataVolumeSpec::default()
        },
        status: status(&claim.metadata),
    }
}

/// The status of a clone that is recorded on its claim; `None` if there is none, or it can't be read.
pub fn status(claim: &ObjectMeta) -> Option<DataVolumeStatus> {
    object::annotation(claim, keys::STATUS).and_then(|text| serde_json::from_str(text).ok())
}

/// The status of a claim as annotations: smartclone's complete status, and CDI's annotations for their readers.
pub fn annotations(status: &DataVolumeStatus) -> Annotations {
    let mut annotations = annotations_beside_cdi(status);
    annotations.insert(keys::CLONE_PHASE, Some(clone_phase(status.phase).to_owned()));
    annotations
}

/// The same for a claim without a DataVolume beside CDI, whose populator skips it as long as it is declared complete: the phase stays.
pub fn annotations_beside_cdi(status: &DataVolumeStatus) -> Annotations {
    let running = status.conditions.iter().find(|c| c.type_ == types::RUNNING);
    let text = |f: fn(&api::Condition) -> Option<String>| Some(running.and_then(f).unwrap_or_default());
    let progress = status.progress.clone().unwrap_or_else(|| "N/A".to_owned());
    Annotations::from([
        (keys::STATUS, Some(json!(status).to_string())),
        (keys::POPULATOR_PROGRESS, Some(progress)),
        (keys::CONDITION_RUNNING, text(|c| Some(c.status.to_lowercase()))),
        (keys::CONDITION_RUNNING_REASON, text(|c| c.reason.clone())),
        (keys::CONDITION_RUNNING_MESSAGE, text(|c| c.message.clone())),
    ])
}

/// The status of a DataVolume as annotations of its claim, from which CDI derives the DataVolume's status. CDI shows `condition.bound` only
/// while the claim is pending, and would show it afterwards if it stayed.
pub fn annotations_for_cdi(status: &DataVolumeStatus, waiting: Option<&Waiting>) -> Annotations {
    let mut annotations = annotations(status);
    annotations.insert(keys::USE_POPULATOR, Some("true".to_owned()));
    if status.phase == Phase::Failed {
        // KubeVirt reports the machine of a DataVolume with this reason as failed; the phase `Error` changes nothing in CDI.
        annotations.insert(keys::CONDITION_RUNNING_REASON, Some("Error".to_owned()));
    }
    let bound = status.conditions.iter().find(|c| c.type_ == types::BOUND);
    let is_told = waiting.is_some() || status.phase == Phase::Failed;
    let told = bound.filter(|bound| is_told && bound.status == "False");
    let reason = waiting.map(|waiting| waiting.reason().to_owned()).or_else(|| told?.reason.clone());
    annotations.extend([
        (keys::CONDITION_BOUND, told.map(|_| "false".to_owned())),
        (keys::CONDITION_BOUND_REASON, told.and(reason)),
        (keys::CONDITION_BOUND_MESSAGE, told.and_then(|bound| bound.message.clone())),
    ]);
    annotations
}

/// CDI's clone phase on the claim for the DataVolume's phase.
pub(super) fn clone_phase(phase: Phase) -> &'static str {
    match phase {
        Phase::SnapshotForSmartCloneInProgress => "Snapshot",
        Phase::CloneFromSnapshotSourceInProgress => "SnapshotClone",
        Phase::CsiCloneInProgress => "CSIClone",
        Phase::CloneInProgress => "HostClone",
        Phase::ExpansionInProgress | Phase::PrepClaimInProgress => "PrepClaim",
        Phase::RebindInProgress => "Rebind",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Error",
        _ => "Pending",
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        clone::request::{Parsed, Request},
        object::SourceKind,
    };

    #[test]
    fn a_claim_asks_for_what_a_data_volume_would() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": {(keys::DATA_SOURCE_NAMESPACE): "golden"}},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "cow", "resources": {"requests": {"storage": "2Gi"}},
                "dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": "s"}
            }
        }))
        .unwrap();
        assert_eq!(wanted(&claim), Some(("golden".into(), "s".into())));
        let source: VolumeCloneSource = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "golden"},
            "spec": {"source": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "fedora"}}
        }))
        .unwrap();
        let Parsed::Clone(request) = Request::parse(&as_data_volume(&claim, &source)) else { panic!("no clone") };
        assert_eq!(
            (request.source.kind, request.source.object.to_string()),
            (SourceKind::Snapshot, "golden/fedora".into())
        );
    }

    /// A claim is populated because of its reference, whatever else it carries, except one that is held back for its DataVolume.
    #[rstest]
    #[case::plain(json!({}), "s", true)]
    #[case::of_a_stateful_set(json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "x", "uid": "x", "controller": true}]}), "s", true)]
    #[case::of_an_operator_s_object(json!({"ownerReferences": [{"apiVersion": "x/v1", "kind": "Database", "name": "x", "uid": "x", "controller": true, "blockOwnerDeletion": true}]}), "s", true)]
    #[case::of_a_data_volume_with_another_reference(json!({"ownerReferences": [{"apiVersion": "x", "kind": "DataVolume", "name": "d", "uid": "d", "controller": true}]}), "s", true)]
    #[case::held_back_for_its_data_volume(json!({"ownerReferences": [{"apiVersion": "x", "kind": "DataVolume", "name": "d", "uid": "d", "controller": true}]}), "volume-clone-source-d", false)]
    #[case::protected(json!({"finalizers": ["kubernetes.io/pvc-protection", "example.com/backup"], "labels": {"app": "containerized-data-importer"}}), "s", true)]
    #[case::being_moved(json!({"annotations": {(keys::TRANSFER): "t"}}), "s", false)]
    fn a_claim_is_filled_by_its_reference(#[case] extra: Value, #[case] name: &str, #[case] expected: bool) {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "u"},
            "spec": {"dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": name}},
        });
        for (key, value) in extra.as_object().unwrap() {
            claim["metadata"][key] = value.clone();
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        assert_eq!(wanted(&claim).is_some(), expected);
    }
}
