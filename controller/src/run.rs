//! The process: caches, the controller that they wake, the services beside it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    api::{
        Cdi, CdiSpec, DataVolume, Phase, StorageProfile,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass},
    },
    clone::{plan::MoverSettings, request::ObjectName},
    meta,
};
use config::{
    admin::{Admin, Readiness},
    cache::Cache,
    client::Purpose,
    shutdown::Shutdown,
    supervisor::Supervisor,
};
use futures::{Stream, StreamExt, future::ready, stream};
use k8s_openapi::api::{
    core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Recorder, Reporter},
        reflector::ObjectRef,
        watcher,
    },
};
use prometheus_client::registry::Registry;
use tracing::{error, info, warn};

use crate::{
    Args, Error,
    clone::{self, haste::Haste},
    metrics::Metrics,
    progress::{Follower, ProgressBook},
};

/// Everything that a pass reads.
pub struct Caches {
    pub(crate) data_volumes: Cache<DataVolume>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) snapshots: Cache<VolumeSnapshot>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) snapshot_classes: Cache<VolumeSnapshotClass>,
    pub(crate) profiles: Cache<StorageProfile>,
    pub(crate) cdis: Cache<Cdi>,
    pub(crate) events: Cache<Event>,
}

/// What passes share.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) progress: ProgressBook,
    pub(crate) haste: Haste,
    pub(crate) mover_settings: MoverSettings,
    attempts: Mutex<HashMap<ObjectRef<DataVolume>, u32>>,
}

/// The whole life of the controller's process.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let log = config::telemetry::install(&args.log)?;
    let shutdown = Shutdown::new(&args.shutdown);
    let readiness = Readiness::new(shutdown.clone());
    let mut registry = Registry::with_prefix("smartclone");
    config::metrics::register_build(&mut registry, "controller");
    let metrics = Metrics::register(&mut registry);
    let admin = Admin::bind(&args.admin, readiness.clone(), Arc::new(registry), log)?;
    let client = config::client::connect("controller", Purpose::Control).await?;

    let (progress, follower, progressed) = ProgressBook::new();
    let (caches, volumes, wakes) = watch(&client, &readiness);
    let context = Arc::new(Context {
        recorder: Recorder::new(
            client.clone(),
            Reporter { controller: meta::CONTROLLER_MANAGER.to_owned(), instance: None },
        ),
        client: client.clone(),
        caches,
        metrics,
        progress,
        haste: Haste::default(),
        mover_settings: MoverSettings { image: args.cloner_image },
        attempts: Mutex::default(),
    });
    let running = controller(
        Arc::clone(&context),
        volumes,
        stream::select(wakes, progressed),
        args.concurrency,
        shutdown.clone(),
    );
    info!("starting");
    Supervisor::new(shutdown.clone())
        .companion("admin", admin.serve())
        .service("cdi-object", settings_object(client.clone(), shutdown.clone()))
        .service("progress", Follower::run(follower, client, shutdown))
        .service("clones", running)
        .run()
        .await?;
    Ok(())
}

/// The passes: started by the DataVolumes themselves and by `wakes`, one at a time for each of them.
async fn controller(
    context: Arc<Context>,
    volumes: impl Stream<Item = DataVolume> + Send + 'static,
    wakes: impl Stream<Item = ObjectRef<DataVolume>> + Send + 'static,
    concurrency: u16,
    shutdown: Shutdown,
) {
    let store = context.caches.data_volumes.store();
    Controller::for_stream(volumes.map(Ok), store)
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(wakes)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            |volume, context: Arc<Context>| async move {
                let outcome = clone::reconcile(Arc::clone(&volume), Arc::clone(&context)).await;
                if outcome.is_ok() {
                    context
                        .attempts
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(&ObjectRef::from_obj(&*volume));
                }
                outcome
            },
            |volume, error, context| retry(&volume, error, &context),
            context,
        )
        .for_each(|_| ready(()))
        .await;
}

/// When a pass that failed is tried again. What fails for ever isn't tried for ever at full speed; what is a mistake of ours only when
/// something changes.
fn retry(volume: &DataVolume, cause: &Error, context: &Context) -> Action {
    let chain = config::Chain(cause);
    let (namespace, name) = (volume.namespace(), volume.name_any());
    if let Error::Refused(_) = cause {
        error!(namespace, name, error = %chain, "a pass was refused");
        return Action::await_change();
    }
    let mut attempts = context.attempts.lock().unwrap_or_else(PoisonError::into_inner);
    let attempt = attempts.entry(ObjectRef::from_obj(volume)).or_default();
    let delay = Duration::from_millis(250u64 << (*attempt).min(8));
    *attempt = attempt.saturating_add(1);
    warn!(namespace, name, error = %chain, retry_in = ?delay, "a pass failed");
    Action::requeue(delay)
}

