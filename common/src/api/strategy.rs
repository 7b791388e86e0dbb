//! The clone strategies.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};

use super::words::words;

words! {
    /// How the bytes get from the source to the clone; the words are CDI's.
    pub enum CloneStrategy {
        /// The storage driver restores a snapshot of the source.
        Snapshot = "snapshot",
        /// The storage driver clones the volume itself.
        CsiClone = "csi-clone",
        /// A pod reads the source and writes the clone.
        Copy = "copy",
    }
}

impl<'de> Deserialize<'de> for CloneStrategy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for CloneStrategy {
    fn schema_name() -> Cow<'static, str> {
        "CloneStrategy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Self::ALL })
    }
}

/// Reads a field that the schema guards. Where an object is older than the schema (CDI itself stores `""` at times), a word that
/// nobody knows counts as not given: a watch must not break over one object.
pub(super) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<CloneStrategy>, D::Error> {
    Ok(Option::<Cow<'de, str>>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
}
