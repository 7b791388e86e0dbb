//! CEL rules of the CRDs, which the API server evaluates without a webhook: rules about one object, each with the path of the field.

use kube::core::{Reason, Rule, validate};
use schemars::Schema;
use serde_json::json;

/// A share between 0 and 1 with up to three decimals (CDI's `Percent`).
pub(super) const PERCENT: &str = r"^(0(?:\.\d{1,3})?|1)$";

/// The kinds of source: the fields of `source`.
const SOURCES: [&str; 10] = ["pvc", "snapshot", "http", "s3", "gcs", "registry", "upload", "blank", "imageio", "vddk"];

/// Immutable fields of the spec, except the two forms of the claim, which hold quantities.
const FIXED: [&str; 6] =
    ["source", "sourceRef", "priorityClassName", "serviceAccountName", "contentType", "preallocation"];

/// The two forms of the claim with their immutable fields, except the sizes.
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

/// Adds the rules of a DataVolume's spec.
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

/// Returns a CEL expression that is true if a field is absent before and after, or present and equal.
fn same(parent: &str, field: &str) -> String {
    where_present(
        |spec| format!("has({spec}{parent}.{field})"),
        &format!("self{parent}.{field} == oldSelf{parent}.{field}"),
    )
}

/// Returns a CEL expression that is true if the size is unchanged. Another notation of the same size (1Gi, 1024Mi) is no change.
fn same_size(form: &str) -> String {
    let requests = |spec: &str| format!("{spec}.{form}.resources.requests");
    let size = |spec: &str| format!("quantity(string({}['storage']))", requests(spec));
    where_present(
        |spec| format!("(has({spec}.{form}.resources) && has({}) && 'storage' in {})", requests(spec), requests(spec)),
        &format!("{}.compareTo({}) == 0", size("self"), size("oldSelf")),
    )
}

/// CEL optionals would be shorter, but the API server estimates their comparison above its cost limit.
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

/// Adds the rules of a DataVolume's source.
pub(super) fn source(schema: &mut Schema) {
    let given = SOURCES.map(|kind| format!("has(self.{kind})")).join(", ");
    add(
        schema,
        Rule::new(format!("[{given}].exists_one(given, given)"))
            .message(format!("give exactly one source: one of {}", SOURCES.join(", ")).as_str())
            .reason(Reason::FieldValueRequired),
    );
}

/// Adds the rules of an ObjectTransfer's spec.
pub(super) fn object_transfer(schema: &mut Schema) {
    // `namespace` is a reserved word in CEL; this is its escaped form.
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
        // Not the whole spec: annotation keys have no length limit, so the API server would assume the highest cost. The webhook compares
        // them.
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

/// Adds the rules of a StorageProfile's claim properties.
pub(super) fn claim_property_set(schema: &mut Schema) {
    add(
        schema,
        Rule::new("self.accessModes.all(mode, mode in ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'])")
            .message("an access mode is one of ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod")
            .field_path(".accessModes"),
    );
}

/// Adds [`PERCENT`] as the pattern of a map's values.
pub(super) fn percent_values(schema: &mut Schema) {
    schema.insert("additionalProperties".to_owned(), json!({ "type": "string", "pattern": PERCENT }));
}

fn add(schema: &mut Schema, rule: Rule) {
    // A rule is made of strings, so writing it as JSON can't fail.
    let written = validate(schema, rule);
    debug_assert!(written.is_ok(), "{written:?}");
}
