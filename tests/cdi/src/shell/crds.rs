//! CDI's CRDs: those of `common::api` without smartclone's own fields and rules, so that the API server prunes the fields.
//!
//! smartclone's own fields: `status.clone` of DataVolumes, `status.capabilities` and `status.refusals` of StorageProfiles. CEL rules
//! are smartclone's, too: CDI's webhook checks what they check.

use common::api::definitions;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::ResourceExt as _;

/// The fields of a status that CDI does not have, by the name of the definition.
const OWN_FIELDS: [(&str, &[&str]); 2] =
    [("datavolumes.cdi.kubevirt.io", &["clone"]), ("storageprofiles.cdi.kubevirt.io", &["capabilities", "refusals"])];

/// All definitions.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = definitions();
    for definition in &mut all {
        let name = definition.name_any();
        let own = OWN_FIELDS.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, fields)| fields);
        for version in &mut definition.spec.versions {
            let Some(root) = version.schema.as_mut().and_then(|it| it.open_api_v3_schema.as_mut()) else { continue };
            without_rules(root);
            let status = root.properties.as_mut().and_then(|properties| properties.get_mut("status"));
            if let Some(fields) = status.and_then(|status| status.properties.as_mut()) {
                fields.retain(|field, _| !own.contains(&field.as_str()));
            }
        }
    }
    all
}

fn without_rules(schema: &mut JSONSchemaProps) {
    schema.x_kubernetes_validations = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        without_rules(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => without_rules(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(without_rules),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        without_rules(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_smartclone_is_left_in_them() {
        let all = serde_json::to_string(&crds()).unwrap();
        for word in
            ["\"refusals\"", "\"capabilities\"", "x-kubernetes-validations", "temporaryObjects", "Not part of CDI"]
        {
            assert!(!all.contains(word), "{word}");
        }
        assert_eq!(crds().len(), 7);
        assert!(all.contains("claimPropertySets") && all.contains("restartCount"));
    }
}
