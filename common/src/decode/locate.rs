//! The field of a JSON text at which its decoder stopped.
//!
//! serde_json reports line and column. The field is derived from these and the text alone, for all types: a decoder that tracks its path
//! (`serde_path_to_error`) would be compiled again for each type.

use std::{fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The maximum depth of a path. serde_json stops at 128 levels.
const MAX_DEPTH: usize = 128;

/// A value within a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// Its field, such as `spec.pvc.accessModes[0]`; `.` for the whole text.
    pub path: String,
    /// Its place in the text, in bytes.
    pub range: Range<usize>,
}

/// The innermost value at the position of `error`; the whole text if it isn't JSON.
pub(super) fn located(text: &str, error: &serde_json::Error) -> Located {
    let mut found = Located { path: ".".to_owned(), range: 0..text.len() };
    let (Some(position), Ok(whole)) = (position(text, error), serde_json::from_str::<&RawValue>(text)) else {
        return found;
    };
    let (mut value, mut path) = (whole.get(), String::new());
    found.range = range(text, value);
    for _ in 0..MAX_DEPTH {
        let inner = children(value)
            .into_iter()
            .map(|(segment, child)| (segment, child, range(text, child)))
            .find(|(_, _, range)| range.start <= position && position <= range.end);
        let Some((segment, child, range)) = inner else { break };
        path += &segment.to_string();
        (value, found.range) = (child, range);
    }
    let path = path.strip_prefix('.').unwrap_or(&path);
    if !path.is_empty() {
        path.clone_into(&mut found.path);
    }
    found
}

/// The byte of `text` at which the decoder stopped: the first byte of the invalid value, or the one after its last.
fn position(text: &str, error: &serde_json::Error) -> Option<usize> {
    let line: usize = text.split_inclusive('\n').take(error.line().checked_sub(1)?).map(str::len).sum();
    Some(line + error.column())
}

/// The byte range of `part`, which is borrowed from `text`.
fn range(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.len()
}

enum Segment {
    Key(String),
    Index(usize),
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, ".{key}"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The values directly within one value.
fn children(value: &str) -> Vec<(Segment, &str)> {
    if let Ok(Fields(fields)) = serde_json::from_str(value) {
        return fields.into_iter().map(|(key, child)| (Segment::Key(key), child.get())).collect();
    }
    let items: Vec<&RawValue> = serde_json::from_str(value).unwrap_or_default();
    items.into_iter().enumerate().map(|(index, child)| (Segment::Index(index), child.get())).collect()
}

/// All fields of an object, duplicates included.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Object {
        number: Option<u8>,
        list: Option<Vec<Object>>,
        map: Option<BTreeMap<String, u8>>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        needed: u8,
    }

    #[rstest]
    #[case::a_number(r#"{"number": 256}"#, "number", "256")]
    #[case::a_string(r#"{"number": "1"}"#, "number", r#""1""#)]
    #[case::half_a_character(r#"{"number": "\ud800"}"#, "number", r#""\ud800""#)]
    #[case::an_object(r#"{"number": {"a": 1}}"#, "number", r#"{"a": 1}"#)]
    #[case::in_a_list(r#"{"list": [{}, {"list": [{"number": 1}, {"number": []}]}]}"#, "list[1].list[1].number", "[]")]
    #[case::between_equals(r#"{"list":[{"number":1},{"number":true},{"number":1}]}"#, "list[1].number", "true")]
    #[case::on_another_line("{\n  \"map\": {\n    \"ä\": 1,\n    \"b.c\":\n\"x\"\n}}\n", "map.b.c", r#""x""#)]
    #[case::what_is_missing(r#"{"inner": {"other": 1}, "number": 1}"#, "inner", r#"{"other": 1}"#)]
    #[case::the_second_of_two(r#"{"map": {"a": 1, "a": null}}"#, "map.a", "null")]
    #[case::the_whole(" [] ", ".", "[]")]
    #[case::no_json(r#"{"number": 1"#, ".", r#"{"number": 1"#)]
    #[case::nothing("", ".", "")]
    fn the_field_that_does_not_fit(#[case] text: &str, #[case] path: &str, #[case] value: &str) {
        let found = located(text, &serde_json::from_str::<Object>(text).unwrap_err());
        assert_eq!((found.path.as_str(), &text[found.range]), (path, value));
    }
}
