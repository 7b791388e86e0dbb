//! The manifests of the webhook: configurations, Service, Deployment, and rights, each with its
//! reason.

use common::{
    api::{self, snapshot},
    keys::{self, WEBHOOK},
    manifest::{self, Manifest, NAMESPACE, Program, WATCH, cluster_meta, namespaced_meta, right, selector},
    rebind,
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
/// Longer than any answer takes, shorter than a user's patience.
const TIMEOUT_SECONDS: i32 = 5;

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
        .with(&disruption_budget())?
        .with(&manifest::network_policy(WEBHOOK, &["https"]))?,
        Manifest::new(
            "webhook/configurations.yaml",
            "The reviews that the API server requests of the webhook. caBundle and path are missing on purpose: the webhook writes them.",
        )
        .with(&mutating())?
        .with(&validating())?,
        policies::manifest()?,
    ])
}

fn cluster_rights() -> Vec<PolicyRule> {
    vec![
        // The source and its volume, or the claim that a source snapshot names and its volume,
        // asked for when they are needed: what a user has just made isn't in a cache yet.
        right("", &["persistentvolumeclaims", "persistentvolumes"], &[], &["get"]),
        right(snapshot::GROUP, &["volumesnapshots", "volumesnapshotcontents"], &[], &["get"]),
        // Who may be writing to the source, for a warning.
        right("", &["pods"], &[], &["list"]),
        // What stands for a source.
        right(api::GROUP, &["datasources", "volumeclonesources"], &[], &["get"]),
        // Whether the name at the target of a transfer is free, and to whom its source belongs.
        right(api::GROUP, &["datavolumes"], &[], &["get"]),
        // Whether the requester may clone it, where it is in another namespace.
        right("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
        // What the storage can do.
        right("storage.k8s.io", &["storageclasses"], &[], WATCH),
        right(snapshot::GROUP, &["volumesnapshotclasses"], &[], WATCH),
        // What the admin wants.
        right(api::GROUP, &["cdis", "cdiconfigs", "storageprofiles"], &[], WATCH),
        // caBundle and paths of its own configurations, and of no others.
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
        // Authority and path segments that replicas share: the first one creates them (a right that
        // can't be narrowed by name), …
        right("", &["secrets"], &[], &["create"]),
        // … the others read them, and one that finds them aged replaces them.
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
        env: vec![ALLOCATION],
        settings: Vec::new(),
        ports: vec![ContainerPort {
            name: Some("https".to_owned()),
            container_port: POD_PORT,
            ..ContainerPort::default()
        }],
        requests: ("20m", "32Mi"),
        // Ten times what it needs under load. Its port holds no more than a quarter of it, see the
        // limits in `port`.
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
            // A pod that can't start must not hold up the drain of its node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

fn mutating() -> MutatingWebhookConfiguration {
    let webhook = |name: &str, rules, conditions| MutatingWebhook {
        name: name.to_owned(),
        client_config: client(),
        rules: Some(rules),
        match_conditions: Some(conditions),
        namespace_selector: Some(namespaces()),
        failure_policy: Some(FAIL.to_owned()),
        match_policy: Some(EQUIVALENT.to_owned()),
        // Another webhook may change what the decision depends on; deciding twice changes nothing.
        reinvocation_policy: Some("IfNeeded".to_owned()),
        side_effects: NO_SIDE_EFFECTS.to_owned(),
        timeout_seconds: Some(TIMEOUT_SECONDS),
        admission_review_versions: vec!["v1".to_owned()],
        object_selector: None,
    };
    MutatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, MUTATING),
        webhooks: Some(vec![
            webhook(MUTATING, vec![data_volumes(&["CREATE", "UPDATE"])], vec![clones_only(), lost_only()]),
            webhook(
                MUTATING_CLAIMS,
                vec![claims("CREATE", &[]), claims("UPDATE", &[])],
                vec![populated_by_reference(), new_claims_of_users_only(), lost_only()],
            ),
        ]),
    }
}

fn validating() -> ValidatingWebhookConfiguration {
    let webhook = |name: &str, rules, conditions| ValidatingWebhook {
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
    };
    // Annotations of a claim can be written by way of its status, too.
    let of_claims = vec![claims("CREATE", &[]), claims("UPDATE", &["persistentvolumeclaims/status"])];
    ValidatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, VALIDATING),
        webhooks: Some(vec![
            webhook(VALIDATING, vec![data_volumes(&["CREATE", "UPDATE"])], vec![clones_only(), changes_only()]),
            webhook(VALIDATING_CLAIMS, of_claims, populated_only()),
            ValidatingWebhook {
                namespace_selector: None,
                ..webhook(VALIDATING_TRANSFERS, vec![transfers(&["CREATE", "UPDATE"])], vec![new_specs_only()])
            },
        ]),
    }
}

