//! Request of an ObjectTransfer: the parsed spec, or all its errors at once. The webhook and the controller use the same parser.

use std::collections::BTreeMap;

use crate::{
    api::{self, ObjectTransferSpec},
    field::{FieldError, NameRule},
    object::ObjectName,
};

/// The kind of a moved object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// A claim with its data.
    Claim,
    /// A DataVolume with its claim.
    DataVolume,
}

impl Moved {
    /// Returns the kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "PersistentVolumeClaim",
            Self::DataVolume => "DataVolume",
        }
    }

    fn api_version(self) -> String {
        match self {
            Self::Claim => "v1".to_owned(),
            Self::DataVolume => format!("{}/{}", api::GROUP, api::VERSION),
        }
    }
}

/// A requested move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The kind of the moved object.
    pub kind: Moved,
    /// The source.
    pub source: ObjectName,
    /// The target.
    pub target: ObjectName,
    /// Annotations that the moved object must have.
    pub required: BTreeMap<String, String>,
}

/// Parses a spec.
pub fn parse(spec: &ObjectTransferSpec) -> Result<Move, Vec<FieldError>> {
    let mut errors = Vec::new();
    let kind = match spec.source.kind.as_str() {
        "PersistentVolumeClaim" => Some(Moved::Claim),
        "DataVolume" => Some(Moved::DataVolume),
        other => {
            let supported = "supported values: \"PersistentVolumeClaim\", \"DataVolume\"";
            errors.push(FieldError::not_supported("spec.source.kind", other, supported));
            None
        }
    };
    if let (Some(kind), Some(version)) = (kind, spec.source.api_version.as_deref().filter(|v| !v.is_empty()))
        && version != kind.api_version()
    {
        let detail = format!("the version of a {} is {:?}; or leave it out", kind.as_str(), kind.api_version());
        errors.push(FieldError::not_supported("spec.source.apiVersion", version, detail));
    }
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (namespace, name) = (given(&spec.target.namespace), given(&spec.target.name));
    let nowhere = namespace.is_none() && name.is_none();
    let source = ObjectName { namespace: spec.source.namespace.clone(), name: spec.source.name.clone() };
    let target = ObjectName {
        namespace: namespace.unwrap_or_else(|| source.namespace.clone()),
        name: name.unwrap_or_else(|| source.name.clone()),
    };
    for (text, field, rule) in [
        (&source.namespace, "spec.source.namespace", NameRule::Label),
        (&source.name, "spec.source.name", NameRule::Subdomain),
        (&target.namespace, "spec.target.namespace", NameRule::Label),
        (&target.name, "spec.target.name", NameRule::Subdomain),
    ] {
        // An error in a value that the target takes from the source is reported for the source.
        let inherited = field.starts_with("spec.target") && (*text == source.namespace || *text == source.name);
        if !inherited {
            errors.extend(FieldError::of_name(field, text, rule, "the name of what moves is needed"));
        }
    }
    if nowhere {
        let detail = "say where it goes: another namespace, another name, or both";
        errors.push(FieldError::required("spec.target", detail));
    } else if source == target {
        let detail = "it is there already; name another namespace, another name, or both";
        errors.push(FieldError::invalid("spec.target", &target.to_string(), detail));
    }
    match kind {
        Some(kind) if errors.is_empty() => {
            let required = spec.source.required_annotations.clone().unwrap_or_default();
            Ok(Move { kind, source, target, required })
        }
        _ => Err(errors),
    }
}

/// Returns the error of a changed spec: it is immutable.
pub fn changes(old: &ObjectTransferSpec, new: &ObjectTransferSpec) -> Vec<FieldError> {
    if old == new {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "it can't be changed once the ObjectTransfer exists; delete it and create another one",
    )]
}
