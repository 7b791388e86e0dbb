//! One rule, one function, with its reason.

pub mod class;
pub mod complaint;
pub mod driver;
pub mod event;
pub mod size;
pub mod snapshot_class;
