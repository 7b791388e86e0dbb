//! The facts: small kinds from caches, the source by asking, within a time that leaves enough for the answer.

use std::{fmt::Debug, time::Duration};

use common::{
    api::{Cdi, StorageProfile, snapshot::VolumeSnapshotClass},
    clone::{Settings, request::ObjectName},
    lookup::Lookup,
};
use config::{admin::Readiness, cache::Cache};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{Api, Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use crate::review::Request;

/// For one step of a review, which has two at most; the API server gives the whole of it 5 s.
const PATIENCE: Duration = Duration::from_secs(2);

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
}

/// Keeps a cache up to date, for ever.
pub type Watch = (&'static str, BoxFuture<'static, ()>);

impl Cluster {
    /// A cluster that `asks` single objects and `watches` kinds: what has to run for that is returned beside it.
    pub fn new(asks: Client, watches: &Client, readiness: &Readiness) -> (Self, [Watch; 4]) {
        let (classes, a) = watch(watches, readiness, "storageclasses");
        let (snapshot_classes, b) = watch(watches, readiness, "volumesnapshotclasses");
        let (profiles, c) = watch(watches, readiness, "storageprofiles");
        let (cdis, d) = watch(watches, readiness, "cdis");
        (Self { client: asks, classes, snapshot_classes, profiles, cdis }, [a, b, c, d])
    }

    /// What admins have set up.
    pub fn settings(&self) -> Result<Settings, Undecidable> {
        let settings = Settings {
            classes: self.classes.all(),
            snapshot_classes: self.snapshot_classes.all(),
            profiles: self.profiles.all(),
            cdis: self.cdis.all(),
        };
        match settings.unknown() {
            Some(why) => Err(Undecidable(why.to_owned())),
            None => Ok(settings),
        }
    }

    /// A claim and its volume.
    pub async fn source(&self, name: &ObjectName) -> (Lookup<PersistentVolumeClaim>, Lookup<PersistentVolume>) {
        let answer = timeout(PATIENCE, async {
            let claim = self.claim(&name.namespace, &name.name).await;
            let volume = claim.present().and_then(|claim| claim.spec.as_ref()?.volume_name.as_deref());
            let volume = match volume.filter(|name| !name.is_empty()) {
                None => Lookup::Absent,
                Some(name) => match ask(&Api::all(self.client.clone()), name).await {
                    Lookup::Absent => Lookup::Unknown(format!("its PersistentVolume {name:?} does not exist")),
                    volume => volume,
                },
            };
            (claim, volume)
        });
        answer.await.unwrap_or_else(|_| (late(), late()))
    }

    /// The claim that has the name which the clone's claim is to get.
    pub async fn namesake(&self, review: &Request) -> Lookup<PersistentVolumeClaim> {
        let name = review.object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() {
            return Lookup::Absent;
        }
        timeout(PATIENCE, self.claim(&review.namespace, name)).await.unwrap_or_else(|_| late())
    }

    async fn claim(&self, namespace: &str, name: &str) -> Lookup<PersistentVolumeClaim> {
        ask(&Api::namespaced(self.client.clone(), namespace), name).await
    }
}

fn late<T>() -> Lookup<T> {
    Lookup::Unknown(format!("no answer from the API server within {PATIENCE:?}"))
}

async fn ask<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> Lookup<K> {
    match api.get_opt(name).await {
        Ok(object) => object.into(),
        Err(error) => Lookup::Unknown(config::Chain(&error).to_string()),
    }
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
