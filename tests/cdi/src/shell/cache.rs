//! What the controller knows from its watches, and which objects get a pass after a change.

use std::{fmt::Debug, sync::Arc};

use anyhow::Result;
use common::api::{CdiConfig, DataSource, DataVolume, StorageProfile, VolumeCloneSource, snapshot::VolumeSnapshot};
use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
};

use super::queue::{Key, Queue};
use crate::{
    claim::{self, ClaimPhase},
    keys::OWNED_BY_UID,
    populator::source_of,
    reconcile::SourceObject,
    settings::Settings,
    source::{Origin, Source, SourceKind},
    version::Version,
};

/// The objects, as the watches told them.
#[derive(Clone)]
pub struct Caches {
    /// DataVolumes.
    pub data_volumes: Store<DataVolume>,
    /// Claims.
    pub claims: Store<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Store<PersistentVolume>,
    /// VolumeCloneSources.
    pub clone_sources: Store<VolumeCloneSource>,
    snapshots: Store<VolumeSnapshot>,
    data_sources: Store<DataSource>,
    classes: Store<StorageClass>,
    profiles: Store<StorageProfile>,
    configs: Store<CdiConfig>,
}

/// The two kinds of work.
#[derive(Default)]
pub struct Queues {
    /// DataVolumes.
    pub data_volumes: Queue,
    /// Claims that name a VolumeCloneSource.
    pub claims: Queue,
}

/// A change of an object.
enum Change {
    DataVolume(Key),
    Claim(Box<PersistentVolumeClaim>),
    Volume(Box<PersistentVolume>),
    Source(Source),
    CloneSource(Box<VolumeCloneSource>),
    DataSource(Key),
}

/// Triggers: turns changes into work.
pub struct Triggers {
    caches: Caches,
    queues: Arc<Queues>,
    changes: UnboundedReceiver<Change>,
}

/// The watches, which run as long as this lives.
pub struct Watches {
    tasks: JoinSet<()>,
    sender: UnboundedSender<Change>,
    client: Client,
}

fn key(object: &impl kube::ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A reference to an object of this name.
pub fn reference<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> ObjectRef<K> {
    ObjectRef::new(name).within(namespace)
}

impl Watches {
    /// Starts all watches, and waits until each has listed its objects.
    pub async fn start(client: Client, queues: Arc<Queues>) -> Result<(Self, Caches, Triggers)> {
        let (sender, changes) = mpsc::unbounded_channel();
        let mut watches = Self { tasks: JoinSet::new(), sender, client };
        let snapshot =
            |it: VolumeSnapshot| Source::new(SourceKind::Snapshot, it.namespace().unwrap_or_default(), it.name_any());
        let caches = Caches {
            data_volumes: watches.watch(|it: DataVolume| Some(Change::DataVolume(key(&it)))),
            claims: watches.watch(|it| Some(Change::Claim(Box::new(it)))),
            volumes: watches.watch(|it| Some(Change::Volume(Box::new(it)))),
            clone_sources: watches.watch(|it| Some(Change::CloneSource(Box::new(it)))),
            snapshots: watches.watch(move |it| Some(Change::Source(snapshot(it)))),
            data_sources: watches.watch(|it: DataSource| Some(Change::DataSource(key(&it)))),
            classes: watches.watch(|_| None),
            profiles: watches.watch(|_| None),
            configs: watches.watch(|_| None),
        };
        caches.ready().await?;
        let triggers = Triggers { caches: caches.clone(), queues, changes };
        Ok((watches, caches, triggers))
    }

    fn watch<K>(&mut self, change: impl Fn(K) -> Option<Change> + Send + 'static) -> Store<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (store, writer) = reflector::store();
        let api: Api<K> = Api::all(self.client.clone());
        let events = watcher(api, watcher::Config::default()).default_backoff().reflect(writer).touched_objects();
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let mut events = events.boxed();
            while let Some(event) = events.next().await {
                // Errors are retried by the watch itself.
                if let Some(change) = event.ok().and_then(&change) {
                    let _ = sender.send(change);
                }
            }
        });
        store
    }

    /// Waits until a watch has ended, which none should.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}

impl Caches {
    async fn ready(&self) -> Result<()> {
        self.data_volumes.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        self.volumes.wait_until_ready().await?;
        self.clone_sources.wait_until_ready().await?;
        self.snapshots.wait_until_ready().await?;
        self.data_sources.wait_until_ready().await?;
        self.classes.wait_until_ready().await?;
        self.profiles.wait_until_ready().await?;
        self.configs.wait_until_ready().await?;
        Ok(())
    }

    /// The settings as they are now.
    pub fn settings(&self, version: Version) -> Settings {
        let (configs, classes, profiles) = (self.configs.state(), self.classes.state(), self.profiles.state());
        let config = configs.first().map(|config| &**config);
        Settings::new(version, config, classes.iter().map(|it| &**it), profiles.iter().map(|it| &**it))
    }

