//! The result of a lookup: present, absent, or unknown.

/// What a look at the cluster gave. *Absent* and *could not tell* are different answers and lead to different decisions:
/// an absent StorageClass is the user's mistake, one that could not be read is nobody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It exists, and this is it.
    Present(T),
    /// It surely doesn't exist.
    Absent,
    /// Nobody can say now, and this is why.
    Unknown(String),
}

impl<T> Lookup<T> {
    /// The value, where there is one.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unknown(_) => None,
        }
    }

    /// The same answer about something that is part of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Present(value) => Lookup::Present(f(value)),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why),
        }
    }

    /// [`map`](Self::map) for what takes another look.
    pub async fn map_async<U>(self, f: impl AsyncFnOnce(T) -> U) -> Lookup<U> {
        match self {
            Self::Present(value) => Lookup::Present(f(value).await),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why),
        }
    }

    /// The same answer by reference.
    pub fn as_ref(&self) -> Lookup<&T> {
        match self {
            Self::Present(value) => Lookup::Present(value),
            Self::Absent => Lookup::Absent,
            Self::Unknown(why) => Lookup::Unknown(why.clone()),
        }
    }
}

impl<T> From<Option<T>> for Lookup<T> {
    /// For sources that can always tell, such as a synced cache.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Self::Present)
    }
}
