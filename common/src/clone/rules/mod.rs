//! Rules that a decision and a step apply: StorageClasses, sizes, snapshot classes, and the errors and Events of drivers.

pub mod class;
pub mod driver;
pub mod driver_error;
pub mod event;
pub mod size;
pub mod snapshot_class;
