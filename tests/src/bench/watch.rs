//! Objects, watched since before they exist: whoever times something has to see the end of it at once.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream::BoxStream};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::harness::wait::Kind;

/// An open watch of the object of one name.
pub struct Watch<K> {
    name: String,
    events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
}

impl<K: Clone + Debug + DeserializeOwned + Send + 'static> Watch<K> {
    /// Returns when the API server has taken the watch; nothing that happens from then on is missed.
    pub async fn open(api: &Api<K>, name: &str) -> Result<Self> {
        let now = api.list(&ListParams::default().limit(1)).await.context("list")?;
        let version = now.metadata.resource_version.context("a list has a version")?;
        let params = WatchParams::default().fields(&format!("metadata.name={name}"));
        let events = api.watch(&params, &version).await.with_context(|| format!("watch {name}"))?;
        Ok(Self { name: name.to_owned(), events: events.boxed() })
    }

    /// The object as soon as `reached` says yes to it. Fails when it says no for ever, after `patience`, and when the object goes.
    pub async fn until(&mut self, patience: Duration, mut reached: impl FnMut(&K) -> Result<bool>) -> Result<K> {
        let mut last = None;
        let found = timeout(patience, async {
            while let Some(event) = self.events.try_next().await? {
                match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                        if reached(&object)? {
                            return Ok(object);
                        }
                        last = Some(object);
                    }
                    WatchEvent::Deleted(_) => bail!("{} was deleted", self.name),
                    WatchEvent::Error(status) => bail!("the watch of {} ended: {status:?}", self.name),
                    WatchEvent::Bookmark(_) => {}
                }
            }
            bail!("the API server closed the watch of {}", self.name)
        });
        match found.await {
            Ok(result) => result,
            Err(_) => bail!("{} is not there after {} s; seen last: {last:#?}", self.name, patience.as_secs()),
        }
    }
}

/// All objects of a kind in one place, watched since before those that matter exist; any number of tasks wait, each for one of them.
pub struct Watched<K> {
    api: Api<K>,
    seen: Arc<Mutex<Seen<K>>>,
    patience: Duration,
    /// Ends with this value.
    _reader: JoinSet<()>,
}

struct Seen<K> {
    /// As they were last, by name; nothing for those that somebody waits for and those that are gone.
    objects: BTreeMap<String, watch::Sender<Option<Arc<K>>>>,
    /// Why no more is going to be seen.
    ended: Option<String>,
}

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), ended: None }
    }
}

impl<K> Seen<K> {
    fn of(&mut self, name: &str) -> &watch::Sender<Option<Arc<K>>> {
        self.objects.entry(name.to_owned()).or_insert_with(|| watch::Sender::new(None))
    }
}

impl<K: Kind + Sync> Watched<K> {
    /// Returns when the API server has taken the watch; nothing that happens from then on is missed, what is there already isn't seen.
    /// Nobody waits longer than `patience`.
    pub async fn open(api: Api<K>, patience: Duration) -> Result<Self> {
        let now = api.list(&ListParams::default().limit(1)).await.context("list")?;
        let version = now.metadata.resource_version.context("a list has a version")?;
        let events = api.watch(&WatchParams::default(), &version).await.context("watch")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut reader = JoinSet::new();
        let (of, into) = (api.clone(), Arc::clone(&seen));
        reader.spawn(async move {
            let ended = match read(&of, version, events.boxed(), &into).await {
                Ok(never) => match never {},
                Err(error) => format!("{error:#}"),
            };
            let mut seen = lock(&into);
            // Whoever waits is told so by the end of the channel.
            seen.objects.clear();
            seen.ended = Some(ended);
        });
        Ok(Self { api, seen, patience, _reader: reader })
    }

    /// What is watched.
    pub fn api(&self) -> &Api<K> {
        &self.api
    }

    /// The object of this name as soon as `reached` says yes to it. Fails when it says no for too long, and when the object goes.
    pub async fn until(&self, name: &str, mut reached: impl FnMut(&K) -> Result<bool>) -> Result<Arc<K>> {
        let (mut object, mut was_there) = (self.follow(name)?, false);
        let found = async {
            loop {
                let now = object.borrow_and_update().clone();
                match now {
                    Some(now) if reached(&now)? => return Ok(now),
                    None if was_there => bail!("{} {name} was deleted", K::kind(&())),
                    now => was_there = now.is_some(),
                }
                self.changed(&mut object).await?;
            }
        };
        if let Ok(result) = timeout(self.patience, found).await {
            return result;
        }
        let last = object.borrow().clone();
        let (kind, patience) = (K::kind(&()), self.patience.as_secs());
        bail!("{kind} {name} is not there after {patience} s; seen last: {last:#?}")
    }

