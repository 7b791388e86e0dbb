//! The choice of the VolumeSnapshotClass.

use crate::clone::facts::SnapshotClass;

/// Which rule named the class; told to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// `StorageProfile.spec.snapshotClass`.
    Profile,
    /// Annotated as default.
    Default,
    /// The driver has no other.
    OnlyOne,
    /// First by name among several.
    FirstByName,
}

/// The class for `driver`: the profile's > the default one > the only one > the first by name. A profile that names a class of another
/// driver, or none that exists, is an error of the admin's that isn't papered over: no class then.
pub fn choose<'a>(
    driver: &str,
    classes: &'a [SnapshotClass],
    profile: Option<&str>,
) -> Option<(&'a SnapshotClass, NamedBy)> {
    let mut ours: Vec<_> = classes.iter().filter(|class| class.driver == driver).collect();
    ours.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(name) = profile {
        return ours.into_iter().find(|class| class.name == name).map(|class| (class, NamedBy::Profile));
    }
    if let Some(class) = ours.iter().find(|class| class.is_default) {
        return Some((class, NamedBy::Default));
    }
    let only = ours.len() == 1;
    ours.first().map(|class| (*class, if only { NamedBy::OnlyOne } else { NamedBy::FirstByName }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn class(name: &str, driver: &str, is_default: bool) -> SnapshotClass {
        SnapshotClass { name: name.into(), driver: driver.into(), is_default }
    }

    #[rstest]
    #[case::none_of_the_driver(&[class("a", "other", true)], None, None)]
    #[case::only_one(&[class("a", "d", false), class("b", "other", true)], None, Some(("a", NamedBy::OnlyOne)))]
    #[case::first_by_name(&[class("b", "d", false), class("a", "d", false)], None, Some(("a", NamedBy::FirstByName)))]
    #[case::default_before_name(&[class("a", "d", false), class("b", "d", true)], None, Some(("b", NamedBy::Default)))]
    #[case::two_defaults_by_name(&[class("c", "d", true), class("b", "d", true)], None, Some(("b", NamedBy::Default)))]
    #[case::profile_before_default(&[class("a", "d", false), class("b", "d", true)], Some("a"), Some(("a", NamedBy::Profile)))]
    #[case::profile_of_another_driver(&[class("a", "other", false), class("b", "d", true)], Some("a"), None)]
    #[case::profile_names_nothing(&[class("b", "d", true)], Some("gone"), None)]
    fn chooses(
        #[case] classes: &[SnapshotClass],
        #[case] profile: Option<&str>,
        #[case] expected: Option<(&str, NamedBy)>,
    ) {
        let chosen = choose("d", classes, profile);
        assert_eq!(chosen.map(|(class, by)| (class.name.as_str(), by)), expected);
    }
}