/// Admins are told to patch the object `cdi`; see that there is one.
async fn settings_object(client: Client, shutdown: Shutdown) -> Result<(), kube::Error> {
    let api: Api<Cdi> = Api::all(client);
    let object = Cdi {
        metadata: ObjectMeta { name: Some("cdi".to_owned()), ..ObjectMeta::default() },
        spec: CdiSpec::default(),
        status: None,
    };
    let params = PostParams { field_manager: Some(meta::CONTROLLER_MANAGER.to_owned()), ..PostParams::default() };
    let mut delay = Duration::from_secs(1);
    loop {
        match api.create(&params, &object).await {
            Ok(_) => break info!("created the CDI object"),
            Err(kube::Error::Api(status)) if status.code == 409 => break,
            Err(error) => warn!(error = %config::Chain(&error), "the CDI object could not be created"),
        }
        tokio::select! {
            () = shutdown.draining() => return Ok(()),
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_mins(1)),
        }
    }
    shutdown.draining().await;
    Ok(())
}

type Wakes = stream::BoxStream<'static, ObjectRef<DataVolume>>;

/// Every watch: the caches, the DataVolumes' own stream, and which DataVolumes the other objects wake.
fn watch(client: &Client, readiness: &Readiness) -> (Caches, impl Stream<Item = DataVolume> + Send + use<>, Wakes) {
    let all = watcher::Config::default;
    let (data_volumes, own) = Cache::watch(Api::all(client.clone()), all(), readiness.register("datavolumes"), strip);
    let (claims, claim_stream) =
        Cache::watch(Api::all(client.clone()), all(), readiness.register("persistentvolumeclaims"), strip);
    let (volumes, volume_stream) =
        Cache::watch(Api::all(client.clone()), all(), readiness.register("persistentvolumes"), strip);
    let (pods, pod_stream) = Cache::watch(Api::all(client.clone()), all(), readiness.register("pods"), strip_pod);
    let (snapshots, snapshot_stream) = Cache::watch(
        Api::all(client.clone()),
        all().labels(meta::OWNED_BY_UID),
        readiness.register("volumesnapshots"),
        strip,
    );
    let (classes, class_stream) =
        Cache::watch(Api::all(client.clone()), all(), readiness.register("storageclasses"), strip);
    let (snapshot_classes, snapshot_class_stream) =
        Cache::watch(Api::all(client.clone()), all(), readiness.register("volumesnapshotclasses"), strip);
    let (profiles, profile_stream) =
        Cache::watch(Api::all(client.clone()), all(), readiness.register("storageprofiles"), strip);
    let (cdis, cdi_stream) = Cache::watch(Api::all(client.clone()), all(), readiness.register("cdis"), strip);
    let complaints = all().fields("involvedObject.kind=PersistentVolumeClaim,type=Warning");
    let (events, event_stream) =
        Cache::watch(Api::all(client.clone()), complaints, readiness.register("events"), strip);

    let waiting = Waiting { volumes: data_volumes.clone(), by_source: Arc::default() };
    let index = waiting.clone();
    let own = own.inspect(move |volume| index.note(volume));
    let wakes: Vec<Wakes> = vec![
        wake(claim_stream, &waiting, |waiting, claim: &PersistentVolumeClaim| {
            let named = named(claim.namespace(), Some(claim.name_any()));
            let source = named.iter().flat_map(|n| waiting.of_source(n)).collect::<Vec<_>>();
            owner(claim).into_iter().chain(source).collect()
        }),
        wake(volume_stream, &waiting, |waiting, volume: &PersistentVolume| {
            let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            let named = claim.and_then(|c| named(c.namespace.clone(), c.name.clone()));
            named.iter().flat_map(|n| waiting.of_source(n)).collect()
        }),
        wake(pod_stream, &waiting, |waiting, pod: &Pod| {
            let claims = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter_map(|v| {
                named(pod.namespace(), v.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone()))
            });
            let using = claims.flat_map(|n| waiting.of_source(&n).into_iter().chain(waiting.named(&n)));
            owner(pod).into_iter().chain(using).collect()
        }),
        wake(snapshot_stream, &waiting, |_, snapshot: &VolumeSnapshot| owner(snapshot).into_iter().collect()),
        wake(class_stream, &waiting, |waiting, _: &StorageClass| waiting.all()),
        wake(snapshot_class_stream, &waiting, |waiting, _: &VolumeSnapshotClass| waiting.all()),
        wake(profile_stream, &waiting, |waiting, _: &StorageProfile| waiting.all()),
        wake(cdi_stream, &waiting, |waiting, _: &Cdi| waiting.all()),
        wake(event_stream, &waiting, |waiting, event: &Event| {
            let about = &event.involved_object;
            named(about.namespace.clone(), about.name.clone()).and_then(|n| waiting.named(&n)).into_iter().collect()
        }),
    ];
    let caches =
        Caches { data_volumes, claims, volumes, pods, snapshots, classes, snapshot_classes, profiles, cdis, events };
    (caches, own, stream::select_all(wakes).boxed())
}

