//! The policy that confines the controller's account: the objects that it may change and delete.

use common::{
    api::snapshot,
    confinement,
    keys::{self, CONTROLLER},
    manifest, names,
};
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ValidatingAdmissionPolicy};

use super::{CONFINEMENT, policy, rule, validation, variable};

/// Confines the controller's account, whose RBAC rights cover every claim and every volume.
pub(super) fn confinement() -> ValidatingAdmissionPolicy {
    let label = keys::OWNED_BY_UID;
    let has_label = |object: &str| format!("has({object}.metadata.labels) && '{label}' in {object}.metadata.labels");
    let label_of = |object: &str| format!("({} ? {object}.metadata.labels['{label}'] : '')", has_label(object));
    let finalizers = |object: &str| {
        let all = format!("{object}.metadata.finalizers");
        format!("(has({all}) ? {all} : [])")
    };
    let (own, former) =
        (keys::HAND_OVER_FINALIZER, [keys::CLONE_POPULATOR_FINALIZER, keys::CLONE_SOURCE_FINALIZER].join("', '"));
    let mark = keys::HANDED_OVER;
    let account = manifest::user(CONTROLLER);
    let on = |resource: &str, operation: &str| {
        format!("request.resource.resource != '{resource}' || request.operation != '{operation}'")
    };
    let changed = |field: &str| {
        format!(
            "(has(object.spec.{field}) != has(oldObject.spec.{field}) || \
             has(object.spec.{field}) && object.spec.{field} != oldObject.spec.{field})"
        )
    };
    policy(
        manifest::cluster_meta(CONTROLLER, CONFINEMENT),
        vec![
            rule("", "v1", "persistentvolumes", &["UPDATE"]),
            rule("", "v1", "persistentvolumeclaims", &["UPDATE", "DELETE"]),
            rule("", "v1", "pods", &["DELETE"]),
            rule(snapshot::GROUP, "*", "volumesnapshots", &["CREATE", "DELETE"]),
            rule(snapshot::GROUP, "*", "volumesnapshotcontents", &["UPDATE"]),
        ],
        vec![MatchCondition {
            name: "by-the-controller".to_owned(),
            expression: format!("request.userInfo.username == '{account}'"),
        }],
        vec![
            variable("labelled", &has_label("oldObject")),
            variable("marked", &format!("has(object.metadata.annotations) && '{mark}' in object.metadata.annotations")),
        ],
        vec![
            validation(
                &format!(
                    "{} || !{} || variables.marked && has(object.spec.claimRef) && has(object.spec.claimRef.uid)",
                    on("persistentvolumes", "UPDATE"),
                    changed("claimRef"),
                ),
                &format!("a volume changes hands only with the mark {mark}, from one claim to another"),
            ),
            validation(
                &format!(
                    "{} || !{} && !{} && !{}",
                    on("persistentvolumes", "UPDATE"),
                    changed("csi"),
                    changed("nodeAffinity"),
                    changed("accessModes"),
                ),
                "of a volume, only whose it is and its reclaim policy are changed",
            ),
            validation(
                &format!(
                    "{} || {}",
                    on("persistentvolumeclaims", "DELETE"),
                    confinement::deletable_claim("variables.labelled")
                ),
                "a claim is deleted only if it was created as a temporary one, or has no volume",
            ),
            // Nobody else writes the label, so an object that has it was created with it.
            validation(
                &format!(
                    "{} || {} == {}",
                    on("persistentvolumeclaims", "UPDATE"),
                    label_of("object"),
                    label_of("oldObject")
                ),
                &format!("the label {label} is written when a claim is created, and never changed"),
            ),
            validation(
                &format!(
                    "{} || {new}.all(f, f == '{own}' || f in {old}) && \
                     {old}.all(f, f == '{own}' || f in {new} || has(object.metadata.deletionTimestamp) && f in ['{former}'])",
                    on("persistentvolumeclaims", "UPDATE"),
                    new = finalizers("object"),
                    old = finalizers("oldObject"),
                ),
                &format!(
                    "no finalizer but {own} is written, and none but CDI's taken off a claim that is being deleted"
                ),
            ),
            validation(
                &format!(
                    "{} || object.spec.volumeSnapshotRef == oldObject.spec.volumeSnapshotRef && \
                     object.spec.source == oldObject.spec.source && object.spec.driver == oldObject.spec.driver && \
                     object.spec.deletionPolicy == 'Delete' && \
                     object.spec.volumeSnapshotRef.name.matches('{}')",
                    on("volumesnapshotcontents", "UPDATE"),
                    names::pattern::snapshot(),
                ),
                "of a snapshot's content, only that it goes with its temporary snapshot is changed",
            ),
            validation(
                &format!("{} || {}", on("volumesnapshots", "CREATE"), has_label("object")),
                &format!("only a snapshot that bears the label {label} is created"),
            ),
            validation(
                "request.operation != 'DELETE' || request.resource.resource == 'persistentvolumeclaims' || variables.labelled",
                &format!("only what bears the label {label} is deleted"),
            ),
        ],
    )
}
