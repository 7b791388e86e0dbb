//! Finalizers of CDI's controller, which served this API before. Without CDI nothing else removes them, and their objects and namespaces
//! would never be deleted (containerized-data-importer#3036).
//!
//! Each waits for a condition before its object is deleted. That is checked here; no object of CDI's is deleted.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{keys, object::ObjectName};

/// CDI's finalizers on DataVolumes and claims.
const FORMER: [&str; 3] = [keys::DATA_VOLUME_FINALIZER, keys::CLONE_POPULATOR_FINALIZER, keys::CLONE_SOURCE_FINALIZER];

/// The remaining finalizers of an object that is being deleted, without CDI's; `None` if it has none of CDI's.
pub fn other_finalizers(object: &ObjectMeta) -> Option<Vec<String>> {
    object.deletion_timestamp.as_ref()?;
    let all = object.finalizers.as_deref().unwrap_or_default();
    let others: Vec<_> = all.iter().filter(|name| !FORMER.contains(&name.as_str())).cloned().collect();
    (others.len() < all.len()).then_some(others)
}

/// The object that such a finalizer waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarded {
    /// A temporary object of the clone, by kind and name.
    Temporary(&'static str, ObjectName),
    /// A pod that uses the claim.
    User(String),
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Temporary(kind, name) => write!(f, "{kind} {name}"),
            Self::User(pod) => write!(f, "Pod {pod:?}"),
        }
    }
}

/// The object for which CDI's finalizers on `object` are still needed. `temporary` are the objects whose owner has the UID of `object`,
/// `users` the pods that use it.
pub fn guarded(
    object: &ObjectMeta,
    mut temporary: impl Iterator<Item = (&'static str, ObjectName)>,
    mut users: impl Iterator<Item = String>,
) -> Option<Guarded> {
    let has = |finalizer: &str| object.finalizers.iter().flatten().any(|name| name == finalizer);
    let has_temporary = has(keys::DATA_VOLUME_FINALIZER) || has(keys::CLONE_POPULATOR_FINALIZER);
    let left = if has_temporary { temporary.next() } else { None };
    let mut user = || if has(keys::CLONE_SOURCE_FINALIZER) { users.next() } else { None };
    left.map(|(kind, name)| Guarded::Temporary(kind, name)).or_else(|| user().map(Guarded::User))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const DV: &str = keys::DATA_VOLUME_FINALIZER;
    const POPULATOR: &str = keys::CLONE_POPULATOR_FINALIZER;
    const SOURCE: &str = keys::CLONE_SOURCE_FINALIZER;

    fn object(finalizers: &Value, deleting: bool) -> ObjectMeta {
        let time = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"uid": "1", "deletionTimestamp": time, "finalizers": finalizers})).unwrap()
    }

    /// Only CDI's finalizers are removed, and only from an object that is being deleted.
    #[rstest]
    #[case::none(json!([]), true, None)]
    #[case::of_others(json!(["a", "kubernetes.io/pvc-protection", keys::HAND_OVER_FINALIZER]), true, None)]
    #[case::of_a_transfer(json!([keys::TRANSFER_FINALIZER]), true, None)]
    #[case::data_volume(json!([DV]), true, Some(&[][..]))]
    #[case::populator(json!(["a", POPULATOR, "b"]), true, Some(&["a", "b"][..]))]
    #[case::source(json!([SOURCE, "a"]), true, Some(&["a"][..]))]
    #[case::all(json!([DV, POPULATOR, SOURCE]), true, Some(&[][..]))]
    #[case::lives(json!([DV, POPULATOR, SOURCE]), false, None)]
    fn stays(#[case] finalizers: Value, #[case] deleting: bool, #[case] expected: Option<&[&str]>) {
        let others = other_finalizers(&object(&finalizers, deleting));
        assert_eq!(others, expected.map(|all| all.iter().map(ToString::to_string).collect()));
    }

    /// A finalizer stays as long as an object that it waits for exists.
    #[rstest]
    #[case::nothing_left(json!([DV, POPULATOR, SOURCE]), false, false, None)]
    #[case::data_volume(json!([DV]), true, true, Some("PersistentVolumeClaim gold/smartclone-pvc-1"))]
    #[case::populator(json!([POPULATOR]), true, true, Some("PersistentVolumeClaim gold/smartclone-pvc-1"))]
    #[case::populator_and_user(json!([POPULATOR]), false, true, None)]
    #[case::source(json!([SOURCE]), true, true, Some("Pod \"reader\""))]
    #[case::source_unused(json!([SOURCE]), true, false, None)]
    #[case::both(json!([SOURCE, POPULATOR]), false, true, Some("Pod \"reader\""))]
    fn stands_for(
        #[case] finalizers: Value,
        #[case] temporary: bool,
        #[case] used: bool,
        #[case] expected: Option<&str>,
    ) {
        let claim = ObjectName { namespace: "gold".into(), name: "smartclone-pvc-1".into() };
        let temporary = temporary.then_some(("PersistentVolumeClaim", claim));
        let users = used.then(|| "reader".to_owned());
        let guarded = guarded(&object(&finalizers, true), temporary.into_iter(), users.into_iter());
        assert_eq!(guarded.map(|it| it.to_string()).as_deref(), expected);
    }
}
