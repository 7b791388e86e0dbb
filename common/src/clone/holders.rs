//! Holders of a volume: pods, attachments and nodes that prevent its rebind.
//!
//! A volume that is rebound while it is mounted elsewhere stays readable and writable there. So the temporary claim is deleted first (a
//! finalizer keeps it), since kubelet starts no pod with a claim that is being deleted; then the holders are computed from the API server's
//! current state.

use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, Pod},
    storage::v1::VolumeAttachment,
};

/// The objects to check.
#[derive(Debug)]
pub struct Look<'a> {
    /// The name of the claim.
    pub claim: &'a str,
    /// The claim's volume.
    pub volume: &'a PersistentVolume,
    /// UIDs of smartclone's pods that use the claim.
    pub own: &'a [String],
    /// All pods in the claim's namespace.
    pub pods: &'a [Pod],
}

/// The holders of the volume, present or possible, in words for the user. A pod of smartclone stops being one when all of its containers
/// have ended; any other pod is one as long as it exists, because its writes would be part of the clone.
pub fn holders<'a>(
    look: &Look<'_>,
    attachments: impl IntoIterator<Item = &'a VolumeAttachment>,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> Vec<String> {
    let pods = look.pods.iter().filter(|pod| names(pod, look.claim) && !(is_own(pod, look.own) && has_ended(pod)));
    let pods = pods.map(|pod| {
        let meta = &pod.metadata;
        format!(
            "pod \"{}/{}\"",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        )
    });
    let volume = look.volume.metadata.name.as_deref();
    let attached = attachments
        .into_iter()
        .filter(|attachment| volume.is_some() && attachment.spec.source.persistent_volume_name.as_deref() == volume)
        .map(|attachment| format!("node {:?} (the volume is attached to it)", attachment.spec.node_name));
    let in_use = unique_name(look.volume);
    let used = nodes.into_iter().filter(|node| {
        let all = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
        in_use.as_ref().is_some_and(|name| all.contains(name))
    });
    let used = used.map(|node| {
        format!("node {:?} (its kubelet reports the volume in use)", node.metadata.name.as_deref().unwrap_or_default())
    });
    pods.chain(attached).chain(used).collect()
}

/// Kubelet's name of a CSI volume in `status.volumesInUse`; other volumes are never attached.
fn unique_name(volume: &PersistentVolume) -> Option<String> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// True if the pod has the claim among its volumes; the claim of a generic ephemeral volume is named `<pod>-<volume>`.
fn names(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    volumes.into_iter().any(|volume| {
        volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim)
            || volume.ephemeral.is_some() && format!("{name}-{}", volume.name) == claim
    })
}

fn is_own(pod: &Pod, own: &[String]) -> bool {
    pod.metadata.uid.as_ref().is_some_and(|uid| own.contains(uid))
}

/// True if all containers of the pod have ended for good. Only its phase, which the node writes, shows that; the end of one container
/// doesn't.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::keys;

    fn pod(uid: &str, phase: &str, volumes: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": uid, "labels": {(keys::OWNED_BY_UID): "dv"}},
            "spec": {"containers": [], "volumes": volumes}, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn claim(name: &str) -> Value {
        json!([{"name": "v", "persistentVolumeClaim": {"claimName": name}}])
    }

    fn volume() -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}},
        }))
        .unwrap()
    }

    fn attachment(volume: &str) -> VolumeAttachment {
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"attacher": "d", "nodeName": "worker", "source": {"persistentVolumeName": volume}},
        }))
        .unwrap()
    }

    fn node(volume: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "worker"}, "status": {"volumesInUse": [volume]}})).unwrap()
    }

    fn found(pods: &[Pod], attachments: &[VolumeAttachment], nodes: &[Node]) -> usize {
        let look = Look { claim: "tmp", volume: &volume(), own: &["mover".to_owned()], pods };
        holders(&look, attachments, nodes).len()
    }

    /// A pod, and true if it holds the volume.
    #[rstest]
    #[case::our_mover_ended(pod("mover", "Succeeded", &claim("tmp")), false)]
    #[case::our_mover_failed(pod("mover", "Failed", &claim("tmp")), false)]
    #[case::our_mover_with_a_container_that_runs(pod("mover", "Running", &claim("tmp")), true)]
    #[case::our_mover_of_unknown_state(pod("mover", "Unknown", &claim("tmp")), true)]
    #[case::a_stranger(pod("lurk", "Running", &claim("tmp")), true)]
    #[case::a_stranger_not_scheduled(pod("lurk", "Pending", &claim("tmp")), true)]
    #[case::a_stranger_that_has_ended(pod("lurk", "Succeeded", &claim("tmp")), true)]
    #[case::a_pod_with_another_claim(pod("lurk", "Running", &claim("other")), false)]
    #[case::a_pod_without_volumes(pod("lurk", "Running", &Value::Null), false)]
    fn pods_hold(#[case] pod: Pod, #[case] holds: bool) {
        assert_eq!(found(&[pod], &[], &[]), usize::from(holds));
    }

    #[test]
    fn attachments_and_nodes_hold_as_well() {
        assert_eq!(found(&[], &[attachment("pv"), attachment("other")], &[]), 1);
        assert_eq!(found(&[], &[], &[node("kubernetes.io/csi/d^h"), node("kubernetes.io/csi/d^other")]), 1);
        assert_eq!(found(&[], &[], &[]), 0);
        let ephemeral = pod("lurk", "Running", &json!([{"name": "x", "ephemeral": {}}]));
        let look = Look { claim: "p-x", volume: &volume(), own: &[], pods: &[ephemeral] };
        assert_eq!(holders(&look, &[], &[]), ["pod \"n/p\""]);
    }
}
