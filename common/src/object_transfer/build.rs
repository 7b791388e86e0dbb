//! Objects that are created at the target. They neither own nor are owned by the ObjectTransfer, so that they stay when it is deleted.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Move, Moved, Subject};

use crate::{
    api::{self, DataVolume},
    keys::{self, TRANSFER},
    quantity::Bytes,
    rebind,
};

/// Returns the capacity of a claim's volume, from the status of the claim.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<Bytes> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage").and_then(|q| Bytes::of(q).ok()).filter(|size| size.0 > 0)
}

/// Builds the target claim: as the source, with the capacity of its volume. Its `dataSourceRef` is of a kind that only smartclone
/// populates, so nothing else fills the claim. Returns `None` if the source is not bound.
pub fn claim(transfer: &Subject, wanted: &Move, source: &PersistentVolumeClaim) -> Option<PersistentVolumeClaim> {
    let spec = source.spec.as_ref()?;
    let size = capacity(source)?;
    let mut metadata = metadata(transfer, wanted, &source.metadata);
    if wanted.kind == Moved::DataVolume {
        annotate(&mut metadata, keys::POPULATED_FOR, &wanted.target.name);
    }
    Some(PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: spec.access_modes.clone(),
            volume_mode: spec.volume_mode.clone(),
            // Always set: the API server would fill in the default class, which may not be the volume's.
            storage_class_name: Some(spec.storage_class_name.clone().unwrap_or_default()),
            volume_attributes_class_name: spec.volume_attributes_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size.into())])),
                limits: None,
            }),
            data_source_ref: Some(rebind::held_back(&transfer.uid)),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

/// Builds the target DataVolume: as the source, annotated with a claim that is already populated.
pub fn data_volume(transfer: &Subject, wanted: &Move, source: &DataVolume) -> DataVolume {
    let mut metadata = metadata(transfer, wanted, &source.metadata);
    annotate(&mut metadata, keys::PRE_POPULATED, &wanted.target.name);
    DataVolume { metadata, spec: source.spec.clone(), status: None }
}

fn annotate(metadata: &mut ObjectMeta, key: &str, value: &str) {
    metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn metadata(transfer: &Subject, wanted: &Move, source: &ObjectMeta) -> ObjectMeta {
    let stays = wanted.source.namespace == wanted.target.namespace;
    let kept = |map: &Option<BTreeMap<String, String>>, keep: fn(&str, bool) -> bool| -> BTreeMap<String, String> {
        let all = map.iter().flatten().filter(|(key, _)| keep(key, stays));
        all.map(|(key, value)| {
            // Content that was populated for the old name is populated for the new one.
            let renamed = is_populated(key) && *value == wanted.source.name;
            (key.clone(), if renamed { wanted.target.name.clone() } else { value.clone() })
        })
        .collect()
    };
    let mut labels = kept(&source.labels, keeps_label);
    if labels.get(keys::APP_LABEL).is_some_and(|app| app == keys::APP) {
        labels.remove(keys::APP_LABEL);
    }
    let mut metadata = ObjectMeta {
        name: Some(wanted.target.name.clone()),
        namespace: Some(wanted.target.namespace.clone()),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        annotations: Some(kept(&source.annotations, keeps_annotation)),
        ..ObjectMeta::default()
    };
    annotate(&mut metadata, TRANSFER, &transfer.uid);
    metadata
}

/// True for annotations about the content, which moves along (`populatedFor`, `prePopulated`, …).
fn is_populated(key: &str) -> bool {
    key.strip_prefix("cdi.kubevirt.io/storage.").is_some_and(|rest| rest.to_ascii_lowercase().contains("populated"))
}

fn keeps_annotation(key: &str, stays: bool) -> bool {
    let (prefix, _) = key.split_once('/').unwrap_or_default();
    key == keys::CONTENT_TYPE || is_populated(key) || stays && !is_system(prefix)
}

fn keeps_label(key: &str, stays: bool) -> bool {
    let (prefix, _) = key.split_once('/').unwrap_or_default();
    // The labels that Kubernetes recommends to users have its prefix, too.
    prefix == keys::INSTANCE_TYPES || stays && (prefix == "app.kubernetes.io" || !is_system(prefix))
}

/// True for prefixes of Kubernetes, CDI and smartclone, whose labels and annotations describe the old object only.
fn is_system(prefix: &str) -> bool {
    let of = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    prefix == api::GROUP || prefix == "smartclone.dev" || of("kubernetes.io") || of("k8s.io")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("mine", true, false)]
    #[case("example.com/mine", true, false)]
    #[case("cdi.kubevirt.io/storage.contentType", true, true)]
    #[case("cdi.kubevirt.io/storage.populatedFor", true, true)]
    #[case("cdi.kubevirt.io/storage.prePopulated", true, true)]
    #[case("cdi.kubevirt.io/cloneType", false, false)]
    #[case("smartclone.dev/requester", false, false)]
    #[case("pv.kubernetes.io/bind-completed", false, false)]
    #[case("kubectl.kubernetes.io/last-applied-configuration", false, false)]
    #[case("volume.kubernetes.io/selected-node", false, false)]
    #[case("notkubernetes.io/mine", true, false)]
    fn annotations(#[case] key: &str, #[case] within: bool, #[case] across: bool) {
        assert_eq!((keeps_annotation(key, true), keeps_annotation(key, false)), (within, across));
    }

    #[rstest]
    #[case("mine", true, false)]
    #[case("app.kubernetes.io/name", true, false)]
    #[case("instancetype.kubevirt.io/default-preference", true, true)]
    #[case("cdi.kubevirt.io/OwnedByUID", false, false)]
    #[case("topology.kubernetes.io/zone", false, false)]
    fn labels(#[case] key: &str, #[case] within: bool, #[case] across: bool) {
        assert_eq!((keeps_label(key, true), keeps_label(key, false)), (within, across));
    }
}
