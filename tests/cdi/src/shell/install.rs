//! Installs what CDI's operator installs.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, Result, bail};
use common::api::{Cdi, CdiConfig, CdiSpec};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Client, Resource, ResourceExt as _, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::crds::crds;
use crate::keys::{ADMISSION_ACCOUNT, CDI, CONFIG, CONTROLLER_ACCOUNT, GATE_FIRST_CONSUMER, NAMESPACE};

/// The ClusterRole, and the ClusterRoleBinding, of both accounts.
pub const ROLE: &str = "cdi";
/// The roles of users, with the label that aggregates each into a role of Kubernetes.
pub const USER_ROLES: [(&str, Option<&str>); 4] = [
    ("cdi.kubevirt.io:admin", Some("admin")),
    ("cdi.kubevirt.io:edit", Some("edit")),
    ("cdi.kubevirt.io:view", Some("view")),
    ("cdi.kubevirt.io:config-reader", None),
];

/// Creates an object, or makes the present one like it.
pub async fn ensure<K>(api: &Api<K>, object: &Value) -> Result<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let mut object: K = serde_json::from_value(object.clone())?;
    let name = object.name_any();
    let what = || format!("install {} {name}", K::kind(&()));
    for _ in 0..5 {
        let written = match api.get_opt(&name).await.with_context(what)? {
            None => api.create(&PostParams::default(), &object).await,
            Some(present) => {
                object.meta_mut().resource_version = present.resource_version();
                api.replace(&name, &PostParams::default(), &object).await
            }
        };
        match written {
            Ok(written) => return Ok(written),
            Err(kube::Error::Api(status)) if status.code == 409 => object.meta_mut().resource_version = None,
            Err(error) => return Err(error).with_context(what),
        }
    }
    bail!("{}: it changes all the time", what())
}

/// Installs CRDs, namespace, accounts, roles, the CDI object and the CDIConfig.
pub async fn install(client: &Client) -> Result<()> {
    for definition in crds() {
        ensure::<CustomResourceDefinition>(&Api::all(client.clone()), &serde_json::to_value(definition)?).await?;
    }
    established(client).await?;
    let labels = json!({"operator.cdi.kubevirt.io": ""});
    let namespace = json!({"metadata": {"name": NAMESPACE, "labels": labels}});
    let namespaces: Api<Namespace> = Api::all(client.clone());
    if namespaces.get_opt(NAMESPACE).await?.is_none() {
        ensure(&namespaces, &namespace).await?;
    }
    for account in [CONTROLLER_ACCOUNT, ADMISSION_ACCOUNT] {
        let api: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        ensure(&api, &json!({"metadata": {"name": account, "namespace": NAMESPACE}})).await?;
    }
    ensure::<ClusterRole>(&Api::all(client.clone()), &role()).await?;
    ensure::<ClusterRoleBinding>(&Api::all(client.clone()), &binding()).await?;
    for (name, aggregated) in USER_ROLES {
        ensure::<ClusterRole>(&Api::all(client.clone()), &user_role(name, aggregated)).await?;
    }
    settings(client).await
}

/// Creates the CDI object and the CDIConfig, where they are missing.
async fn settings(client: &Client) -> Result<()> {
    let gates = json!({"featureGates": [GATE_FIRST_CONSUMER]});
    let cdis: Api<Cdi> = Api::all(client.clone());
    if cdis.get_opt(CDI).await?.is_none() {
        ensure(&cdis, &object("CDI", CDI, &json!({"config": gates}))).await?;
    }
    let configs: Api<CdiConfig> = Api::all(client.clone());
    if configs.get_opt(CONFIG).await?.is_none() {
        ensure(&configs, &object("CDIConfig", CONFIG, &gates)).await?;
    }
    Ok(())
}

/// The spec of the CDIConfig that follows from the CDI object.
pub fn config_spec(spec: &CdiSpec) -> Result<Value> {
    match &spec.config {
        Some(config) => Ok(serde_json::to_value(config)?),
        None => Ok(json!({"featureGates": [GATE_FIRST_CONSUMER]})),
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Waits until the API server serves all kinds.
async fn established(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in crds() {
        let name = definition.name_any();
        for attempt in 0.. {
            let conditions = api.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
            if conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
                break;
            }
            anyhow::ensure!(attempt < 300, "the CRD {name} is not established");
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// What both accounts may do: CDI's own rights are finer, but nobody but the double uses these.
fn role() -> Value {
    let rule =
        |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "resources": resources, "verbs": ["*"]});
    json!({"metadata": {"name": ROLE}, "rules": [
        rule(&["cdi.kubevirt.io"], &["*"]),
        rule(&[""], &["persistentvolumeclaims", "persistentvolumeclaims/finalizers", "persistentvolumes", "events"]),
        rule(&[""], &["namespaces"]),
        rule(&["snapshot.storage.k8s.io"], &["volumesnapshots"]),
        rule(&["storage.k8s.io"], &["storageclasses"]),
        rule(&["coordination.k8s.io"], &["leases"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"]),
    ]})
}

fn binding() -> Value {
    let subject = |name: &str| json!({"kind": "ServiceAccount", "namespace": NAMESPACE, "name": name});
    json!({
        "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [subject(CONTROLLER_ACCOUNT), subject(ADMISSION_ACCOUNT)],
    })
}

fn user_role(name: &str, aggregated: Option<&str>) -> Value {
    let source = json!({"apiGroups": ["cdi.kubevirt.io"], "resources": ["datavolumes/source"], "verbs": ["create"]});
    let own = json!({
        "apiGroups": ["cdi.kubevirt.io"], "resources": ["datavolumes", "datasources", "volumeclonesources"],
        "verbs": ["*"],
    });
    let read = |resources: &[&str]| json!({"apiGroups": ["cdi.kubevirt.io"], "resources": resources, "verbs": ["get", "list", "watch"]});
    let rules = match aggregated {
        Some("view") => vec![read(&["datavolumes", "datasources", "volumeclonesources", "storageprofiles"])],
        Some(_) => vec![own, source],
        None => vec![read(&["cdiconfigs", "storageprofiles"])],
    };
    let labels = aggregated.map(|role| json!({format!("rbac.authorization.k8s.io/aggregate-to-{role}"): "true"}));
    json!({"metadata": {"name": name, "labels": labels}, "rules": rules})
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;

    use super::*;

    #[tokio::test]
    async fn what_is_there_already_is_made_like_it_and_settings_are_kept() -> Result<()> {
        let api = FakeApi::default();
        let client = api.client();
        let roles: Api<ClusterRole> = Api::all(client.clone());
        ensure(&roles, &json!({"metadata": {"name": ROLE, "labels": {"of": "smartclone"}}})).await?;
        ensure(&roles, &role()).await?;
        let stored = roles.get(ROLE).await?;
        assert!(stored.labels().is_empty() && stored.rules.is_some_and(|rules| rules.len() > 3));
        settings(&client).await?;
        let configs: Api<CdiConfig> = Api::all(client.clone());
        let gates = configs.get(CONFIG).await?.spec.feature_gates;
        assert_eq!(gates, Some(vec![GATE_FIRST_CONSUMER.to_owned()]));
        api.take_writes();
        settings(&client).await?;
        assert!(api.take_writes().is_empty());
        Ok(())
    }
}
