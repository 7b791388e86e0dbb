//! The settings of the cluster: classes, profiles and CDI's objects. They come from watches, and are listed again for every answer but an
//! unconditional admission.

use std::{fmt::Debug, sync::Arc, time::Instant};

use arc_swap::ArcSwapOption;
use common::{
    api::{Cdi, CdiConfig, StorageProfile, snapshot::VolumeSnapshotClass},
    clone::ClusterStorage,
    lookup::Lookup,
    mode::Mode,
};
use config::{
    admin::Readiness,
    api::Objects,
    cache::{Cache, ask_all},
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Client, Resource, core::ClusterResourceScope};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Mutex, Notify},
    time::timeout,
};

use super::{
    READ_TIMEOUT, Stop, TWO_STEPS, Undecidable,
    read_cache::Freshness,
    timed_out_lookup,
    watch::{Watch, watch, watch_with},
};

/// The settings of a cluster in which smartclone serves clones.
#[derive(Clone)]
pub struct Settings {
    /// Classes, profiles and CDI's objects.
    pub storage: Arc<ClusterStorage>,
    /// True if CDI serves the clones that smartclone does not take.
    pub is_beside_cdi: bool,
}

/// The reader of settings, shared by all reviews.
pub(super) struct SettingsReader {
    client: Client,
    classes: Cache<StorageClass>,
    snapshot_classes: Cache<VolumeSnapshotClass>,
    profiles: Cache<StorageProfile>,
    cdis: Cache<Cdi>,
    configs: Cache<CdiConfig>,
    /// The last settings from the caches.
    watched: ArcSwapOption<Watched>,
    /// The last listed settings, and the time at which the list began.
    listed: Mutex<Option<(Instant, Arc<ClusterStorage>)>>,
}

/// ClusterStorage, and the revisions of the caches just before it was assembled.
struct Watched {
    revisions: [u64; 5],
    settings: Arc<ClusterStorage>,
}

impl SettingsReader {
    /// A reader that lists through `client` and watches through `watcher`. Also returns the watches, which the caller has to run.
    /// `beside_cdi` is notified of a CDI beside which smartclone can work.
    pub(super) fn new(
        client: Client,
        watcher: &Client,
        readiness: &Readiness,
        beside_cdi: Arc<Notify>,
    ) -> (Self, [Watch; 5]) {
        let (classes, watch_classes) = watch(watcher, readiness, "storageclasses");
        let (snapshot_classes, watch_snapshot_classes) = watch(watcher, readiness, "volumesnapshotclasses");
        let (profiles, watch_profiles) = watch(watcher, readiness, "storageprofiles");
        let (cdis, watch_cdis) = watch_with(watcher, readiness, "cdis", move |cdi: Cdi| {
            if Mode::of([&cdi]).is_beside() {
                beside_cdi.notify_one();
            }
        });
        let (configs, watch_configs) = watch(watcher, readiness, "cdiconfigs");
        let started = [watch_classes, watch_snapshot_classes, watch_profiles, watch_cdis, watch_configs];
        let reader = Self {
            client,
            classes,
            snapshot_classes,
            profiles,
            cdis,
            configs,
            watched: ArcSwapOption::empty(),
            listed: Mutex::default(),
        };
        (reader, started)
    }

    /// The settings from the watches; an error if smartclone is passive.
    pub(super) fn at_hand(&self) -> Result<Settings, Stop> {
        served(self.watched()?)
    }

    /// The settings, read with this freshness; an error if smartclone is passive.
    pub(super) async fn read(&self, freshness: Freshness) -> Result<Settings, Stop> {
        served(match freshness {
            Freshness::Cached => self.watched()?,
            Freshness::Latest => match timeout(TWO_STEPS, Box::pin(self.list())).await {
                Ok(Ok(listed)) => listed,
                // If the API server is too busy to list, the state of the watches suffices.
                Ok(Err(_)) | Err(_) => self.watched()?,
            },
        })
    }

    /// The settings from the caches. They are assembled once for all reviews until a watch reports a change.
    fn watched(&self) -> Result<Arc<ClusterStorage>, Undecidable> {
        let revisions = [
            self.classes.revision(),
            self.snapshot_classes.revision(),
            self.profiles.revision(),
            self.cdis.revision(),
            self.configs.revision(),
        ];
        if let Some(watched) = self.watched.load().as_ref().filter(|watched| watched.revisions == revisions) {
            return Ok(Arc::clone(&watched.settings));
        }
        let settings = complete(ClusterStorage {
            classes: self.classes.all(),
            snapshot_classes: self.snapshot_classes.all(),
            profiles: self.profiles.all(),
            cdis: self.cdis.all(),
            configs: self.configs.all(),
        })?;
        self.watched.store(Some(Arc::new(Watched { revisions, settings: Arc::clone(&settings) })));
        Ok(settings)
    }

    /// The latest settings. A review that arrives during a list waits for the next list, and shares it with all reviews that wait.
    async fn list(&self) -> Result<Arc<ClusterStorage>, Undecidable> {
        let asked = Instant::now();
        let mut listed = self.listed.lock().await;
        if let Some((_, settings)) = listed.as_ref().filter(|(begun, _)| *begun >= asked) {
            return Ok(Arc::clone(settings));
        }
        let begun = Instant::now();
        let (classes, snapshot_classes, profiles, cdis, configs) =
            tokio::join!(self.every(), self.every(), self.every(), self.every(), self.every());
        let settings = complete(ClusterStorage { classes, snapshot_classes, profiles, cdis, configs })?;
        *listed = Some((begun, Arc::clone(&settings)));
        Ok(settings)
    }

    /// All objects of a cluster-wide kind.
    async fn every<K>(&self) -> Lookup<Vec<Arc<K>>>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = Objects::all(self.client.clone());
        match timeout(READ_TIMEOUT, ask_all(api)).await.unwrap_or_else(|_| timed_out_lookup()) {
            Lookup::Unknown(why) => Lookup::Unknown(format!("{} objects could not be listed: {why}", K::kind(&()))),
            known => known,
        }
    }
}

/// The settings, if smartclone serves clones in this cluster. This is the only check for CDI's operator.
fn served(storage: Arc<ClusterStorage>) -> Result<Settings, Stop> {
    match storage.mode() {
        Lookup::Present(Mode::Alone) | Lookup::Absent => Ok(Settings { storage, is_beside_cdi: false }),
        Lookup::Present(Mode::Beside(_)) => Ok(Settings { storage, is_beside_cdi: true }),
        Lookup::Present(Mode::Passive(_)) => Err(Stop::ForeignOperator),
        Lookup::Unknown(why) => Err(Undecidable(why).into()),
    }
}

/// ClusterStorage, if all of it is known.
fn complete(settings: ClusterStorage) -> Result<Arc<ClusterStorage>, Undecidable> {
    match settings.unknown() {
        Some(why) => Err(Undecidable(why.to_owned())),
        None => Ok(Arc::new(settings)),
    }
}
