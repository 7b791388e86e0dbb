//! The index of pods by the claim that they use.

use std::time::Instant;

use common::object::ObjectName;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::names_by_key::NamesByKey;

/// The names of pods by the claim that they use. Deleted pods are kept for a while. The watch of pods fills it.
#[derive(Default)]
pub struct PodsByClaim(NamesByKey<ObjectName, ObjectName>);

impl PodsByClaim {
    /// Records the claims of a pod that was created, changed or deleted. `exists` looks a pod up in the cache.
    pub fn record(&self, pod: &Pod, now: Instant, exists: impl Fn(&ObjectName) -> bool) {
        let Some(namespace) = pod.namespace() else { return };
        self.0.record(ObjectName { namespace, name: pod.name_any() }, claims_of(pod), now, exists);
    }

    /// The pods that use `claim`, by name.
    pub fn of(&self, claim: &ObjectName) -> Vec<String> {
        self.0.of(claim).into_iter().map(|pod| pod.name).collect()
    }
}

/// The claims that a pod uses; that of a generic ephemeral volume is named `<pod>-<volume>`.
pub fn claims_of(pod: &Pod) -> Vec<ObjectName> {
    let namespace = pod.namespace().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    });
    names.map(|name| ObjectName { namespace: namespace.clone(), name }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::triggers::names_by_key::MAX_CACHE_DELAY;

    #[test]
    fn a_pod_is_found_by_its_claims_until_it_is_gone() {
        let pod = |claim: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "vm", "namespace": "n"},
                "spec": {"containers": [], "volumes": [
                    {"name": "disk", "persistentVolumeClaim": {"claimName": claim}}, {"name": "scratch", "ephemeral": {}}
                ]}
            }))
            .unwrap()
        };
        let claim = |name: &str| ObjectName { namespace: "n".into(), name: name.into() };
        let index = PodsByClaim::default();
        let now = Instant::now();
        index.record(&pod("a"), now, |_| true);
        index.record(&pod("b"), now, |_| true);
        assert_eq!((index.of(&claim("a")), index.of(&claim("b"))), (vec![], vec!["vm".to_owned()]));
        assert_eq!(index.of(&claim("vm-scratch")), ["vm"]);
        index.record(&pod("b"), now, |_| false);
        assert_eq!(index.of(&claim("b")), ["vm"]);
        let other: Pod = serde_json::from_value(json!({"metadata": {"name": "other", "namespace": "n"}})).unwrap();
        index.record(&other, now + 2 * MAX_CACHE_DELAY, |name| name.name == "other");
        assert_eq!(index.of(&claim("b")), Vec::<String>::new());
    }
}
