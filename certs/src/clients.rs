//! Client authentication, if an admin enables it: accepts clients with a certificate of an authority that the admin trusts.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use thiserror::Error;
use tracing::{info, warn};
use x509_parser::parse_x509_certificate;

use super::file::User;

/// The file contains no valid authorities.
#[derive(Debug, Error)]
pub enum Error {
    /// It is not PEM.
    #[error("failed to read the certificates")]
    Pem(#[source] pem::Error),
    /// One of the certificates is invalid.
    #[error("failed to use a certificate as authority")]
    Authority(#[source] rustls::Error),
    /// It contains no certificate.
    #[error("failed to find an authority")]
    Empty(#[source] VerifierBuilderError),
}

/// Accepts clients with a certificate of an authority. Existing connections continue when the authorities change.
#[derive(Debug)]
pub(super) struct Clients {
    /// Accepted common names; any if empty.
    names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
    /// No client is accepted until it is set.
    authorities: ArcSwapOption<Arc<dyn ClientCertVerifier>>,
}

impl Clients {
    pub(super) fn new(names: Vec<String>) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { names, algorithms, authorities: ArcSwapOption::empty() }
    }
}

impl User<1> for Arc<Clients> {
    type Error = Error;

    fn take(&self, [bundle]: &[Vec<u8>; 1], _: Timestamp) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle) {
            roots.add(certificate.map_err(Error::Pem)?).map_err(Error::Authority)?;
        }
        let authorities = roots.len();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.authorities.store(Some(Arc::new(verifier.map_err(Error::Empty)?)));
        info!(authorities, names = ?self.names, "loaded the authorities of clients");
        Ok(())
    }
}

impl ClientCertVerifier for Clients {
    /// Empty, since hints can't change: a client then sends the certificate that it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let authorities = self.authorities.load_full().ok_or(CertificateError::UnknownIssuer)?;
        let verified = authorities.verify_client_cert(end_entity, intermediates, now)?;
        let name = common_name(end_entity);
        if is_accepted(&self.names, name.as_deref()) {
            return Ok(verified);
        }
        // Only clients with a certificate of the authority can fill the log with this.
        warn!(?name, "refused a client whose name is not accepted");
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_accepted(accepted: &[String], name: Option<&str>) -> bool {
    accepted.is_empty() || name.is_some_and(|name| accepted.iter().any(|accepted| accepted == name))
}

/// The subject's common name. `None` if there are several, since the signer may have checked another one.
fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next().filter(|_| names.next().is_none())?;
    name.as_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
    use rstest::rstest;
    use rustls::{ClientConfig, SupportedProtocolVersion, version};

    use super::*;
    use crate::{
        file::Files,
        metrics::CertificateMetrics,
        tests::{Material, Mount, Server, client, client_speaking, issuer, serving, visit},
    };

    const API_SERVER: &str = "kube-apiserver-webhooks";

    /// The certificate parameters of a client with these names.
    fn named(names: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Two common names, encoded in two ways, since each way holds only one.
        let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
        for (kind, name) in kinds.into_iter().zip(names) {
            params.distinguished_name.push(kind, *name);
        }
        params
    }

    fn expired() -> CertificateParams {
        let mut params = named(&[API_SERVER]);
        params.not_after = date_time_ymd(2001, 1, 1);
        params
    }

