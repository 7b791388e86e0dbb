//! Pods that use a claim, and their write access to it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use crate::{clone::holders, keys, names};

/// A pod that uses a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The pod's name.
    pub pod: String,
    /// True if it has a node, so that it may be running.
    pub scheduled: bool,
    /// Its `status.startTime`, if it has started.
    pub started: Option<Timestamp>,
    /// True if it may write to the claim.
    pub writes: bool,
}

/// Returns the pods that use `claim`, without smartclone's own movers, for which `is_ours` is true. A pod that has ended does not count.
pub fn users_of<'a>(claim: &str, pods: impl IntoIterator<Item = &'a Pod>, is_ours: impl Fn(&Pod) -> bool) -> Vec<User> {
    let mut users: Vec<_> = pods.into_iter().filter(|pod| !is_ours(pod)).filter_map(|pod| user(claim, pod)).collect();
    users.sort_by(|a, b| a.pod.cmp(&b.pod));
    users
}

/// True if a pod has the label and the name of a data mover. This proves nothing, and suffices where only a warning depends on it.
pub fn is_named_mover(pod: &Pod) -> bool {
    let owner = pod.metadata.labels.as_ref().and_then(|labels| labels.get(keys::OWNED_BY_UID));
    owner.is_some_and(|uid| pod.metadata.name.as_deref() == Some(&names::mover(uid)))
}

pub(crate) fn user(claim: &str, pod: &Pod) -> Option<User> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    if holders::has_ended(pod) {
        return None;
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut using = volumes
        .iter()
        .filter(|v| {
            v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim)
                // The claim of a generic ephemeral volume is named <pod>-<volume>.
                || v.ephemeral.is_some() && pod.metadata.name.as_ref().is_some_and(|p| format!("{p}-{}", v.name) == claim)
        })
        .peekable();
    using.peek()?;
    let containers: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let debugged = spec.ephemeral_containers.as_ref().is_some_and(|c| !c.is_empty());
    let writes = using.any(|volume| debugged || may_write(volume, &containers));
    Some(User {
        pod: pod.metadata.name.clone().unwrap_or_default(),
        scheduled: spec.node_name.is_some(),
        started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        writes,
    })
}

/// True if a container may write to the volume: always to a device, to a mount unless it is read-only everywhere.
fn may_write(volume: &Volume, containers: &[&Container]) -> bool {
    if volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true)) {
        return false;
    }
    let device = |c: &&Container| c.volume_devices.iter().flatten().any(|d| d.name == volume.name);
    let mounted_for_writing =
        |c: &&Container| c.volume_mounts.iter().flatten().any(|m| m.name == volume.name && m.read_only != Some(true));
    containers.iter().any(|c| device(c) || mounted_for_writing(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A label does not exclude a writer: only the caller knows its own pods.
    #[test]
    fn a_label_hides_no_writer() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "labels": {(keys::OWNED_BY_UID): "dv"}},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                     "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "disk"}}]},
        }))
        .unwrap();
        let users = users_of("disk", [&pod], |_| false);
        assert!(users.iter().any(|user| user.writes), "{users:?}");
        assert_eq!(users_of("disk", [&pod], |_| true), vec![]);
    }
}
