//! The policies about temporary objects: claims, snapshots and pods that exist for one clone. Only the controller creates or changes
//! objects that look like them, and only it names a temporary claim in a pod. The volumes of a pod are immutable, so no other pod ever has
//! such a volume.

use common::{
    api::snapshot,
    keys::{self, CONTROLLER},
    manifest,
    names::pattern,
};
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ValidatingAdmissionPolicy};

use super::{CONNECTIONS, TEMPORARY, policy, rule, validation, variable};

/// Matches requests of every user but the controller.
fn by_others() -> Vec<MatchCondition> {
    vec![MatchCondition {
        name: "not-by-the-controller".to_owned(),
        expression: format!("request.userInfo.username != '{}'", manifest::user(CONTROLLER)),
    }]
}

/// The value of `key` in `field` (`labels` or `annotations`) of `object`; empty if there is none.
pub(super) fn value(object: &str, field: &str, key: &str) -> String {
    let map = format!("{object}.metadata.{field}");
    format!("(has({map}) && '{key}' in {map} ? {map}['{key}'] : '')")
}

/// True if `key` is unchanged; on a new object, if it is missing.
fn unchanged(field: &str, key: &str) -> String {
    let (now, before) = (value("object", field, key), value("oldObject", field, key));
    format!("{now} == (oldObject == null ? '' : {before})")
}

/// Claims, snapshots and pods that look like temporary objects, and pods that use temporary claims.
pub(super) fn objects() -> ValidatingAdmissionPolicy {
    let controller = manifest::user(CONTROLLER);
    let keys = [("labels", keys::OWNED_BY_UID)].into_iter().chain(keys::EVIDENCE.map(|key| ("annotations", key)));
    let keys: Vec<_> = keys.map(|(field, key)| unchanged(field, key)).collect();
    let ours = format!("oldObject != null && {} != ''", value("oldObject", "labels", keys::OWNED_BY_UID));
    let kept = |object: &str| {
        format!(
            "(has({object}.metadata.finalizers) && '{}' in {object}.metadata.finalizers)",
            keys::HAND_OVER_FINALIZER
        )
    };
    let names_claim = format!(
        "object.spec.volumes.exists(v, has(v.persistentVolumeClaim) && v.persistentVolumeClaim.claimName.matches('{claim}') || \
         has(v.ephemeral) && (object.metadata.name + '-' + v.name).matches('{claim}'))",
        claim = pattern::claim()
    );
    policy(
        manifest::cluster_meta(CONTROLLER, TEMPORARY),
        vec![
            rule("", "v1", "pods", &["CREATE", "UPDATE"]),
            rule("", "v1", "pods/ephemeralcontainers", &["UPDATE"]),
            rule("", "v1", "pods/resize", &["UPDATE"]),
            rule("", "v1", "pods/status", &["UPDATE"]),
            rule("", "v1", "persistentvolumeclaims", &["CREATE", "UPDATE"]),
            rule("", "v1", "persistentvolumeclaims/status", &["UPDATE"]),
            rule(snapshot::GROUP, "*", "volumesnapshots", &["CREATE", "UPDATE"]),
            rule(snapshot::GROUP, "*", "volumesnapshots/status", &["UPDATE"]),
        ],
        by_others(),
        vec![
            variable("ours", &ours),
            // The scheduler, the volume binder and kubelet write their own fields.
            variable(
                "kubernetes",
                "request.userInfo.username.startsWith('system:kube-') || \
                 request.userInfo.username.startsWith('system:serviceaccount:kube-system:') || \
                 has(request.userInfo.groups) && 'system:nodes' in request.userInfo.groups",
            ),
            variable(
                "volumes",
                "request.resource.resource == 'pods' && has(object.spec.volumes) && \
                 (oldObject == null || !has(oldObject.spec.volumes) || object.spec.volumes != oldObject.spec.volumes)",
            ),
        ],
        vec![
            validation(
                &keys.join(" &&\n"),
                &format!(
                    "the label {} and the annotations {} mark temporary objects of smartclone, and only its controller ({controller}) \
                     writes them; leave them out",
                    keys::OWNED_BY_UID,
                    keys::EVIDENCE.join(", "),
                ),
            ),
            validation(
                &format!("request.operation != 'CREATE' || !object.metadata.name.matches('{}')", pattern::any()),
                "names of this form are those of smartclone's temporary objects; choose another name",
            ),
            validation(
                &format!("!variables.volumes || !({names_claim})"),
                "a temporary claim of smartclone may be used by no pod but its own; wait for the clone and use its claim",
            ),
            validation(
                "!variables.ours || variables.kubernetes || request.subResource == 'status' || \
                 object.spec == oldObject.spec",
                "a temporary object of smartclone can't be changed; delete the DataVolume to end the clone",
            ),
            validation(
                &format!("oldObject == null || !{} || {}", kept("oldObject"), kept("object")),
                &format!("only smartclone takes its finalizer {} off a claim", keys::HAND_OVER_FINALIZER),
            ),
        ],
    )
}

/// Connections into a pod that has a temporary volume mounted.
pub(super) fn connections() -> ValidatingAdmissionPolicy {
    let resource = |name: &str| rule("", "v1", name, &["CONNECT"]);
    policy(
        manifest::cluster_meta(CONTROLLER, CONNECTIONS),
        vec![resource("pods/exec"), resource("pods/attach"), resource("pods/portforward")],
        by_others(),
        Vec::new(),
        vec![validation(
            &format!("!request.name.matches('{}')", pattern::pod()),
            "nobody connects to a pod that copies for smartclone; its log may be read",
        )],
    )
}
