//! Ownership of temporary objects: distinguishes those that the controller created from others with their name.
//!
//! Names and labels prove nothing, because a user who may create objects beside a source can set both. An object is ours if its UID is the
//! one that our create call returned (kept in memory, and in the DataVolume's status). If a restart lost that UID, an annotation takes its
//! place that only the holder of the DataVolume's ownership key can compute. The key is never written beside the source.

use crate::object;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::write::Kind;
use crate::keys;

/// UIDs of temporary objects by name, as returned by create calls.
pub type Created = BTreeMap<String, String>;

/// The owner of a temporary object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Created by this controller for this clone.
    Ours,
    /// Has our proof and another UID than the recorded one: its content is ignored, and it may be deleted.
    Replaced,
    /// Created by others. It is left alone.
    Foreign,
}

/// The recorded identity of one clone's temporary objects.
#[derive(Debug, Clone, Copy)]
pub struct Ownership<'a> {
    /// The UID of the clone: of its DataVolume, or of the claim that is populated without one. For a shared snapshot, the UID of its first
    /// member.
    pub uid: &'a str,
    /// The ownership key of the clone that created the object, if it has one.
    pub key: Option<&'a str>,
    /// The recorded UIDs.
    pub created: &'a Created,
}

impl Ownership<'_> {
    /// Determines the owner of an object of this kind.
    pub fn of(&self, kind: Kind, object: &ObjectMeta) -> Owner {
        let (Some(name), Some(uid)) = (&object.name, &object.uid) else { return Owner::Foreign };
        let labelled = object.labels.as_ref().and_then(|l| l.get(keys::OWNED_BY_UID)).is_some_and(|l| l == self.uid);
        let namespace = object.namespace.as_deref().unwrap_or_default();
        let expected = self.key.map(|key| proof(key, kind, namespace, name));
        let stated = object::annotation(object, keys::PROOF);
        let stated = if kind == Kind::VolumeSnapshot {
            stated.and_then(|text| text.split_once('/')).map(|it| it.1)
        } else {
            stated
        };
        let proven = labelled && expected.is_some() && stated == expected.as_deref();
        match self.created.get(name) {
            Some(known) if known == uid => Owner::Ours,
            Some(_) if proven => Owner::Replaced,
            None if proven => Owner::Ours,
            Some(_) | None => Owner::Foreign,
        }
    }
}

/// The proof for an object of this kind and name; it reveals neither the key nor the proof of another object.
pub fn proof(key: &str, kind: Kind, namespace: &str, name: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("smartclone.dev 2026-11 proof of temporary objects");
    // None of these can contain a slash.
    for part in [key, kind.as_str(), namespace, name] {
        hasher.update(part.as_bytes()).update(b"/");
    }
    hasher.finalize().to_hex().to_string()
}

/// The proof of a snapshot that several clones share, with the UID of the clone that created it.
pub fn with_creator(uid: &str, proof: &str) -> String {
    format!("{uid}/{proof}")
}

/// The UID of the clone that created a shared snapshot, as recorded in the snapshot.
pub fn creator(snapshot: &ObjectMeta) -> Option<&str> {
    object::annotation(snapshot, keys::PROOF)?.split_once('/').map(|it| it.0)
}

#[cfg(test)]
mod tests {
    use Owner::{Foreign, Ours, Replaced};
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const NAME: &str = "smartclone-pvc-dv";

    /// An object named [`NAME`], created for the clone `dv`, whose key is `k`.
    fn object(label: Option<&str>, proof: Option<String>, uid: &str) -> ObjectMeta {
        let labels = label.map(|uid| json!({(keys::OWNED_BY_UID): uid}));
        let annotations = proof.map(|proof| json!({(keys::PROOF): proof}));
        serde_json::from_value(json!({
            "name": NAME, "namespace": "gold", "uid": uid, "labels": labels, "annotations": annotations,
        }))
        .unwrap()
    }

    fn right() -> String {
        proof("k", Kind::PersistentVolumeClaim, "gold", NAME)
    }

    /// Label and proof of an object, and its expected owner if no UID is recorded, if its own is, and if another one is.
    #[rstest]
    #[case::ours(Some("dv"), Some(right()), [Ours, Ours, Replaced])]
    #[case::with_a_label_alone(Some("dv"), None, [Foreign, Ours, Foreign])]
    #[case::of_another_clone(Some("other"), Some(right()), [Foreign, Ours, Foreign])]
    #[case::without_a_label(None, Some(right()), [Foreign, Ours, Foreign])]
    #[case::with_another_key(Some("dv"), Some(proof("l", Kind::PersistentVolumeClaim, "gold", NAME)), [Foreign, Ours, Foreign])]
    #[case::of_another_kind(Some("dv"), Some(proof("k", Kind::Pod, "gold", NAME)), [Foreign, Ours, Foreign])]
    #[case::of_another_namespace(Some("dv"), Some(proof("k", Kind::PersistentVolumeClaim, "lead", NAME)), [Foreign, Ours, Foreign])]
    #[case::of_another_name(Some("dv"), Some(proof("k", Kind::PersistentVolumeClaim, "gold", "smartclone-source-pvc-dv")), [Foreign, Ours, Foreign])]
    #[case::with_an_empty_proof(Some("dv"), Some(String::new()), [Foreign, Ours, Foreign])]
    fn owners(#[case] label: Option<&str>, #[case] proof: Option<String>, #[case] expected: [Owner; 3]) {
        let object = object(label, proof, "1");
        let records =
            [Created::new(), [(NAME.to_owned(), "1".to_owned())].into(), [(NAME.to_owned(), "2".to_owned())].into()];
        let whose = records
            .each_ref()
            .map(|created| Ownership { uid: "dv", key: Some("k"), created }.of(Kind::PersistentVolumeClaim, &object));
        assert_eq!(whose, expected);
        // Without a key there is no proof.
        let keyless = Ownership { uid: "dv", key: None, created: &Created::new() };
        assert_eq!(keyless.of(Kind::PersistentVolumeClaim, &object), Foreign);
    }
}
