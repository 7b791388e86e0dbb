//! The driver as its callers see it: a process with two sockets, on a file system that shares blocks.
//!
//! Every test has its own driver and its own loop-mounted XFS, so they need root, loop devices, xfsprogs and e2fsprogs:
//! `cargo test -p reference-csi -- --include-ignored`.

mod crashes;
mod data;
mod deviations;
mod lab;
mod process;
