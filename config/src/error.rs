//! Errors on one line.

use std::{error::Error, fmt};

/// Displays an error together with all its causes, outermost first: `failed to sign: no key: file
/// not found`.
///
/// Our errors name only the failed step and leave the rest to their source, so a log line needs the whole chain.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("failed to sign")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn every_cause_is_told_once() {
        assert_eq!(Chain(&Outer(std::io::Error::other("no key"))).to_string(), "failed to sign: no key");
    }
}
