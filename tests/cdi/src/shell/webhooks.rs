//! CDI's webhook configurations, and what an admin may change of them.

use common::api::{CdiSpec, CustomizeComponentsPatch};
use serde_json::{Value, json};
use tracing::warn;

use crate::version::Version;

/// The MutatingWebhookConfiguration.
pub const MUTATING: &str = "cdi-api-datavolume-mutate";
/// The ValidatingWebhookConfiguration.
pub const VALIDATING: &str = "cdi-api-datavolume-validate";
/// The path of the mutating webhook.
pub const MUTATE_PATH: &str = "/datavolume-mutate";
/// The path of the validating webhook.
pub const VALIDATE_PATH: &str = "/datavolume-validate";

/// The address and the authority of the admission server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Such as `https://10.222.0.1:9443`.
    pub url: String,
    /// The authority, as PEM.
    pub authority: String,
}

/// One of the two configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configuration {
    /// [`MUTATING`].
    Mutating,
    /// [`VALIDATING`].
    Validating,
}

impl Configuration {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutating => MUTATING,
            Self::Validating => VALIDATING,
        }
    }

    /// Its kind.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }

    /// The configuration as it should be: CDI's own with the admin's patches, and the present namespace selector.
    pub fn desired(self, endpoint: &Endpoint, spec: &CdiSpec, live: Option<&Value>, version: Version) -> Value {
        let mut object = self.base(endpoint);
        if version.customizes_webhooks() {
            let patches = spec.customize_components.as_ref().and_then(|it| it.patches.as_deref()).unwrap_or_default();
            let own = patches.iter().filter(|it| it.resource_name == self.name() && it.resource_type == self.kind());
            for patch in own {
                if let Err(error) = apply(&mut object, patch) {
                    warn!(%error, patch = patch.patch, "customizeComponents");
                }
            }
        }
        if let Some(selector) = live.and_then(|live| live.pointer("/webhooks/0/namespaceSelector")) {
            object["webhooks"][0]["namespaceSelector"] = selector.clone();
        }
        object
    }

    fn base(self, endpoint: &Endpoint) -> Value {
        let (name, path) = match self {
            Self::Mutating => ("datavolume-mutate.cdi.kubevirt.io", MUTATE_PATH),
            Self::Validating => ("datavolume-validate.cdi.kubevirt.io", VALIDATE_PATH),
        };
        let authority = k8s_openapi::ByteString(endpoint.authority.clone().into_bytes());
        let mut webhook = json!({
            "name": name,
            "clientConfig": {"url": format!("{}{path}", endpoint.url), "caBundle": authority},
            "rules": [{
                "apiGroups": ["cdi.kubevirt.io"], "apiVersions": ["v1beta1"], "resources": ["datavolumes"],
                "operations": ["CREATE", "UPDATE"], "scope": "*",
            }],
            "failurePolicy": "Fail", "matchPolicy": "Equivalent", "sideEffects": "None", "timeoutSeconds": 30,
            "admissionReviewVersions": ["v1"], "namespaceSelector": {}, "objectSelector": {},
        });
        if self == Self::Mutating {
            webhook["reinvocationPolicy"] = json!("Never");
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": self.kind(),
            "metadata": {"name": self.name(), "labels": {"operator.cdi.kubevirt.io": ""}}, "webhooks": [webhook],
        })
    }
}

fn apply(object: &mut Value, patch: &CustomizeComponentsPatch) -> anyhow::Result<()> {
    match patch.type_.as_str() {
        "json" => json_patch::patch(object, &serde_json::from_str::<json_patch::Patch>(&patch.patch)?)?,
        "merge" => json_patch::merge(object, &serde_json::from_str(&patch.patch)?),
        other => anyhow::bail!("patches of type {other:?} are not imitated"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(patch: &Value, name: &str) -> CdiSpec {
        serde_json::from_value(json!({"customizeComponents": {"patches": [{
            "resourceName": name, "resourceType": "MutatingWebhookConfiguration", "type": "json",
            "patch": patch.to_string(),
        }]}}))
        .unwrap()
    }

    #[test]
    fn an_admin_may_add_conditions_and_change_the_namespace_selector() {
        let endpoint = Endpoint { url: "https://h:1".to_owned(), authority: "pem".to_owned() };
        let patch = json!([{"op": "add", "path": "/webhooks/0/matchConditions", "value": [{"name": "x"}]}]);
        let version = Version::new(1, 66, 0);
        let live = json!({"webhooks": [{"namespaceSelector": {"a": "b"}, "failurePolicy": "Ignore"}]});
        let mutating = Configuration::Mutating;
        let desired = mutating.desired(&endpoint, &spec(&patch, MUTATING), Some(&live), version);
        let webhook = &desired["webhooks"][0];
        assert_eq!(webhook["matchConditions"], json!([{"name": "x"}]));
        assert_eq!((&webhook["namespaceSelector"], &webhook["failurePolicy"]), (&json!({"a": "b"}), &json!("Fail")));
        assert_eq!(webhook["clientConfig"]["url"], "https://h:1/datavolume-mutate");
        let other = mutating.desired(&endpoint, &spec(&patch, "another"), None, version);
        assert!(other["webhooks"][0].get("matchConditions").is_none());
        let old = mutating.desired(&endpoint, &spec(&patch, MUTATING), None, Version::new(1, 58, 2));
        assert!(old["webhooks"][0].get("matchConditions").is_none());
        let broken = json!([{"op": "remove", "path": "/nothing"}]);
        assert_eq!(mutating.desired(&endpoint, &spec(&broken, MUTATING), None, version), mutating.base(&endpoint));
    }
}
