//! Errors of a pass.

use std::fmt::Display;

use thiserror::Error;

/// A pass that did not come to its end.
#[derive(Debug, Error)]
pub enum Error {
    /// A write failed for a reason that may pass: the network, an overloaded API server.
    #[error("failed to {verb}")]
    Write {
        /// Which write.
        verb: &'static str,
        /// Its error.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("failed to report the status")]
    Report(#[source] kube::Error),
    /// A plan that would break an invariant; nothing of it was carried out.
    #[error("refused a plan that {0}")]
    Refused(String),
    /// The pass took too long.
    #[error("the pass took longer than {0:?}")]
    Late(std::time::Duration),
}

impl Error {
    /// See [`Error::Refused`].
    pub fn refused(violations: &[impl Display]) -> Self {
        Self::Refused(violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// One word, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::Report(_) => "report",
            Self::Refused(_) => "refused",
            Self::Late(_) => "late",
        }
    }
}