/// The DataVolumes that `stream`'s objects wake.
fn wake<K: Send + 'static>(
    stream: impl Stream<Item = K> + Send + 'static,
    waiting: &Waiting,
    whom: fn(&Waiting, &K) -> Vec<ObjectRef<DataVolume>>,
) -> Wakes {
    let waiting = waiting.clone();
    stream.flat_map(move |object| stream::iter(whom(&waiting, &object))).boxed()
}

/// The DataVolumes that aren't done, found by what they wait for.
#[derive(Clone)]
struct Waiting {
    volumes: Cache<DataVolume>,
    by_source: Arc<Mutex<HashMap<ObjectName, BTreeSet<String>>>>,
}

impl Waiting {
    /// Keeps the index. A clone is within one namespace, so the DataVolume's name is enough.
    fn note(&self, volume: &DataVolume) {
        let Some(source) = volume.spec.source.as_ref().and_then(|s| s.pvc.as_ref()) else { return };
        let source = ObjectName { namespace: source.namespace.clone(), name: source.name.clone() };
        let mut index = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        if unfinished(volume) {
            index.entry(source).or_default().insert(volume.name_any());
        } else if let Some(names) = index.get_mut(&source) {
            names.remove(&volume.name_any());
            if names.is_empty() {
                index.remove(&source);
            }
        }
    }

    fn of_source(&self, source: &ObjectName) -> Vec<ObjectRef<DataVolume>> {
        let index = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        let names = index.get(source).into_iter().flatten();
        names.map(|name| ObjectRef::new(name).within(&source.namespace)).collect()
    }

    fn named(&self, name: &ObjectName) -> Option<ObjectRef<DataVolume>> {
        let volume = self.volumes.get(Some(&name.namespace), &name.name);
        volume.present().filter(|v| unfinished(v)).map(|v| ObjectRef::from_obj(&**v))
    }

    fn all(&self) -> Vec<ObjectRef<DataVolume>> {
        self.volumes.known_objects().iter().filter(|v| unfinished(v)).map(|v| ObjectRef::from_obj(&**v)).collect()
    }
}

/// Deleted ones are finished, too: what they leave is Kubernetes' to remove.
fn unfinished(volume: &DataVolume) -> bool {
    let phase = volume.status.as_ref().map(|s| s.phase).unwrap_or_default();
    volume.metadata.deletion_timestamp.is_none() && !matches!(phase, Phase::Succeeded | Phase::Failed)
}

fn named(namespace: Option<String>, name: Option<String>) -> Option<ObjectName> {
    Some(ObjectName { namespace: namespace?, name: name? })
}

fn owner<K: Resource>(object: &K) -> Option<ObjectRef<DataVolume>> {
    let meta = object.meta();
    let owner =
        meta.owner_references.iter().flatten().find(|o| o.controller == Some(true) && o.kind == "DataVolume")?;
    Some(ObjectRef::new(&owner.name).within(meta.namespace.as_deref()?))
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a pod only what tells whether it uses a claim, whether it may write, and how it does.
fn strip_pod(pod: &mut Pod) {
    strip(pod);
    pod.metadata.annotations = None;
    let Some(spec) = &mut pod.spec else { return };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        *container = k8s_openapi::api::core::v1::Container {
            name: std::mem::take(&mut container.name),
            volume_devices: container.volume_devices.take(),
            volume_mounts: container.volume_mounts.take(),
            ..Default::default()
        };
    }
    *spec = k8s_openapi::api::core::v1::PodSpec {
        containers: std::mem::take(&mut spec.containers),
        init_containers: spec.init_containers.take(),
        ephemeral_containers: spec.ephemeral_containers.take(),
        volumes: spec.volumes.take(),
        node_name: spec.node_name.take(),
        ..Default::default()
    };
}
