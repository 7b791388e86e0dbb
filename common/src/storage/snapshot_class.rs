//! VolumeSnapshotClasses: the fields that a decision depends on, and the choice of a class for a driver.

use crate::{api::snapshot::VolumeSnapshotClass, keys, object};

/// A VolumeSnapshotClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotClass {
    /// Its name.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// True if it is annotated as the driver's default.
    pub is_default: bool,
    /// True for `deletionPolicy: Retain`: the driver keeps the snapshot after its object is deleted. Meant for backups.
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

/// The deletion policy of a class or a VolumeSnapshotContent that keeps the driver's snapshot (snapshot API).
pub const RETAIN: &str = "Retain";

/// Chooses the class for `driver`. Precedence: the class that the StorageProfile names, a class that does not retain, the default class,
/// the first by name.
/// No class is chosen if the StorageProfile names one that does not exist or belongs to another driver, so that the admin notices the
/// mistake. Temporary snapshots are deleted after use, so a class for backups is chosen only if there is no other (velero#6786); the
/// deletion policy of the content is then changed before the snapshot is deleted.
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
