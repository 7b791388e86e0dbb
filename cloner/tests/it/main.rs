//! Copies real files, trees and devices, and looks at what came of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy takes only the test functions themselves for tests")]

mod command;
mod conversions;
mod devices;
mod files;
mod rights;
mod support;
mod trees;