    /// Waits for the end of an object that was seen.
    pub async fn gone(&self, name: &str) -> Result<()> {
        let mut object = self.follow(name)?;
        let end = async {
            while object.borrow_and_update().is_some() {
                self.changed(&mut object).await?;
            }
            Ok(())
        };
        match timeout(self.patience, end).await {
            Ok(result) => result,
            Err(_) => bail!("{} {name} is still there after {} s", K::kind(&()), self.patience.as_secs()),
        }
    }

    /// Waits for the end of all objects that were seen, but the wanted ones.
    pub async fn none_but(&self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let other = || {
            let seen = lock(&self.seen);
            let mut there = seen.objects.iter().filter(|(_, object)| object.borrow().is_some());
            there.find(|(name, _)| !wanted(name)).map(|(name, _)| name.clone())
        };
        while let Some(name) = other() {
            self.gone(&name).await?;
        }
        Ok(())
    }

    fn follow(&self, name: &str) -> Result<watch::Receiver<Option<Arc<K>>>> {
        let mut seen = lock(&self.seen);
        match &seen.ended {
            Some(why) => bail!("the watch of every {} has ended: {why}", K::kind(&())),
            None => Ok(seen.of(name).subscribe()),
        }
    }

    async fn changed(&self, object: &mut watch::Receiver<Option<Arc<K>>>) -> Result<()> {
        if object.changed().await.is_err() {
            let why = lock(&self.seen).ended.clone().unwrap_or_default();
            bail!("the watch of every {} has ended: {why}", K::kind(&()));
        }
        Ok(())
    }
}

/// Writes down what the watch tells. The server ends a watch now and then; the next one begins where that one was.
async fn read<K: Kind + Sync>(
    api: &Api<K>,
    mut version: String,
    mut events: BoxStream<'static, kube::Result<WatchEvent<K>>>,
    seen: &Mutex<Seen<K>>,
) -> Result<Infallible> {
    loop {
        while let Some(event) = events.try_next().await? {
            let (object, there) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                WatchEvent::Deleted(object) => (object, false),
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) => bail!("{status:?}"),
            };
            version = object.resource_version().unwrap_or(version);
            let name = object.name_any();
            lock(seen).of(&name).send_replace(there.then(|| Arc::new(object)));
        }
        events = api.watch(&WatchParams::default(), &version).await?.boxed();
    }
}

fn lock<K>(seen: &Mutex<Seen<K>>) -> MutexGuard<'_, Seen<K>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens so many connections, and leaves them open for the requests that are to be timed. The watches have taken those that were open; a new
/// one costs the first request a handshake and, as kube's client leaves Nagle's algorithm on, 40 ms of waiting for an acknowledgement:
/// the client's business, not the cluster's.
pub async fn connect<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, connections: usize) -> Result<()> {
    let one = ListParams::default().limit(1);
    try_join_all((0..connections).map(|_| api.list(&one))).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Client, client::Body};
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: &str, name: &str, version: &str) -> Value {
        json!({"type": kind, "object": {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "resourceVersion": version}
        }})
    }

    /// Watches an API server that says `watches` to one watch after the other and then nothing more.
    async fn watched(watches: Vec<(&'static str, Vec<Value>)>) -> Result<Watched<ConfigMap>> {
        let (watches, asked) = (Arc::new(watches), Arc::new(AtomicUsize::new(0)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (watches, asked) = (Arc::clone(&watches), Arc::clone(&asked));
            async move {
                let query = request.uri().query().unwrap_or_default();
                if !query.contains("watch=true") {
                    let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
                    return Ok::<_, Infallible>(Response::new(Body::from(list.to_string().into_bytes())));
                }
                let Some((version, events)) = watches.get(asked.fetch_add(1, Ordering::Relaxed)) else {
                    return std::future::pending().await;
                };
                assert!(query.contains(&format!("resourceVersion={version}")), "{query}");
                let lines = events.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
                Ok(Response::new(Body::from(format!("{lines}\n").into_bytes())))
            }
        });
        Watched::open(Api::namespaced(Client::new(service, "n"), "n"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_watch_that_is_ended_goes_on_where_it_was() -> Result<()> {
        let first = vec![event("ADDED", "a", "2"), event("ADDED", "b", "3"), event("MODIFIED", "a", "4")];
        let watched =
            watched(vec![("1", first), ("4", vec![event("DELETED", "a", "5"), event("MODIFIED", "b", "6")])]).await?;
        watched.until("b", |it| Ok(it.metadata.resource_version.as_deref() == Some("6"))).await?;
        watched.gone("a").await?;
        watched.none_but(|name| name == "b").await
    }

    #[tokio::test]
    async fn whoever_waits_learns_that_nothing_more_will_be_seen() -> Result<()> {
        let expired = json!({"type": "ERROR", "object": {"code": 410, "message": "too old resource version", "reason": "Expired"}});
        let watched = watched(vec![("1", vec![event("ADDED", "a", "2"), expired])]).await?;
        let error = watched.until("b", |_| Ok(true)).await.map(drop).unwrap_err();
        assert!(format!("{error:#}").contains("too old resource version"), "{error:#}");
        Ok(())
    }
}
