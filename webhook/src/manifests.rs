//! The manifests of the webhook: configurations, Service, Deployment, and RBAC rules, each with its reason. There are two sets, for a
//! cluster without CDI and for one with it.

mod beside_cdi;
mod conditions;
mod conditions_beside_cdi;

use common::{
    api::{self, snapshot},
    keys::WEBHOOK,
    manifest::{self, Manifest, NAMESPACE, Program, WATCH, cluster_meta, namespaced_meta, right, selector},
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

use crate::policies;

use self::conditions::{
    changes_only, clones_only, lost_only, new_claims_of_users_only, new_specs_only, populated_by_reference,
    populated_only,
};

pub use self::beside_cdi::{MUTATING_BEFORE_CDI, beside_cdi, lever};
pub use crate::server::{
    MUTATE_CLAIM_PATH, MUTATE_PATH, MUTATING, MUTATING_CLAIMS, ROUTES, TRANSFER_PATH, VALIDATE_CLAIM_PATH,
    VALIDATE_PATH, VALIDATING, VALIDATING_CLAIMS, VALIDATING_TRANSFERS,
};

/// glibc's malloc tuning, an environment variable: a larger cache for each thread, since one review
/// allocates dozens of strings of one size class and glibc keeps seven. Other C libraries ignore
/// it.
pub const ALLOCATION: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=64");
/// The Service in [`NAMESPACE`] that the API server calls.
pub const SERVICE: &str = "smartclone-webhook";
/// The Secret in [`NAMESPACE`] with the certificate authority and the path segments that all
/// replicas share.
pub const CA_SECRET: &str = "smartclone-webhook-ca";

/// The Service's port.
const PORT: i32 = 443;
/// The pod's port.
const POD_PORT: i32 = 8443;
/// Longer than any answer takes, short enough for an interactive user.
const TIMEOUT_SECONDS: i32 = 5;

/// All manifests for a cluster without CDI.
pub fn manifests() -> serde_json::Result<Vec<Manifest>> {
    Ok(vec![
        manifest::account(WEBHOOK, cluster_rights(), own_rights())?,
        deployed(
            "webhook/deployment.yaml",
            "The admission server: two of it, since no DataVolume is created without it.",
            Vec::new(),
        )?,
        Manifest::new(
            "webhook/configurations.yaml",
            "The reviews that the API server requests of the webhook. caBundle and path are missing on purpose: the webhook writes them.",
        )
        .with(&mutating())?
        .with(&validating())?,
        policies::manifest()?,
    ])
}

/// The program with these arguments, and what makes it reachable.
fn deployed(path: &str, about: &str, args: Vec<String>) -> serde_json::Result<Manifest> {
    Manifest::new(path, about)
        .with(&Program { args, ..program() }.deployment())?
        .with(&service())?
        .with(&disruption_budget())?
        .with(&manifest::network_policy(WEBHOOK, &["https"]))
}

fn cluster_rights() -> Vec<PolicyRule> {
    let mut rights = rights_of_reviews(&[MUTATING, VALIDATING]);
    // The target name of a transfer (it must be free), and the owner of its source.
    rights.push(right(api::GROUP, &["datavolumes"], &[], &["get"]));
    rights
}

/// The rights to review clones, and to publish the certificate in the configurations of these names.
fn rights_of_reviews(configurations: &[&str]) -> Vec<PolicyRule> {
    vec![
        // The source and its volume, or the claim that a source snapshot names and its volume. They are read when needed, because a cache
        // does not have an object that a user has just created.
        right("", &["persistentvolumeclaims", "persistentvolumes"], &[], &["get"]),
        right(snapshot::GROUP, &["volumesnapshots", "volumesnapshotcontents"], &[], &["get"]),
        // The pods that may write to the source, for a warning.
        right("", &["pods"], &[], &["list"]),
        // References to a source.
        right(api::GROUP, &["datasources", "volumeclonesources"], &[], &["get"]),
        // The requester's right to clone a source in another namespace.
        right("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
        // The capabilities of the storage.
        right("storage.k8s.io", &["storageclasses"], &[], WATCH),
        right(snapshot::GROUP, &["volumesnapshotclasses"], &[], WATCH),
        // The admin's settings.
        right(api::GROUP, &["cdis", "cdiconfigs", "storageprofiles"], &[], WATCH),
        // `caBundle` and paths of its own configurations, and of no others.
        right(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            configurations,
            &["get", "list", "watch", "patch"],
        ),
    ]
}

fn own_rights() -> Vec<PolicyRule> {
    vec![
        // The certificate authority and the path segments that replicas share: the first replica creates them (a right that can't be
        // narrowed by name), …
        right("", &["secrets"], &[], &["create"]),
        // … the others read them, and a replica that finds them expiring replaces them.
        right("", &["secrets"], &[CA_SECRET], &["get", "list", "watch", "update"]),
    ]
}

fn program() -> Program<'static> {
    Program {
        component: WEBHOOK,
        replicas: 2,
        // The new pod starts first: with both gone, no DataVolume could be created.
        strategy: DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_surge: Some(IntOrString::Int(1)),
                max_unavailable: Some(IntOrString::Int(0)),
            }),
        },
        args: Vec::new(),
        env: vec![ALLOCATION],
        settings: Vec::new(),
        ports: vec![ContainerPort {
            name: Some("https".to_owned()),
            container_port: POD_PORT,
            ..ContainerPort::default()
        }],
        requests: ("20m", "32Mi"),
        // Ten times the need under load. Its port uses at most a quarter of it, see the limits in `port`.
        memory_limit: "256Mi",
        critical: true,
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
            // A pod that can't start must not block the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn mutating() -> MutatingWebhookConfiguration {
    MutatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, MUTATING),
        webhooks: Some(vec![
            mutating_webhook(
                MUTATING,
                FAIL,
                vec![data_volumes(&["CREATE", "UPDATE"])],
                vec![clones_only(), lost_only()],
            ),
            mutating_webhook(
                MUTATING_CLAIMS,
                FAIL,
                vec![claims("CREATE", &[]), claims("UPDATE", &[])],
                vec![populated_by_reference(), new_claims_of_users_only(), lost_only()],
            ),
        ]),
    }
}

