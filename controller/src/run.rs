//! The process: caches, the controller that they wake, the services beside it.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{
        Cdi, CdiConfig, CdiSpec, DataSource, DataVolume, StorageProfile, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    clone::{
        group,
        plan::MoverSettings,
        populate,
        request::{ObjectName, SourceKind, SourceName},
    },
    lookup::Lookup,
    meta,
};
use config::{
    admin::{Admin, Readiness},
    api::Objects,
    cache::Cache,
    client::Purpose,
    shutdown::Shutdown,
    supervisor::Supervisor,
};
use futures::{Stream, StreamExt, channel::mpsc, future::ready, stream};
use k8s_openapi::api::{
    core::v1::{Event, Node, NodeStatus, PersistentVolume, PersistentVolumeClaim, Pod, ResourceQuota},
    storage::v1::{StorageClass, VolumeAttachment},
};
use kube::{
    Client, Resource, ResourceExt,
    api::ObjectMeta,
    runtime::{
        Controller,
        controller::{self, Action},
        events::{Recorder, Reporter},
        reflector::ObjectRef,
        watcher,
    },
};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::{
    Args, Error, cdi_config,
    clone::{self, authorize::Answers, haste::Haste, learn::Refusals},
    created::CreatedObjects,
    data_source,
    index::{Index, Key},
    level::Bell,
    metrics::Metrics,
    profile::{self, OpenRefusals},
    progress::{Follower, ProgressBook},
    rally::Rally,
    retry::Attempts,
    sweep, transfer,
    users::{self, Users},
    write::{conflict, post_params},
};

/// Everything that a pass reads.
#[derive(Clone)]
pub struct Caches {
    pub(crate) data_volumes: Cache<DataVolume>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) snapshots: Cache<VolumeSnapshot>,
    pub(crate) contents: Cache<VolumeSnapshotContent>,
    pub(crate) classes: Cache<StorageClass>,
    pub(crate) snapshot_classes: Cache<VolumeSnapshotClass>,
    pub(crate) profiles: Cache<StorageProfile>,
    pub(crate) cdis: Cache<Cdi>,
    pub(crate) configs: Cache<CdiConfig>,
    pub(crate) data_sources: Cache<DataSource>,
    pub(crate) clone_sources: Cache<VolumeCloneSource>,
    pub(crate) events: Cache<Event>,
    pub(crate) attachments: Cache<VolumeAttachment>,
    pub(crate) nodes: Cache<Node>,
}

/// What passes share.
pub struct Context {
    pub(crate) client: Client,
    pub(crate) caches: Caches,
    pub(crate) index: Arc<Index>,
    /// Claims that are filled without a DataVolume, by the VolumeCloneSource that they name.
    pub(crate) clone_sources: Arc<Index>,
    pub(crate) created: Arc<CreatedObjects>,
    pub(crate) users: Arc<Users>,
    pub(crate) rally: Rally,
    pub(crate) answers: Answers,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) progress: ProgressBook,
    pub(crate) haste: Haste,
    pub(crate) refusals: Refusals,
    pub(crate) mover_settings: MoverSettings,
    attempts: Attempts,
}

