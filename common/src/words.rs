//! String enums: one list defines the enum, its texts, and the conversions in both directions.

use thiserror::Error;

/// Error for a text that is not one of the texts of an enum.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is none of {supported}")]
pub struct UnknownWord {
    /// The text that was read.
    pub text: String,
    /// Every text of the enum, quoted and separated by commas.
    pub supported: String,
}

/// Defines an enum whose variants are written as exactly these texts, in JSON and on screen.
macro_rules! words {
    ($(#[$attr:meta])* pub enum $name:ident { $($(#[$variant_attr:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$attr])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_attr])* $variant),+ }

        impl $name {
            /// Every variant, in the order of its definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the text of the variant.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| $crate::words::UnknownWord {
                    text: text.to_owned(),
                    supported: Self::ALL.iter().map(|word| format!("{:?}", word.as_str())).collect::<Vec<_>>().join(", "),
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;
