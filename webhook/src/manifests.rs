//! What the webhook needs in the cluster: its configurations, its Service, its Deployment, and its rights, each with its reason.

use common::{
    api,
    api::snapshot,
    manifest::{self, Manifest, NAMESPACE, Program, READ, cluster_meta, namespaced_meta, right, selector},
    meta::{self, WEBHOOK},
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
            ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        apps::v1::{DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{ContainerPort, Service, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
        rbac::v1::PolicyRule,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};

/// The MutatingWebhookConfiguration, and the one webhook in it.
pub const MUTATING: &str = "mutate.datavolumes.smartclone.dev";
/// The ValidatingWebhookConfiguration, and the one webhook in it.
pub const VALIDATING: &str = "validate.datavolumes.smartclone.dev";
/// Where the API server asks for annotations.
pub const MUTATE_PATH: &str = "/mutate-datavolume";
/// Where the API server asks for a verdict.
pub const VALIDATE_PATH: &str = "/validate-datavolume";
/// The Service in [`NAMESPACE`] that the API server calls.
pub const SERVICE: &str = "smartclone-webhook";
/// The Secret in [`NAMESPACE`] with the certificate authority that all replicas share.
pub const CA_SECRET: &str = "smartclone-webhook-ca";

/// The Service's port.
const PORT: i32 = 443;
/// The pod's port.
const POD_PORT: i32 = 8443;
/// Longer than any answer takes, shorter than a user's patience.
const TIMEOUT_SECONDS: i32 = 5;

/// Annotations that nobody but smartclone changes once they are there.
const GUARDED: [&str; 3] = [meta::CLONE_TYPE, meta::CLONE_FALLBACK_REASON, meta::PLAN];

/// Every file.
pub fn manifests() -> serde_json::Result<Vec<Manifest>> {
    Ok(vec![
        manifest::account(WEBHOOK, cluster_rights(), own_rights())?,
        Manifest::new(
            "webhook/deployment.yaml",
            "The admission server: two of it, since no DataVolume is created without it.",
        )
        .with(&program().deployment())?
        .with(&service())?
        .with(&disruption_budget())?,
        Manifest::new(
            "webhook/configurations.yaml",
            "What the API server asks the webhook about. The caBundle is missing on purpose: the webhook writes it.",
        )
        .with(&mutating())?
        .with(&validating())?,
    ])
}

fn cluster_rights() -> Vec<PolicyRule> {
    vec![
        // The source and its volume, asked for when they are needed: what a user has just made isn't in a cache yet.
        right("", &["persistentvolumeclaims", "persistentvolumes"], &[], &["get"]),
        // What the storage can do.
        right("storage.k8s.io", &["storageclasses"], &[], READ),
        right(snapshot::GROUP, &["volumesnapshotclasses"], &[], READ),
        // What the admin wants.
        right(api::GROUP, &["cdis", "storageprofiles"], &[], READ),
        // The caBundle of its own configurations, and of no others.
        right(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            &[MUTATING, VALIDATING],
            &["get", "list", "watch", "patch"],
        ),
    ]
}

fn own_rights() -> Vec<PolicyRule> {
    vec![
        // The authority that replicas share: the first one creates it (a right that can't be narrowed by name), …
        right("", &["secrets"], &[], &["create"]),
        // … the others read it, and whoever finds it aged replaces it.
        right("", &["secrets"], &[CA_SECRET], &["get", "list", "watch", "update"]),
    ]
}

fn program() -> Program<'static> {
    Program {
        component: WEBHOOK,
        replicas: 2,
        // The new one first: with both gone, no DataVolume could be created.
        strategy: DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        },
        args: Vec::new(),
        ports: vec![ContainerPort {
            name: Some("https".to_owned()),
            container_port: POD_PORT,
            ..ContainerPort::default()
        }],
        requests: ("20m", "32Mi"),
    }
}

