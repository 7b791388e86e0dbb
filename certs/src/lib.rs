//! Certificates of a TLS server: issued or read from files, renewed, swapped under running
//! connections. Only the webhook serves TLS.
//!
//! Either an external issuer renews them in files (`--tls-cert-file`, `--tls-key-file`), or the process is its own authority and needs
//! these rights: `get`, `list`, `watch`, `update` on its Secret and `create` on Secrets in its namespace; `get`, `list`, `watch`, `patch`
//! on its two webhook configurations.
//!
//! Its own authority comes with a secret path: the process writes it into its webhook configurations and answers at no other path. An admin
//! who renews files writes these configurations, too, and may provide the secret in another file (`--path-segment-file`).
//!
//! The admin decides if clients also need a certificate (`--client-ca-file`).

mod authority;
mod clients;
#[cfg(test)]
mod fake_api;
mod file;
mod metrics;
mod pair;
mod path_segment;
mod self_signed;
mod shared;
#[cfg(test)]
mod tests;
pub mod validity;
mod webhook_configuration;

use std::{future::pending, path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use clap::{Args, builder::NonEmptyStringValueParser};
use config::{
    admin::{Readiness, ReadyHandle},
    shutdown::Shutdown,
};
use futures::future::{self, BoxFuture, FutureExt};
use kube::Client;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use thiserror::Error;

use self::{clients::Clients, file::Files, pair::Pair};
pub use self::{metrics::CertificateMetrics, path_segment::SecretPath};

/// Arguments for the source of the server's certificate.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Certificate")]
pub struct CertificateArgs {
    /// Certificate chain (PEM) that somebody else renews, such as cert-manager, who then also cares
    /// for caBundle and paths of the webhook configurations. Without it the replicas sign their own
    /// certificates with an authority that they share, and answer at secret paths only.
    #[arg(long, env, requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key (PEM) of the certificate in --tls-cert-file.
    #[arg(long, env, requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// Secret first segments of paths, one a line, 64 hexadecimal digits each: only `/<segment>/…`
    /// is answered. For those who write the paths of the webhook configurations themselves; without
    /// it every path is a route.
    #[arg(long, env, requires = "tls_cert_file")]
    pub path_segment_file: Option<PathBuf>,
    /// Secret that holds the shared authority and path segments; made when it does not exist.
    #[arg(long, env, default_value = "smartclone-webhook-ca")]
    pub authority_secret: String,
    /// Service through which API servers reach this process.
    #[arg(long, env, default_value = "smartclone-webhook")]
    pub service_name: String,
    /// Namespace of that service and of the Secret [default: the one this pod runs in].
    #[arg(long, env = "POD_NAMESPACE")]
    pub service_namespace: Option<String>,
    /// `MutatingWebhookConfiguration` whose caBundle and paths are kept.
    #[arg(long, env, default_value = "mutate.datavolumes.smartclone.dev")]
    pub mutating_webhook_configuration: String,
    /// A further `MutatingWebhookConfiguration` whose caBundle and paths are kept while it exists.
    #[arg(long, env)]
    pub optional_mutating_webhook_configuration: Option<String>,
    /// `ValidatingWebhookConfiguration` whose caBundle and paths are kept.
    #[arg(long, env, default_value = "validate.datavolumes.smartclone.dev")]
    pub validating_webhook_configuration: String,
    /// Authorities (PEM bundle) of clients: only a client with a certificate of theirs is answered.
    /// Without it, every client is. The admin endpoint asks for none.
    #[arg(long, env)]
    pub client_ca_file: Option<PathBuf>,
    /// Common names of clients, comma-separated or repeated [default: any]. Needed with an
    /// authority that signs for others than API servers, as the cluster's does for kubelets and
    /// users.
    #[arg(long, env, requires = "client_ca_file", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub client_name: Vec<String>,
}

/// The certificates could not be loaded at start.
#[derive(Debug, Error)]
pub enum Error {
    /// The files contain no usable certificate.
    #[error("failed to load the certificate")]
    Files(#[source] file::Error<pair::Error>),
    /// The file contains no path segment.
    #[error("failed to load the path segments")]
    Segments(#[source] file::Error<path_segment::NoSegment>),
    /// The file contains no usable authority of clients.
    #[error("failed to load the authorities of clients")]
    Clients(#[source] file::Error<clients::Error>),
    /// The TLS provider lacks a required feature.
    #[error("failed to set up TLS")]
    Setup(#[source] rustls::Error),
}

/// The route of each webhook, by the webhook's name in the configurations.
pub type Routes = &'static [(&'static str, &'static str)];

/// The parts of the process that certificates need.
pub struct Process<'a> {
    /// The Kubernetes client. It has to be one for [`Purpose::Control`](config::client::Purpose::Control), because it is used for watches.
    pub client: &'a Client,
    /// Receives the condition `certificate`.
    pub readiness: &'a Readiness,
    /// Metrics of certificates.
    pub metrics: CertificateMetrics,
    /// Ends the renewal when it drains.
    pub shutdown: Shutdown,
}

/// The parts of a TLS server.
pub struct Certificates {
    /// The acceptor's configuration: HTTP/1.1, and always the newest certificate. Handshakes fail until there is one.
    pub config: Arc<ServerConfig>,
    /// The accepted paths.
    pub path: SecretPath,
    /// Renews certificate, path and authorities of clients until the shutdown drains. It has to be run by the
    /// [`Supervisor`](config::supervisor::Supervisor).
    pub service: BoxFuture<'static, ()>,
}

/// Prepares TLS with the certificate and the clients in `args`.
///
/// The files have to be usable already, so that a wrong mount fails the start. With our own authority the process becomes ready (condition
/// `certificate`) once API servers have been told to trust it and at which path to call.
pub async fn certificates(args: &CertificateArgs, routes: Routes, process: Process<'_>) -> Result<Certificates, Error> {
    let Process { client, readiness, metrics, shutdown } = process;
    let serving = Serving { resolver: Arc::default(), certificate: readiness.register("certificate"), metrics };
    let (clients, following) = clients(args, serving.metrics.clone()).await.map_err(Error::Clients)?;
    let config = server_config(serving.resolver.clone(), clients).map_err(Error::Setup)?;
    let (path, renewal) = if let (Some(certificate), Some(key)) = (&args.tls_cert_file, &args.tls_key_file) {
        let metrics = serving.metrics.clone();
        let files =
            Files::open([certificate.clone(), key.clone()], serving, metrics.clone()).await.map_err(Error::Files)?;
        let (path, segments) = path(args, metrics).await.map_err(Error::Segments)?;
        (path, future::join(files.follow(), segments).map(drop).boxed())
    } else {
        let names = self_signed::Names {
            namespace: args.service_namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned()),
            service: args.service_name.clone(),
            secret: args.authority_secret.clone(),
            mutating: args.mutating_webhook_configuration.clone(),
            optional_mutating: args.optional_mutating_webhook_configuration.clone(),
            validating: args.validating_webhook_configuration.clone(),
            routes,
        };
        let own = self_signed::SelfSigned::new(names, client.clone(), serving);
        (own.path(), own.follow().boxed())
    };
    let service = async move {
        tokio::select! {
            () = shutdown.draining() => {}
            () = renewal => {}
            () = following => {}
        }
    };
    Ok(Certificates { config: Arc::new(config), path, service: service.boxed() })
}

/// The accepted paths if an admin writes them, and the task that keeps them up to date.
async fn path(
    args: &CertificateArgs,
    metrics: CertificateMetrics,
) -> Result<(SecretPath, BoxFuture<'static, ()>), file::Error<path_segment::NoSegment>> {
    let Some(file) = &args.path_segment_file else { return Ok((SecretPath::open(), pending().boxed())) };
    let path = SecretPath::secret();
    let files = Files::open([file.clone()], path.clone(), metrics).await?;
    Ok((path, files.follow().boxed()))
}

/// The verifier of clients, if they are limited, and the task that keeps it up to date.
async fn clients(
    args: &CertificateArgs,
    metrics: CertificateMetrics,
) -> Result<(Option<Arc<Clients>>, BoxFuture<'static, ()>), file::Error<clients::Error>> {
    let Some(path) = &args.client_ca_file else { return Ok((None, pending().boxed())) };
    let clients = Arc::new(Clients::new(args.client_name.clone()));
    let files = Files::open([path.clone()], clients.clone(), metrics).await?;
    Ok((Some(clients), files.follow().boxed()))
}

fn server_config(resolver: Arc<Resolver>, clients: Option<Arc<Clients>>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut config = if let Some(clients) = clients {
        let mut config = builder.with_client_cert_verifier(clients).with_cert_resolver(resolver);
        // A resumed session presents no certificate, even if its authority is no longer trusted.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    } else {
        builder.with_no_client_auth().with_cert_resolver(resolver)
    };
    // API servers call webhooks by HTTP/1.1 only, so that connections spread over replicas (k8s.io/apiserver/pkg/util/webhook/client.go,
    // https://issue.k8s.io/75791). Only other clients would use HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Answers every handshake with the newest certificate; existing connections keep theirs.
#[derive(Debug, Default)]
struct Resolver(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// The users of a valid certificate.
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
