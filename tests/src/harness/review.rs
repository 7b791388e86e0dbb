//! AdmissionReviews, for tests that call a webhook directly.

use anyhow::{Context as _, Result, ensure};
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// The review of a creation of `object` by `user`.
pub fn creation(object: &Value, namespace: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "cdi.kubevirt.io", "version": "v1beta1", "kind": "DataVolume"},
            "resource": {"group": "cdi.kubevirt.io", "version": "v1beta1", "resource": "datavolumes"},
            "name": object["metadata"]["name"], "namespace": namespace, "operation": "CREATE",
            "userInfo": user, "object": object, "oldObject": null, "dryRun": true,
        },
    })
}

/// The patch in a reply that allows the request.
pub fn patch_in(reply: &Value) -> Result<Patch> {
    ensure!(reply["response"]["allowed"] == true, "not admitted: {reply}");
    let patch: ByteString = serde_json::from_value(reply["response"]["patch"].clone()).context("no patch")?;
    Ok(serde_json::from_slice(&patch.0)?)
}
