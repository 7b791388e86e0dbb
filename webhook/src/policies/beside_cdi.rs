//! The policies beside CDI: who may mark a clone and take the mark away, and what the controller may write of CDI's objects.

use common::{
    api,
    keys::{self, BESIDE_CDI, CLONE_PHASE, CONTROLLER, PRE_POPULATED, REQUESTER, SENTINEL, WEBHOOK},
    manifest, rebind,
};
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ValidatingAdmissionPolicy};

use super::{BARE_CLAIMS, CDI_OBJECTS, COPIES, MARK, RELEASE, policy, rule, temporary::value, validation, variable};

fn condition(name: &str, expression: String) -> Vec<MatchCondition> {
    vec![MatchCondition { name: name.to_owned(), expression }]
}

/// True if the request is the controller's.
fn by_controller() -> String {
    format!("request.userInfo.username == '{}'", manifest::user(CONTROLLER))
}

/// True if the update gives the object to CDI on purpose, by a user with the verb [`RELEASE`] on `resource`. Whoever only loses
/// annotations does not write the opt-out, so even a cluster admin's `kubectl apply` is no release.
fn is_released(group: &str, resource: &str) -> String {
    format!(
        "{} == 'false' && authorizer.group('{group}').resource('{resource}').namespace(request.namespace)\
         .name(request.name).check('{RELEASE}').allowed()",
        value("object", "annotations", BESIDE_CDI),
    )
}

/// The mark that keeps CDI off a DataVolume.
pub(super) fn mark() -> ValidatingAdmissionPolicy {
    let is_marked = |object: &str| format!("{} == '{SENTINEL}'", value(object, "annotations", PRE_POPULATED));
    policy(
        manifest::cluster_meta(WEBHOOK, MARK),
        vec![
            rule(api::GROUP, api::VERSION, "datavolumes", &["CREATE", "UPDATE"]),
            rule(api::GROUP, api::VERSION, "datavolumes/status", &["UPDATE"]),
        ],
        condition("marked", format!("{} || oldObject != null && {}", is_marked("object"), is_marked("oldObject"))),
        vec![
            variable("now", &value("object", "annotations", PRE_POPULATED)),
            variable(
                "before",
                &format!("oldObject == null ? '' : {}", value("oldObject", "annotations", PRE_POPULATED)),
            ),
        ],
        vec![
            validation(
                &format!("variables.now != '{SENTINEL}' || {} != ''", value("object", "annotations", REQUESTER)),
                &format!(
                    "the annotation {PRE_POPULATED}: {SENTINEL} keeps CDI off a clone that smartclone has taken; leave it to smartclone's \
                     webhook"
                ),
            ),
            validation(
                &format!(
                    "variables.now != '{SENTINEL}' || request.operation == 'CREATE' || variables.before == '{SENTINEL}' || {}",
                    by_controller()
                ),
                &format!(
                    "the annotation {PRE_POPULATED}: {SENTINEL} is written when a DataVolume is created; delete it and create another one"
                ),
            ),
            // Another value is written by CDI, KubeVirt and backups when the claim is filled.
            validation(
                &format!(
                    "variables.before != '{SENTINEL}' || variables.now != '' || has(object.metadata.deletionTimestamp) || {} || {}",
                    by_controller(),
                    is_released(api::GROUP, "datavolumes"),
                ),
                &format!(
                    "smartclone clones this DataVolume beside CDI; to give it to CDI, remove {PRE_POPULATED} and set {BESIDE_CDI}: \"false\" in \
                     one update, which needs the verb {RELEASE} on it"
                ),
            ),
        ],
    )
}

