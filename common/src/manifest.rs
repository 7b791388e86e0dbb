//! Manifests as typed values: the parts that webhook and controller share.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy},
        core::v1::{
            Capabilities, ConfigMapKeySelector, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
            ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecurityContext, ServiceAccount, TopologySpreadConstraint,
        },
        networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort, NetworkPolicySpec},
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde::Serialize;
use serde_json::Value;

use crate::keys;

/// The namespace of everything that has one.
pub const NAMESPACE: &str = "smartclone";
/// The ConfigMap with the image of data movers in `data.image`. The controller reads it, and so does the policy about its pods.
pub const CLONER_CONFIG: &str = "smartclone-cloner";
/// The key in [`CLONER_CONFIG`].
pub const CLONER_IMAGE_KEY: &str = "image";
/// The port of probes and metrics.
const ADMIN_PORT: &str = "admin";
/// The UID and GID of the programs: a user that owns nothing on the host.
const NOBODY: i64 = 65532;

/// A file that an admin applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Its path below `manifests/`.
    pub path: String,
    /// Its description in one sentence, which is its first line.
    pub about: String,
    /// The objects in it.
    pub objects: Vec<Value>,
    /// True if `kubectl apply -k` applies it; samples are applied by hand.
    pub installed: bool,
}

impl Manifest {
    /// Creates a file that is part of the installation.
    pub fn new(path: &str, about: &str) -> Self {
        Self { path: path.to_owned(), about: about.to_owned(), objects: Vec::new(), installed: true }
    }

    /// Creates a file that is applied by hand.
    pub fn sample(path: &str, about: &str) -> Self {
        Self { installed: false, ..Self::new(path, about) }
    }

    /// Moves the file into this folder, unless it is in it.
    #[must_use]
    pub fn in_folder(mut self, folder: &str) -> Self {
        if !self.path.starts_with(&format!("{folder}/")) {
            self.path = format!("{folder}/{}", self.path);
        }
        self
    }

    /// Adds an object to the file.
    pub fn with(mut self, object: &impl Serialize) -> serde_json::Result<Self> {
        let mut object = serde_json::to_value(object)?;
        // The cluster writes the status; a typed value has an empty one.
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        self.objects.push(object);
        Ok(self)
    }
}

/// Returns the name and labels of a cluster-scoped object of `component`.
pub fn cluster_meta(component: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels(component)), ..ObjectMeta::default() }
}

/// Returns the name, namespace and labels of an object of `component`.
pub fn namespaced_meta(component: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(NAMESPACE.to_owned()), ..cluster_meta(component, name) }
}

/// Returns the labels of every object of `component`, which also select its pods.
pub fn labels(component: &str) -> BTreeMap<String, String> {
    [(keys::NAME_LABEL, keys::APP), (keys::COMPONENT_LABEL, component)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

/// Selects the pods of `component`.
pub fn selector(component: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(labels(component)), ..LabelSelector::default() }
}

/// The name of `component`'s Deployment, ServiceAccount and roles.
pub fn name(component: &str) -> String {
    format!("{}-{component}", keys::APP)
}

/// The user name under which the API server sees `component`.
pub fn user(component: &str) -> String {
    format!("system:serviceaccount:{NAMESPACE}:{}", name(component))
}

/// The image of `component` as the local build names it.
pub fn image(component: &str) -> String {
    format!("localhost/smartclone/{component}:{}", env!("CARGO_PKG_VERSION"))
}

/// Returns a rule that permits these verbs on these resources of one API group. `only` limits it to objects of these names; empty means
/// all.
pub fn right(group: &str, resources: &[&str], only: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        resource_names: (!only.is_empty()).then(|| owned(only)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

/// The verbs of a cache.
pub const READ: &[&str] = &["get", "list", "watch"];

/// The verbs of a cache without single reads.
pub const WATCH: &[&str] = &["list", "watch"];

/// Returns the ServiceAccount of `component` and its permissions: `cluster` in all namespaces, `own` in [`NAMESPACE`] only.
pub fn account(component: &str, cluster: Vec<PolicyRule>, own: Vec<PolicyRule>) -> serde_json::Result<Manifest> {
    let name = name(component);
    let subjects = || {
        Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: name.clone(),
            namespace: Some(NAMESPACE.to_owned()),
            ..Subject::default()
        }])
    };
    let role = |kind: &str| RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: kind.to_owned(),
        name: name.clone(),
    };
    let manifest =
        Manifest::new(&format!("rbac/{component}.yaml"), &format!("Who the {component} is and what it may do."))
            .with(&ServiceAccount { metadata: namespaced_meta(component, &name), ..ServiceAccount::default() })?
            .with(&ClusterRole {
                metadata: cluster_meta(component, &name),
                rules: Some(cluster),
                ..ClusterRole::default()
            })?
            .with(&ClusterRoleBinding {
                metadata: cluster_meta(component, &name),
                role_ref: role("ClusterRole"),
                subjects: subjects(),
            })?;
    if own.is_empty() {
        return Ok(manifest);
    }
    manifest.with(&Role { metadata: namespaced_meta(component, &name), rules: Some(own) })?.with(&RoleBinding {
        metadata: namespaced_meta(component, &name),
        role_ref: role("Role"),
        subjects: subjects(),
    })
}