fn mutating_webhook(
    name: &str,
    failure_policy: &str,
    rules: Vec<RuleWithOperations>,
    conditions: Vec<MatchCondition>,
) -> MutatingWebhook {
    MutatingWebhook {
        name: name.to_owned(),
        client_config: client(),
        rules: Some(rules),
        match_conditions: Some(conditions),
        namespace_selector: Some(namespaces()),
        failure_policy: Some(failure_policy.to_owned()),
        match_policy: Some(EQUIVALENT.to_owned()),
        // Another webhook may change the inputs of the decision. Deciding twice is idempotent.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        side_effects: NO_SIDE_EFFECTS.to_owned(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        admission_review_versions: vec!["v1".to_owned()],
        object_selector: None,
    }
}

fn validating() -> ValidatingWebhookConfiguration {
    ValidatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, VALIDATING),
        webhooks: Some(vec![
            validating_webhook(
                VALIDATING,
                vec![data_volumes(&["CREATE", "UPDATE"])],
                vec![clones_only(), changes_only()],
            ),
            validating_webhook(VALIDATING_CLAIMS, claims_to_validate(), populated_only()),
            ValidatingWebhook {
                namespace_selector: None,
                ..validating_webhook(
                    VALIDATING_TRANSFERS,
                    vec![transfers(&["CREATE", "UPDATE"])],
                    vec![new_specs_only()],
                )
            },
        ]),
    }
}

fn validating_webhook(
    name: &str,
    rules: Vec<RuleWithOperations>,
    conditions: Vec<MatchCondition>,
) -> ValidatingWebhook {
    ValidatingWebhook {
        name: name.to_owned(),
        client_config: client(),
        rules: Some(rules),
        match_conditions: Some(conditions),
        namespace_selector: Some(namespaces()),
        failure_policy: Some(FAIL.to_owned()),
        match_policy: Some(EQUIVALENT.to_owned()),
        side_effects: NO_SIDE_EFFECTS.to_owned(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        admission_review_versions: vec!["v1".to_owned()],
        object_selector: None,
    }
}

/// Annotations of a claim can also be written through its status.
fn claims_to_validate() -> Vec<RuleWithOperations> {
    vec![claims("CREATE", &[]), claims("UPDATE", &["persistentvolumeclaims/status"])]
}

/// A clone that is not decided would not start, and a forged annotation would take effect: a rejection is safer. Claims that are not populated by
/// smartclone never depend on the webhook: the match conditions exclude them.
const FAIL: &str = "Fail";
/// The rules name one version; requests for others are converted to it.
const EQUIVALENT: &str = "Equivalent";
/// Required for `kubectl create --dry-run=server` to show the decision.
const NO_SIDE_EFFECTS: &str = "None";

fn client() -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            namespace: NAMESPACE.to_owned(),
            name: SERVICE.to_owned(),
            path: None,
            port: Some(PORT),
        }),
        // `kubectl apply` does not change an absent caBundle, so that the webhook's value remains.
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

fn claims(operation: &str, sub_resources: &[&str]) -> RuleWithOperations {
    let resources = ["persistentvolumeclaims"].iter().chain(sub_resources);
    RuleWithOperations {
        api_groups: Some(vec![String::new()]),
        api_versions: Some(vec!["v1".to_owned()]),
        resources: Some(resources.map(ToString::to_string).collect()),
        operations: Some(vec![operation.to_owned()]),
        scope: Some("Namespaced".to_owned()),
    }
}

fn transfers(operations: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        resources: Some(vec!["objecttransfers".to_owned()]),
        scope: Some("Cluster".to_owned()),
        ..data_volumes(operations)
    }
}

/// Excludes the cluster's own namespaces and ours: the webhook never blocks a repair, whatever its state.
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