/// The whole life of the controller's process.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let log = config::telemetry::install(&args.log)?;
    let shutdown = Shutdown::new(&args.shutdown);
    let readiness = Readiness::new(shutdown.clone());
    let mut registry = Registry::with_prefix("smartclone");
    config::metrics::register_build(&mut registry, "controller");
    config::metrics::register_unreadable_objects(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let open_refusals = OpenRefusals::register(&mut registry);
    let admin = Admin::bind(&args.admin, readiness.clone(), Arc::new(registry), log)?;
    let client = config::client::connect("controller", Purpose::Control).await?;

    let (progress, follower, progressed) = ProgressBook::new();
    let bells = Bells::default();
    let shared = Shared::default();
    let (transfers, told) = transfer::watch(&client, &readiness);
    let (caches, streams, woken) = watch(&client, &readiness, &bells, &shared, told);
    let Shared { index, clone_sources, users, created } = shared;
    let context = Arc::new(Context {
        recorder: Recorder::new(
            client.clone(),
            Reporter { controller: meta::CONTROLLER_MANAGER.to_owned(), instance: None },
        ),
        client: client.clone(),
        caches: caches.clone(),
        index,
        clone_sources,
        created,
        users,
        rally: Rally::default(),
        answers: Answers::default(),
        metrics,
        progress,
        haste: Haste::default(),
        refusals: Refusals::default(),
        mover_settings: MoverSettings { image: args.cloner_image },
        attempts: Attempts::default(),
    });
    let concurrency = args.concurrency;
    let volumes = controller(
        Controller::for_stream(streams.volumes.map(Ok), caches.data_volumes.store()),
        stream::select(woken.volumes, progressed),
        concurrency,
        shutdown.clone(),
        clone::reconcile,
        Arc::clone(&context),
    );
    let claims = controller(
        Controller::for_stream(streams.claims.map(Ok), caches.claims.store()),
        woken.claims,
        concurrency,
        shutdown.clone(),
        clone::populate,
        Arc::clone(&context),
    );
    info!("starting");
    Supervisor::new(shutdown.clone())
        .companion("admin", admin.serve())
        .service("watches", others(streams.others, shutdown.clone()))
        .service("cdi-object", settings_object(client.clone(), shutdown.clone()))
        .service("progress", Follower::run(follower, client, shutdown.clone()))
        .service("clones", volumes)
        .service("populators", claims)
        .service("sweep", sweep::run(Arc::clone(&context), bells.sweep, shutdown.clone()))
        .service(
            "storage-profiles",
            profile::run(Arc::clone(&context), open_refusals, bells.profiles, shutdown.clone()),
        )
        .service("transfers", transfer::run(Arc::clone(&context), transfers, shutdown.clone()))
        .service("cdi-config", cdi_config::run(Arc::clone(&context), bells.config, shutdown.clone()))
        .service("data-sources", data_source::run(context, streams.sources, woken.sources, shutdown))
        .run()
        .await?;
    Ok(())
}

/// The watches that belong to no controller.
async fn others(stream: impl Stream<Item = ()> + Send, shutdown: Shutdown) {
    stream.take_until(async move { shutdown.draining().await }).for_each(ready).await;
}

/// The passes: started by the objects themselves and by `wakes`, one at a time for each of them.
async fn controller<K, F>(
    controller: Controller<K>,
    wakes: impl Stream<Item = ObjectRef<K>> + Send + 'static,
    concurrency: u16,
    shutdown: Shutdown,
    pass: fn(Arc<K>, Arc<Context>) -> F,
    context: Arc<Context>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    controller
        .with_config(controller::Config::default().concurrency(concurrency))
        .reconcile_on(wakes)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            move |object: Arc<K>, context: Arc<Context>| async move {
                let outcome = pass(Arc::clone(&object), Arc::clone(&context)).await;
                if outcome.is_ok() {
                    context.attempts.forget(&name_of(&*object));
                }
                outcome
            },
            |object, error, context| context.attempts.next(&K::kind(&()), &name_of(&*object), error),
            context,
        )
        .for_each(|_| ready(()))
        .await;
}

