//! The facts of a review, read from caches or from the API server. Nothing is decided here, except
//! that a review [stops](Stop).

pub mod access;
pub mod cluster;
pub(crate) mod data_volume;
pub mod read_cache;
mod settings;
mod watch;

use std::time::Duration;

use common::{field::FieldError, lookup::Lookup};
use thiserror::Error;

/// For one step: an object and what it is bound to, a list, or the answers about a right.
const READ_TIMEOUT: Duration = Duration::from_millis(1700);

/// For two steps: a DataSource and then its source; the right to a source and then the source; or a
/// list of the settings after one that had begun before. A DataSource in another namespace takes
/// four: where the API server is slow in all of them, nothing is decided.
pub const TWO_STEPS: Duration = READ_TIMEOUT.saturating_mul(2);

/// An end of a review before it is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// CDI's operator is in the cluster, so all objects are its.
    ForeignOperator,
    /// The object is wrong.
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
