//! The lever for bursts: CDI's webhooks skip the creation of clones that smartclone has taken.
//!
//! CDI's object belongs to its admin, so these are patches for `kubectl patch`, and no objects to apply. CDI's operator puts them into its
//! webhook configurations (`spec.customizeComponents`, since CDI 1.59.0). Updates are still reviewed by CDI, or its rule that the spec
//! doesn't change would not be enforced.

use anyhow::Result;
use common::{
    keys::{PRE_POPULATED, SENTINEL},
    manifest::Manifest,
};
use serde_json::{Value, json};

/// CDI's webhook configurations for DataVolumes: kind and name.
const CONFIGURATIONS: [(&str, &str); 2] = [
    ("MutatingWebhookConfiguration", "cdi-api-datavolume-mutate"),
    ("ValidatingWebhookConfiguration", "cdi-api-datavolume-validate"),
];

/// The name of the condition.
const CONDITION: &str = "not-taken-by-smartclone";

/// The two patches of the CDI object.
pub fn patches() -> Result<[Manifest; 2]> {
    let mut patch = Manifest::sample(
        "lever/patch.yaml",
        "Makes CDI's webhooks skip the creation of clones that smartclone has taken; docs/beside-cdi.md tells when and how.",
    );
    let operations = serde_json::to_string(&operations())?;
    let patches = CONFIGURATIONS
        .map(|(kind, name)| json!({"resourceType": kind, "resourceName": name, "type": "json", "patch": operations}));
    patch.objects.push(customization(&json!(patches)));
    let mut unpatch = Manifest::sample(
        "lever/unpatch.yaml",
        "Takes away what patch.yaml has set, and every other patch of CDI's components.",
    );
    unpatch.objects.push(customization(&Value::Null));
    Ok([patch, unpatch])
}

fn customization(patches: &Value) -> Value {
    json!({"spec": {"customizeComponents": {"patches": patches}}})
}

/// The JSON patch of one webhook configuration.
fn operations() -> Value {
    let conditions = json!([{"name": CONDITION, "expression": expression()}]);
    json!([{"op": "add", "path": "/webhooks/0/matchConditions", "value": conditions}])
}

/// True for every request that CDI has to review. An object without annotations is no error: `Fail` would reject it.
fn expression() -> String {
    let taken = format!(
        "has(object.metadata.annotations) && '{PRE_POPULATED}' in object.metadata.annotations && \
         object.metadata.annotations['{PRE_POPULATED}'] == '{SENTINEL}'"
    );
    format!("request.operation != 'CREATE' || !({taken})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patches_are_what_cdi_reads() {
        let [patch, unpatch] = patches().unwrap();
        let patches = &patch.objects[0]["spec"]["customizeComponents"]["patches"];
        for (index, (kind, name)) in CONFIGURATIONS.into_iter().enumerate() {
            let one = &patches[index];
            assert_eq!(
                (&one["resourceType"], &one["resourceName"], &one["type"]),
                (&json!(kind), &json!(name), &json!("json"))
            );
            let operations: Value = serde_json::from_str(one["patch"].as_str().unwrap()).unwrap();
            assert_eq!(operations[0]["path"], "/webhooks/0/matchConditions");
            let condition = operations[0]["value"][0]["expression"].as_str().unwrap();
            assert!(condition.starts_with("request.operation != 'CREATE' || "), "{condition}");
        }
        assert_eq!(unpatch.objects[0]["spec"]["customizeComponents"], json!({"patches": null}));
        assert!(!patch.installed && !unpatch.installed, "they are no objects");
    }
}
