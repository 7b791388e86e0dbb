//! A controller against a fake API server: caches that the real watches fill, a reconciler, and the triggered objects.
//!
//! Tests that use it pause tokio's clock. It then advances only if all tasks are idle, so a short sleep waits until all events of the
//! server are handled.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use common::{
    keys,
    object::{ObjectVersion, exact},
};
use config::{admin::Readiness, args::ShutdownArgs, shutdown::Shutdown};
use fake_api::{Answer, FakeApi, Request};
use futures::{FutureExt, Stream, StreamExt, future::ready};
use kube::{
    Resource,
    runtime::{
        events::{Recorder, Reporter},
        reflector::{Lookup, ObjectRef},
    },
};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    clone::{Reconciler, mover_progress::ProgressTracker},
    context::Context,
    metrics::Metrics,
    triggers::{Indexes, PeriodicTriggers, Triggered},
    watches,
};

/// The reconciler, whose caches contain the server's initial objects, and the triggers.
pub struct Fixture {
    pub reconciler: Arc<Reconciler>,
    periodic: PeriodicTriggers,
    triggered: Triggered,
    _watches: JoinSet<()>,
}

impl Fixture {
    /// Starts the watches and waits until the caches are filled.
    pub async fn start(api: &FakeApi) -> Self {
        let client = api.client();
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let readiness = Readiness::new(Shutdown::new(&args));
        let (periodic, indexes) = (PeriodicTriggers::default(), Indexes::default());
        let (caches, streams, triggered) = watches::start(&client, &readiness, &periodic, &indexes);
        let mut watches = JoinSet::new();
        watches.spawn(streams.volumes.for_each(|_| ready(())));
        watches.spawn(streams.claims.for_each(|_| ready(())));
        watches.spawn(streams.sources.for_each(|_| ready(())));
        watches.spawn(streams.transfers.for_each(|_| ready(())));
        watches.spawn(streams.others.for_each(|()| ready(())));
        let context =
            Context { recorder: recorder(api), client, caches, metrics: Metrics::register(&mut Registry::default()) };
        let (progress, _, _) = ProgressTracker::new();
        let reconciler = Arc::new(Reconciler::new(Arc::new(context), indexes, progress, "cloner".to_owned()));
        let mut fixture = Self { reconciler, periodic, triggered, _watches: watches };
        fixture.settle().await;
        assert_eq!(readiness.missing(), Vec::<&str>::new());
        fixture.take_triggered();
        api.take_requests();
        fixture
    }

    /// The context of the reconcilers.
    pub fn context(&self) -> &Arc<Context> {
        &self.reconciler.context
    }

    /// Waits until all tasks are idle.
    pub async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    /// The objects (kind and name) and periodic reconcilers that were triggered since the last call.
    pub fn take_triggered(&mut self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        take(&mut self.triggered.volumes, &mut all);
        take(&mut self.triggered.claims, &mut all);
        take(&mut self.triggered.sources, &mut all);
        take(&mut self.triggered.transfers, &mut all);
        let periodic = [
            ("profiles", &self.periodic.profiles),
            ("config", &self.periodic.config),
            ("cleanup", &self.periodic.cleanup),
            ("mode", &self.periodic.mode),
            ("cdi", &self.periodic.cdi),
        ];
        for (name, trigger) in periodic {
            if trigger.notified().now_or_never().is_some() {
                all.insert(name.to_owned());
            }
        }
        all
    }
}

fn take<K>(triggered: &mut (impl Stream<Item = ObjectRef<K>> + Unpin), all: &mut BTreeSet<String>)
where
    K: Lookup<DynamicType = ()> + Resource<DynamicType = ()>,
{
    while let Some(Some(object)) = triggered.next().now_or_never() {
        let namespace = object.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        all.insert(format!("{} {namespace}{}", <K as Resource>::kind(&()), object.name));
    }
}

/// The recorder of the controller's events.
pub fn recorder(api: &FakeApi) -> Recorder {
    Recorder::new(api.client(), Reporter { controller: keys::CONTROLLER_MANAGER.to_owned(), instance: None })
}

/// Creates or replaces an object in the server. Returns it decoded.
pub fn put<K: Resource<DynamicType = ()> + DeserializeOwned>(api: &FakeApi, object: &Value) -> K {
    serde_json::from_value(api.put::<K>(object)).unwrap()
}

/// Creates or replaces an object in the server. Returns its version.
pub fn put_version<K: Resource<DynamicType = ()> + DeserializeOwned>(api: &FakeApi, object: &Value) -> ObjectVersion {
    exact(put::<K>(api, object).meta())
}

/// The answer with this code; without a code, a connection that fails.
pub fn answer(code: u16) -> Answer {
    match code {
        0 => Answer::Disconnect(io::ErrorKind::ConnectionReset),
        code => Answer::failure(code, "words of the API server"),
    }
}

/// `METHOD PATH` of each request.
pub fn lines(requests: &[Request]) -> Vec<String> {
    requests.iter().map(ToString::to_string).collect()
}