/// A clone that nobody decided about would wait for ever, and a forged annotation would be obeyed:
/// better no clone. Claims that aren't to be filled by us never depend on us: the conditions sort
/// them out before we are asked.
const FAIL: &str = "Fail";
/// The rules name one version; requests for others are converted to it.
const EQUIVALENT: &str = "Equivalent";
/// So that `kubectl create --dry-run=server` shows the decision.
const NO_SIDE_EFFECTS: &str = "None";

fn client() -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            namespace: NAMESPACE.to_owned(),
            name: SERVICE.to_owned(),
            path: None,
            port: Some(PORT),
        }),
        // An absent caBundle isn't touched by `kubectl apply`, so that what the webhook wrote
        // stays.
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

/// New claims that are to be filled from a VolumeCloneSource, but for those that the controller
/// makes for DataVolumes; and changes of what such a claim says about who asked for it, and for
/// what.
fn populated_only() -> Vec<MatchCondition> {
    let keys = [keys::REQUESTER, keys::DATA_SOURCE_NAMESPACE, keys::TRANSFER].map(|key| format!("'{key}'"));
    let changed = format!(
        "request.operation == 'CREATE' ? request.userInfo.username != '{}' : \
         [{}].exists(key, object.metadata.?annotations[?key] != oldObject.metadata.?annotations[?key])",
        manifest::user(keys::CONTROLLER),
        keys.join(", ")
    );
    vec![populated_by_reference(), MatchCondition { name: "changes-only".to_owned(), expression: changed }]
}

/// Claims that are to be filled from a VolumeCloneSource.
fn populated_by_reference() -> MatchCondition {
    MatchCondition {
        name: "populated-only".to_owned(),
        expression: format!(
            "object.?spec.?dataSourceRef.?apiGroup.orValue('') == '{}' && object.?spec.?dataSourceRef.?kind.orValue('') == '{}'",
            api::GROUP,
            rebind::VOLUME_CLONE_SOURCE,
        ),
    }
}

/// The controller makes claims for DataVolumes, which have a requester of their own.
fn new_claims_of_users_only() -> MatchCondition {
    MatchCondition {
        name: "users-only".to_owned(),
        expression: format!(
            "request.operation == 'UPDATE' || request.userInfo.username != '{}'",
            manifest::user(keys::CONTROLLER)
        ),
    }
}

/// Updates of living objects by others than the controller that lose what admission has added.
fn lost_only() -> MatchCondition {
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

fn transfers(operations: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        resources: Some(vec!["objecttransfers".to_owned()]),
        scope: Some("Cluster".to_owned()),
        ..data_volumes(operations)
    }
}

/// Labels, finalizers and the end of an ObjectTransfer don't wait for us.
fn new_specs_only() -> MatchCondition {
    MatchCondition {
        name: "new-specs-only".to_owned(),
        expression:
            "request.operation != 'UPDATE' || !has(object.metadata.deletionTimestamp) && object.spec != oldObject.spec"
                .to_owned(),
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

/// Labels, finalizers and owners of a living clone, and anything of one that is being deleted,
/// change without us; so do the annotations when the controller writes them, which must not depend
/// on a webhook that may be down.
fn changes_only() -> MatchCondition {
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

/// Neither the cluster's own namespaces nor ours: whatever state we are in, we can't stop the
/// repair.
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
