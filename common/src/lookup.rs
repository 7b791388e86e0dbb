//! The result of a lookup: present, absent, or unknown.

/// The result of a lookup in the cluster. Absent and unknown lead to different decisions: an absent StorageClass is the user's mistake, one
/// that could not be read is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The object exists.
    Present(T),
    /// The object does not exist.
    Absent,
    /// It is not known at present, with the cause.
    Unknown(String),
}

impl<T> Lookup<T> {
    /// Returns the value, if there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unknown(_) => None,
        }
    }

    /// Maps the value and keeps the other results.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Present(value) => Lookup::Present(f(value)),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why),
        }
    }

    /// Maps the value with an async function; see [`map`](Self::map).
    pub async fn map_async<U>(self, f: impl AsyncFnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Present(value) => Lookup::Present(f(value).await),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why),
        }
    }

    /// Returns the result with a reference to the value.
    pub fn as_ref(&self) -> Lookup<&T> {
        match self {
            Self::Present(value) => Lookup::Present(value),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why.clone()),
        }
    }
}

impl<T> From<Option<T>> for Lookup<T> {
    /// Converts from a source that is always complete, such as a synced cache.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Self::Present)
    }
}
