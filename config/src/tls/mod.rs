//! Certificates of a TLS server: where they come from, how they are renewed, how they are swapped under running
//! connections.
//!
//! Either somebody else renews them in files (`--tls-cert-file`, `--tls-key-file`), or the process is its own authority
//! and needs these rights: `get`, `list`, `watch`, `update` on its Secret and `create` on Secrets in its namespace;
//! `get`, `list`, `watch`, `patch` on its two webhook configurations.

mod authority;
#[cfg(test)]
mod fake_api;
mod file;
mod pair;
mod self_signed;
mod shared;
#[cfg(test)]
mod tests;
pub mod validity;
mod webhook_configuration;

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use clap::Args;
use futures::future::{BoxFuture, FutureExt};
use kube::Client;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use thiserror::Error;

use crate::{
    admin::{Readiness, ReadyHandle},
    metrics::CertificateMetrics,
    shutdown::Shutdown,
};
use pair::Pair;

/// Makes aws-lc-rs the TLS provider of the process; the first line of every `main`.
pub fn install_provider() {
    // An error means that one is installed already, and this tree has only one.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Where the server's certificate comes from.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Certificate")]
pub struct CertificateArgs {
    /// Certificate chain (PEM) that somebody else renews, such as cert-manager, who then also cares for caBundle.
    /// Without it the replicas sign their own certificates with an authority that they share.
    #[arg(long, env, requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the certificate in --tls-cert-file.
    #[arg(long, env, requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// Secret that holds the shared authority; made when it does not exist.
    #[arg(long, env, default_value = "smartclone-webhook-ca")]
    pub authority_secret: String,
    /// Service through which API servers reach this process.
    #[arg(long, env, default_value = "smartclone-webhook")]
    pub service_name: String,
    /// Namespace of that service and of the Secret [default: the one this pod runs in].
    #[arg(long, env = "POD_NAMESPACE")]
    pub service_namespace: Option<String>,
    /// `MutatingWebhookConfiguration` whose caBundle is kept.
    #[arg(long, env, default_value = "mutate.datavolumes.smartclone.dev")]
    pub mutating_webhook_configuration: String,
    /// `ValidatingWebhookConfiguration` whose caBundle is kept.
    #[arg(long, env, default_value = "validate.datavolumes.smartclone.dev")]
    pub validating_webhook_configuration: String,
}

/// There is no certificate to start with.
#[derive(Debug, Error)]
pub enum Error {
    /// The files hold nothing that can be served.
    #[error("failed to load the certificate")]
    Files(#[source] file::Error),
    /// The TLS provider lacks what we need.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

/// What a TLS server needs.
pub struct Certificates {
    /// For the acceptor: HTTP/2 and HTTP/1.1, and always the newest certificate. Until there is one, handshakes fail.
    pub config: Arc<ServerConfig>,
    /// Renews the certificate until the shutdown drains; to be run by the [`Supervisor`](crate::supervisor::Supervisor).
    pub service: BoxFuture<'static, ()>,
}

/// Prepares serving with the certificate that `args` describe.
///
/// Files have to hold a valid certificate already, so that a wrong mount fails the start. With an authority of our own
/// the process becomes ready (condition `certificate`) once API servers have been told to trust it. `client` is used
/// for watches, so it has to be one for [`Purpose::Control`](crate::client::Purpose::Control).
pub async fn certificates(
    args: &CertificateArgs,
    client: &Client,
    readiness: &Readiness,
    metrics: CertificateMetrics,
    shutdown: Shutdown,
) -> Result<Certificates, Error> {
    let serving = Serving { resolver: Arc::default(), certificate: readiness.register("certificate"), metrics };
    let config = server_config(serving.resolver.clone()).map_err(Error::Setup)?;
    let renewal = if let (Some(certificate), Some(key)) = (&args.tls_cert_file, &args.tls_key_file) {
        file::Files::open(certificate.clone(), key.clone(), serving).await.map_err(Error::Files)?.follow().boxed()
    } else {
        let names = self_signed::Names {
            namespace: args.service_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned()),
            service: args.service_name.clone(),
            secret: args.authority_secret.clone(),
            mutating: args.mutating_webhook_configuration.clone(),
            validating: args.validating_webhook_configuration.clone(),
        };
        self_signed::SelfSigned::new(names, client.clone(), serving).follow().boxed()
    };
    let service = async move {
        tokio::select! {
            () = shutdown.draining() => {}
            () = renewal => {}
        }
    };
    Ok(Certificates { config: Arc::new(config), service: service.boxed() })
}

fn server_config(resolver: Arc<Resolver>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Answers every handshake with the newest certificate; connections that exist keep theirs.
#[derive(Debug, Default)]
struct Resolver(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// Where a certificate goes once it is good.
#[derive(Clone)]
struct Serving {
    resolver: Arc<Resolver>,
    certificate: ReadyHandle,
    metrics: CertificateMetrics,
}

impl Serving {
    fn present(&self, pair: &Pair) {
        self.resolver.0.store(Some(pair.key.clone()));
        self.metrics.in_use("serving", pair.validity.not_after);
    }
}
