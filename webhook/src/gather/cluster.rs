//! Reads of a review: small kinds from watches, the source from the API server, each within a time limit that leaves enough time for the
//! answer.

use std::{fmt::Debug, sync::Arc, time::Duration};

use common::{
    api::{
        DataSource, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    clone::{
        facts::{
            Source, driver_of,
            sizes::{Origin, capacity_of},
        },
        observed::Authorization,
    },
    data_source::{Resolution, resolve_named},
    field::FieldError,
    lookup::Lookup,
    machine_defaults::{self, Labels},
    object::{ObjectName, SourceKind, SourceName},
    pods::{User, is_named_mover, users_of},
    quantity::Bytes,
};
use config::{
    admin::Readiness,
    api::Objects,
    cache::{ask, ask_cached},
};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::{
    Client, Resource,
    api::PostParams,
    core::{ClusterResourceScope, NamespaceResourceScope},
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, time::timeout};

use super::{
    READ_TIMEOUT, Stop, Undecidable,
    access::{Asker, Right},
    lease::ControllerLease,
    read_cache::{Freshness, ReadCache},
    settings::{Settings, SettingsReader},
    timed_out, timed_out_lookup,
    watch::Watch,
};

/// The time limit for reading the pods that a warning names. It is short, because a warning should not delay the review.
const WARNING_TIMEOUT: Duration = Duration::from_millis(500);

/// The time to live of cached reads: longer than the time between the two reviews of one creation, shorter than the time in which a user
/// can recreate a source.
const READ_CACHE_TTL: Duration = Duration::from_millis(500);

/// The time to live of a cached volume. The driver of a claim's volume stays the same as long as the claim names that volume. The size may
/// be outdated by this time: the controller decides about sizes again.
const VOLUME_CACHE_TTL: Duration = Duration::from_mins(1);

/// The maximum length of a requester annotation, in bytes, for which answers are cached.
const MAX_CACHED_STAMP: usize = 4 << 10;

/// The maximum number of pods that are read for a warning. With more pods in the namespace, the warning may be missing.
const MAX_PODS: u32 = 500;

/// The reads of reviews.
pub struct Cluster {
    client: Client,
    settings: SettingsReader,
    lease: ControllerLease,
    recent: Recent,
}

/// Recent answers of the API server.
struct Recent {
    sources: ReadCache<SourceName, Source>,
    /// Driver and size, by the volume's name and the claim's UID.
    volumes: ReadCache<(String, Option<String>), (String, Option<Bytes>)>,
    data_sources: ReadCache<ObjectName, (SourceName, Labels)>,
    users: ReadCache<ObjectName, Vec<User>>,
    /// Claims that don't exist.
    free: ReadCache<ObjectName, ()>,
    /// Requester annotations of those who have a right.
    allowed: ReadCache<(String, Right), ()>,
}

impl Cluster {
    /// A cluster that reads single objects through `reads` and watches kinds through `watches`. Also returns the watches, which the caller
    /// has to run.
    pub fn new(reads: Client, watches: &Client, readiness: &Readiness) -> (Self, [Watch; 6]) {
        let beside_cdi = Arc::new(Notify::new());
        let (lease, of_lease) = ControllerLease::new(reads.clone(), watches, Arc::clone(&beside_cdi));
        let (settings, of_settings) = SettingsReader::new(reads.clone(), watches, readiness, beside_cdi);
        let [classes, snapshot_classes, profiles, cdis, configs] = of_settings;
        let recent = Recent {
            sources: ReadCache::new(READ_CACHE_TTL),
            volumes: ReadCache::new(VOLUME_CACHE_TTL),
            data_sources: ReadCache::new(READ_CACHE_TTL),
            users: ReadCache::new(READ_CACHE_TTL),
            free: ReadCache::new(READ_CACHE_TTL),
            allowed: ReadCache::new(READ_CACHE_TTL),
        };
        (
            Self { client: reads, settings, lease, recent },
            [classes, snapshot_classes, profiles, cdis, configs, of_lease],
        )
    }

    /// The settings from the watches; an error if smartclone is passive.
    pub fn settings(&self) -> Result<Settings, Stop> {
        self.settings.at_hand()
    }

    /// The settings; an error if smartclone is passive.
    pub async fn settings_at(&self, freshness: Freshness) -> Result<Settings, Stop> {
        self.settings.read(freshness).await
    }

    /// True if the controller has renewed its Lease.
    pub async fn is_controller_alive(&self, freshness: Freshness) -> bool {
        self.lease.is_fresh(freshness).await
    }

    /// The source of this name, with the driver of its data.
    pub async fn source(&self, name: &SourceName, freshness: Freshness) -> Lookup<Source> {
        let read = async || {
            let answer = timeout(READ_TIMEOUT, async {
                match name.kind {
                    SourceKind::Claim => self.claim(&name.object, freshness).await,
                    SourceKind::Snapshot => self.snapshot(&name.object, freshness).await,
                }
            });
            match answer.await.unwrap_or_else(|_| timed_out_lookup()) {
                Lookup::Present(source) if source.ready && source.driver.present().is_some() => Ok(source),
                other => Err(other),
            }
        };
        self.recent.sources.get_or_read(freshness, name, read).await.map_or_else(|other| other, Lookup::Present)
    }

    async fn claim(&self, name: &ObjectName, freshness: Freshness) -> Lookup<Source> {
        let claim: Lookup<PersistentVolumeClaim> = self.get(&self.namespaced(name), &name.name, freshness).await;
        let with_volume = async |claim: PersistentVolumeClaim| {
            let uid = claim.metadata.uid.clone();
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            let read = async || {
                let found: Lookup<PersistentVolume> =
                    self.other_half("PersistentVolume", Some(&volume), freshness).await;
                let size = capacity_of(uid.as_ref(), found.present());
                match driver_of(uid.as_ref(), found.as_ref()) {
                    Lookup::Present(driver) => Ok((driver, size)),
                    other => Err((other, size)),
                }
            };
            let known = self.recent.volumes.get_or_read(freshness, &(volume.clone(), uid.clone()), read).await;
            let (driver, size) = known.map_or_else(|other| other, |(driver, size)| (Lookup::Present(driver), size));
            Source::of(&claim, size, driver)
        };
        claim.map_async(with_volume).await
    }

    async fn snapshot(&self, name: &ObjectName, freshness: Freshness) -> Lookup<Source> {
        let snapshot: Lookup<VolumeSnapshot> = self.get(&self.namespaced(name), &name.name, freshness).await;
        let with_content = async |snapshot: VolumeSnapshot| {
            let content = snapshot.status.as_ref().and_then(|s| s.bound_volume_snapshot_content_name.as_deref());
            let of_claim = snapshot.spec.source.persistent_volume_claim_name.as_deref();
            let (content, (claim, volume)) = tokio::join!(
                self.other_half::<VolumeSnapshotContent>("VolumeSnapshotContent", content, freshness),
                self.taken_of(&name.namespace, of_claim, freshness),
            );
            let (volume, claim) = (volume.as_ref(), claim.present());
            Source::of_snapshot(&snapshot, &content, &Origin { volume, claim, on_record: None })
        };
        snapshot.map_async(with_content).await
    }

    /// The claim that a snapshot names, which is in its namespace, and that claim's volume. They are read for the size of the volume, which
    /// the requester is told: a requester who may clone the snapshot, which was checked before, may clone the claim as well. If no claim of
    /// this name has the volume, it could be found only by listing all volumes; the controller does.
    async fn taken_of(
        &self,
        namespace: &str,
        claim: Option<&str>,
        freshness: Freshness,
    ) -> (Lookup<PersistentVolumeClaim>, Lookup<PersistentVolume>) {
        let Some(name) = claim.filter(|name| !name.is_empty()) else { return (Lookup::Absent, Lookup::Absent) };
        let name = ObjectName { namespace: namespace.to_owned(), name: name.to_owned() };
        let claim: Lookup<PersistentVolumeClaim> = self.get(&self.namespaced(&name), &name.name, freshness).await;
        let named = claim.present().and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
        let volume = match (&claim, named.filter(|name| !name.is_empty())) {
            (Lookup::Unknown(why), _) => Lookup::Unknown(why.clone()),
            (_, None) => Lookup::Absent,
            (_, Some(volume)) => self.get(&self.all(), volume, freshness).await,
        };
        (claim, volume)
    }

    /// The cluster-wide object that a namespaced one is bound to; absent only if it isn't bound.
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

    /// The pods that use a claim, if they can be read quickly: they are only named in a warning.
    pub async fn users(&self, claim: &ObjectName) -> Vec<User> {
        let read = async || {
            let api: Objects<Pod> = self.namespaced(claim);
            let pods = timeout(WARNING_TIMEOUT, api.list_first(MAX_PODS)).await;
            pods.ok().and_then(Result::ok).map(|pods| users_of(&claim.name, &pods.items, is_named_mover)).ok_or(())
        };
        self.recent.users.get_or_read(Freshness::Cached, claim, read).await.unwrap_or_default()
    }

    /// The source to which the DataSource of this name leads, and the labels that a clone inherits from the DataSources.
    pub async fn data_source(&self, name: &ObjectName, freshness: Freshness) -> (Resolution, Labels) {
        let read = async || match timeout(READ_TIMEOUT, self.resolve(name, freshness)).await {
            Ok((Resolution::Found(source), labels)) => Ok((source, labels)),
            Ok((other, _)) => Err(other),
            Err(_) => Err(Resolution::Unknown(timed_out())),
        };
        match self.recent.data_sources.get_or_read(freshness, name, read).await {
            Ok((source, labels)) => (Resolution::Found(source), labels),
            Err(other) => (other, Labels::new()),
        }
    }

    async fn resolve(&self, name: &ObjectName, freshness: Freshness) -> (Resolution, Labels) {
        let api: Objects<DataSource> = self.namespaced(name);
        let first = self.get(&api, &name.name, freshness).await;
        let other = first.present().and_then(|first| first.spec.source.data_source.as_ref());
        let second = match other {
            // Only one in the same namespace is followed; any other is refused unread.
            Some(other) => self.get(&api, &other.name, freshness).await,
            None => Lookup::Absent,
        };
        let on_the_way = [&first, &second].map(|found| found.present().map(|it| machine_defaults::of(&it.metadata)));
        let labels = machine_defaults::inherited(None, on_the_way.iter().flatten());
        (resolve_named(name, |_, wanted| if wanted == name.name { first.clone() } else { second.clone() }), labels)
    }

    /// The VolumeCloneSource of this name.
    pub async fn clone_source(&self, name: &ObjectName) -> Lookup<VolumeCloneSource> {
        self.object(name).await
    }

    /// Checks that the requester has this right; a denial is about `field`.
    pub async fn check_access(
        &self,
        asker: Asker<'_>,
        right: &Right,
        field: &str,
        freshness: Freshness,
    ) -> Result<(), Stop> {
        let why = match self.authorization(asker, right, freshness).await {
            Lookup::Present(Authorization::Allowed) => return Ok(()),
            Lookup::Present(Authorization::Denied(why)) => {
                return Err(Stop::Forbidden(FieldError::forbidden(field, why)));
            }
            Lookup::Unknown(why) => why,
            Lookup::Absent => "there is no answer".to_owned(),
        };
        let why = format!("whether the user may {} could not be told: {why}", right.verb());
        Err(Undecidable(why).into())
    }

    async fn authorization(&self, asker: Asker<'_>, right: &Right, freshness: Freshness) -> Lookup<Authorization> {
        let read = async || match self.review(asker, right).await {
            Lookup::Present(Authorization::Allowed) => Ok(()),
            other => Err(other),
        };
        let answer = if asker.stamp.len() > MAX_CACHED_STAMP {
            Box::pin(read()).await
        } else {
            self.recent.allowed.get_or_read(freshness, &(asker.stamp.to_owned(), right.clone()), read).await
        };
        answer.map_or_else(|other| other, |()| Lookup::Present(Authorization::Allowed))
    }

    async fn review(&self, asker: Asker<'_>, right: &Right) -> Lookup<Authorization> {
        let answer = timeout(READ_TIMEOUT, async {
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
            Err(_) => timed_out_lookup(),
        }
    }

    /// The claim that has the name of the clone's claim.
    pub async fn namesake(&self, name: &ObjectName, freshness: Freshness) -> Lookup<PersistentVolumeClaim> {
        // The API server generates the name later.
        if name.name.is_empty() {
            return Lookup::Absent;
        }
        let read = async || {
            let api = self.namespaced(name);
            match timeout(READ_TIMEOUT, self.get(&api, &name.name, freshness))
                .await
                .unwrap_or_else(|_| timed_out_lookup())
            {
                Lookup::Absent => Ok(()),
                other => Err(other),
            }
        };
        self.recent.free.get_or_read(freshness, name, read).await.map_or_else(|other| other, |()| Lookup::Absent)
    }

    /// The current state of any namespaced object.
    pub async fn object<K>(&self, name: &ObjectName) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        timeout(READ_TIMEOUT, ask(&self.namespaced(name), &name.name)).await.unwrap_or_else(|_| timed_out_lookup())
    }

    async fn get<K: Resource<DynamicType = ()> + DeserializeOwned>(
        &self,
        api: &Objects<K>,
        name: &str,
        freshness: Freshness,
    ) -> Lookup<K> {
        match freshness {
            Freshness::Cached => ask_cached(api, name).await,
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

fn unknown<T>(error: &kube::Error) -> Lookup<T> {
    Lookup::Unknown(config::Chain(error).to_string())
}
