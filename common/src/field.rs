//! What is wrong with a field, in the words that users of `kubectl` know.

use std::fmt;

use serde::Serialize;

/// The kind of mistake; the names are those of Kubernetes' `StatusCause.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// A value has to be given.
    FieldValueRequired,
    /// The value makes no sense here.
    FieldValueInvalid,
    /// The value isn't one of those that exist.
    FieldValueNotSupported,
    /// The value may not be set or changed.
    FieldValueForbidden,
    /// The value names something that doesn't exist.
    FieldValueNotFound,
}

/// One mistake: the field, the value, the reason and, in the detail, the cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON path, such as `spec.pvc.resources.requests.storage`.
    pub field: String,
    /// The kind of mistake.
    pub kind: Kind,
    /// The value as it was given; empty where there is none to show.
    pub value: String,
    /// Why it is wrong and what would be right.
    pub detail: String,
}

/// Longer values are cut: the message goes to a terminal.
const SHOWN: usize = 120;

impl FieldError {
    fn new(field: impl Into<String>, kind: Kind, value: &str, detail: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { field: field.into(), kind, value: shown, detail: detail.into() }
    }

    /// `field` has to be given.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueRequired, "", detail)
    }

    /// `value` makes no sense in `field`.
    pub fn invalid(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueInvalid, value, detail)
    }

    /// `value` isn't one of those that `detail` lists.
    pub fn not_supported(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueNotSupported, value, detail)
    }

    /// `field` may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueForbidden, "", detail)
    }

    /// `value` names something that doesn't exist.
    pub fn not_found(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueNotFound, value, detail)
    }

    /// The mistake without the name of the field.
    pub fn message(&self) -> String {
        let Self { kind, value, detail, .. } = self;
        match kind {
            Kind::FieldValueRequired => format!("Required value: {detail}"),
            Kind::FieldValueInvalid => format!("Invalid value: {value:?}: {detail}"),
            Kind::FieldValueNotSupported => format!("Unsupported value: {value:?}: {detail}"),
            Kind::FieldValueForbidden => format!("Forbidden: {detail}"),
            Kind::FieldValueNotFound => format!("Not found: {value:?}: {detail}"),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

/// All mistakes on one line, as the API server joins them.
pub fn joined(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}
