//! Tokens: the admission server's word that a requester may clone a source into a namespace.
//!
//! CDI signs JSON Web Tokens; here it is a hash with a key, since nobody but the double reads them.

use jiff::{SignedDuration, Timestamp};

use crate::source::Source;

/// The lifetime of the token that admission writes.
pub const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(5);
/// The lifetime of the token that the controller writes.
pub const EXTENDED_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// The reason for which a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The token is too old.
    #[error("token expired")]
    Expired,
    /// The token was made for something else, or by somebody else.
    #[error("token is invalid")]
    Invalid,
}

/// The key of all tokens.
#[derive(Clone)]
pub struct Tokens([u8; 32]);

impl Tokens {
    /// The key that follows from a secret, so that it survives the process.
    pub fn new(secret: &str) -> Self {
        Self(blake3::derive_key("cdi-double tokens", secret.as_bytes()))
    }

    /// A token for clones of this source into objects of this namespace.
    pub fn issue(&self, source: &Source, target_namespace: &str, expires: Timestamp) -> String {
        let seconds = expires.as_second();
        format!("{seconds}.{}", self.mark(source, target_namespace, seconds))
    }

    /// Checks a token.
    pub fn check(&self, token: &str, source: &Source, target_namespace: &str, now: Timestamp) -> Result<(), Refused> {
        let (seconds, mark) = token.split_once('.').ok_or(Refused::Invalid)?;
        let seconds: i64 = seconds.parse().map_err(|_| Refused::Invalid)?;
        if self.mark(source, target_namespace, seconds) != mark {
            return Err(Refused::Invalid);
        }
        if now.as_second() >= seconds { Err(Refused::Expired) } else { Ok(()) }
    }

    fn mark(&self, source: &Source, target_namespace: &str, seconds: i64) -> String {
        let text = format!("{:?} {} {} {target_namespace} {seconds}", source.kind, source.namespace, source.name);
        blake3::keyed_hash(&self.0, text.as_bytes()).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceKind;

    #[test]
    fn a_token_is_for_one_source_one_namespace_and_some_minutes() {
        let tokens = Tokens::new("secret");
        let source = Source::new(SourceKind::Claim, "golden", "disk");
        let now = Timestamp::UNIX_EPOCH;
        let token = tokens.issue(&source, "tenant", now + TOKEN_LIFE);
        let check = |tokens: &Tokens, source: &Source, namespace: &str, at| tokens.check(&token, source, namespace, at);
        assert_eq!(check(&tokens, &source, "tenant", now), Ok(()));
        assert_eq!(check(&Tokens::new("secret"), &source, "tenant", now), Ok(()));
        assert_eq!(check(&tokens, &source, "tenant", now + TOKEN_LIFE), Err(Refused::Expired));
        assert_eq!(check(&tokens, &source, "other", now), Err(Refused::Invalid));
        assert_eq!(check(&Tokens::new("forged"), &source, "tenant", now), Err(Refused::Invalid));
        let other = Source { name: "another".to_owned(), ..source };
        assert_eq!(check(&tokens, &other, "tenant", now), Err(Refused::Invalid));
    }
}
