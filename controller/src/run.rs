//! The process: the watches, the reconcilers that they trigger, and the services beside them. Wiring only.

use std::sync::Arc;

use common::keys;
use config::{
    admin::{Admin, Readiness},
    client::Purpose,
    shutdown::Shutdown,
    supervisor::Supervisor,
};
use futures::{Stream, StreamExt, future::ready, stream};
use kube::runtime::{
    Controller, controller,
    events::{Recorder, Reporter},
};
use prometheus_client::registry::Registry;
use tracing::info;

use crate::{
    Args, cdi, cdi_config, cleanup,
    clone::{
        self, Reconciler,
        mover_progress::{Follower, ProgressTracker},
    },
    context::Context,
    data_source, lease,
    metrics::Metrics,
    mode::{ModeGauge, ModeReporter},
    object_transfer,
    profile::{self, OpenRefusals},
    triggers::{Indexes, PeriodicTriggers},
    volume_populator, watches,
};

/// Runs the controller until the process is terminated.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let log = config::telemetry::install(&args.log)?;
    let shutdown = Shutdown::new(&args.shutdown);
    let readiness = Readiness::new(shutdown.clone());
    let mut registry = Registry::with_prefix("smartclone");
    config::metrics::register_build(&mut registry, "controller");
    config::metrics::register_unreadable_objects(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let open_refusals = OpenRefusals::register(&mut registry);
    let mode_gauge = ModeGauge::register(&mut registry);
    let admin = Admin::bind(&args.admin, readiness.clone(), Arc::new(registry), log)?;
    let client = config::client::connect("controller", Purpose::Control).await?;

    let (progress, follower, progressed) = ProgressTracker::new();
    let (periodic, indexes) = (PeriodicTriggers::default(), Indexes::default());
    let (caches, streams, triggered) = watches::start(&client, &readiness, &periodic, &indexes);
    let reporter = Reporter { controller: keys::CONTROLLER_MANAGER.to_owned(), instance: None };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
        caches: caches.clone(),
        metrics,
    });
    let (mode, affected) = ModeReporter::new(Arc::clone(&context), mode_gauge);
    let holder = args.holder();
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&context), indexes, progress, args.cloner_image));
    let concurrency = controller::Config::default().concurrency(args.concurrency);
    let volumes = clone::run(
        Controller::for_stream(streams.volumes.map(Ok), caches.data_volumes.store()).with_config(concurrency.clone()),
        stream::select(stream::select(triggered.volumes, affected.volumes), progressed),
        shutdown.clone(),
        clone::reconcile,
        Arc::clone(&reconciler),
    );
    let claims = clone::run(
        Controller::for_stream(streams.claims.map(Ok), caches.claims.store()).with_config(concurrency),
        stream::select(triggered.claims, affected.claims),
        shutdown.clone(),
        clone::populate,
        Arc::clone(&reconciler),
    );
    let transfers = object_transfer::run(
        Arc::clone(&context),
        streams.transfer_cache,
        streams.transfers,
        triggered.transfers,
        shutdown.clone(),
    );
    info!("starting");
    Supervisor::new(shutdown.clone())
        .companion("admin", admin.serve())
        .service("watches", others(streams.others, shutdown.clone()))
        .service("cdi-object", cdi::run(Arc::clone(&context), periodic.cdi, shutdown.clone()))
        .service("volume-populator", volume_populator::run(client.clone(), shutdown.clone()))
        .service("mode", mode.run(periodic.mode, shutdown.clone()))
        .service("lease", lease::run(client.clone(), holder, readiness, shutdown.clone()))
        .service("progress", Follower::run(follower, client, shutdown.clone()))
        .service("clones", volumes)
        .service("populators", claims)
        .service("cleanup", cleanup::run(reconciler, periodic.cleanup, shutdown.clone()))
        .service(
            "storage-profiles",
            profile::run(Arc::clone(&context), open_refusals, periodic.profiles, shutdown.clone()),
        )
        .service("transfers", transfers)
        .service("cdi-config", cdi_config::run(Arc::clone(&context), periodic.config, shutdown.clone()))
        .service("data-sources", data_source::run(context, streams.sources, triggered.sources, shutdown))
        .run()
        .await?;
    Ok(())
}

/// Drives the watches that belong to no controller.
async fn others(stream: impl Stream<Item = ()> + Send, shutdown: Shutdown) {
    stream.take_until(async move { shutdown.draining().await }).for_each(ready).await;
}
