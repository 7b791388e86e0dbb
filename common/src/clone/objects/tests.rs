use super::*;
use crate::clone::{
    Decision, decide,
    fixtures::{facts, request, volume},
    note::History,
    ownership::{Owner, Ownership},
};

fn chosen(request: &Request) -> Box<Chosen> {
    match decide(request, &History::default(), &facts()) {
        Decision::Chosen(chosen) => chosen,
        other => panic!("{other:?}"),
    }
}

/// Whatever a user writes on a DataVolume, its claim has nothing by which objects are recognized as ours; and what is made beside the
/// source proves whose it is without saying the key.
#[test]
fn a_user_s_labels_and_annotations_mark_nothing() {
    let written = volume(|object| {
        for key in meta::EVIDENCE.into_iter().chain([meta::OWNED_BY_UID, meta::OWNERSHIP_KEY, meta::NUDGED]) {
            object["metadata"]["annotations"][key] = "mine".into();
            object["metadata"]["labels"][key] = "mine".into();
        }
        object["metadata"]["annotations"]["example.com/note"] = "kept".into();
    });
    let (target, request) = (Target::of(&written), request(&written));
    let chosen = chosen(&request);
    let claim = claim(&target, &chosen, chosen.sizes.create_at, &DataSource::Later);
    let labels = claim.metadata.labels.unwrap_or_default();
    let annotations = claim.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("example.com/note").map(String::as_str), Some("kept"));
    assert!(labels.keys().chain(annotations.keys()).all(|key| !meta::is_reserved(key)), "{labels:?} {annotations:?}");

    let mut beside = temporary(&target, "gold", &ClaimTemplate::of(&chosen, chosen.sizes.create_at), None);
    assert!(!serde_json::to_string(&beside).unwrap().contains("mine"), "{beside:?}");
    beside.metadata.uid = Some("1".to_owned());
    let owners = Ownership { uid: &target.uid, key: target.key.as_deref(), created: &target.created };
    assert_eq!(owners.of(Kind::PersistentVolumeClaim, &beside.metadata), Owner::Ours);
}
