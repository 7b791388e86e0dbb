//! VolumeSnapshotClasses: the part of one that a decision depends on, and the choice for a driver.

use crate::{api::snapshot::VolumeSnapshotClass, keys, object};

/// A VolumeSnapshotClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotClass {
    /// Its name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// Annotated as the driver's default.
    pub is_default: bool,
    /// `deletionPolicy: Retain`: the driver keeps a snapshot whose object was deleted. Meant for backups.
    pub retains: bool,
}

impl SnapshotClass {
    /// Reads a VolumeSnapshotClass.
    pub fn of(class: &VolumeSnapshotClass) -> Self {
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            driver: class.driver.clone(),
            is_default: object::annotation(&class.metadata, keys::DEFAULT_SNAPSHOT_CLASS) == Some("true"),
            retains: class.deletion_policy == RETAIN,
        }
    }
}

/// The deletion policy of a class, and of the content of a snapshot, that keeps the driver's snapshot (snapshot API).
pub const RETAIN: &str = "Retain";

/// The class for `driver`: the profile's > one that does not retain > the default one > the first by name. A profile that names a class of
/// another driver, or none that exists, is an error of the admin's that isn't papered over: no class then. Temporary snapshots are meant
/// to go, so a class for backups is taken only where there is no other (velero#6786); then the content's policy is changed before the
/// snapshot is deleted.
pub fn choose<'a>(driver: &str, classes: &'a [SnapshotClass], profile: Option<&str>) -> Option<&'a SnapshotClass> {
    let of_driver = classes.iter().filter(|class| class.driver == driver);
    match profile {
        Some(name) => of_driver.into_iter().find(|class| class.name == name),
        None => of_driver.min_by_key(|class| (class.retains, !class.is_default, &class.name)),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn class(name: &str, driver: &str, is_default: bool) -> SnapshotClass {
        SnapshotClass { name: name.into(), driver: driver.into(), is_default, retains: name.starts_with("backup") }
    }

    #[rstest]
    #[case::none_of_the_driver(&[class("a", "other", true)], None, None)]
    #[case::only_one(&[class("a", "d", false), class("b", "other", true)], None, Some("a"))]
    #[case::first_by_name(&[class("b", "d", false), class("a", "d", false)], None, Some("a"))]
    #[case::default_before_name(&[class("a", "d", false), class("b", "d", true)], None, Some("b"))]
    #[case::two_defaults_by_name(&[class("c", "d", true), class("b", "d", true)], None, Some("b"))]
    #[case::profile_before_default(&[class("a", "d", false), class("b", "d", true)], Some("a"), Some("a"))]
    #[case::profile_of_another_driver(&[class("a", "other", false), class("b", "d", true)], Some("a"), None)]
    #[case::for_backups_only(&[class("backup", "d", true)], None, Some("backup"))]
    #[case::for_backups_by_default(&[class("backup", "d", true), class("x", "d", false)], None, Some("x"))]
    #[case::for_backups_first_by_name(&[class("backup", "d", false), class("x", "d", false)], None, Some("x"))]
    #[case::for_backups_by_profile(&[class("backup", "d", false), class("x", "d", false)], Some("backup"), Some("backup"))]
    #[case::profile_names_nothing(&[class("b", "d", true)], Some("gone"), None)]
    fn chooses(#[case] classes: &[SnapshotClass], #[case] profile: Option<&str>, #[case] expected: Option<&str>) {
        let chosen = choose("d", classes, profile);
        assert_eq!(chosen.map(|class| class.name.as_str()), expected);
    }
}
