//! The versions of CDI that the double imitates, and what differs between them.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A version of CDI, such as 1.66.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u16, u16, u16);

/// The text is not a version.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a version such as 1.66.0")]
pub struct NoVersion(String);

impl Version {
    /// The version of these numbers.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self(major, minor, patch)
    }

    /// True if a DataVolume can adopt a claim (since 1.58.2).
    pub fn adopts(self) -> bool {
        self >= Self(1, 58, 2)
    }

    /// True if `createdForDataVolume` keeps a DataVolume from adopting its own claim (since 1.58.3).
    pub fn knows_own_claims(self) -> bool {
        self >= Self(1, 58, 3)
    }

    /// True if `customizeComponents` can patch webhook configurations (since 1.59.0).
    pub fn customizes_webhooks(self) -> bool {
        self >= Self(1, 59, 0)
    }

    /// The status of the condition Bound while there is no claim.
    pub fn bound_without_claim(self) -> &'static str {
        if self >= Self(1, 62, 0) { "False" } else { "Unknown" }
    }

    /// True if the clone populator writes `condition.bound*` on every claim of its kind (since 1.64.0).
    pub fn reports_bound_on_claims(self) -> bool {
        self >= Self(1, 64, 0)
    }

    /// True if the status of a DataVolume is written by a merge patch without a version (since 1.65.0), else by a PUT.
    pub fn patches_status(self) -> bool {
        self >= Self(1, 65, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let numbers: Vec<u16> = text.trim_start_matches('v').split('.').map_while(|part| part.parse().ok()).collect();
        match numbers[..] {
            [major, minor, patch] => Ok(Self(major, minor, patch)),
            _ => Err(NoVersion(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1.58.2", "adopts", "Unknown")]
    #[case("v1.59.2", "adopts own webhooks", "Unknown")]
    #[case("1.62.0", "adopts own webhooks", "False")]
    #[case("1.66.0", "adopts own webhooks bound patch", "False")]
    fn each_version_has_its_differences(#[case] version: &str, #[case] wanted: &str, #[case] bound: &str) {
        let version: Version = version.parse().unwrap();
        let words = [
            (version.adopts(), "adopts"),
            (version.knows_own_claims(), "own"),
            (version.customizes_webhooks(), "webhooks"),
            (version.reports_bound_on_claims(), "bound"),
            (version.patches_status(), "patch"),
        ];
        let words: Vec<_> = words.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect();
        assert_eq!((words.join(" ").as_str(), version.bound_without_claim()), (wanted, bound));
    }

    #[rstest]
    #[case("")]
    #[case("1.66")]
    #[case("1.66.x")]
    fn anything_else_is_no_version(#[case] text: &str) {
        assert_eq!(text.parse::<Version>(), Err(NoVersion(text.to_owned())));
    }
}
