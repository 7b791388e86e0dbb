//! The facts: small kinds from caches, the source by asking, within a time that leaves enough for the answer.

use std::{fmt::Debug, time::Duration};

use common::{
    api::{
        Cdi, CdiConfig, DataSource, StorageProfile, VolumeCloneSource,
        snapshot::{VolumeSnapshot, VolumeSnapshotClass, VolumeSnapshotContent},
    },
    clone::{
        Settings,
        plan::{Authorization, User, users_of},
        request::{ObjectName, SourceKind, SourceName},
        settings::Found,
    },
    data_source::{Resolution, resolve_named},
    lookup::Lookup,
    requester::{Requester, denial, questions},
};
use config::{
    admin::Readiness,
    cache::{Cache, ask},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::{
    authorization::v1::SubjectAccessReview,
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, PostParams},
    core::{ClusterResourceScope, NamespaceResourceScope},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use crate::review::Request;

/// For one step of a review, which has two at most (what a DataSource stands for, and all about that); the API server gives the whole
/// of it 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

/// Nobody waits long for a warning.
const FOR_A_WARNING: Duration = Duration::from_millis(500);

/// No more pods than this are looked at for a warning. In a namespace that has more, it may be missing.
const PODS: u32 = 500;

/// A denial might hang on what we can't see now, for a reason that is ours and not the user's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("smartclone can't decide now: {0}")]
pub struct Undecidable(pub String);

/// What a review may ask about the cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    classes: Cache<StorageClass>,
    snapshot_classes: Cache<VolumeSnapshotClass>,
    profiles: Cache<StorageProfile>,
    cdis: Cache<Cdi>,
    configs: Cache<CdiConfig>,
}

/// Keeps a cache up to date, for ever.
pub type Watch = (&'static str, BoxFuture<'static, ()>);

impl Cluster {
    /// A cluster that `asks` single objects and `watches` kinds: what has to run for that is returned beside it.
    pub fn new(asks: Client, watches: &Client, readiness: &Readiness) -> (Self, [Watch; 5]) {
        let (classes, watch_classes) = watch(watches, readiness, "storageclasses");
        let (snapshot_classes, watch_snapshot_classes) = watch(watches, readiness, "volumesnapshotclasses");
        let (profiles, watch_profiles) = watch(watches, readiness, "storageprofiles");
        let (cdis, watch_cdis) = watch(watches, readiness, "cdis");
        let (configs, watch_configs) = watch(watches, readiness, "cdiconfigs");
        let watches = [watch_classes, watch_snapshot_classes, watch_profiles, watch_cdis, watch_configs];
        (Self { client: asks, classes, snapshot_classes, profiles, cdis, configs }, watches)
    }

    /// What admins have set up.
    pub fn settings(&self) -> Result<Settings, Undecidable> {
        let settings = Settings {
            classes: self.classes.all(),
            snapshot_classes: self.snapshot_classes.all(),
            profiles: self.profiles.all(),
            cdis: self.cdis.all(),
            configs: self.configs.all(),
        };
        match settings.unknown() {
            Some(why) => Err(Undecidable(why.to_owned())),
            None => Ok(settings),
        }
    }

    /// What has the name of the source, and where its data is.
    pub async fn source(&self, source: &SourceName) -> Found {
        match source.kind {
            SourceKind::Claim => {
                let (claim, volume) = self.claim_and_volume(&source.object).await;
                Found::Claim(claim, volume)
            }
            SourceKind::Snapshot => {
                let (snapshot, content) = self.snapshot_and_content(&source.object).await;
                Found::Snapshot(snapshot, content)
            }
        }
    }

    async fn claim_and_volume(&self, name: &ObjectName) -> (Lookup<PersistentVolumeClaim>, Lookup<PersistentVolume>) {
        let answer = timeout(PATIENCE, async {
            let claim: Lookup<PersistentVolumeClaim> = self.ask(name).await;
            let volume = claim.present().and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
            (self.other_half("PersistentVolume", volume).await, claim)
        });
        answer.await.map_or_else(|_| (late(), late()), |(volume, claim)| (claim, volume))
    }

