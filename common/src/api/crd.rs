//! The CustomResourceDefinitions that an admin installs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use super::{Cdi, CdiConfig, DataSource, DataVolume, ObjectTransfer, StorageProfile, VolumeCloneSource};

/// Pattern of the quantities that Kubernetes accepts.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// Every definition, ready to be applied.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    [
        DataVolume::crd(),
        DataSource::crd(),
        VolumeCloneSource::crd(),
        ObjectTransfer::crd(),
        StorageProfile::crd(),
        Cdi::crd(),
        CdiConfig::crd(),
    ]
    .map(finished)
    .into()
}

/// Completes a definition with what the derive macro cannot express.
fn finished(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            finish(root);
        }
    }
    crd
}

fn finish(schema: &mut JSONSchemaProps) {
    // Without `nullable`, the API server removes null values, as with CDI's schema, and `has()` in a CEL rule is true only for a value.
    schema.nullable = None;
    if let Some(words) = &mut schema.enum_ {
        words.retain(|word| !word.0.is_null());
    }
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.pattern = Some(QUANTITY.to_owned());
        // Longer quantities are never needed, and the rules that compare quantities have a cost limit.
        schema.max_length = Some(64);
        let type_ = |name: &str| JSONSchemaProps { type_: Some(name.to_owned()), ..Default::default() };
        schema.any_of = Some(vec![type_("integer"), type_("string")]);
        schema.type_ = None;
    }
    if let Some(text) = &mut schema.description {
        *text = first_paragraph(text);
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        finish(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => finish(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(finish),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        finish(values);
    }
}

/// Returns the first paragraph on one line. `kubectl explain` wraps lines itself, and later paragraphs are about grammar and history.
fn first_paragraph(text: &str) -> String {
    text.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
