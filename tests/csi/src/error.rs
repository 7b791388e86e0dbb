//! Why a call failed, and the gRPC code that tells the caller what to do about it.

use std::{io, path::PathBuf, process::ExitStatus};

use tonic::{Code, Status};

/// The result of everything in this driver.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver understood the call and says no.
    #[error("{message}")]
    Refused {
        /// What the caller is to make of it.
        code: Code,
        /// For a human.
        message: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb, such as `open`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A tool of the host ended badly.
    #[error("`{command}` ended with {status}: {stderr}")]
    Command {
        /// The whole command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        stderr: String,
    },
    /// A file of the driver does not hold what the driver writes.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Error {
    /// A refusal with the code that the CSI specification gives for it.
    pub fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// Turns an I/O error into one that says what was done to which file.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// The gRPC code of this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::ResourceExhausted,
            Self::Io { .. } | Self::Command { .. } | Self::Damaged { .. } => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
