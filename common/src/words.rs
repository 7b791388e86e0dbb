//! Closed sets of words: one list gives the enum, its texts, and both directions between them.

use thiserror::Error;

/// A text that is none of the words of a set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is none of {supported}")]
pub struct UnknownWord {
    /// What was read.
    pub text: String,
    /// Every word of the set, quoted and separated by commas.
    pub supported: String,
}

/// Defines an enum whose variants are written as exactly these texts, in JSON and on screen.
macro_rules! words {
    ($(#[$attr:meta])* pub enum $name:ident { $($(#[$variant_attr:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$attr])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_attr])* $variant),+ }

        impl $name {
            /// Every word, in the order of its definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word as it is written.
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
