//! The conditions of reviews beside CDI. CDI's objects are reviewed only if they name a requester or have the mark of smartclone.

use common::{
    keys::{self, PRE_POPULATED, REQUESTER, SENTINEL},
    manifest,
};
use k8s_openapi::api::admissionregistration::v1::MatchCondition;

use super::conditions::{clones_only, new_claims_of_users_only, populated_by_reference};

/// New clones, new objects with the mark, and updates of a clone that lose annotations.
pub(super) fn new_clones_and_losses() -> Vec<MatchCondition> {
    let clones = clones_only().expression;
    vec![condition("clones-or-marked", format!("{clones} || {}", is_marked("object"))), lost_only()]
}

/// New claims of users that are populated from a VolumeCloneSource, claims to which CDI copies annotations of smartclone, and updates
/// that lose annotations.
pub(super) fn new_claims_and_losses() -> Vec<MatchCondition> {
    let populated = populated_by_reference().expression;
    let copied = format!(
        "request.operation == 'CREATE' && {} && object.?metadata.?annotations.orValue({{}}).exists(key, key.startsWith('{}'))",
        by_cdi(),
        keys::PREFIX,
    );
    vec![condition("populated-or-copied", format!("{populated} || {copied}")), new_claims_of_users_only(), lost_only()]
}

/// DataVolumes that name a requester: new ones, and changes of what smartclone decided on a clone with its mark.
pub(super) fn stamped_clones() -> Vec<MatchCondition> {
    let changed = changed(&keys::DECISION);
    let expression = format!(
        "request.operation == 'CREATE' ? {stamped} : !has(object.metadata.deletionTimestamp) && ({stamp} || {marked} && \
         (object.spec != oldObject.spec || request.userInfo.username != '{controller}' && {changed}))",
        stamped = has("object", REQUESTER),
        stamp = self::changed(&[REQUESTER]),
        marked = is_marked("oldObject"),
        controller = manifest::user(keys::CONTROLLER),
    );
    vec![condition("stamped-only", expression)]
}

/// The same for claims that are populated from a VolumeCloneSource.
pub(super) fn stamped_claims() -> Vec<MatchCondition> {
    let expression = format!(
        "request.operation == 'CREATE' ? {} && request.userInfo.username != '{}' : ({} || {}) && {}",
        has("object", REQUESTER),
        manifest::user(keys::CONTROLLER),
        has("object", REQUESTER),
        has("oldObject", REQUESTER),
        changed(&[REQUESTER, keys::DATA_SOURCE_NAMESPACE, keys::TRANSFER]),
    );
    vec![populated_by_reference(), condition("stamped-only", expression)]
}

/// Updates of objects that are not being deleted that lose annotations, by users other than the controller.
fn lost_only() -> MatchCondition {
    let own: Vec<_> = keys::DECISION.into_iter().chain([REQUESTER]).collect();
    let lost = |keys: &[&str]| {
        format!(
            "[{}].exists(key, oldObject.metadata.?annotations[?key].hasValue() && !object.metadata.?annotations[?key].hasValue())",
            listed(keys)
        )
    };
    let expression = format!(
        "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && request.userInfo.username != '{}' && \
         ({} || {} && {} || {} && {})",
        manifest::user(keys::CONTROLLER),
        lost(&own),
        is_marked("oldObject"),
        lost(&keys::MARK),
        has("oldObject", keys::BESIDE_CDI),
        lost(&[keys::CLONE_PHASE]),
    );
    condition("lost-only", expression)
}

fn condition(name: &str, expression: String) -> MatchCondition {
    MatchCondition { name: name.to_owned(), expression }
}

fn has(object: &str, key: &str) -> String {
    format!("{object}.?metadata.?annotations[?'{key}'].hasValue()")
}

fn is_marked(object: &str) -> String {
    format!("{object}.?metadata.?annotations[?'{PRE_POPULATED}'].orValue('') == '{SENTINEL}'")
}

fn changed(keys: &[&str]) -> String {
    let keys = listed(keys);
    format!("[{keys}].exists(key, object.metadata.?annotations[?key] != oldObject.metadata.?annotations[?key])")
}

fn listed(keys: &[&str]) -> String {
    keys.iter().map(|key| format!("'{key}'")).collect::<Vec<_>>().join(", ")
}

/// By CDI's service account, whose namespace differs between distributions.
fn by_cdi() -> String {
    "request.userInfo.username.startsWith('system:serviceaccount:') && request.userInfo.username.endsWith(':cdi-sa')"
        .to_owned()
}
