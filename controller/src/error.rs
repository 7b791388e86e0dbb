//! Errors of a pass.

use std::fmt::Display;

use thiserror::Error;

/// A pass that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A write failed for a reason that may be temporary: the network, an overloaded API server.
    #[error("failed to {verb}")]
    Write {
        /// The verb of the write.
        verb: &'static str,
        /// The error of the API server, or of the connection to it.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("failed to report the status")]
    Report(#[source] kube::Error),
    /// A plan that would break an invariant. Nothing of it was written.
    #[error("refused a plan that {0}")]
    Refused(String),
    /// The pass took too long.
    #[error("the pass took longer than {0:?}")]
    Late(std::time::Duration),
}

impl Error {
    /// The error of a plan with these violations of invariants.
    pub fn refused(violations: &[impl Display]) -> Self {
        Self::Refused(violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// The error in one word, for the label of a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Report(_) => "report",
            Self::Refused(_) => "refused",
            Self::Late(_) => "late",
        }
    }
}