fn service() -> Service {
    Service {
        metadata: namespaced_meta(WEBHOOK, SERVICE),
        spec: Some(ServiceSpec {
            selector: Some(manifest::labels(WEBHOOK)),
            ports: Some(vec![ServicePort {
                name: Some("https".to_owned()),
                port: PORT,
                target_port: Some(IntOrString::String("https".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn disruption_budget() -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: namespaced_meta(WEBHOOK, SERVICE),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(1)),
            selector: Some(selector(WEBHOOK)),
            // A pod that can't start must not hold up the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn mutating() -> MutatingWebhookConfiguration {
    MutatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, MUTATING),
        webhooks: Some(vec![MutatingWebhook {
            name: MUTATING.to_owned(),
            client_config: client(MUTATE_PATH),
            rules: Some(vec![data_volumes(&["CREATE"])]),
            match_conditions: Some(vec![clones_only()]),
            namespace_selector: Some(namespaces()),
            failure_policy: Some(FAIL.to_owned()),
            match_policy: Some(EQUIVALENT.to_owned()),
            // Another webhook may change what the decision depends on; deciding twice changes nothing.
            reinvocation_policy: Some("IfNeeded".to_owned()),
            side_effects: NO_SIDE_EFFECTS.to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            admission_review_versions: vec!["v1".to_owned()],
            object_selector: None,
        }]),
    }
}

fn validating() -> ValidatingWebhookConfiguration {
    ValidatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, VALIDATING),
        webhooks: Some(vec![ValidatingWebhook {
            name: VALIDATING.to_owned(),
            client_config: client(VALIDATE_PATH),
            rules: Some(vec![data_volumes(&["CREATE", "UPDATE"])]),
            match_conditions: Some(vec![clones_only(), changes_only()]),
            namespace_selector: Some(namespaces()),
            failure_policy: Some(FAIL.to_owned()),
            match_policy: Some(EQUIVALENT.to_owned()),
            side_effects: NO_SIDE_EFFECTS.to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            admission_review_versions: vec!["v1".to_owned()],
            object_selector: None,
        }]),
    }
}

/// A clone that nobody decided about would wait for ever, and a forged annotation would be obeyed: better no clone.
const FAIL: &str = "Fail";
/// The rules name one version; requests for others are converted to it.
const EQUIVALENT: &str = "Equivalent";
/// So that `kubectl create --dry-run=server` shows the decision.
const NO_SIDE_EFFECTS: &str = "None";

fn client(path: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            namespace: NAMESPACE.to_owned(),
            name: SERVICE.to_owned(),
            path: Some(path.to_owned()),
            port: Some(PORT),
        }),
        // An absent caBundle isn't touched by `kubectl apply`, so that what the webhook wrote stays.
        ..WebhookClientConfig::default()
    }
}

fn data_volumes(operations: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(vec![api::GROUP.to_owned()]),
        api_versions: Some(vec![api::VERSION.to_owned()]),
        resources: Some(vec!["datavolumes".to_owned()]),
        operations: Some(operations.iter().map(ToString::to_string).collect()),
        scope: Some("Namespaced".to_owned()),
    }
}

/// Imports, uploads and blank disks are none of our business and don't wait for us.
fn clones_only() -> MatchCondition {
    MatchCondition {
        name: "clones-only".to_owned(),
        expression: "object.?spec.?sourceRef.hasValue() || object.?spec.?source.?pvc.hasValue() || \
                     object.?spec.?source.?snapshot.hasValue()"
            .to_owned(),
    }
}

/// Labels, finalizers and owners of a living clone, and anything of one that is being deleted, change without us; so do the
/// annotations when the controller writes them, which must not depend on a webhook that may be down.
fn changes_only() -> MatchCondition {
    let keys = GUARDED.map(|key| format!("'{key}'")).join(", ");
    MatchCondition {
        name: "changes-only".to_owned(),
        expression: format!(
            "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && (object.spec != oldObject.spec || \
             request.userInfo.username != '{}' && \
             [{keys}].exists(key, object.metadata.?annotations[?key] != oldObject.metadata.?annotations[?key]))",
            manifest::user(meta::CONTROLLER)
        ),
    }
}

/// Neither the cluster's own namespaces nor ours: whatever state we are in, we can't stop the repair.
fn namespaces() -> LabelSelector {
    LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "kubernetes.io/metadata.name".to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(["kube-system", "kube-public", "kube-node-lease", NAMESPACE].map(str::to_owned).into()),
        }]),
        ..LabelSelector::default()
    }
}
