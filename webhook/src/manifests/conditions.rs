//! The conditions under which the API server requests a review, in CEL: whatever they exclude does not depend on the webhook.

use common::{api, keys, manifest, rebind};
use k8s_openapi::api::admissionregistration::v1::MatchCondition;

/// New claims that are populated from a VolumeCloneSource, except those that the controller creates for DataVolumes; and changes of the
/// annotations of such a claim about the requester and the request.
pub(super) fn populated_only() -> Vec<MatchCondition> {
    let keys = [keys::REQUESTER, keys::DATA_SOURCE_NAMESPACE, keys::TRANSFER].map(|key| format!("'{key}'"));
    let changed = format!(
        "request.operation == 'CREATE' ? request.userInfo.username != '{}' : \
         [{}].exists(key, object.metadata.?annotations[?key] != oldObject.metadata.?annotations[?key])",
        manifest::user(keys::CONTROLLER),
        keys.join(", ")
    );
    vec![populated_by_reference(), MatchCondition { name: "changes-only".to_owned(), expression: changed }]
}

/// Claims that are populated from a VolumeCloneSource.
pub(super) fn populated_by_reference() -> MatchCondition {
    MatchCondition {
        name: "populated-only".to_owned(),
        expression: format!(
            "object.?spec.?dataSourceRef.?apiGroup.orValue('') == '{}' && object.?spec.?dataSourceRef.?kind.orValue('') == '{}'",
            api::GROUP,
            rebind::VOLUME_CLONE_SOURCE,
        ),
    }
}

/// New claims of users: the controller creates claims for DataVolumes, which have a requester of their own.
pub(super) fn new_claims_of_users_only() -> MatchCondition {
    MatchCondition {
        name: "users-only".to_owned(),
        expression: format!(
            "request.operation == 'UPDATE' || request.userInfo.username != '{}'",
            manifest::user(keys::CONTROLLER)
        ),
    }
}

/// Updates that lose annotations of admission: of objects that are not being deleted, by users other than the controller.
pub(super) fn lost_only() -> MatchCondition {
    let keys = keys::DECISION.into_iter().chain([keys::REQUESTER]).map(|key| format!("'{key}'")).collect::<Vec<_>>();
    MatchCondition {
        name: "lost-only".to_owned(),
        expression: format!(
            "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && \
             request.userInfo.username != '{}' && [{}].exists(key, \
             oldObject.metadata.?annotations[?key].hasValue() && !object.metadata.?annotations[?key].hasValue())",
            manifest::user(keys::CONTROLLER),
            keys.join(", "),
        ),
    }
}

/// Changes of labels and finalizers and the deletion of an ObjectTransfer do not depend on the webhook.
pub(super) fn new_specs_only() -> MatchCondition {
    MatchCondition {
        name: "new-specs-only".to_owned(),
        expression:
            "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && object.spec != oldObject.spec"
                .to_owned(),
    }
}

/// Imports, uploads and blank disks are not smartclone's and do not depend on the webhook.
pub(super) fn clones_only() -> MatchCondition {
    MatchCondition {
        name: "clones-only".to_owned(),
        expression: "object.?spec.?sourceRef.hasValue() || object.?spec.?source.?pvc.hasValue() || \
                     object.?spec.?source.?snapshot.hasValue()"
            .to_owned(),
    }
}

/// Changes that are reviewed. Not reviewed are labels, finalizers and owners of a clone, and all changes of a clone that is being deleted.
/// Annotations that the controller writes are not reviewed either, because they must not depend on a webhook that may be down.
pub(super) fn changes_only() -> MatchCondition {
    let keys = keys::DECISION.map(|key| format!("'{key}'")).join(", ");
    let changed =
        |key: &str| format!("object.metadata.?annotations[?{key}] != oldObject.metadata.?annotations[?{key}]");
    MatchCondition {
        name: "changes-only".to_owned(),
        expression: format!(
            "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && (object.spec != oldObject.spec || {} || \
             request.userInfo.username != '{}' && [{keys}].exists(key, {}))",
            changed(&format!("'{}'", keys::REQUESTER)),
            manifest::user(keys::CONTROLLER),
            changed("key"),
        ),
    }
}
