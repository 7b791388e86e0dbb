//! What the API server itself refuses: rules about one object, told with the path of the field, before any webhook is asked.

use kube::core::{Reason, Rule, validate};
use schemars::Schema;

/// A share between 0 and 1 with up to three decimals (CDI's `Percent`).
pub(super) const PERCENT: &str = r"^(0(?:\.\d{1,3})?|1)$";

/// What a member of `source` can be.
const SOURCES: [&str; 10] = ["pvc", "snapshot", "http", "s3", "gcs", "registry", "upload", "blank", "imageio", "vddk"];

/// Every field of the spec that stays as it was created, except the two forms of the claim, which hold quantities.
const FIXED: [&str; 6] =
    ["source", "sourceRef", "priorityClassName", "serviceAccountName", "contentType", "preallocation"];

/// Every field of the claim that stays as it was created, except its sizes.
const FIXED_IN_CLAIM: [&str; 7] =
    ["accessModes", "selector", "volumeName", "storageClassName", "volumeMode", "dataSource", "dataSourceRef"];

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
        add(schema, fixed(field, &format!("self.?{field} == oldSelf.?{field}")));
    }
    for form in ["pvc", "storage"] {
        let same: Vec<_> =
            FIXED_IN_CLAIM.iter().map(|field| format!("self.?{form}.?{field} == oldSelf.?{form}.?{field}")).collect();
        add(schema, fixed(form, &format!("has(self.{form}) == has(oldSelf.{form}) && {}", same.join(" && "))));
        add(schema, fixed(form, &same_size(form)));
    }
}

/// The same size in other words (1Gi, 1024Mi) is no change.
fn same_size(form: &str) -> String {
    let size = |of: &str| format!("{of}.?{form}.?resources.?requests[?'storage']");
    let (new, old) = (size("self"), size("oldSelf"));
    format!(
        "{new} == {old} || ({new}.hasValue() && {old}.hasValue() && \
         quantity(string({new}.value())).compareTo(quantity(string({old}.value()))) == 0)"
    )
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

/// Rules of a StorageProfile's claim properties.
pub(super) fn claim_property_set(schema: &mut Schema) {
    add(
        schema,
        Rule::new("self.accessModes.all(mode, mode in ['ReadWriteOnce', 'ReadOnlyMany', 'ReadWriteMany', 'ReadWriteOncePod'])")
            .message("an access mode is one of ReadWriteOnce, ReadOnlyMany, ReadWriteMany, ReadWriteOncePod")
            .field_path(".accessModes"),
    );
}

fn add(schema: &mut Schema, rule: Rule) {
    // A rule is made of strings, so writing it as JSON can't fail.
    let written = validate(schema, rule);
    debug_assert!(written.is_ok(), "{written:?}");
}
