//! The CEL rules of the CRDs, which the API server checks before any webhook: rules about one object, with the path of the field.

use kube::core::{Reason, Rule, validate};
use schemars::Schema;
use serde_json::json;

/// A share between 0 and 1 with up to three decimals (CDI's `Percent`).
pub(super) const PERCENT: &str = r"^(0(?:\.\d{1,3})?|1)$";

/// What a member of `source` can be.
const SOURCES: [&str; 10] = ["pvc", "snapshot", "http", "s3", "gcs", "registry", "upload", "blank", "imageio", "vddk"];

/// Every field of the spec that stays as it was created, except the two forms of the claim, which hold quantities.
const FIXED: [&str; 6] =
    ["source", "sourceRef", "priorityClassName", "serviceAccountName", "contentType", "preallocation"];

/// The two forms of the claim, with every field that stays as it was created, except the sizes.
const FIXED_IN_CLAIM: [(&str, &[&str]); 2] = [
    (
        "pvc",
        &[
            "accessModes",
            "selector",
            "volumeName",
            "storageClassName",
            "volumeMode",
            "volumeAttributesClassName",
            "dataSource",
            "dataSourceRef",
        ],
    ),
    (
        "storage",
        &["accessModes", "selector", "volumeName", "storageClassName", "volumeMode", "dataSource", "dataSourceRef"],
    ),
];

/// Rules of a DataVolume's spec.
pub(super) fn data_volume(schema: &mut Schema) {
    add(
        schema,
        Rule::new("has(self.pvc) != has(self.storage)")
            .message("give exactly one of spec.pvc and spec.storage")
            .reason(Reason::FieldValueRequired)
            .field_path(".storage"),
    );
    add(
        schema,
        Rule::new(
            "[has(self.source), has(self.sourceRef), \
             has(self.pvc) && (has(self.pvc.dataSource) || has(self.pvc.dataSourceRef)) || \
             has(self.storage) && (has(self.storage.dataSource) || has(self.storage.dataSourceRef))]\
             .exists_one(given, given)",
        )
        .message("say exactly once where the data comes from: spec.source, spec.sourceRef, or a dataSource or dataSourceRef of the claim")
        .reason(Reason::FieldValueRequired)
        .field_path(".source"),
    );
    for field in FIXED {
        add(schema, fixed(field, &same("", field)));
    }
    for (form, fields) in FIXED_IN_CLAIM {
        let parts: Vec<_> = fields.iter().map(|field| same(&format!(".{form}"), field)).collect();
        let claim = format!("{} && {}", parts.join(" && "), same_size(form));
        add(schema, fixed(form, &where_present(|spec| format!("has({spec}.{form})"), &claim)));
    }
}

/// CEL that holds where a field is absent before and after, or present and equal.
fn same(parent: &str, field: &str) -> String {
    where_present(
        |spec| format!("has({spec}{parent}.{field})"),
        &format!("self{parent}.{field} == oldSelf{parent}.{field}"),
    )
}

/// The same size in other words (1Gi, 1024Mi) is no change.
fn same_size(form: &str) -> String {
    let requests = |spec: &str| format!("{spec}.{form}.resources.requests");
    let size = |spec: &str| format!("quantity(string({}['storage']))", requests(spec));
    where_present(
        |spec| format!("(has({spec}.{form}.resources) && has({}) && 'storage' in {})", requests(spec), requests(spec)),
        &format!("{}.compareTo({}) == 0", size("self"), size("oldSelf")),
    )
}

/// Optionals would say this in fewer words, but the API server estimates that comparing them costs more than it allows.
fn where_present(present: impl Fn(&str) -> String, then: &str) -> String {
    let (new, old) = (present("self"), present("oldSelf"));
    format!("({new} == {old} && (!{new} || {then}))")
}

fn fixed(field: &str, rule: &str) -> Rule {
    Rule::new(rule)
        .message(
            format!("spec.{field} can't be changed once the DataVolume exists; delete it and create another one")
                .as_str(),
        )
        .reason(Reason::FieldValueForbidden)
        .field_path(format!(".{field}"))
}

/// Rules of a DataVolume's source.
pub(super) fn source(schema: &mut Schema) {
    let given = SOURCES.map(|kind| format!("has(self.{kind})")).join(", ");
    add(
        schema,
        Rule::new(format!("[{given}].exists_one(given, given)"))
            .message(format!("give exactly one source: one of {}", SOURCES.join(", ")).as_str())
            .reason(Reason::FieldValueRequired),
    );
}

/// Rules of an ObjectTransfer's spec.
pub(super) fn object_transfer(schema: &mut Schema) {
    // `namespace` is a reserved word of CEL; written like this it is the field.
    const NAMESPACE: &str = "__namespace__";
    let elsewhere = |field: &str| {
        format!("(has(self.target.{field}) && self.target.{field} != '' && self.target.{field} != self.source.{field})")
    };
    add(
        schema,
        Rule::new(format!("{} || {}", elsewhere(NAMESPACE), elsewhere("name")))
            .message("say where it goes: another namespace, another name, or both")
            .reason(Reason::FieldValueRequired)
            .field_path(".target"),
    );
    add(
        schema,
        // Not the whole: annotations have keys without a limit, of which the API server fears the worst. The webhook compares those.
        Rule::new(
            format!(
                "self.target == oldSelf.target && self.source.kind == oldSelf.source.kind && \
                 self.source.{NAMESPACE} == oldSelf.source.{NAMESPACE} && self.source.name == oldSelf.source.name"
            )
            .as_str(),
        )
        .message("spec can't be changed once the ObjectTransfer exists; delete it and create another one")
        .reason(Reason::FieldValueForbidden),
    );
}

/// Rules of a StorageProfile's claim properties.
pub(super) fn claim_property_set(schema: &mut Schema) {
    add(
        schema,
        Rule::new("self.accessModes.all(mode, mode in ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'])")
            .message("an access mode is one of ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod")
            .field_path(".accessModes"),
    );
}

/// [`PERCENT`] for the values of a map.
pub(super) fn percent_values(schema: &mut Schema) {
    schema.insert("additionalProperties".to_owned(), json!({ "type": "string", "pattern": PERCENT }));
}

fn add(schema: &mut Schema, rule: Rule) {
    // A rule is made of strings, so writing it as JSON can't fail.
    let written = validate(schema, rule);
    debug_assert!(written.is_ok(), "{written:?}");
}
