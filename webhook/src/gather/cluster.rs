//! The facts of a review: small kinds from caches, the source from the API server, within a time that leaves enough for the
//! answer.

mod watch;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use common::{
    api::{
        Cdi, CdiConfig, DataSource, StorageProfile, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    clone::{
        ClusterStorage,
        facts::{Source, driver_of},
        observed::Authorization,
    },
    data_source::{Resolution, resolve_named},
    lookup::Lookup,
    object::{ObjectName, SourceKind, SourceName},
    pods::{User, is_named_mover, users_of},
};
use config::{
    admin::Readiness,
    api::Objects,
    cache::{Cache, ask, ask_all, glance},
};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Client, Resource,
    api::PostParams,
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{sync::Mutex, time::timeout};

use crate::gather::{
    access::{Asker, Right},
    cluster::watch::{Watch, watch},
    read_cache::{Freshness, ReadCache},
};

/// For one step of a look at the cluster.
const PATIENCE: Duration = Duration::from_millis(1700);

/// For a look of two steps: a DataSource and then what it stands for; the right to a source and then the source; or a list of the settings
/// after one that had begun before. A DataSource of another namespace takes four: where the API server is slow in all of them, nothing is
/// decided.
pub const TWO_STEPS: Duration = PATIENCE.saturating_mul(2);

/// Nobody waits long for a warning.
const FOR_A_WARNING: Duration = Duration::from_millis(500);

/// So long a glance may be behind: both webhooks' looks at one creation are closer together, and nobody makes a source anew that quickly.
const A_MOMENT: Duration = Duration::from_millis(500);

/// The driver of a claim's volume stays the same as long as the claim has that volume, which the claim says itself.
const A_WHILE: Duration = Duration::from_mins(1);

/// A longer stamp isn't worth the room.
const MAX_CACHED_STAMP: usize = 4 << 10;

/// No more pods than this are looked at for a warning. In a namespace that has more, it may be missing.
const PODS: u32 = 500;

/// A denial might hang on what we can't see now, for a reason that is ours and not the user's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("smartclone can't decide now: {0}")]
pub struct Undecidable(pub String);

/// What a review may ask about the cluster.
pub struct Cluster {
    client: Client,
    classes: Cache<StorageClass>,
    snapshot_classes: Cache<VolumeSnapshotClass>,
    profiles: Cache<StorageProfile>,
    cdis: Cache<Cdi>,
    configs: Cache<CdiConfig>,
    /// The settings as the watches told them last.
    told: ArcSwapOption<Told>,
    /// The settings as they were listed last, and when that began.
    listed: Mutex<Option<(Instant, Arc<ClusterStorage>)>>,
    seen: Seen,
}

/// ClusterStorage, and the revisions of the caches just before they were put together.
struct Told {
    revisions: [u64; 5],
    settings: Arc<ClusterStorage>,
}

/// What was seen a moment ago.
struct Seen {
    sources: ReadCache<SourceName, Source>,
    /// By the volume's name and the claim's UID.
    drivers: ReadCache<(String, Option<String>), String>,
    data_sources: ReadCache<ObjectName, SourceName>,
    users: ReadCache<ObjectName, Vec<User>>,
    /// Claims that don't exist.
    free: ReadCache<ObjectName, ()>,
    /// Stamps of those who have a right.
    allowed: ReadCache<(String, Right), ()>,
}

impl Cluster {
    /// A cluster that `asks` single objects and `watches` kinds: what has to run for that is returned beside it.
    pub fn new(asks: Client, watches: &Client, readiness: &Readiness) -> (Self, [Watch; 5]) {
        let (classes, watch_classes) = watch(watches, readiness, "storageclasses");
        let (snapshot_classes, watch_snapshot_classes) = watch(watches, readiness, "volumesnapshotclasses");
        let (profiles, watch_profiles) = watch(watches, readiness, "storageprofiles");
        let (cdis, watch_cdis) = watch(watches, readiness, "cdis");
        let (configs, watch_configs) = watch(watches, readiness, "cdiconfigs");
        let watches = [watch_classes, watch_snapshot_classes, watch_profiles, watch_cdis, watch_configs];
        let seen = Seen {
            sources: ReadCache::of(A_MOMENT),
            drivers: ReadCache::of(A_WHILE),
            data_sources: ReadCache::of(A_MOMENT),
            users: ReadCache::of(A_MOMENT),
            free: ReadCache::of(A_MOMENT),
            allowed: ReadCache::of(A_MOMENT),
        };
        let (told, listed) = (ArcSwapOption::empty(), Mutex::default());
        (Self { client: asks, classes, snapshot_classes, profiles, cdis, configs, told, listed, seen }, watches)
    }

    /// What admins have set up, as the watches have told. It is put together once for all reviews until they tell something else.
    pub fn settings(&self) -> Result<Arc<ClusterStorage>, Undecidable> {
        let revisions = [
            self.classes.revision(),
            self.snapshot_classes.revision(),
            self.profiles.revision(),
            self.cdis.revision(),
            self.configs.revision(),
        ];
        if let Some(told) = self.told.load().as_ref().filter(|told| told.revisions == revisions) {
            return Ok(Arc::clone(&told.settings));
        }
        let settings = known(ClusterStorage {
            classes: self.classes.all(),
            snapshot_classes: self.snapshot_classes.all(),
            profiles: self.profiles.all(),
            cdis: self.cdis.all(),
            configs: self.configs.all(),
        })?;
        self.told.store(Some(Arc::new(Told { revisions, settings: Arc::clone(&settings) })));
        Ok(settings)
    }

