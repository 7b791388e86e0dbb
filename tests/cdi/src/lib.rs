//! A test double of CDI: its clone controllers, webhooks and operator, as far as clones see them.
//!
//! The rules are pure functions, taken from the description of CDI's behaviour, not from its code: [`status`](mod@status), [`reconcile`](mod@reconcile),
//! [`populator`] and [`admission`]. The process around them is in [`shell`].
//!
//! Not imitated: imports, uploads, blank disks, cron jobs, ObjectTransfers, static volumes, pods of any kind, and the data path: the double
//! lets the storage driver clone.

pub mod admission;
pub mod claim;
pub mod conditions;
pub mod edit;
pub mod event;
#[cfg(test)]
mod fixtures;
pub mod keys;
pub mod populator;
pub mod reconcile;
pub mod render;
pub mod settings;
pub mod shell;
pub mod source;
pub mod status;
pub mod token;
pub mod version;