/// A program that runs in the cluster.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its component, which is also the name of its image and container.
    pub component: &'a str,
    /// The number of replicas.
    pub replicas: i32,
    /// The update strategy of its Deployment.
    pub strategy: DeploymentStrategy,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables, in addition to its own name and namespace.
    pub env: Vec<(&'a str, &'a str)>,
    /// Environment variables whose values are in a ConfigMap: the variable, the ConfigMap, the key.
    pub settings: Vec<(&'a str, &'a str, &'a str)>,
    /// Ports in addition to the one for probes and metrics.
    pub ports: Vec<ContainerPort>,
    /// The requests for CPU and memory.
    pub requests: (&'a str, &'a str),
    /// The limit for memory: above it, the program is killed.
    pub memory_limit: &'a str,
    /// True if pods of lower priority are evicted for it when a node is full.
    pub critical: bool,
}

impl Program<'_> {
    /// Returns its Deployment, in the namespace of the project and without privileges on its node.
    pub fn deployment(self) -> Deployment {
        let Self { component, replicas, strategy, args, env, settings, mut ports, requests, memory_limit, critical } =
            self;
        let (cpu, memory) = requests;
        let quantities = |of: &[(&str, &str)]| {
            let quantities = of.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())));
            Some(quantities.collect::<BTreeMap<_, _>>())
        };
        ports.push(ContainerPort {
            name: Some(ADMIN_PORT.to_owned()),
            container_port: 8080,
            ..ContainerPort::default()
        });
        let own = [own_field("POD_NAMESPACE", "metadata.namespace"), own_field("POD_NAME", "metadata.name")];
        let container = Container {
            name: component.to_owned(),
            image: Some(image(component)),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            args: (!args.is_empty()).then_some(args),
            env: Some(
                own.into_iter().chain(env.into_iter().map(variable)).chain(settings.into_iter().map(setting)).collect(),
            ),
            ports: Some(ports),
            // A process that is not ready may only wait for something; one that is not live has to be restarted.
            liveness_probe: Some(probe("/live", 10, 3)),
            readiness_probe: Some(probe("/ready", 2, 2)),
            resources: Some(ResourceRequirements {
                requests: quantities(&[("cpu", cpu), ("memory", memory)]),
                // No limit for CPU: a throttled process would fail the requests of others.
                limits: quantities(&[("memory", memory_limit)]),
                ..ResourceRequirements::default()
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }),
            // The image has no shell, so the end of the log is the only trace of a crash.
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        };
        let pod = PodSpec {
            containers: vec![container],
            service_account_name: Some(name(component)),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(NOBODY),
                run_as_group: Some(NOBODY),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            node_selector: Some([("kubernetes.io/os".to_owned(), "linux".to_owned())].into()),
            enable_service_links: Some(false),
            priority_class_name: critical.then(|| "system-cluster-critical".to_owned()),
            // The delay and the limit of a graceful shutdown (3 s and 15 s by default), and a margin.
            termination_grace_period_seconds: Some(30),
            topology_spread_constraints: (replicas > 1).then(|| vec![spread(component)]),
            ..PodSpec::default()
        };
        Deployment {
            metadata: namespaced_meta(component, &name(component)),
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                revision_history_limit: Some(3),
                selector: selector(component),
                strategy: Some(strategy),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels(component)), ..ObjectMeta::default() }),
                    spec: Some(pod),
                },
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }
}

/// Returns the NetworkPolicy of `component`: any peer may connect to its pods, but only to its own ports. Egress is not limited, because no
/// policy can name the API server.
pub fn network_policy(component: &str, ports: &[&str]) -> NetworkPolicy {
    let port = |name: &str| NetworkPolicyPort {
        port: Some(IntOrString::String(name.to_owned())),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicy {
        metadata: namespaced_meta(component, &name(component)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(component)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                ports: Some(ports.iter().copied().chain([ADMIN_PORT]).map(port).collect()),
                ..NetworkPolicyIngressRule::default()
            }]),
            ..NetworkPolicySpec::default()
        }),
    }
}

/// Spreads the pods over different nodes, if there are several.
fn spread(component: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: "kubernetes.io/hostname".to_owned(),
        max_skew: 1,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector(component)),
        ..TopologySpreadConstraint::default()
    }
}

fn variable((name, value): (&str, &str)) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

fn setting((variable, config, key): (&str, &str, &str)) -> EnvVar {
    EnvVar {
        name: variable.to_owned(),
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector {
                name: config.to_owned(),
                key: key.to_owned(),
                ..ConfigMapKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn own_field(variable: &str, path: &str) -> EnvVar {
    EnvVar {
        name: variable.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN_PORT.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
