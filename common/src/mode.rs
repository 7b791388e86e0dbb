//! How smartclone works in a cluster: alone, beside CDI, or passive. Webhook and controller read the mode from the same objects with this
//! one function, so they never disagree for longer than a watch takes.

use std::{fmt, sync::Arc};

use crate::{api::Cdi, lookup::Lookup};

/// The mode of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// No CDI operator: smartclone serves every clone, and the objects that CDI's controllers serve elsewhere.
    Alone,
    /// A CDI that can be kept off a clone by an annotation: smartclone serves the clones that it has marked so at admission, and leaves
    /// everything else to CDI, the statuses of DataVolumes included.
    Beside(Operator),
    /// A CDI that can't be told to keep off: smartclone changes nothing.
    Passive(Operator),
}

/// CDI's operator in this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The version in `status.operatorVersion` of its CDI object, as it is written there.
    pub version: String,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CDI's own operator (version {})", self.version)
    }
}

/// The first CDI that does not adopt a claim which was created for its DataVolume (annotation `createdForDataVolume`).
const FIRST_BESIDE: [u64; 3] = [1, 58, 3];

/// The first CDI whose webhooks can be told by `spec.customizeComponents` to skip the clones of smartclone.
const FIRST_WITH_LEVER: [u64; 3] = [1, 59, 0];

impl Mode {
    /// The mode of a cluster with these CDI objects.
    ///
    /// Only CDI's operator writes its version into a CDI object. A version that can't be read, and a later major version, are not known to
    /// keep off: smartclone stays passive.
    pub fn of<'a>(cdis: impl IntoIterator<Item = &'a Cdi>) -> Self {
        let Some(version) = cdis.into_iter().find_map(operator_version) else { return Self::Alone };
        let operator = Operator { version: version.to_owned() };
        let keeps_off = parsed(version).is_some_and(|version| version[0] == 1 && version >= FIRST_BESIDE);
        if keeps_off { Self::Beside(operator) } else { Self::Passive(operator) }
    }

    /// The mode of a cluster with the CDI objects that were looked up: without their kind there is no CDI. Unknown until they are read.
    pub fn known(cdis: &Lookup<Vec<Arc<Cdi>>>) -> Lookup<Self> {
        match cdis {
            Lookup::Present(cdis) => Lookup::Present(Self::of(cdis.iter().map(AsRef::as_ref))),
            Lookup::Absent => Lookup::Present(Self::Alone),
            Lookup::Unknown(why) => Lookup::Unknown(why.clone()),
        }
    }

    /// CDI's operator, if there is one.
    pub fn operator(&self) -> Option<&Operator> {
        match self {
            Self::Alone => None,
            Self::Beside(operator) | Self::Passive(operator) => Some(operator),
        }
    }

    /// True if smartclone serves marked clones beside CDI.
    pub fn is_beside(&self) -> bool {
        matches!(self, Self::Beside(_))
    }

    /// The name in logs and metric labels: `alone`, `beside` or `passive`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Beside(_) => "beside",
            Self::Passive(_) => "passive",
        }
    }

    /// The mode in a sentence, for logs and events.
    pub fn describe(&self) -> String {
        match self {
            Self::Alone => "smartclone serves all clones: no CDI operator is in this cluster".to_owned(),
            Self::Beside(operator) => {
                format!("smartclone serves clones beside {operator}; everything else, and the statuses, are CDI's")
            }
            Self::Passive(operator) => format!(
                "smartclone changes nothing, because {operator} can't be kept off a clone; it works beside CDI 1.58.3 and later versions 1"
            ),
        }
    }
}

impl Operator {
    /// True if the webhooks of this CDI can be told by `spec.customizeComponents` to skip the clones of smartclone.
    pub fn has_lever(&self) -> bool {
        parsed(&self.version).is_some_and(|version| version >= FIRST_WITH_LEVER)
    }
}

fn operator_version(cdi: &Cdi) -> Option<&str> {
    cdi.status.as_ref()?.operator_version.as_deref().filter(|version| !version.is_empty())
}

/// Major, minor and patch version of `v1.66.0`, `1.66.0-rc.1+6`. A pre-release counts as its release.
fn parsed(version: &str) -> Option<[u64; 3]> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let core = version.split(['-', '+']).next()?;
    let mut numbers = core.split('.').map(|part| part.parse::<u64>().ok());
    let read = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(read)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn cdi(version: Option<&str>) -> Cdi {
        let status = version.map(|version| json!({"phase": "Deployed", "operatorVersion": version}));
        serde_json::from_value(json!({"metadata": {"name": "cdi"}, "spec": {}, "status": status})).unwrap()
    }

    /// The version in the CDI object, the mode, and whether CDI's webhooks can be told to skip.
    #[rstest]
    #[case::no_status(None, "alone", None)]
    #[case::ours(Some(""), "alone", None)]
    #[case::that_adopts(Some("v1.58.2"), "passive", Some(false))]
    #[case::the_first(Some("v1.58.3"), "beside", Some(false))]
    #[case::with_the_lever(Some("v1.59.0"), "beside", Some(true))]
    #[case::without_a_letter(Some("1.66.0"), "beside", Some(true))]
    #[case::built_after_a_tag(Some("v1.66.0-6-gc07cdb6fb"), "beside", Some(true))]
    #[case::a_candidate(Some("v1.62.0-rc.1+build.7"), "beside", Some(true))]
    #[case::two_digits(Some("v1.100.0"), "beside", Some(true))]
    #[case::old(Some("v1.9.5"), "passive", Some(false))]
    #[case::older(Some("v0.59.0"), "passive", Some(false))]
    #[case::a_later_major(Some("v2.0.0"), "passive", Some(true))]
    #[case::of_a_distribution(Some("4.17.3"), "passive", Some(true))]
    #[case::two_numbers(Some("v1.66"), "passive", Some(false))]
    #[case::four_numbers(Some("1.66.0.1"), "passive", Some(false))]
    #[case::a_word(Some("latest"), "passive", Some(false))]
    fn modes(#[case] version: Option<&str>, #[case] expected: &str, #[case] has_lever: Option<bool>) {
        let mode = Mode::of([&cdi(version)]);
        assert_eq!((mode.as_str(), mode.operator().map(Operator::has_lever)), (expected, has_lever));
    }

    /// One of several CDI objects is CDI's; it does not matter which.
    #[test]
    fn one_operator_is_enough() {
        let (ours, theirs) = (cdi(None), cdi(Some("v1.66.0")));
        assert_eq!(Mode::of([]), Mode::Alone);
        assert_eq!(Mode::of([&ours, &theirs]), Mode::of([&theirs, &ours]));
        assert!(Mode::of([&ours, &theirs]).is_beside());
    }
}
