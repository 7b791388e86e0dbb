//! What the API server itself refuses, without asking anybody: a second lock beside the webhook on who asks for a clone, and a fence around
//! the controller's own account. Rules in CEL, each of which holds with every other lock open.

use common::{
    api::{self, snapshot},
    manifest::{Manifest, NAMESPACE, cluster_meta},
    meta::{self, CONTROLLER, WEBHOOK},
    transfer,
};
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec, Validation,
    Variable,
};

/// The policy, and its binding, about [`meta::REQUESTER`].
pub const REQUESTER: &str = "requester.smartclone.dev";
/// The policy, and its binding, about what the controller's account may change.
pub const CONFINEMENT: &str = "controller.smartclone.dev";

/// The file with every policy and its binding.
pub fn manifest() -> serde_json::Result<Manifest> {
    let about =
        "What the API server refuses by itself: stamps of somebody else, and what the controller's account may not do.";
    let mut manifest = Manifest::new("webhook/policies.yaml", about);
    for policy in [requester(), confinement()] {
        let binding = binding(&policy);
        manifest = manifest.with(&policy)?.with(&binding)?;
    }
    Ok(manifest)
}

/// The stamp says who asked: on a new object it is the caller's or missing (which gives no right to anything in another namespace), and it
/// stays as it is.
///
/// CEL can't read JSON, so the stamp is put together once more: `username`, `uid` and `groups` in their order, then what `extra` holds in any
/// order, and not one character more.
fn requester() -> ValidatingAdmissionPolicy {
    let key = meta::REQUESTER;
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
        REQUESTER,
        WEBHOOK,
        vec![
            rule(api::GROUP, api::VERSION, "datavolumes", &["CREATE", "UPDATE"]),
            rule("", "v1", "persistentvolumeclaims", &["CREATE", "UPDATE"]),
        ],
        // Nothing else is looked at: a claim without a stamp is nobody's business here.
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

/// The controller's account has rights that reach far: over every claim and every volume. This is what it may do with them.
fn confinement() -> ValidatingAdmissionPolicy {
    let labelled = format!("has(oldObject.metadata.labels) && '{}' in oldObject.metadata.labels", meta::OWNED_BY_UID);
    let mark = transfer::HANDED_OVER;
    let account = format!("system:serviceaccount:{NAMESPACE}:smartclone-{CONTROLLER}");
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
        CONFINEMENT,
        CONTROLLER,
        vec![
            rule("", "v1", "persistentvolumes", &["UPDATE"]),
            rule("", "v1", "persistentvolumeclaims", &["DELETE"]),
            rule("", "v1", "pods", &["DELETE"]),
            rule(snapshot::GROUP, "v1", "volumesnapshots", &["DELETE"]),
        ],
        vec![MatchCondition {
            name: "by-the-controller".to_owned(),
            expression: format!("request.userInfo.username == '{account}'"),
        }],
        vec![
            variable("labelled", &labelled),
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
            // One that has lost its volume to another claim, or never had one, holds no data.
            validation(
                &format!(
                    "{} || variables.labelled || !has(oldObject.status) || !has(oldObject.status.phase) || oldObject.status.phase != 'Bound'",
                    on("persistentvolumeclaims", "DELETE")
                ),
                "a claim that has a volume is deleted only if smartclone made it for a while",
            ),
            validation(
                "request.resource.resource in ['persistentvolumes', 'persistentvolumeclaims'] || variables.labelled",
                &format!("only what bears the label {} is deleted", meta::OWNED_BY_UID),
            ),
        ],
    )
}

fn policy(
    name: &str,
    component: &str,
    rules: Vec<NamedRuleWithOperations>,
    conditions: Vec<MatchCondition>,
    variables: Vec<Variable>,
    validations: Vec<Validation>,
) -> ValidatingAdmissionPolicy {
    ValidatingAdmissionPolicy {
        metadata: cluster_meta(component, name),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(MatchResources { resource_rules: Some(rules), ..MatchResources::default() }),
            match_conditions: Some(conditions).filter(|all| !all.is_empty()),
            variables: Some(variables),
            validations: Some(validations),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        status: None,
    }
}

fn binding(policy: &ValidatingAdmissionPolicy) -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: policy.metadata.clone(),
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: policy.metadata.name.clone(),
            validation_actions: Some(vec!["Deny".to_owned()]),
            ..ValidatingAdmissionPolicyBindingSpec::default()
        }),
    }
}

fn rule(group: &str, version: &str, resource: &str, operations: &[&str]) -> NamedRuleWithOperations {
    let all = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    NamedRuleWithOperations {
        api_groups: all(&[group]),
        api_versions: all(&[version]),
        resources: all(&[resource]),
        operations: all(operations),
        ..NamedRuleWithOperations::default()
    }
}

fn variable(name: &str, expression: &str) -> Variable {
    Variable { name: name.to_owned(), expression: expression.to_owned() }
}

fn validation(expression: &str, message: &str) -> Validation {
    Validation {
        expression: expression.to_owned(),
        message: Some(message.to_owned()),
        reason: Some("Forbidden".to_owned()),
        ..Validation::default()
    }
}
