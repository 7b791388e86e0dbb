//! The certificate of the admission server, by an authority that lives as long as the process.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// A served certificate, and the authority that clients have to trust.
pub struct Identity {
    /// The configuration of the server.
    pub server: Arc<ServerConfig>,
    /// The authority, as PEM.
    pub authority: String,
}

/// Makes an identity for a name or an address.
pub fn identity(host: &str) -> Result<Identity> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "cdi-double");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "cdi-api");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .context("the certificate of the admission server")?;
    Ok(Identity { server: Arc::new(server), authority: authority.pem() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_addresses_have_certificates() {
        for host in ["localhost", "10.222.0.1"] {
            assert!(super::identity(host).unwrap().authority.starts_with("-----BEGIN CERTIFICATE-----"));
        }
    }
}