/// Admins are told to patch the object `cdi`; see that there is one.
async fn settings_object(client: Client, shutdown: Shutdown) -> Result<(), kube::Error> {
    let api = Objects::<Cdi>::all(client);
    let object = Cdi {
        metadata: ObjectMeta { name: Some("cdi".to_owned()), ..ObjectMeta::default() },
        spec: CdiSpec::default(),
        status: None,
    };
    let params = post_params();
    let mut delay = Duration::from_secs(1);
    loop {
        match api.create(&params, &object).await {
            Ok(_) => break info!("created the CDI object"),
            Err(error) if conflict(&error) => break,
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

/// What is looked at as a whole, and rung for by watches.
#[derive(Default, Clone)]
struct Bells {
    profiles: Bell,
    config: Bell,
    sweep: Bell,
}

/// Wakes on their way to the two controllers.
struct Woken {
    volumes: mpsc::UnboundedReceiver<ObjectRef<DataVolume>>,
    claims: mpsc::UnboundedReceiver<ObjectRef<PersistentVolumeClaim>>,
    sources: stream::BoxStream<'static, ObjectRef<DataSource>>,
}

/// What the watches yield beside the caches: the objects of the three controllers, and everything else that wakes somebody.
struct Streams {
    volumes: stream::BoxStream<'static, DataVolume>,
    claims: stream::BoxStream<'static, PersistentVolumeClaim>,
    sources: stream::BoxStream<'static, DataSource>,
    /// Yields nothing of interest; it has to be polled for the watches to go on.
    others: stream::BoxStream<'static, ()>,
}

/// What watches keep and passes read, beside the caches.
#[derive(Clone, Default)]
struct Shared {
    index: Arc<Index>,
    clone_sources: Arc<Index>,
    users: Arc<Users>,
    created: Arc<CreatedObjects>,
}

/// Who is to be looked at again because of something else.
#[derive(Clone)]
struct Waker {
    ctx: Caches,
    shared: Shared,
    bells: Bells,
    transfers: transfer::Bell,
    sources: data_source::Wakes,
    volumes: mpsc::UnboundedSender<ObjectRef<DataVolume>>,
    claims: mpsc::UnboundedSender<ObjectRef<PersistentVolumeClaim>>,
}

impl Waker {
    /// The clone of this name: a DataVolume, or a claim that is filled without one. It fails only when nobody works any more.
    fn wake(&self, name: &ObjectName) {
        let at = (Some(name.namespace.as_str()), name.name.as_str());
        if self.ctx.data_volumes.get(at.0, at.1).present().is_some() {
            let _ = self.volumes.unbounded_send(ObjectRef::new(&name.name).within(&name.namespace));
        } else if self.ctx.claims.get(at.0, at.1).present().is_some_and(|claim| populate::wanted(claim).is_some()) {
            let _ = self.claims.unbounded_send(ObjectRef::new(&name.name).within(&name.namespace));
        }
    }

    fn wake_all(&self) {
        for (name, _) in self.shared.index.all() {
            self.wake(&name);
        }
    }

    /// Whoever clones from it, or wants to.
    fn source(&self, kind: SourceKind, object: ObjectName) {
        for clone in self.shared.index.of(&Key::Source(SourceName { kind, object })) {
            self.wake(&clone);
        }
    }

    /// The one for whom an object was made.
    fn owner<K: Resource>(&self, object: &K) {
        let meta = object.meta();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let owner = meta::controller(meta);
        if let Some(owner) = owner.filter(|it| matches!(it.kind.as_str(), "DataVolume" | "PersistentVolumeClaim")) {
            self.wake(&ObjectName { namespace, name: owner.name.clone() });
        }
        let elsewhere = meta::annotation(meta, meta::OWNED_BY_DATA_VOLUME);
        if let Some(owner) = elsewhere.and_then(|owner| owner.parse().ok()) {
            self.wake(&owner);
        }
        if meta.labels.as_ref().is_some_and(|labels| labels.contains_key(meta::OWNED_BY_UID)) {
            self.bells.sweep.notify_one();
        }
    }

    fn data_volume(&self, volume: &DataVolume) {
        self.transfers.data_volume(volume);
        let there = self.ctx.data_volumes.get(volume.namespace().as_deref(), &volume.name_any());
        if there.present().and_then(|there| there.uid()) != volume.uid() {
            self.shared.created.forget(&volume.uid().unwrap_or_default());
        }
        // Its claim may be somebody's source, which isn't complete before it is.
        self.source(SourceKind::Claim, name_of(volume));
        self.sources.content(volume);
        self.bells.sweep.notify_one();
    }

    fn claim(&self, claim: &PersistentVolumeClaim) {
        self.transfers.claim(claim);
        self.owner(claim);
        let name = name_of(claim);
        self.wake(&name);
        self.source(SourceKind::Claim, name);
        self.sources.content(claim);
        let restored = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref());
        if restored.is_some_and(|source| source.kind == "VolumeSnapshot") {
            self.bells.sweep.notify_one();
        }
    }

    fn volume(&self, volume: &PersistentVolume) {
        self.transfers.volume(volume);
        let Some(claim) = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) else { return };
        let (Some(namespace), Some(name)) = (claim.namespace.clone(), claim.name.clone()) else { return };
        if let Lookup::Present(claim) = self.ctx.claims.get(Some(&namespace), &name) {
            self.owner(&*claim);
        }
        let name = ObjectName { namespace, name };
        self.wake(&name);
        self.source(SourceKind::Claim, name);
    }

    fn pod(&self, pod: &Pod) {
        self.transfers.pod(pod);
        self.shared
            .users
            .note(pod, Instant::now(), |name| self.ctx.pods.get(Some(&name.namespace), &name.name).present().is_some());
        self.owner(pod);
        for claim in users::claims(pod) {
            // A temporary claim is handed over when nobody uses it any more.
            if let Lookup::Present(claim) = self.ctx.claims.get(Some(&claim.namespace), &claim.name) {
                self.owner(&*claim);
            }
            self.wake(&claim);
            self.source(SourceKind::Claim, claim);
        }
    }

    fn snapshot(&self, snapshot: &VolumeSnapshot) {
        self.source(SourceKind::Snapshot, name_of(snapshot));
        self.sources.content(snapshot);
        if !snapshot.labels().contains_key(meta::OWNED_BY_UID) {
            return;
        }
        for member in group::Shared::of(snapshot).members.values() {
            self.wake(member);
        }
        // One that is gone makes room for the next.
        if let (Some(namespace), Some(name)) =
            (snapshot.namespace(), snapshot.spec.source.persistent_volume_claim_name.clone())
        {
            self.source(SourceKind::Claim, ObjectName { namespace, name });
        }
        self.bells.sweep.notify_one();
    }

    fn content(&self, content: &VolumeSnapshotContent) {
        let about = &content.spec.volume_snapshot_ref;
        if let (Some(namespace), Some(name)) = (about.namespace.clone(), about.name.clone()) {
            self.source(SourceKind::Snapshot, ObjectName { namespace, name });
        }
    }

    fn data_source(&self, source: &DataSource) {
        self.sources.reference(source);
        let touched = name_of(source);
        // One that names it may be what a clone names.
        for (clone, keys) in self.shared.index.all() {
            if keys.iter().any(|key| matches!(key, Key::DataSource(name) if name.namespace == touched.namespace)) {
                self.wake(&clone);
            }
        }
    }

    fn clone_source(&self, source: &VolumeCloneSource) {
        let named = name_of(source);
        for claim in self.shared.clone_sources.of(&Key::CloneSource(named)) {
            self.wake(&claim);
        }
    }

    fn attachment(&self, attachment: &VolumeAttachment) {
        let volume = attachment.spec.source.persistent_volume_name.as_deref();
        if let Some(Lookup::Present(volume)) = volume.map(|name| self.ctx.volumes.get(None, name)) {
            self.volume(&volume);
        }
    }

    fn node(&self) {
        for clone in self.shared.index.of(&Key::Nodes) {
            self.wake(&clone);
        }
    }

    fn event(&self, event: &Event) {
        let about = &event.involved_object;
        let (Some(namespace), Some(name)) = (about.namespace.clone(), about.name.clone()) else { return };
        if let Lookup::Present(claim) = self.ctx.claims.get(Some(&namespace), &name) {
            self.owner(&*claim);
        }
        self.wake(&ObjectName { namespace, name });
    }

    /// What was refused for a quota may be allowed now.
    fn quota(&self, quota: &ResourceQuota) {
        let namespace = quota.namespace().unwrap_or_default();
        for (clone, keys) in self.shared.index.all() {
            let reads = |key: &Key| matches!(key, Key::Source(source) if source.object.namespace == namespace);
            if clone.namespace == namespace || keys.iter().any(reads) {
                self.wake(&clone);
            }
        }
    }
}

/// Namespace, which may be empty, and name.
pub(crate) fn name_of<K: Resource>(object: &K) -> ObjectName {
    let meta = object.meta();
    ObjectName { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

/// Every watch: the caches, and what their events lead to.
fn watch(
    client: &Client,
    readiness: &Readiness,
    bells: &Bells,
    shared: &Shared,
    transfers: transfer::Bell,
) -> (Caches, Streams, Woken) {
    let all = watcher::Config::default;
    macro_rules! cache {
        ($plural:literal, $config:expr, $strip:ident) => {
            Cache::watch(client.clone(), $config, readiness.register($plural), $strip)
        };
    }
    let (data_volumes, volumes) = cache!("datavolumes", all(), strip);
    let (claims, claim_stream) = cache!("persistentvolumeclaims", all(), strip);
    let (persistent_volumes, persistent_volume_stream) = cache!("persistentvolumes", all(), strip);
    let (pods, pod_stream) = cache!("pods", all(), strip_pod);
    let (snapshots, snapshot_stream) = cache!("volumesnapshots", all(), strip);
    let (contents, content_stream) = cache!("volumesnapshotcontents", all(), strip);
    let (classes, class_stream) = cache!("storageclasses", all(), strip);
    let (snapshot_classes, snapshot_class_stream) = cache!("volumesnapshotclasses", all(), strip);
    let (profiles, profile_stream) = cache!("storageprofiles", all(), strip);
    let (cdis, cdi_stream) = cache!("cdis", all(), strip);
    let (configs, config_stream) = cache!("cdiconfigs", all(), strip);
    let (data_sources, data_source_stream) = cache!("datasources", all(), strip);
    let (clone_sources, clone_source_stream) = cache!("volumeclonesources", all(), strip);
    let complaints = all().fields("involvedObject.kind=PersistentVolumeClaim,type=Warning");
    let (events, event_stream) = cache!("events", complaints, strip);
    let (_, quota_stream) = cache!("resourcequotas", all(), strip_quota);
    let (attachments, attachment_stream) = cache!("volumeattachments", all(), strip);
    let (nodes, node_stream) = cache!("nodes", all(), strip_node);

    let caches = Caches {
        data_volumes,
        claims,
        volumes: persistent_volumes,
        pods,
        snapshots,
        contents,
        classes,
        snapshot_classes,
        profiles,
        cdis,
        configs,
        data_sources: data_sources.clone(),
        clone_sources,
        events,
        attachments,
        nodes,
    };
    let (source_wakes, woken_sources) = data_source::Wakes::new(data_sources);
    let ((volume_wakes, woken_volumes), (claim_wakes, woken_claims)) = (mpsc::unbounded(), mpsc::unbounded());
    let waker = Waker {
        ctx: caches.clone(),
        shared: shared.clone(),
        bells: bells.clone(),
        transfers,
        sources: source_wakes,
        volumes: volume_wakes,
        claims: claim_wakes,
    };
    let others = vec![
        each(&waker, persistent_volume_stream, Waker::volume),
        each(&waker, pod_stream, Waker::pod),
        each(&waker, snapshot_stream, Waker::snapshot),
        each(&waker, content_stream, Waker::content),
        each(&waker, clone_source_stream, Waker::clone_source),
        each(&waker, event_stream, Waker::event),
        each(&waker, quota_stream, Waker::quota),
        each(&waker, attachment_stream, Waker::attachment),
        each(&waker, node_stream, |waker, _: &Node| waker.node()),
        each(&waker, class_stream, |waker, _: &StorageClass| {
            waker.bells.profiles.notify_one();
            waker.bells.config.notify_one();
            waker.wake_all();
        }),
        each(&waker, snapshot_class_stream, |waker, _: &VolumeSnapshotClass| {
            waker.bells.profiles.notify_one();
            waker.wake_all();
        }),
        each(&waker, profile_stream, |waker, _: &StorageProfile| {
            waker.bells.profiles.notify_one();
            waker.wake_all();
        }),
        each(&waker, cdi_stream, |waker, _: &Cdi| {
            waker.bells.profiles.notify_one();
            waker.bells.config.notify_one();
            waker.wake_all();
        }),
        each(&waker, config_stream, |waker, _: &CdiConfig| {
            waker.bells.config.notify_one();
            waker.wake_all();
        }),
    ];
    let (for_volumes, for_claims, for_sources) = (waker.clone(), waker.clone(), waker);
    let streams = Streams {
        volumes: volumes.inspect(move |volume| for_volumes.data_volume(volume)).boxed(),
        claims: claim_stream
            .inspect(move |claim| for_claims.claim(claim))
            .filter(|claim| ready(populate::wanted(claim).is_some()))
            .boxed(),
        sources: data_source_stream.inspect(move |source| for_sources.data_source(source)).boxed(),
        others: stream::select_all(others).boxed(),
    };
    (caches, streams, Woken { volumes: woken_volumes, claims: woken_claims, sources: woken_sources.boxed() })
}

/// Whatever `stream` yields is told to `waker`.
fn each<K: Send + 'static>(
    waker: &Waker,
    stream: impl Stream<Item = K> + Send + 'static,
    tell: fn(&Waker, &K),
) -> stream::BoxStream<'static, ()> {
    let waker = waker.clone();
    stream.map(move |object| tell(&waker, &object)).boxed()
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Only that it has changed is of interest.
fn strip_quota(quota: &mut ResourceQuota) {
    strip(quota);
    (quota.spec, quota.status) = (None, None);
}

/// Of a node only which volumes it uses.
fn strip_node(node: &mut Node) {
    strip(node);
    (node.metadata.annotations, node.metadata.labels, node.spec) = (None, None, None);
    let volumes_in_use = node.status.take().and_then(|status| status.volumes_in_use);
    node.status = Some(NodeStatus { volumes_in_use, ..NodeStatus::default() });
}

/// Of a pod only what tells whether it uses a claim, whether it may write, and how it does.
fn strip_pod(pod: &mut Pod) {
    strip(pod);
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| [meta::OWNED_BY_DATA_VOLUME, meta::FILLS, meta::PROOF].contains(&key.as_str()));
    }
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

#[cfg(test)]
mod tests;
