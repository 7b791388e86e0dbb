//! Storage: StorageClasses, VolumeSnapshotClasses, drivers and their errors, StorageProfiles, and remembered refusals.

pub mod class;
pub mod compatible;
pub mod driver_error;
pub mod driver_event;
pub mod drivers;
pub mod expansion;
pub mod overhead;
pub mod profile;
pub mod refusals;
pub mod refusals_annotation;
pub mod restore;
pub mod snapshot_class;
pub mod volume_handle;