    async fn snapshot_and_content(&self, name: &ObjectName) -> (Lookup<VolumeSnapshot>, Lookup<VolumeSnapshotContent>) {
        let answer = timeout(PATIENCE, async {
            let snapshot: Lookup<VolumeSnapshot> = self.ask(name).await;
            let content =
                snapshot.present().and_then(|s| s.status.as_ref()?.bound_volume_snapshot_content_name.as_deref());
            (self.other_half("VolumeSnapshotContent", content).await, snapshot)
        });
        answer.await.map_or_else(|_| (late(), late()), |(content, snapshot)| (snapshot, content))
    }

    /// What an object of a namespace is bound to, which is absent only if it isn't bound.
    async fn other_half<K>(&self, kind: &str, name: Option<&str>) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Lookup::Absent };
        match ask(&Api::all(self.client.clone()), name).await {
            Lookup::Absent => Lookup::Unknown(format!("its {kind} {name:?} does not exist")),
            found => found,
        }
    }

    /// The pods that use a claim, as far as they can be told at once: it is only to warn of them.
    pub async fn users(&self, claim: &ObjectName) -> Vec<User> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &claim.namespace);
        let listed = timeout(FOR_A_WARNING, api.list(&ListParams::default().limit(PODS))).await;
        listed.ok().and_then(Result::ok).map(|pods| users_of(&claim.name, &pods.items)).unwrap_or_default()
    }

    /// What the DataSource of this name stands for.
    pub async fn data_source(&self, name: &ObjectName) -> Resolution {
        let answer = timeout(PATIENCE, async {
            let first: Lookup<DataSource> = self.ask(name).await;
            let other = first.present().and_then(|first| first.spec.source.data_source.as_ref());
            let second = match other {
                // Only of the same namespace; any other one is refused without a look at it.
                Some(other) => self.ask(&ObjectName { name: other.name.clone(), ..name.clone() }).await,
                None => Lookup::Absent,
            };
            resolve_named(name, |_, wanted| if wanted == name.name { first.clone() } else { second.clone() })
        });
        answer.await.unwrap_or_else(|_| Resolution::Unknown(too_late()))
    }

    /// The VolumeCloneSource of this name.
    pub async fn clone_source(&self, name: &ObjectName) -> Lookup<VolumeCloneSource> {
        timeout(PATIENCE, self.ask(name)).await.unwrap_or_else(|_| late())
    }

    /// Whether the requester may clone the source.
    pub async fn authorization(&self, requester: &Requester, source: &SourceName) -> Lookup<Authorization> {
        let answer = timeout(PATIENCE, async {
            let api = Api::<SubjectAccessReview>::all(self.client.clone());
            for all_of in questions(source) {
                let mut allowed = true;
                for question in all_of {
                    let review = api.create(&PostParams::default(), &requester.may(question)).await?;
                    allowed = review.status.is_some_and(|status| status.allowed);
                    if !allowed {
                        break;
                    }
                }
                if allowed {
                    return Ok(Authorization::Allowed);
                }
            }
            Ok(Authorization::Denied(denial(requester, source)))
        });
        match answer.await {
            Ok(Ok(authorization)) => Lookup::Present(authorization),
            Ok(Err(error)) => unknown(&error),
            Err(_) => late(),
        }
    }

    /// The claim that has the name which the clone's claim is to get.
    pub async fn namesake(&self, review: &Request) -> Lookup<PersistentVolumeClaim> {
        let name = review.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Lookup::Absent;
        }
        let name = ObjectName { namespace: review.namespace.clone(), name: name.to_owned() };
        timeout(PATIENCE, self.ask(&name)).await.unwrap_or_else(|_| late())
    }

    /// Any object of a namespace.
    pub async fn object<K>(&self, name: &ObjectName) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        timeout(PATIENCE, self.ask(name)).await.unwrap_or_else(|_| late())
    }

    async fn ask<K>(&self, name: &ObjectName) -> Lookup<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        ask(&Api::namespaced(self.client.clone(), &name.namespace), &name.name).await
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

fn watch<K>(client: &Client, readiness: &Readiness, plural: &'static str) -> (Cache<K>, Watch)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let api = Api::all(client.clone());
    let strip = |object: &mut K| object.meta_mut().managed_fields = None;
    let (cache, stream) = Cache::watch(api, watcher::Config::default(), readiness.register(plural), strip);
    (cache, (plural, stream.for_each(|_| std::future::ready(())).boxed()))
}
