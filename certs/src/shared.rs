//! The Secret that all replicas share: the authority, and the path segments at which API servers call.

use std::collections::BTreeMap;

use config::Chain;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use rustls::crypto::GetRandomFailed;
use thiserror::Error;
use tracing::{debug, info, warn};

use super::{
    authority::{self, Authority},
    path_segment::PathSegments,
    validity::Verdict,
};

const TYPE: &str = "kubernetes.io/tls";
/// The certificate of the current authority.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// The bundle that clients trust: the authority above and its predecessors.
const BUNDLE: &str = "ca.crt";
/// The secret path segments.
const SEGMENTS: &str = "path-segments";

/// The label of our Secret; a Secret without it belongs to somebody else and is not changed.
const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "smartclone");

/// The maximum number of attempts. A conflict means that another replica has just written, so a few are enough.
const ROUNDS: usize = 5;

/// The shared authority is not available.
#[derive(Debug, Error)]
pub enum Error {
    /// The Secret cannot be read.
    #[error("failed to read secret {0}")]
    Read(String, #[source] kube::Error),
    /// The Secret cannot be created or replaced.
    #[error("failed to write secret {0}")]
    Write(String, #[source] kube::Error),
    /// A Secret of that name exists and is not ours.
    #[error("secret {0} exists and does not carry the label {k}={v}; remove it or choose another name", k = OWNER.0, v = OWNER.1)]
    Foreign(String),
    /// A new authority could not be created.
    #[error("failed to make an authority")]
    Make(#[source] authority::Error),
    /// A new path segment could not be created.
    #[error("failed to get random bytes for a path segment")]
    Random,
}

impl From<GetRandomFailed> for Error {
    fn from(_: GetRandomFailed) -> Self {
        Self::Random
    }
}

/// The contents of the Secret.
pub(super) struct Contents {
    pub(super) authority: Authority,
    pub(super) segments: PathSegments,
}

/// The Secret through which replicas agree on one authority and on path segments.
pub(super) struct Shared {
    pub(super) secrets: Api<Secret>,
    pub(super) name: String,
    /// The last bundle that was read, so that running replicas remain trusted if somebody deletes the Secret.
    known: String,
    /// The segments that were read so far, for the same reason.
    segments: PathSegments,
}

impl Shared {
    pub(super) fn new(secrets: Api<Secret>, name: String) -> Self {
        Self { secrets, name, known: String::new(), segments: PathSegments::default() }
    }

    /// Reads the shared contents. Creates the authority if there is none, and replaces it if it is damaged or about to expire. Adds a path
    /// segment then, and when the newest is due.
    ///
    /// Create and replace are conditional, so after a conflict a replica reads what the other one wrote.
    pub(super) async fn contents(&mut self, now: Timestamp) -> Result<Contents, Error> {
        let mut more_rounds = 1..ROUNDS;
        loop {
            let found =
                self.secrets.get_opt(&self.name).await.map_err(|error| Error::Read(self.name.clone(), error))?;
            if found.as_ref().is_some_and(|secret| !is_ours(secret)) {
                return Err(Error::Foreign(self.name.clone()));
            }
            let stored = found.as_ref().map(|secret| PathSegments::from_text(&text(secret, SEGMENTS)));
            let stored = stored.unwrap_or_default();
            let segments = stored.clone().merged_with(&self.segments);
            let contents = match found.as_ref().map(|secret| (secret, current(secret, now))) {
                Some((_, Ok(authority))) if !stored.is_due(now) => {
                    return Ok(self.remember(Contents { authority, segments }));
                }
                Some((_, Ok(authority))) => Contents { authority, segments: segments.rotated(now)? },
                Some((secret, Err(why))) => {
                    warn!(secret = self.name, why, "the authority is to be replaced");
                    let predecessors =
                        [&text(secret, CERTIFICATE), &text(secret, BUNDLE), &self.known].map(String::as_str).join("\n");
                    let authority = Authority::generate(&predecessors, now).map_err(Error::Make)?;
                    Contents { authority, segments: segments.rotated(now)? }
                }
                None => {
                    let authority = Authority::generate(&self.known, now).map_err(Error::Make)?;
                    Contents { authority, segments: segments.rotated(now)? }
                }
            };
            match self.write(found, &contents).await {
                Ok(()) => {
                    if contents.authority.bundle != self.known {
                        let not_after = contents.authority.validity.not_after;
                        info!(secret = self.name, %not_after, "new authority");
                    }
                    debug!(secret = self.name, "new path segment");
                    return Ok(self.remember(contents));
                }
                Err(error) if is_lost_race(&error) && more_rounds.next().is_some() => {}
                Err(error) => return Err(Error::Write(self.name.clone(), error)),
            }
        }
    }

    fn remember(&mut self, contents: Contents) -> Contents {
        self.known.clone_from(&contents.authority.bundle);
        self.segments.clone_from(&contents.segments);
        contents
    }

    /// Creates the Secret, or replaces exactly the version that was read.
    async fn write(&self, old: Option<Secret>, contents: &Contents) -> Result<(), kube::Error> {
        let Contents { authority, segments } = contents;
        let data = [
            (CERTIFICATE, authority.certificate_pem.clone()),
            (KEY, authority.key_pem.clone()),
            (BUNDLE, authority.bundle.clone()),
            (SEGMENTS, segments.to_text()),
        ]
        .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
        let params = PostParams::default();
        if let Some(mut secret) = old {
            secret.data.get_or_insert_default().extend(data);
            self.secrets.replace(&self.name, &params, &secret).await?;
        } else {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    labels: Some(BTreeMap::from([(OWNER.0.to_owned(), OWNER.1.to_owned())])),
                    ..ObjectMeta::default()
                },
                type_: Some(TYPE.to_owned()),
                data: Some(BTreeMap::from(data)),
                ..Secret::default()
            };
            self.secrets.create(&params, &secret).await?;
        }
        Ok(())
    }
}

/// The authority in the Secret, or the reason why it is unusable.
fn current(secret: &Secret, now: Timestamp) -> Result<Authority, String> {
    let authority = Authority::from_pem(text(secret, CERTIFICATE), text(secret, KEY), &text(secret, BUNDLE))
        .map_err(|error| Chain(&error).to_string())?;
    match authority.validity.verdict(now) {
        Verdict::Keep => Ok(authority),
        Verdict::Renew(why) => Err(why.to_string()),
    }
}

/// True if somebody else created, replaced or deleted it since it was read.
fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

fn is_ours(secret: &Secret) -> bool {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(OWNER.0)).is_some_and(|owner| owner == OWNER.1)
}

fn text(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.map(|value| String::from_utf8_lossy(&value.0).into_owned()).unwrap_or_default()
}
