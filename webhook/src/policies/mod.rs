//! ValidatingAdmissionPolicies: CEL rules that the API server checks without the webhook. Each one is effective without the others.

mod beside_cdi;
mod controller;
mod mover;
mod requester;
mod settings;
mod temporary;

use common::manifest::{self, Manifest, NAMESPACE};
use k8s_openapi::{
    api::admissionregistration::v1::{
        MatchCondition, MatchResources, NamedRuleWithOperations, ParamRef, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec, ValidatingAdmissionPolicySpec,
        Validation, Variable,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// The policy, and its binding, about the annotation [`common::keys::REQUESTER`].
pub const REQUESTER: &str = "requester.smartclone.dev";
/// The policy, and its binding, about objects that the controller's account may change.
pub const CONFINEMENT: &str = "controller.smartclone.dev";
/// The policy, and its binding, about temporary objects, which only the controller may create, change or use.
pub const TEMPORARY: &str = "temporary-objects.smartclone.dev";
/// The policy, and its binding, about connections into pods with temporary volumes.
pub const CONNECTIONS: &str = "mover-connections.smartclone.dev";
/// The policy, and its binding, about pods that the controller's account creates.
pub const MOVERS: &str = "movers.smartclone.dev";
/// The policy, and its binding, about the image of these pods.
pub const MOVER_IMAGE: &str = "image.movers.smartclone.dev";

/// The policy, and its binding, that warns about settings that smartclone does not use.
pub const SETTINGS: &str = "settings.smartclone.dev";

/// The policy, and its binding, about the mark that keeps CDI off a DataVolume.
pub const MARK: &str = "beside-cdi.smartclone.dev";
/// The policy, and its binding, about the mark that keeps CDI off a claim that is filled without a DataVolume.
pub const BARE_CLAIMS: &str = "beside-cdi-claims.smartclone.dev";
/// The policy, and its binding, about claims that CDI makes for DataVolumes of smartclone.
pub const COPIES: &str = "beside-cdi-copies.smartclone.dev";
/// The policy, and its binding, about CDI's objects that the controller's account may change.
pub const CDI_OBJECTS: &str = "controller-beside-cdi.smartclone.dev";

/// The verb on a DataVolume, or on a claim that is filled without one, that permits to give it to CDI after smartclone has taken it.
pub const RELEASE: &str = "release";

/// The file with every policy and its binding.
pub fn manifest() -> serde_json::Result<Manifest> {
    let about = "What the API server refuses by itself: requesters of somebody else, temporary objects in other hands, and what the \
                 controller's account may not do; and what it warns of: settings without effect.";
    let manifest = with_bindings(Manifest::new("webhook/policies.yaml", about), everywhere())?;
    let settings = settings::unused();
    let binding = binding(&settings, WARN);
    manifest.with(&settings)?.with(&binding)
}

/// The file with every policy beside CDI and its binding. The warnings about settings are missing: CDI uses them.
pub fn beside_cdi(path: &str) -> serde_json::Result<Manifest> {
    let about = "What the API server refuses by itself: requesters of somebody else, temporary objects in other hands, marks that smartclone did \
                 not write, and what the controller's account may not do.";
    let beside = [beside_cdi::mark(), beside_cdi::bare_claims(), beside_cdi::copies(), beside_cdi::cdi_objects()];
    with_bindings(Manifest::new(path, about), everywhere().into_iter().chain(beside))
}

/// The policies of both sets. None concerns an object that only CDI writes: temporary objects have names and keys of smartclone's own.
fn everywhere() -> [ValidatingAdmissionPolicy; 6] {
    [
        requester::requester(),
        temporary::objects(),
        temporary::connections(),
        controller::confinement(),
        mover::pods(),
        mover::image(),
    ]
}

fn with_bindings(
    mut manifest: Manifest,
    policies: impl IntoIterator<Item = ValidatingAdmissionPolicy>,
) -> serde_json::Result<Manifest> {
    for policy in policies {
        let binding = binding(&policy, DENY);
        manifest = manifest.with(&policy)?.with(&binding)?;
    }
    Ok(manifest)
}

fn policy(
    metadata: ObjectMeta,
    rules: Vec<NamedRuleWithOperations>,
    conditions: Vec<MatchCondition>,
    variables: Vec<Variable>,
    validations: Vec<Validation>,
) -> ValidatingAdmissionPolicy {
    ValidatingAdmissionPolicy {
        metadata,
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

/// A violation is refused.
const DENY: &str = "Deny";
/// A violation is admitted with a warning.
const WARN: &str = "Warn";

fn binding(policy: &ValidatingAdmissionPolicy, action: &str) -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: policy.metadata.clone(),
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: policy.metadata.name.clone(),
            // With `Deny`, the API server would refuse every data mover when the parameter is gone, and also when the policy was deleted and
            // created again, after which it does not find the parameter until it is restarted. The other policies hold without it.
            param_ref: policy.spec.as_ref().and_then(|spec| spec.param_kind.as_ref()).map(|_| ParamRef {
                name: Some(manifest::CLONER_CONFIG.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                parameter_not_found_action: Some("Allow".to_owned()),
                ..ParamRef::default()
            }),
            validation_actions: Some(vec![action.to_owned()]),
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