    /// What admins have set up, looked at in this way.
    pub async fn settings_at(&self, freshness: Freshness) -> Result<Arc<ClusterStorage>, Undecidable> {
        match freshness {
            Freshness::Cached => self.settings(),
            // Where the API server is too busy to tell, what the watches have told will do.
            Freshness::Latest => {
                let listed = timeout(TWO_STEPS, Box::pin(self.list())).await.ok().and_then(Result::ok);
                listed.map_or_else(|| self.settings(), Ok)
            }
        }
    }

    /// What admins have set up by now. Whoever asks while somebody lists waits for the next list, and shares it with all who do.
    async fn list(&self) -> Result<Arc<ClusterStorage>, Undecidable> {
        let asked = Instant::now();
        let mut listed = self.listed.lock().await;
        if let Some((_, settings)) = listed.as_ref().filter(|(begun, _)| *begun >= asked) {
            return Ok(Arc::clone(settings));
        }
        let begun = Instant::now();
        let (classes, snapshot_classes, profiles, cdis, configs) =
            tokio::join!(self.every(), self.every(), self.every(), self.every(), self.every());
        let settings = known(ClusterStorage { classes, snapshot_classes, profiles, cdis, configs })?;
        *listed = Some((begun, Arc::clone(&settings)));
        Ok(settings)
    }

    /// What has the name of the source, and where its data is.
    pub async fn source(&self, name: &SourceName, freshness: Freshness) -> Lookup<Source> {
        let ask = async || {
            let answer = timeout(PATIENCE, async {
                match name.kind {
                    SourceKind::Claim => self.claim(&name.object, freshness).await,
                    SourceKind::Snapshot => self.snapshot(&name.object, freshness).await,
                }
            });
            match answer.await.unwrap_or_else(|_| late()) {
                Lookup::Present(source) if source.ready && source.driver.present().is_some() => Ok(source),
                other => Err(other),
            }
        };
        self.seen.sources.seen(freshness, name, ask).await.map_or_else(|other| other, Lookup::Present)
    }

    async fn claim(&self, name: &ObjectName, freshness: Freshness) -> Lookup<Source> {
        let claim: Lookup<PersistentVolumeClaim> = self.get(&self.namespaced(name), &name.name, freshness).await;
        let with_driver = async |claim: PersistentVolumeClaim| {
            let uid = claim.metadata.uid.clone();
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            let ask = async || {
                let found: Lookup<PersistentVolume> =
                    self.other_half("PersistentVolume", Some(&volume), freshness).await;
                match driver_of(uid.as_ref(), found.as_ref()) {
                    Lookup::Present(driver) => Ok(driver),
                    other => Err(other),
                }
            };
            let driver = self.seen.drivers.seen(freshness, &(volume.clone(), uid.clone()), ask).await;
            Source::of(&claim, driver.map_or_else(|other| other, Lookup::Present))
        };
        claim.map_async(with_driver).await
    }

    async fn snapshot(&self, name: &ObjectName, freshness: Freshness) -> Lookup<Source> {
        let snapshot: Lookup<VolumeSnapshot> = self.get(&self.namespaced(name), &name.name, freshness).await;
        let with_content = async |snapshot: VolumeSnapshot| {
            let content = snapshot.status.as_ref().and_then(|s| s.bound_volume_snapshot_content_name.as_deref());
            let content: Lookup<VolumeSnapshotContent> =
                self.other_half("VolumeSnapshotContent", content, freshness).await;
            Source::of_snapshot(&snapshot, &content)
        };
        snapshot.map_async(with_content).await
    }

