//! Lenient decoding of Kubernetes objects: an object that can't be read is a value of its own, so that it never fails the list or the
//! watch that it is part of.
//!
//! The API server accepts more than the types here can represent. Its times reach from year 0 to 9999, and an offset carries them beyond
//! both ends; jiff's last timestamp is 9999-12-30T22:00:00Z. Any user may write such times, in `metadata.managedFields` of an object that
//! he may update, or in an Event. Therefore managed fields, which are not used here, are dropped before decoding, and times out of range
//! are clamped.

mod locate;
mod time;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;
use thiserror::Error;

use self::locate::{Located, located};

/// The number of times that are clamped per object. Each costs one more attempt to decode the object; no kind that is read here has more
/// time fields that a user may write.
const MAX_CLAMPED_TIMES: usize = 16;

/// The number of characters of an object's text that an error quotes.
const MAX_QUOTED: usize = 160;

/// The reason why an object can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", shortened(&format!("{path}: {message}")))]
pub struct DecodeError {
    /// The field that doesn't fit the type, such as `spec.pvc.accessModes`; `.` for the whole object.
    pub path: String,
    /// The complete value of the field as JSON; empty if it isn't known.
    pub value: String,
    /// The reason, which may quote the value.
    pub message: String,
}

/// Decodes one object without its managed fields. A time that can't be represented is clamped to the nearest one that can.
pub fn decode<K: DeserializeOwned>(json: &str) -> Result<K, DecodeError> {
    decode_clamped(without_managed_fields(json))
}

/// An object of a list, a watch or a response, or the known parts of one that can't be decoded. Implements `Resource` for kube's watches.
#[derive(Debug, Clone)]
pub struct Decoded<K>(pub Result<K, Unreadable>);

/// An object that exists and can't be decoded.
#[derive(Clone, Error)]
#[error("{error}")]
pub struct Unreadable {
    /// Its metadata; if that can't be decoded either, only name, namespace, UID and resource version.
    pub metadata: Box<ObjectMeta>,
    /// The reason on one line, safe for a log: it quotes at most 160 characters of the object.
    pub error: String,
}

impl fmt::Debug for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectMeta { namespace, name, resource_version, .. } = &*self.metadata;
        let mut fields = f.debug_struct("Unreadable");
        fields.field("namespace", namespace).field("name", name).field("resource_version", resource_version);
        fields.field("error", &self.error).finish_non_exhaustive()
    }
}

impl<K: DeserializeOwned> Decoded<K> {
    /// Decodes one object; see [`decode`].
    pub fn from_json(json: &str) -> Self {
        Self(
            decode(json)
                .map_err(|error| Unreadable { metadata: Box::new(metadata_of(json)), error: error.to_string() }),
        )
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Decoded<K> {
    /// Supports JSON text only, as kube reads it: a second attempt needs the text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|json| Self::from_json(json.get()))
    }
}

impl<K: Resource> Resource for Decoded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &*unreadable.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut *unreadable.metadata, K::meta_mut)
    }
}

/// Replaces the value of `metadata.managedFields` by `null`. Managed fields are often half of an object; they are skipped, not parsed.
fn without_managed_fields(json: &str) -> Cow<'_, str> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow)]
        managed_fields: Option<&'a RawValue>,
    }
    let found = serde_json::from_str::<Object<'_>>(json).ok().and_then(|object| object.metadata.managed_fields);
    let parts = found.map(RawValue::get).and_then(|fields| {
        // The value is borrowed, so it is a part of the text.
        let start = fields.as_ptr().addr().checked_sub(json.as_ptr().addr())?;
        Some((json.get(..start)?, json.get(start + fields.len()..)?))
    });
    parts.map_or(Cow::Borrowed(json), |(before, after)| Cow::Owned([before, "null", after].concat()))
}

/// Decodes and clamps times where needed, each with one more attempt. The error names the invalid field.
fn decode_clamped<K: DeserializeOwned>(mut json: Cow<'_, str>) -> Result<K, DecodeError> {
    let mut left = MAX_CLAMPED_TIMES;
    loop {
        let error = match serde_json::from_str(&json) {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        let Located { path, range } = located(&json, &error);
        let value = &json[range.clone()];
        let time = serde_json::from_str::<String>(value).ok().and_then(|text| time::clamped(&text));
        let Some(time) = time.filter(|_| left > 0) else {
            return Err(DecodeError { path, value: value.to_owned(), message: without_position(&error) });
        };
        json.to_mut().replace_range(range, &format!("\"{time}\""));
        left -= 1;
    }
}

/// The message of `error` without line and column, which refer to a text that only the decoder has.
fn without_position(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&position).unwrap_or(&message).to_owned()
}

/// The metadata of an object that can't be decoded as a whole.
fn metadata_of(json: &str) -> ObjectMeta {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let json = without_managed_fields(json);
    let Ok(Object { metadata }) = serde_json::from_str(&json) else { return ObjectMeta::default() };
    decode_clamped(metadata.get().into()).unwrap_or_else(|_| {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(metadata.get()).unwrap_or_default();
        let text = |key: &str| fields.get(key).and_then(|text| serde_json::from_str(text.get()).ok());
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        }
    })
}

/// The beginning of `text` on one line, with control characters escaped.
fn shortened(text: &str) -> String {
    let mut line: String = text.chars().take(MAX_QUOTED).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests;
