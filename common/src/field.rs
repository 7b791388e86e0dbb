//! Errors about a field, in the form that `kubectl` prints.

use std::fmt;

use serde::Serialize;

/// The kind of error; the names are those of Kubernetes' `StatusCause.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// A value is required.
    FieldValueRequired,
    /// The value is invalid.
    FieldValueInvalid,
    /// The value is not one of the supported values.
    FieldValueNotSupported,
    /// The value may not be set or changed.
    FieldValueForbidden,
    /// The value names an object that does not exist.
    FieldValueNotFound,
}

/// One error: the field, the value, the reason and, in the detail, the remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON path, such as `spec.pvc.resources.requests.storage`.
    pub field: String,
    /// The kind of error.
    pub kind: Kind,
    /// The value as it was given; empty if there is none to show.
    pub value: String,
    /// The reason and the remedy.
    pub detail: String,
}

/// Maximum number of characters shown of a value: the message goes to a terminal.
const SHOWN: usize = 120;

/// Kubernetes' rules for names (RFC 1123).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// The rule for namespaces.
    Label,
    /// The rule for most objects in namespaces.
    Subdomain,
}

impl NameRule {
    fn longest(self) -> usize {
        match self {
            Self::Label => 63,
            Self::Subdomain => 253,
        }
    }

    /// True for a text that Kubernetes accepts as such a name, and which therefore is one segment of a request's path.
    pub fn permits(self, text: &str) -> bool {
        let inner = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let label =
            |part: &str| !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-');
        text.len() <= self.longest()
            && match self {
                Self::Label => label(text),
                Self::Subdomain => text.split('.').all(label),
            }
    }
}

impl FieldError {
    fn new(field: impl Into<String>, kind: Kind, value: &str, detail: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { field: field.into(), kind, value: shown, detail: detail.into() }
    }

    /// Returns the error of a missing value in `field`.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueRequired, "", detail)
    }

    /// Returns the error of an invalid `value` in `field`.
    pub fn invalid(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueInvalid, value, detail)
    }

    /// Returns the error of a `value` that is none of those that `detail` lists.
    pub fn not_supported(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueNotSupported, value, detail)
    }

    /// Returns the error of a `field` that may not be set or changed.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueForbidden, "", detail)
    }

    /// Returns the error of a `value` that names an object which does not exist.
    pub fn not_found(field: impl Into<String>, value: &str, detail: impl Into<String>) -> Self {
        Self::new(field, Kind::FieldValueNotFound, value, detail)
    }

    /// Returns the error of `text` as a name in `field`, if there is one. `missing` describes the object to name if `text` is empty.
    pub fn of_name(field: impl fmt::Display, text: &str, rule: NameRule, missing: impl fmt::Display) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::required(field.to_string(), missing.to_string()));
        }
        let longest = rule.longest();
        let characters = match rule {
            NameRule::Label => "lower case letters, digits and '-'",
            NameRule::Subdomain => "lower case letters, digits, '-' and '.'",
        };
        (!rule.permits(text)).then(|| {
            let detail =
                format!("a name has at most {longest} {characters}, and begins and ends with a letter or digit");
            Self::invalid(field.to_string(), text, detail)
        })
    }

    /// Returns the error without the name of the field.
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

/// Joins all errors on one line, as the API server does.
pub fn joined(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Returns the path of an annotation as `kubectl` prints it.
pub fn annotation_path(key: &str) -> String {
    format!("metadata.annotations[{key}]")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("disk-1", true, true)]
    #[case::with_dots("disk.example.com", false, true)]
    #[case::empty_part("disk..com", false, false)]
    #[case::dash_first("-disk", false, false)]
    #[case::dash_last("disk-", false, false)]
    #[case::dash_before_a_dot("disk-.com", false, false)]
    #[case::capitals("Disk", false, false)]
    #[case::umlaut("dïsk", false, false)]
    #[case::path("a/b", false, false)]
    #[case::long(&"x".repeat(63), true, true)]
    #[case::longer(&"x".repeat(64), false, true)]
    #[case::longest(&"x".repeat(253), false, true)]
    #[case::longer_than_any(&"x".repeat(254), false, false)]
    fn is_a_name(#[case] text: &str, #[case] label: bool, #[case] subdomain: bool) {
        let fine = |rule| FieldError::of_name("metadata.name", text, rule, "a name").is_none();
        assert_eq!((fine(NameRule::Label), fine(NameRule::Subdomain)), (label, subdomain));
    }

    #[test]
    fn a_missing_name_is_asked_for() {
        let error = FieldError::of_name("spec.source.name", "", NameRule::Label, "the name of the source");
        assert_eq!(error, Some(FieldError::required("spec.source.name", "the name of the source")));
    }
}