    /// What an object of a namespace is bound to, which is absent only if it isn't bound.
    async fn other_half<K>(&self, kind: &str, name: Option<&str>, freshness: Freshness) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Lookup::Absent };
        match self.get(&self.all(), name, freshness).await {
            Lookup::Absent => Lookup::Unknown(format!("its {kind} {name:?} does not exist")),
            found => found,
        }
    }

    /// The pods that use a claim, as far as they can be told at once: it is only to warn of them.
    pub async fn users(&self, claim: &ObjectName) -> Vec<User> {
        let ask = async || {
            let api: Objects<Pod> = self.namespaced(claim);
            let pods = timeout(FOR_A_WARNING, api.list_first(PODS)).await;
            pods.ok().and_then(Result::ok).map(|pods| users_of(&claim.name, &pods.items, is_named_mover)).ok_or(())
        };
        self.seen.users.seen(Freshness::Cached, claim, ask).await.unwrap_or_default()
    }

    /// What the DataSource of this name stands for.
    pub async fn data_source(&self, name: &ObjectName, freshness: Freshness) -> Resolution {
        let ask = async || match timeout(PATIENCE, self.resolve(name, freshness)).await {
            Ok(Resolution::Found(source)) => Ok(source),
            Ok(other) => Err(other),
            Err(_) => Err(Resolution::Unknown(too_late())),
        };
        self.seen.data_sources.seen(freshness, name, ask).await.map_or_else(|other| other, Resolution::Found)
    }

    async fn resolve(&self, name: &ObjectName, freshness: Freshness) -> Resolution {
        let api: Objects<DataSource> = self.namespaced(name);
        let first = self.get(&api, &name.name, freshness).await;
        let other = first.present().and_then(|first| first.spec.source.data_source.as_ref());
        let second = match other {
            // Only of the same namespace; any other one is refused without a look at it.
            Some(other) => self.get(&api, &other.name, freshness).await,
            None => Lookup::Absent,
        };
        resolve_named(name, |_, wanted| if wanted == name.name { first.clone() } else { second.clone() })
    }

    /// The VolumeCloneSource of this name.
    pub async fn clone_source(&self, name: &ObjectName) -> Lookup<VolumeCloneSource> {
        self.object(name).await
    }

    /// Whether the requester has this right.
    pub async fn authorization(&self, asker: Asker<'_>, right: &Right, freshness: Freshness) -> Lookup<Authorization> {
        let ask = async || match self.review(asker, right).await {
            Lookup::Present(Authorization::Allowed) => Ok(()),
            other => Err(other),
        };
        let answer = if asker.stamp.len() > MAX_CACHED_STAMP {
            Box::pin(ask()).await
        } else {
            self.seen.allowed.seen(freshness, &(asker.stamp.to_owned(), right.clone()), ask).await
        };
        answer.map_or_else(|other| other, |()| Lookup::Present(Authorization::Allowed))
    }

    async fn review(&self, asker: Asker<'_>, right: &Right) -> Lookup<Authorization> {
        let answer = timeout(PATIENCE, async {
            let api: Objects<SubjectAccessReview> = self.all();
            for all_of in right.questions() {
                let mut allowed = true;
                for question in all_of {
                    let review = api.create(&PostParams::default(), &asker.requester.may(question)).await?.0;
                    let status = review.ok().and_then(|review| review.status);
                    allowed = status.is_some_and(|status| status.allowed && status.denied != Some(true));
                    if !allowed {
                        break;
                    }
                }
                if allowed {
                    return Ok(Authorization::Allowed);
                }
            }
            Ok(Authorization::Denied(right.denial(asker.requester)))
        });
        match answer.await {
            Ok(Ok(authorization)) => Lookup::Present(authorization),
            Ok(Err(error)) => unknown(&error),
            Err(_) => late(),
        }
    }

    /// The claim that has the name which the clone's claim is to get.
    pub async fn namesake(&self, name: &ObjectName, freshness: Freshness) -> Lookup<PersistentVolumeClaim> {
        // The API server has yet to make it.
        if name.name.is_empty() {
            return Lookup::Absent;
        }
        let ask = async || {
            let api = self.namespaced(name);
            match timeout(PATIENCE, self.get(&api, &name.name, freshness)).await.unwrap_or_else(|_| late()) {
                Lookup::Absent => Ok(()),
                other => Err(other),
            }
        };
        self.seen.free.seen(freshness, name, ask).await.map_or_else(|other| other, |()| Lookup::Absent)
    }

    /// Any object of a namespace, as it is now.
    pub async fn object<K>(&self, name: &ObjectName) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        timeout(PATIENCE, ask(&self.namespaced(name), &name.name)).await.unwrap_or_else(|_| late())
    }

    async fn every<K>(&self) -> Lookup<Vec<Arc<K>>>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    {
        match timeout(PATIENCE, ask_all(self.all())).await.unwrap_or_else(|_| late()) {
            Lookup::Unknown(why) => Lookup::Unknown(format!("{} objects could not be listed: {why}", K::kind(&()))),
            known => known,
        }
    }

    async fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(
        &self,
        api: &Objects<K>,
        name: &str,
        freshness: Freshness,
    ) -> Lookup<K> {
        match freshness {
            Freshness::Cached => glance(api, name).await,
            Freshness::Latest => ask(api, name).await,
        }
    }

    fn namespaced<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        name: &ObjectName,
    ) -> Objects<K> {
        Objects::namespaced(self.client.clone(), &name.namespace)
    }

    fn all<K: Resource<DynamicType = (), Scope = ClusterResourceScope>>(&self) -> Objects<K> {
        Objects::all(self.client.clone())
    }
}

/// ClusterStorage of which nothing is missing.
fn known(settings: ClusterStorage) -> Result<Arc<ClusterStorage>, Undecidable> {
    match settings.unknown() {
        Some(why) => Err(Undecidable(why.to_owned())),
        None => Ok(Arc::new(settings)),
    }
}

fn late<T>() -> Lookup<T> {
    Lookup::Unknown(too_late())
}

fn too_late() -> String {
    format!("no answer from the API server within {PATIENCE:?}")
}

fn unknown<T>(error: &kube::Error) -> Lookup<T> {
    Lookup::Unknown(config::Chain(error).to_string())
}
