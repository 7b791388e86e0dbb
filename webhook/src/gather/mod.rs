//! The facts of a review, read from caches or from the API server. Nothing is decided here, except
//! that a review [stops](Stop).

pub mod access;
pub mod cluster;
pub(crate) mod data_volume;
mod lease;
pub mod read_cache;
pub mod settings;
mod watch;

use std::time::Duration;

use common::{field::FieldError, lookup::Lookup};
use thiserror::Error;

/// The time limit of one step: an object and the one that it is bound to, a list, or an access check.
const READ_TIMEOUT: Duration = Duration::from_millis(1700);

/// The time limit of two steps: a DataSource and then its source; the right to a source and then the source; or a list of the settings
/// after one that had begun before. A DataSource in another namespace takes four steps: if the API server is slow in all of them, the
/// review is not decided.
pub const TWO_STEPS: Duration = READ_TIMEOUT.saturating_mul(2);

/// The reason why a review ends before it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A CDI that can't be kept off a clone is in the cluster, or the object is none of those that smartclone serves beside CDI.
    ForeignOperator,
    /// The object is invalid.
    Invalid(Vec<FieldError>),
    /// The requester lacks a right.
    Forbidden(FieldError),
    /// A fact could not be read.
    Undecidable(Undecidable),
}

impl From<Undecidable> for Stop {
    fn from(error: Undecidable) -> Self {
        Self::Undecidable(error)
    }
}

/// The reason why a review can't be decided now, which isn't the user's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("smartclone can't decide now: {0}")]
pub struct Undecidable(pub String);

fn timed_out_lookup<T>() -> Lookup<T> {
    Lookup::Unknown(timed_out())
}

fn timed_out() -> String {
    format!("no answer from the API server within {READ_TIMEOUT:?}")
}
