//! The policy about the requester annotation ([`keys::REQUESTER`]): a second check besides the webhook.

use common::{
    api,
    keys::{self, WEBHOOK},
    manifest,
};
use k8s_openapi::api::admissionregistration::v1::{MatchCondition, ValidatingAdmissionPolicy};

use super::{REQUESTER, policy, rule, validation, variable};

/// The requester annotation of a new object is the caller's, or is missing (which gives no right in another namespace). It is immutable.
///
/// CEL can't parse JSON, so the policy builds the expected text: `username`, `uid` and `groups` in their order, then `extra` in any order,
/// and nothing else.
pub(super) fn requester() -> ValidatingAdmissionPolicy {
    let key = keys::REQUESTER;
    let stamped =
        |object: &str| format!("has({object}.metadata.annotations) && '{key}' in {object}.metadata.annotations");
    let stamp_of = |object: &str| format!("{} ? {object}.metadata.annotations['{key}'] : ''", stamped(object));
    let quoted = |text: &str| format!(r#"'"' + {text}.replace('\\', '\\\\').replace('"', '\\"') + '"'"#);
    let listed = |list: &str, of: &str| format!("'[' + {list}.map({of}, {}).join(',') + ']'", quoted(of));
    let user = "request.userInfo";
    let head = format!(
        r#"'{{"username":' + {} + (has({user}.uid) && {user}.uid != '' ? ',"uid":' + {} : '') + (has({user}.groups) && size({user}.groups) > 0 ? ',"groups":' + {} : '')"#,
        quoted(&format!("{user}.username")),
        quoted(&format!("{user}.uid")),
        listed(&format!("{user}.groups"), "group"),
    );
    let extra = format!(
        "has({user}.extra) ? {user}.extra.map(key, {} + ':' + {}) : []",
        quoted("key"),
        listed(&format!("{user}.extra[key]"), "value")
    );
    let callers = r#"variables.stamp == '' ||
variables.stamp.startsWith(variables.head) && variables.extra.all(entry, variables.stamp.contains(entry)) &&
size(variables.stamp) == size(variables.head) + 1 + (size(variables.extra) == 0 ? 0 :
  size(',"extra":{}') + variables.extra.map(entry, size(entry)).sum() + size(variables.extra) - 1)"#;
    policy(
        manifest::cluster_meta(WEBHOOK, REQUESTER),
        vec![
            rule(api::GROUP, api::VERSION, "datavolumes", &["CREATE", "UPDATE"]),
            rule("", "v1", "persistentvolumeclaims", &["CREATE", "UPDATE"]),
            // Annotations can also be changed through the status.
            rule(api::GROUP, api::VERSION, "datavolumes/status", &["UPDATE"]),
            rule("", "v1", "persistentvolumeclaims/status", &["UPDATE"]),
        ],
        // Claims without the annotation are not matched.
        vec![MatchCondition {
            name: "stamped".to_owned(),
            expression: format!("{} || oldObject != null && {}", stamped("object"), stamped("oldObject")),
        }],
        vec![
            variable("stamp", &stamp_of("object")),
            variable("before", &format!("oldObject == null ? '' : ({})", stamp_of("oldObject"))),
            variable("head", &head),
            variable("extra", &extra),
        ],
        vec![
            validation(
                &format!("request.operation != 'CREATE' || {callers}"),
                &format!("the annotation {key} says who asks, and it says somebody else; leave it to smartclone"),
            ),
            validation(
                "request.operation != 'UPDATE' || variables.stamp == variables.before",
                &format!("the annotation {key} says who asked, and nobody may change that"),
            ),
        ],
    )
}