    /// The source of a clone; none if it is no clone, or if its DataSource is missing.
    pub fn source(&self, data_volume: &DataVolume) -> Option<Source> {
        Origin::from_data_volume(data_volume).resolve(|namespace, name| {
            self.data_sources.get(&reference(namespace, name)).map(|it| it.spec.source.clone())
        })
    }

    /// What is known of a source.
    pub fn source_object(&self, source: &Source) -> Option<SourceObject> {
        match source.kind {
            SourceKind::Claim => {
                let claim = self.claims.get(&reference(&source.namespace, &source.name))?;
                let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref());
                Some(SourceObject {
                    labels: claim.labels().clone(),
                    size: capacity.and_then(|capacity| capacity.get("storage")).cloned(),
                    ready: ClaimPhase::of(&claim) == ClaimPhase::Bound,
                })
            }
            SourceKind::Snapshot => {
                let snapshot = self.snapshots.get(&reference(&source.namespace, &source.name))?;
                let status = snapshot.status.clone().unwrap_or_default();
                Some(SourceObject {
                    labels: snapshot.labels().clone(),
                    size: status.restore_size,
                    ready: status.ready_to_use == Some(true),
                })
            }
        }
    }

    /// The temporary objects of a target claim.
    pub fn owned_claims(&self, uid: &str) -> Vec<Arc<PersistentVolumeClaim>> {
        let owned = |claim: &Arc<PersistentVolumeClaim>| claim.labels().get(OWNED_BY_UID).is_some_and(|it| it == uid);
        self.claims.state().into_iter().filter(owned).collect()
    }
}

impl Triggers {
    /// Queues work for every change, for ever. Everything that is there at the start gets a pass.
    pub async fn run(mut self) {
        for data_volume in self.caches.data_volumes.state() {
            self.queues.data_volumes.add(key(&*data_volume));
        }
        for claim in self.caches.claims.state() {
            self.queue_claim(&claim);
        }
        while let Some(change) = self.changes.recv().await {
            self.queue(change);
        }
    }

    fn queue(&self, change: Change) {
        match change {
            Change::DataVolume(key) => self.queues.data_volumes.add(key),
            Change::Claim(claim) => self.queue_change_of_claim(&claim),
            Change::Volume(volume) => {
                let uid = volume.spec.and_then(|spec| spec.claim_ref).and_then(|claim| claim.uid);
                let is_named = |claim: &PersistentVolumeClaim| uid.is_some() && claim.metadata.uid == uid;
                if let Some(claim) = self.caches.claims.find(is_named) {
                    self.queue_change_of_claim(&claim);
                }
            }
            Change::Source(source) => self.queue_clones_of(&source),
            Change::CloneSource(clone_source) => {
                let is_owner = |uid: &str| clone_source.name_any().ends_with(uid);
                for data_volume in self.caches.data_volumes.state() {
                    if data_volume.uid().is_some_and(|uid| is_owner(&uid)) {
                        self.queues.data_volumes.add(key(&*data_volume));
                    }
                }
                for claim in self.caches.claims.state() {
                    if claim::clone_source(&claim).is_some_and(|it| it.name == clone_source.name_any()) {
                        self.queue_claim(&claim);
                    }
                }
            }
            Change::DataSource((namespace, name)) => {
                let changed = Origin::Reference { namespace, name };
                for data_volume in self.caches.data_volumes.state() {
                    if Origin::from_data_volume(&data_volume) == changed {
                        self.queues.data_volumes.add(key(&*data_volume));
                    }
                }
            }
        }
    }

    fn queue_change_of_claim(&self, claim: &PersistentVolumeClaim) {
        // Its DataVolume has its name.
        self.queues.data_volumes.add(key(claim));
        self.queue_claim(claim);
        if let Some(uid) = claim.labels().get(OWNED_BY_UID)
            && let Some(target) = self.caches.claims.find(|target| target.metadata.uid.as_ref() == Some(uid))
        {
            self.queue_claim(&target);
        }
        self.queue_clones_of(&Source::new(SourceKind::Claim, claim.namespace().unwrap_or_default(), claim.name_any()));
    }

    fn queue_claim(&self, claim: &PersistentVolumeClaim) {
        if claim::clone_source(claim).is_some() {
            self.queues.claims.add(key(claim));
        }
    }

    /// All clones of a source; most of these passes write nothing.
    fn queue_clones_of(&self, source: &Source) {
        for data_volume in self.caches.data_volumes.state() {
            if self.caches.source(&data_volume).as_ref() == Some(source) {
                self.queues.data_volumes.add(key(&*data_volume));
            }
        }
        for clone_source in self.caches.clone_sources.state() {
            if source_of(&clone_source) == *source {
                self.queue(Change::CloneSource(Box::new((*clone_source).clone())));
            }
        }
    }
}