/// Claims that smartclone fills without a DataVolume: CDI's populator skips them as long as they are declared complete.
pub(super) fn bare_claims() -> ValidatingAdmissionPolicy {
    let is_taken = format!(
        "{} != '' && {} == 'true'",
        value("oldObject", "annotations", REQUESTER),
        value("oldObject", "annotations", BESIDE_CDI)
    );
    policy(
        manifest::cluster_meta(WEBHOOK, BARE_CLAIMS),
        vec![
            rule("", "v1", "persistentvolumeclaims", &["UPDATE"]),
            rule("", "v1", "persistentvolumeclaims/status", &["UPDATE"]),
        ],
        condition("taken", is_taken),
        Vec::new(),
        vec![validation(
            &format!(
                "{now} == {before} || {before} == '' || has(object.spec.volumeName) && object.spec.volumeName != '' || \
                 has(object.metadata.deletionTimestamp) || {controller} || {released}",
                now = value("object", "annotations", CLONE_PHASE),
                before = value("oldObject", "annotations", CLONE_PHASE),
                controller = by_controller(),
                released = is_released("", "persistentvolumeclaims"),
            ),
            &format!(
                "smartclone fills this claim beside CDI, and {CLONE_PHASE} keeps CDI off it; to give it to CDI, remove {CLONE_PHASE} and set \
                 {BESIDE_CDI}: \"false\" in one update, which needs the verb {RELEASE} on it"
            ),
        )],
    )
}

/// A claim that CDI makes for a DataVolume which smartclone has taken. CDI does not make one; the policy proves it.
pub(super) fn copies() -> ValidatingAdmissionPolicy {
    policy(
        manifest::cluster_meta(WEBHOOK, COPIES),
        vec![rule("", "v1", "persistentvolumeclaims", &["CREATE"])],
        condition(
            "by-cdi",
            "request.userInfo.username.startsWith('system:serviceaccount:') && request.userInfo.username.endsWith(':cdi-sa')"
                .to_owned(),
        ),
        Vec::new(),
        vec![validation(
            &format!(
                "{} != '{SENTINEL}' || !has(object.spec.dataSourceRef) || object.spec.dataSourceRef.kind != '{}' || \
                 !has(object.spec.dataSourceRef.apiGroup) || object.spec.dataSourceRef.apiGroup != '{}'",
                value("object", "annotations", PRE_POPULATED),
                rebind::VOLUME_CLONE_SOURCE,
                api::GROUP,
            ),
            "smartclone clones the DataVolume of this claim; CDI keeps off it",
        )],
    )
}

/// Confines the controller's account among CDI's objects, which CDI's controllers write.
pub(super) fn cdi_objects() -> ValidatingAdmissionPolicy {
    let same = |field: &str| {
        let (has_now, has_before) = (format!("has(object.{field})"), format!("has(oldObject.{field})"));
        format!("{has_now} == {has_before} && (!{has_now} || object.{field} == oldObject.{field})")
    };
    let only_annotations =
        ["spec", "metadata.labels", "metadata.finalizers", "metadata.ownerReferences"].map(same).join(" && ");
    let annotations =
        |object: &str| format!("(has({object}.metadata.annotations) ? {object}.metadata.annotations : {{}})");
    let refusals = keys::REFUSALS;
    let of = |resource: &str| format!("request.resource.resource != '{resource}' || request.operation != 'UPDATE'");
    policy(
        manifest::cluster_meta(CONTROLLER, CDI_OBJECTS),
        // With all subresources.
        vec![rule(api::GROUP, "*", "*/*", &["CREATE", "UPDATE", "DELETE"])],
        condition("by-the-controller", by_controller()),
        Vec::new(),
        vec![
            validation(
                "request.operation == 'UPDATE' && request.resource.resource in ['datavolumes', 'storageprofiles']",
                "beside CDI, smartclone writes no objects of CDI but DataVolumes and StorageProfiles, and creates and deletes none",
            ),
            validation(
                &format!("{} || request.subResource == 'status' || {only_annotations}", of("datavolumes")),
                "beside CDI, smartclone writes of a DataVolume only annotations and the status",
            ),
            validation(
                &format!(
                    "{} || request.subResource == '' && {only_annotations} && \
                     {new}.all(key, key == '{refusals}' || key in {old} && {new}[key] == {old}[key]) && \
                     {old}.all(key, key == '{refusals}' || key in {new})",
                    of("storageprofiles"),
                    new = annotations("object"),
                    old = annotations("oldObject"),
                ),
                &format!("beside CDI, smartclone writes of a StorageProfile only the annotation {refusals}"),
            ),
        ],
    )
}