    fn for_serving_only() -> CertificateParams {
        let mut params = named(&[API_SERVER]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params
    }

    /// A server that accepts clients of the authorities in the mounted file.
    struct Guarded {
        server: Server,
        /// The issuer of the server's certificate.
        trusted: String,
        mount: Mount,
        files: Files<1, Arc<Clients>>,
    }

    impl Guarded {
        async fn start(bundle: &str, names: &[&str]) -> Self {
            let issuer = issuer();
            let (serving, _) = serving();
            let own = Material::for_server(&issuer);
            serving.take(&[own.certificate.into_bytes(), own.key.into_bytes()], Timestamp::now()).unwrap();
            let mount = Mount::new(&[("ca.crt", bundle)]);
            let clients = Arc::new(Clients::new(names.iter().copied().map(str::to_owned).collect()));
            let metrics = CertificateMetrics::default();
            let files = Files::open([mount.path("ca.crt")], clients.clone(), metrics).await.unwrap();
            Self { server: Server::start(&serving, Some(clients)), trusted: issuer.pem(), mount, files }
        }

        async fn refresh(&mut self) -> bool {
            self.files.refresh(Timestamp::now()).await.is_ok()
        }

        async fn lets_in(&self, client: &Arc<ClientConfig>) -> bool {
            visit(&self.server, client.clone()).await.is_ok()
        }
    }

    /// The issuer of a client's certificate.
    enum By {
        Ours,
        Another,
    }

    #[rstest]
    #[case::accepted_name(&["another", API_SERVER], Some((By::Ours, named(&[API_SERVER]))), true)]
    #[case::any_name(&[], Some((By::Ours, named(&["anybody"]))), true)]
    #[case::no_certificate(&[API_SERVER], None, false)]
    #[case::no_certificate_for_any_name(&[], None, false)]
    #[case::other_name(&[API_SERVER], Some((By::Ours, named(&["system:node:one"]))), false)]
    #[case::longer_name(&["kube-apiserver"], Some((By::Ours, named(&[API_SERVER]))), false)]
    #[case::no_name(&[API_SERVER], Some((By::Ours, named(&[]))), false)]
    #[case::two_names(&[API_SERVER], Some((By::Ours, named(&[API_SERVER, "system:node:one"]))), false)]
    #[case::other_authority(&[API_SERVER], Some((By::Another, named(&[API_SERVER]))), false)]
    #[case::other_authority_for_any_name(&[], Some((By::Another, named(&[API_SERVER]))), false)]
    #[case::expired(&[API_SERVER], Some((By::Ours, expired())), false)]
    #[case::for_serving_only(&[API_SERVER], Some((By::Ours, for_serving_only())), false)]
    #[tokio::test]
    async fn who_is_let_in(
        #[case] names: &[&str],
        #[case] own: Option<(By, CertificateParams)>,
        #[case] expected: bool,
        #[values(&version::TLS12, &version::TLS13)] version: &'static SupportedProtocolVersion,
    ) {
        let (ours, another) = (issuer(), issuer());
        let guarded = Guarded::start(&ours.pem(), names).await;
        let own = own.map(|(by, params)| match by {
            By::Ours => Material::signed(&ours, &params),
            By::Another => Material::signed(&another, &params),
        });
        let config = client_speaking(&[version], &guarded.trusted, own.as_ref());
        assert_eq!(guarded.lets_in(&Arc::new(config)).await, expected);
    }

    #[tokio::test]
    async fn a_swapped_file_counts_for_the_next_connection_and_a_damaged_one_does_not() {
        let (first, second) = (issuer(), issuer());
        let mut guarded = Guarded::start(&first.pem(), &[API_SERVER]).await;
        // Kept, so that each would resume its session if that were possible.
        let [old, new] = [&first, &second]
            .map(|issuer| Arc::new(client(&guarded.trusted, Some(&Material::signed(issuer, &named(&[API_SERVER]))))));
        assert!(guarded.lets_in(&old).await && !guarded.lets_in(&new).await);

        let both = first.pem() + &second.pem();
        guarded.mount.swap(&[("ca.crt", &both)]);
        assert!(!guarded.lets_in(&new).await, "not read yet");
        assert!(guarded.refresh().await);
        assert!(guarded.lets_in(&old).await && guarded.lets_in(&new).await);

        guarded.mount.swap(&[("ca.crt", &second.pem())]);
        assert!(guarded.refresh().await);
        assert!(!guarded.lets_in(&old).await && guarded.lets_in(&new).await);

        let cut_off = &both[..both.len() - 40];
        for damaged in [&[("ca.crt", "rubbish")][..], &[("ca.crt", "")], &[("ca.crt", cut_off)], &[]] {
            guarded.mount.swap(damaged);
            assert!(!guarded.refresh().await, "{damaged:?}");
            assert!(!guarded.lets_in(&old).await && guarded.lets_in(&new).await, "{damaged:?}");
        }
        guarded.mount.swap(&[("ca.crt", &first.pem())]);
        assert!(guarded.refresh().await);
        assert!(guarded.lets_in(&old).await && !guarded.lets_in(&new).await);
    }
}
