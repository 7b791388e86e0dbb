//! One rule, one function, with its reason.

pub mod class;
pub mod driver;
pub mod driver_error;
pub mod event;
pub mod size;
pub mod snapshot_class;
