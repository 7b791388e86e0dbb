//! A certificate chain together with its private key, checked and ready to serve.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use thiserror::Error;

use super::validity::{self, Validity};

/// A chain whose key fits, and the validity of its first certificate.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) validity: Validity,
}

/// Certificate and key cannot be used together.
#[derive(Debug, Error)]
pub enum Error {
    /// The certificates are not PEM.
    #[error("failed to read the certificate chain")]
    Chain(#[source] pem::Error),
    /// There is no certificate in the chain.
    #[error("the certificate chain is empty")]
    Empty,
    /// The key is not PEM, or of an unknown form.
    #[error("failed to read the private key")]
    Key(#[source] pem::Error),
    /// The key does not belong to the certificate, or cannot sign.
    #[error("failed to join certificate and key")]
    Join(#[source] rustls::Error),
    /// The certificate's times cannot be read.
    #[error("failed to read how long the certificate is valid")]
    Validity(#[source] validity::Error),
    /// The certificate is not valid now.
    #[error("the certificate is valid from {0} to {1} only")]
    Time(Timestamp, Timestamp),
}

impl Pair {
    pub(super) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(Error::Chain)?;
        Self::from_der(chain, PrivateKeyDer::from_pem_slice(key).map_err(Error::Key)?)
    }

    pub(super) fn from_der(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Error> {
        let validity = Validity::of(chain.first().ok_or(Error::Empty)?).map_err(Error::Validity)?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(Error::Join)?;
        Ok(Self { key: Arc::new(key), validity })
    }

    /// This pair, unless it is outside its validity.
    pub(super) fn valid_at(self, now: Timestamp) -> Result<Self, Error> {
        if self.validity.covers(now) {
            return Ok(self);
        }
        Err(Error::Time(self.validity.not_before, self.validity.not_after))
    }
}
