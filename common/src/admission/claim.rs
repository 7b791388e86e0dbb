//! Admission of PersistentVolumeClaims that reference a VolumeCloneSource in their `dataSourceRef`.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    api::VolumeCloneSource,
    clone::{
        populator,
        request::{Parsed, Request},
    },
    field::{self, FieldError, annotation_path},
    keys::{self, TRANSFER},
    object::{self, ObjectName, SourceName},
};

/// The VolumeCloneSource that populates `claim`, if it references one; it may be in another namespace. Owners are ignored, as they may
/// change.
pub fn clone_source(claim: &PersistentVolumeClaim) -> Option<ObjectName> {
    let mut unowned = claim.clone();
    unowned.metadata.owner_references = None;
    populator::wanted(&unowned).map(|(namespace, name)| ObjectName { namespace, name })
}

/// The source that `claim` gets through `source`, or the error why there is none.
pub fn source(claim: &PersistentVolumeClaim, source: &VolumeCloneSource) -> Result<SourceName, String> {
    match Request::parse(&populator::as_data_volume(claim, source)) {
        Parsed::Clone(request) => Ok(request.source),
        Parsed::Wrong(errors) => Err(field::joined(&errors)),
        Parsed::Reference(..) | Parsed::NotAClone => Err("it names no source".to_owned()),
    }
}

/// The error if an update makes another VolumeCloneSource populate the claim. The API server allows that, as the namespace is an
/// annotation; the requester's access is checked only at creation, so the reference must not change.
pub fn changed(old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) -> Option<FieldError> {
    let source = clone_source(new).filter(|source| clone_source(old).as_ref() != Some(source))?;
    let kept = |key: &str| object::annotation(&old.metadata, key) == object::annotation(&new.metadata, key);
    let key = if kept(TRANSFER) { keys::DATA_SOURCE_NAMESPACE } else { TRANSFER };
    let cure = format!(
        "which VolumeCloneSource fills a claim is said at its creation, and this change makes it {source}; delete the claim and create \
         another one"
    );
    Some(FieldError::forbidden(annotation_path(key), cure))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const PATH: Option<&str> = Some("metadata.annotations[cdi.kubevirt.io/dataSourceNamespace]");

    fn claim(kind: &str, annotations: &Value) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "n", "annotations": annotations},
            "spec": {"dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": kind, "name": "s"}},
        }))
        .unwrap()
    }

    #[rstest]
    #[case::nothing(json!({}), json!({}), None)]
    #[case::something_else(json!({}), json!({"a": "b"}), None)]
    #[case::nothing_written(json!({}), json!({(keys::DATA_SOURCE_NAMESPACE): ""}), None)]
    #[case::its_own_written(json!({}), json!({(keys::DATA_SOURCE_NAMESPACE): "n"}), None)]
    #[case::added(json!({}), json!({(keys::DATA_SOURCE_NAMESPACE): "gold"}), PATH)]
    #[case::changed(json!({(keys::DATA_SOURCE_NAMESPACE): "a"}), json!({(keys::DATA_SOURCE_NAMESPACE): "gold"}), PATH)]
    #[case::removed(json!({(keys::DATA_SOURCE_NAMESPACE): "gold"}), json!({}), PATH)]
    #[case::not_to_be_filled_any_more(json!({}), json!({(TRANSFER): "t"}), None)]
    #[case::changed_meanwhile(
        json!({(TRANSFER): "t"}),
        json!({(TRANSFER): "t", (keys::DATA_SOURCE_NAMESPACE): "gold"}),
        None
    )]
    #[case::and_to_be_filled_again(
        json!({(TRANSFER): "t", (keys::DATA_SOURCE_NAMESPACE): "gold"}),
        json!({(keys::DATA_SOURCE_NAMESPACE): "gold"}),
        Some("metadata.annotations[smartclone.dev/transfer]")
    )]
    fn what_fills_a_claim_stays(#[case] old: Value, #[case] new: Value, #[case] field: Option<&str>) {
        let error = |kind: &str| changed(&claim(kind, &old), &claim(kind, &new)).map(|error| error.field);
        assert_eq!(error("VolumeCloneSource").as_deref(), field);
        assert_eq!(error("VolumeImportSource"), None);
    }
}
