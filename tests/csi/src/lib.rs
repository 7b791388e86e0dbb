//! A small honest CSI driver on reflinked image files, for tests and the demo only.
//!
//! One process serves identity, controller and node, and registers itself with kubelet. A volume is a sparse file and, where it is
//! used, a loop device; snapshot, restore and clone share blocks between files. All calls can be repeated and the process can be
//! killed at any instant. [`behaviour`] says how it can be made to differ from this, [`calls`] what it counts, [`inventory`]
//! what it holds.

pub mod behaviour;
pub mod calls;
mod command;
mod controller;
mod driver;
mod error;
mod filesystem;
mod identity;
mod image;
pub mod inventory;
mod locks;
mod node;
mod patience;
mod registration;
pub mod server;
pub mod store;

pub use error::{Error, Result};
pub use filesystem::FsType;
pub use image::LoopDevice;
