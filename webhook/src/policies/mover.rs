//! The policy about pods that the controller's account creates: data movers only. A stolen account can't start other programs, use a node's
//! own namespaces or files, or mount a Secret.

use common::{
    keys::{self, CONTROLLER},
    manifest, mover,
};
use k8s_openapi::{
    api::admissionregistration::v1::{MatchCondition, ParamKind, ValidatingAdmissionPolicy},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};

use super::{MOVER_IMAGE, MOVERS, policy, rule, validation};

/// The conditions for every container of such a pod: no privileges and no Secrets.
const ANY: &str = "\
!has(c.envFrom) && (!has(c.env) || c.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.secretKeyRef) && !has(e.valueFrom.configMapKeyRef))) &&
has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation) && !c.securityContext.allowPrivilegeEscalation &&
(!has(c.securityContext.privileged) || !c.securityContext.privileged) &&
has(c.securityContext.capabilities) && has(c.securityContext.capabilities.drop) && 'ALL' in c.securityContext.capabilities.drop";

/// The conditions for the data mover.
const MOVER: &str = "!has(c.lifecycle) && !has(c.command) && (!has(c.env) || c.env.all(e, !has(e.valueFrom)))";

/// The conditions for any other container: one that a mutating policy of the cluster has injected, such as the proxy of a service mesh. It
/// has no data: it mounts no claim, and adds no capability. A validating policy can't tell who added it.
const SIDECAR: &str = "\
!has(c.volumeDevices) && !has(c.securityContext.capabilities.add) &&
(!has(c.volumeMounts) || c.volumeMounts.all(m, object.spec.volumes.exists(v, v.name == m.name && has(v.emptyDir))))";

fn by_the_controller() -> Vec<MatchCondition> {
    let expression = format!("request.userInfo.username == '{}'", manifest::user(CONTROLLER));
    vec![MatchCondition { name: "by-the-controller".to_owned(), expression }]
}

/// The image of a data mover is the one in the ConfigMap of the installation.
///
/// The API server looks for a parameter before it looks at the conditions, for every request that the constraints of a policy match. So the
/// constraints select the pods with our label, which the other policy requires: whatever becomes of the ConfigMap, no other pod is affected.
pub(super) fn image() -> ValidatingAdmissionPolicy {
    let mut policy = policy(
        manifest::cluster_meta(CONTROLLER, MOVER_IMAGE),
        vec![rule("", "v1", "pods", &["CREATE"])],
        by_the_controller(),
        Vec::new(),
        vec![validation(
            &format!("object.spec.containers.all(c, c.name != '{}' || c.image == params.data.image)", mover::CONTAINER),
            &format!("a pod of the controller runs the image in ConfigMap {}", manifest::CLONER_CONFIG),
        )],
    );
    if let Some(spec) = &mut policy.spec {
        spec.param_kind = Some(ParamKind { api_version: Some("v1".to_owned()), kind: Some("ConfigMap".to_owned()) });
        if let Some(constraints) = &mut spec.match_constraints {
            let labelled = LabelSelectorRequirement {
                key: keys::OWNED_BY_UID.to_owned(),
                operator: "Exists".to_owned(),
                values: None,
            };
            constraints.object_selector =
                Some(LabelSelector { match_expressions: Some(vec![labelled]), match_labels: None });
        }
    }
    policy
}

pub(super) fn pods() -> ValidatingAdmissionPolicy {
    let label = keys::OWNED_BY_UID;
    policy(
        manifest::cluster_meta(CONTROLLER, MOVERS),
        vec![rule("", "v1", "pods", &["CREATE"])],
        by_the_controller(),
        Vec::new(),
        vec![
            validation(
                &format!(
                    "has(object.metadata.labels) && '{label}' in object.metadata.labels && \
                     object.metadata.name.endsWith(object.metadata.labels['{label}'])"
                ),
                "the controller creates no pod but those of a clone",
            ),
            validation(
                &format!(
                    "!has(object.spec.ephemeralContainers) && \
                     object.spec.containers.exists_one(c, c.name == '{mover}') && \
                     object.spec.containers.all(c, {ANY} && (c.name == '{mover}' ? {MOVER} : {SIDECAR})) && \
                     (!has(object.spec.initContainers) || object.spec.initContainers.all(c, {ANY} && {SIDECAR}))",
                    mover = mover::CONTAINER,
                ),
                "a pod of the controller is a data mover with its claims; no container has privileges or Secrets, and none but the data mover has \
                 the claims",
            ),
            validation(
                "(!has(object.spec.hostNetwork) || !object.spec.hostNetwork) && (!has(object.spec.hostPID) || !object.spec.hostPID) && \
                 (!has(object.spec.hostIPC) || !object.spec.hostIPC) && !has(object.spec.nodeName)",
                "a pod of the controller has none of its node's namespaces, and chooses no node",
            ),
            validation(
                "has(object.spec.automountServiceAccountToken) && !object.spec.automountServiceAccountToken && \
                 (!has(object.spec.volumes) || object.spec.volumes.all(v, has(v.persistentVolumeClaim) || has(v.emptyDir)))",
                "a pod of the controller has claims and empty directories and nothing else: no token, Secret or path of its node",
            ),
        ],
    )
}
