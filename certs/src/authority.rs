//! Our own certificate authority. Pure except for the randomness of keys: the time is an argument.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject},
};
use thiserror::Error;

use super::{
    pair::{self, Pair},
    validity::{self, Validity},
};

const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// The lifetime of a leaf. It is short, because a leaf's key never leaves its process and only expiry revokes it.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The maximum number of predecessors in a bundle. A bundle is read at every handshake, and must not grow without limit if the authority is
/// damaged repeatedly.
const PREDECESSORS: usize = 3;

const END: &str = "-----END CERTIFICATE-----";

/// A certificate could not be created.
#[derive(Debug, Error)]
pub enum Error {
    /// Key or certificate could not be created or used for signing.
    #[error("failed to sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// The authority's own certificate is not PEM.
    #[error("failed to read the authority's certificate")]
    Certificate(#[source] pem::Error),
    /// The authority's certificate and key do not belong together.
    #[error("failed to use the authority's certificate with its key")]
    Pair(#[source] pair::Error),
    /// The authority's times cannot be read.
    #[error("failed to read how long the authority is valid")]
    Validity(#[source] validity::Error),
}

/// A CA certificate, its key, and the bundle that clients have to trust.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pub(super) validity: Validity,
    pub(super) certificate_pem: String,
    pub(super) key_pem: String,
    /// This authority's certificate, then those of its predecessors, whose leaves may still be in
    /// use.
    pub(super) bundle: String,
}

/// A serving certificate, and its issuer.
pub(super) struct Leaf {
    pub(super) pair: Pair,
    issuer: CertificateDer<'static>,
}

impl Authority {
    /// A new authority; the certificates of `predecessors` (PEM) that are still valid stay in its
    /// bundle.
    pub(super) fn generate(predecessors: &str, now: Timestamp) -> Result<Self, Error> {
        let validity = Validity::starting(now, AUTHORITY_LIFE);
        let mut params = params("smartclone webhook authority", validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Sign)?;
        let key_pem = key.serialize_pem();
        let certificate_pem = CertifiedIssuer::self_signed(params, key).map_err(Error::Sign)?.pem();
        let still_valid = sections(predecessors)
            .into_iter()
            .filter(|(_, certificate)| Validity::of(certificate).is_ok_and(|validity| validity.not_after >= now))
            .take(PREDECESSORS)
            .map(|(pem, _)| format!("{pem}\n"));
        let known: String = still_valid.collect();
        Self::from_pem(certificate_pem, key_pem, &known)
    }

    /// The authority of this certificate and key, with every other certificate of `known` in its
    /// bundle.
    pub(super) fn from_pem(certificate_pem: String, key_pem: String, known: &str) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(Error::Certificate)?;
        Pair::from_pem(certificate_pem.as_bytes(), key_pem.as_bytes()).map_err(Error::Pair)?;
        let key = KeyPair::from_pem(&key_pem).map_err(Error::Sign)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(Error::Sign)?;
        let validity = Validity::of(&certificate).map_err(Error::Validity)?;
        let mut bundle = format!("{}\n", certificate_pem.trim());
        for (pem, other) in sections(known) {
            if other != certificate {
                bundle.push_str(pem);
                bundle.push('\n');
            }
        }
        Ok(Self { issuer, certificate, validity, certificate_pem, key_pem, bundle })
    }

    /// A new key and a certificate for these DNS names.
    pub(super) fn issue(&self, names: &[String], now: Timestamp) -> Result<Leaf, Error> {
        let validity = Validity::starting(now, LEAF_LIFE).within(self.validity);
        let mut params = params("smartclone webhook", validity);
        params.subject_alt_names = CertificateParams::new(names.to_vec()).map_err(Error::Sign)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Sign)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::Sign)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let pair = Pair::from_der(vec![certificate.der().clone()], key).map_err(Error::Pair)?;
        Ok(Leaf { pair, issuer: self.certificate.clone() })
    }

    /// True if exactly this authority signed the leaf.
    pub(super) fn signed(&self, leaf: &Leaf) -> bool {
        self.certificate == leaf.issuer
    }

    /// True if a client that has the bundle trusts the leaf.
    pub(super) fn vouches_for(&self, leaf: &Leaf) -> bool {
        sections(&self.bundle).iter().any(|(_, certificate)| *certificate == leaf.issuer)
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(validity.not_before);
    params.not_after = epoch + since_epoch(validity.not_after);
    params
}

fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default())
}

/// Each distinct certificate of a PEM text, as text and parsed; other sections are skipped.
fn sections(pem: &str) -> Vec<(&str, CertificateDer<'static>)> {
    let mut found: Vec<(&str, CertificateDer<'static>)> = Vec::new();
    for section in pem.split_inclusive(END).map(str::trim) {
        if let Ok(certificate) = CertificateDer::from_pem_slice(section.as_bytes())
            && found.iter().all(|(_, other)| *other != certificate)
        {
            found.push((section, certificate));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validity::{Verdict, Why};

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn names() -> Vec<String> {
        vec!["webhook.smartclone.svc".to_owned()]
    }

    #[test]
    fn an_authority_survives_being_stored() {
        let made = Authority::generate("", now()).unwrap();
        let read = Authority::from_pem(made.certificate_pem.clone(), made.key_pem.clone(), &made.bundle).unwrap();
        assert_eq!(read.bundle, made.bundle);
        assert_eq!(read.validity, made.validity);
        let leaf = made.issue(&names(), now()).unwrap();
        assert!(read.signed(&leaf) && read.vouches_for(&leaf));
    }

    #[test]
    fn a_successor_vouches_for_the_leaves_of_its_predecessor() {
        let old = Authority::generate("", now()).unwrap();
        let leaf = old.issue(&names(), now()).unwrap();
        let new = Authority::generate(&old.bundle, now() + DAY).unwrap();
        assert!(!new.signed(&leaf) && new.vouches_for(&leaf));
        assert_eq!(sections(&new.bundle).len(), 2);
        assert!(!Authority::generate("", now()).unwrap().vouches_for(&leaf), "a stranger does not");
    }

    #[test]
    fn expired_predecessors_leave_the_bundle_and_their_number_is_limited() {
        let old = Authority::generate("", now()).unwrap();
        let later = old.validity.not_after + SignedDuration::from_secs(1);
        assert_eq!(sections(&Authority::generate(&old.bundle, later).unwrap().bundle).len(), 1);

        let mut bundle = format!("rubbish\n{}", old.bundle);
        for _ in 0..10 {
            bundle = Authority::generate(&bundle, now()).unwrap().bundle;
        }
        assert_eq!(sections(&bundle).len(), 1 + PREDECESSORS);
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let authority = Authority::generate("", now()).unwrap();
        let leaf = authority.issue(&names(), now()).unwrap();
        assert_eq!(leaf.pair.validity.not_after, now() + LEAF_LIFE);
        assert_eq!(leaf.pair.validity.verdict(now() + DAY * 4), Verdict::Keep);
        assert_eq!(leaf.pair.validity.verdict(now() + DAY * 5), Verdict::Renew(Why::Due));
        let late = authority.issue(&names(), authority.validity.not_after - DAY).unwrap();
        assert_eq!(late.pair.validity.not_after, authority.validity.not_after);
    }

    #[test]
    fn a_certificate_with_a_foreign_key_is_refused() {
        let (one, two) = (Authority::generate("", now()).unwrap(), Authority::generate("", now()).unwrap());
        let error = Authority::from_pem(one.certificate_pem, two.key_pem, "").err().unwrap();
        assert!(matches!(error, Error::Pair(pair::Error::Join(_))), "{error}");
    }
}
