//! Errors of a copy, with the decision if another attempt can help.

use std::{io, os::fd::AsFd, path::Path};

use common::mover::Outcome;
use rustix::io::Errno;

use crate::rights;

/// The reaction to a failed copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Retry,
    /// Retry, unless the target is too small; see [`Error::judge_space`].
    NoSpace,
    Never,
    SourceChanged,
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    class: Class,
    message: String,
}

impl Error {
    pub fn retry(message: impl Into<String>) -> Self {
        Self { class: Class::Retry, message: message.into() }
    }

    pub fn never(message: impl Into<String>) -> Self {
        Self { class: Class::Never, message: message.into() }
    }

    pub fn changed(path: &Path, how: &str) -> Self {
        Self {
            class: Class::SourceChanged,
            message: format!(
                "{} in the source {how} while it was copied; stop what writes to the source",
                quoted(path)
            ),
        }
    }

    /// Turns lack of space into a permanent error if the whole file system is smaller than the `needed` bytes: waiting does not help.
    pub fn judge_space(self, target: impl AsFd, needed: u64) -> Self {
        if self.class != Class::NoSpace {
            return self;
        }
        match rustix::fs::fstatvfs(target) {
            Ok(fs) if fs.f_blocks.saturating_mul(fs.f_frsize) < needed => Self::never(format!(
                "{}: the source holds {needed} bytes of data, the target has room for {}; it has to be larger",
                self.message,
                fs.f_blocks.saturating_mul(fs.f_frsize)
            )),
            _ => self,
        }
    }
}

impl From<Error> for Outcome {
    fn from(Error { class, message }: Error) -> Self {
        match class {
            Class::Retry | Class::NoSpace => Self::Retry { message },
            Class::Never => Self::Never { message },
            Class::SourceChanged => Self::SourceChanged { message },
        }
    }
}

/// A path for messages. Users choose names: they must not be able to break a line or to imitate other text.
#[expect(clippy::unnecessary_debug_formatting, reason = "it escapes control characters")]
pub fn quoted(path: &Path) -> String {
    if path.as_os_str().is_empty() { "the top directory".to_owned() } else { format!("{path:?}") }
}

/// One of the two volumes: the same errno means different things on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    /// The error conversion for `map_err`: `doing` is a verb ("read"), `path` its object.
    pub fn failed<E: Into<io::Error>>(self, doing: &str, path: &Path) -> impl FnOnce(E) -> Error {
        move |error| self.error(doing, path, &error.into())
    }

    fn error(self, doing: &str, path: &Path, error: &io::Error) -> Error {
        let side = match self {
            Self::Source => "source",
            Self::Target => "target",
        };
        let message = format!("{doing} {} in the {side}: {error}", quoted(path));
        match (self, Errno::from_io_error(error)) {
            // It existed a moment ago.
            (Self::Source, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)) => {
                Error::changed(path, "went away")
            }
            (Self::Source, None) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Error::changed(path, "became shorter")
            }
            (Self::Source, Some(Errno::ACCESS | Errno::PERM)) => {
                Error::never(format!("{message}; {}", rights::may_not_read()))
            }
            (Self::Target, Some(Errno::ACCESS | Errno::PERM)) => {
                Error::never(format!("{message}; {}", rights::may_not_write()))
            }
            (Self::Target, Some(Errno::NOSPC | Errno::DQUOT)) => Error { class: Class::NoSpace, message },
            (
                _,
                Some(
                    Errno::ROFS
                    | Errno::NOSYS
                    | Errno::OPNOTSUPP
                    | Errno::FBIG
                    | Errno::NAMETOOLONG
                    | Errno::ILSEQ
                    | Errno::INVAL
                    | Errno::XDEV,
                ),
            ) => Error::never(message),
            _ => Error::retry(message),
        }
    }
}
