//! A review of a DataVolume, and the answer to it.

use common::api::DataVolume;
use k8s_openapi::api::authentication::v1::UserInfo;
use kube::ResourceExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

/// The operation under review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A new object.
    Create,
    /// A change of an object.
    Update,
    /// Any other operation.
    #[serde(other)]
    Other,
}

/// An AdmissionReview as the API server sends it.
#[derive(Debug, Clone, Deserialize)]
pub struct Review {
    /// The request.
    pub request: Request,
}

/// The request of a review.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The UID of the review.
    pub uid: String,
    /// The operation.
    pub operation: Operation,
    /// The namespace of the object.
    #[serde(default)]
    pub namespace: String,
    /// The requester.
    #[serde(default)]
    pub user_info: UserInfo,
    /// The new object.
    #[serde(default)]
    pub object: Option<DataVolume>,
    /// The old object of an update.
    #[serde(default)]
    pub old_object: Option<DataVolume>,
}

/// The decision about a review.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Admitted as it is.
    Allow,
    /// Admitted with this annotation.
    Annotate {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
    },
    /// Refused with this message.
    Deny(String),
}

impl Request {
    /// The new object in its namespace, which the object itself may lack.
    pub fn data_volume(&self) -> Option<DataVolume> {
        let mut object = self.object.clone()?;
        object.metadata.namespace.get_or_insert_with(|| self.namespace.clone());
        Some(object)
    }

    /// The answer to the review, as JSON.
    pub fn answer(&self, decision: &Decision) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": !matches!(decision, Decision::Deny(_))});
        match decision {
            Decision::Allow => {}
            Decision::Annotate { key, value } => {
                let patch = self.patch(key, value).to_string();
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(base64(patch.as_bytes()));
            }
            Decision::Deny(message) => {
                response["status"] = json!({"status": "Failure", "message": message, "reason": "Invalid", "code": 422});
            }
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    fn patch(&self, key: &str, value: &str) -> Value {
        let has_annotations = self.object.as_ref().is_some_and(|object| !object.annotations().is_empty());
        if has_annotations {
            let path = format!("/metadata/annotations/{}", key.replace('~', "~0").replace('/', "~1"));
            json!([{"op": "add", "path": path, "value": value}])
        } else {
            json!([{"op": "add", "path": "/metadata/annotations", "value": {key: value}}])
        }
    }
}

/// Base64, in which a patch is sent.
fn base64(bytes: &[u8]) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(annotations: &Value) -> Request {
        let object = json!({"metadata": {"name": "d", "annotations": annotations}, "spec": {}});
        serde_json::from_value(json!({"uid": "u", "operation": "CREATE", "namespace": "n", "object": object})).unwrap()
    }

    #[test]
    fn a_patch_adds_the_key_and_the_map_where_there_is_none() {
        let key = "cdi.kubevirt.io/x";
        let with = request(&json!({"a": "b"})).patch(key, "v");
        assert_eq!(with[0]["path"], "/metadata/annotations/cdi.kubevirt.io~1x");
        let without = request(&Value::Null).patch(key, "v");
        assert_eq!(without[0]["value"], json!({key: "v"}));
        let answer = request(&Value::Null).answer(&Decision::Annotate { key: "k", value: "v".to_owned() });
        assert!(answer["response"]["patch"].is_string(), "{answer}");
    }

    #[test]
    fn a_denial_is_unprocessable() {
        let answer = request(&Value::Null).answer(&Decision::Deny("no".to_owned()));
        assert_eq!(
            (&answer["response"]["allowed"], &answer["response"]["status"]["code"]),
            (&json!(false), &json!(422))
        );
    }
}
