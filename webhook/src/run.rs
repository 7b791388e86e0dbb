//! The process: caches, certificate, server. Wiring only.

use std::sync::Arc;

use anyhow::Context;
use certs::{CertificateMetrics, Process, certificates};
use config::{
    admin::{Admin, Readiness},
    client::{self, Purpose},
    metrics::{register_build, register_unreadable_objects},
    shutdown::Shutdown,
    supervisor::Supervisor,
    telemetry,
};
use prometheus_client::registry::Registry;
use tracing::info;

use crate::{
    args::Args,
    body::Bodies,
    gather::cluster::Cluster,
    metrics::Metrics,
    port::{Limits, Port},
    server::{Admission, ROUTES, router},
};

/// Runs the webhook until the process is terminated.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let log = telemetry::install(&args.log)?;
    let shutdown = Shutdown::new(&args.shutdown);
    let readiness = Readiness::new(shutdown.clone());
    let mut registry = Registry::with_prefix("smartclone");
    register_build(&mut registry, "webhook");
    register_unreadable_objects(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let certificate_metrics = CertificateMetrics::register(&mut registry);

    let watches = client::connect("webhook", Purpose::Control).await?;
    let reads = client::connect("webhook", Purpose::Admission).await?;
    let namespace = args.certificate.service_namespace.as_deref().unwrap_or(watches.default_namespace());
    let controller = format!("system:serviceaccount:{namespace}:{}", args.controller_service_account);
    let (cluster, kept) = Cluster::new(reads, &watches, &readiness);
    let process =
        Process { client: &watches, readiness: &readiness, metrics: certificate_metrics, shutdown: shutdown.clone() };
    let certificate = certificates(&args.certificate, ROUTES, process).await?;
    let bodies = Bodies::default();
    let routes = router(Arc::new(Admission { cluster, controller, metrics: metrics.clone(), bodies }));

    let listener = config::listen(args.listen).with_context(|| format!("failed to listen on {}", args.listen))?;
    let admin = Admin::bind(&args.admin, readiness, Arc::new(registry), log)?;
    info!(address = %listener.local_addr()?, "starting");
    let port = Port { listener, tls: certificate.config, path: certificate.path, metrics, limits: Limits::default() };
    let mut supervisor = Supervisor::new(shutdown.clone())
        .companion("admin", admin.serve())
        .service("certificate", certificate.service)
        .service("reviews", port.serve(routes, shutdown));
    for (kind, watch) in kept {
        // Needed as long as a review is in progress.
        supervisor = supervisor.companion(kind, watch);
    }
    supervisor.run().await?;
    Ok(())
}
