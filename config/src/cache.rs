//! Caches of objects, kept up to date by watches. Reads never wait: an object that a cache has not received yet is *unknown*, not absent.
//!
//! Objects are decoded one by one; see [`common::decode`]. An object that can't be decoded is logged and counted, and never fails the
//! watch: the others of its kind remain known. Its name is *unknown* while it can't be decoded, and it is in no list, even if it was
//! readable before.

mod unreadable;

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use common::{decode::Decoded, lookup::Lookup};
use futures::{Stream, StreamExt, TryStreamExt};
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use self::unreadable::UnreadableObjects;
use crate::{Chain, admin::ReadyHandle, api::Objects};

const STARTING: u8 = 0;
const SYNCED: u8 = 1;
const MISSING: u8 = 2;

/// Reads the latest state of an object. An object with an invalid name is absent.
pub async fn ask<K: Resource<DynamicType = ()> + DeserializeOwned>(api: &Objects<K>, name: &str) -> Lookup<K> {
    answer(api.get_opt(name).await)
}

/// Reads an object from the API server's cache, which is fast and may be older than the last write.
pub async fn ask_cached<K: Resource<DynamicType = ()> + DeserializeOwned>(api: &Objects<K>, name: &str) -> Lookup<K> {
    answer(api.get_cached_opt(name).await)
}

/// Reads the latest state of all objects that can be decoded. Absent if the cluster does not have the kind.
pub async fn ask_all<K: Resource<DynamicType = ()> + DeserializeOwned>(api: Objects<K>) -> Lookup<Vec<Arc<K>>> {
    answer(match api.list().await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        answer => answer.map(|listed| Some(listed.items.into_iter().map(Arc::new).collect())),
    })
}

fn answer<T>(answer: Result<Option<T>, kube::Error>) -> Lookup<T> {
    match answer {
        Ok(found) => found.into(),
        Err(error) => Lookup::Unknown(Chain(&error).to_string()),
    }
}

/// The objects of one kind.
pub struct Cache<K: Resource<DynamicType = ()> + 'static> {
    store: Store<K>,
    unreadable: Arc<UnreadableObjects<K>>,
    state: Arc<AtomicU8>,
    revision: Arc<AtomicU64>,
}

impl<K> Clone for Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            unreadable: Arc::clone(&self.unreadable),
            state: Arc::clone(&self.state),
            revision: Arc::clone(&self.revision),
        }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    /// A cache, and the stream that fills it: it yields every object that was written or deleted, after the cache has it. `ready` is met
    /// once the first list is complete, or once it is certain that the cluster does not have the kind. `strip` drops fields that nobody
    /// reads.
    pub fn watch(
        client: Client,
        config: watcher::Config,
        ready: ReadyHandle,
        strip: fn(&mut K),
    ) -> (Self, impl Stream<Item = K> + Send) {
        Self::watch_with(Api::<Decoded<K>>::all(client), config, move || ready.ready(), strip)
    }

    /// The same for the objects in one namespace; nobody waits for the first list.
    pub fn watch_in(
        client: Client,
        namespace: &str,
        config: watcher::Config,
        strip: fn(&mut K),
    ) -> (Self, impl Stream<Item = K> + Send)
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::watch_with(Api::<Decoded<K>>::namespaced(client, namespace), config, || {}, strip)
    }

    fn watch_with(
        api: Api<Decoded<K>>,
        config: watcher::Config,
        ready: impl Fn() + Send + 'static,
        strip: fn(&mut K),
    ) -> (Self, impl Stream<Item = K> + Send) {
        let (store, writer) = reflector::store();
        let state = Arc::new(AtomicU8::new(STARTING));
        let revision = Arc::new(AtomicU64::new(0));
        let unreadable = Arc::new(UnreadableObjects::default());
        let (observed, changes) = (Arc::clone(&state), Arc::clone(&revision));
        let (before, after, known) = (Arc::clone(&unreadable), Arc::clone(&unreadable), store.clone());
        let stream = watcher(api, config)
            .default_backoff()
            .filter_map(move |event| {
                let readable = event.map(|event| before.take_out(event, &known));
                std::future::ready(readable.transpose())
            })
            .modify(strip);
        let touched = reflector::reflector(writer, stream)
            .inspect_ok(move |event| after.settle(event))
            .inspect(move |event| match event {
                Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                    observed.store(SYNCED, Ordering::Release);
                    ready();
                }
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Err(error) => {
                    if unknown_kind(error) {
                        observed.store(MISSING, Ordering::Release);
                        ready();
                    } else {
                        warn!(kind = %K::kind(&()), error = %crate::Chain(error), "a watch was interrupted");
                    }
                }
            })
            // After every input of `all`.
            .inspect(move |_| _ = changes.fetch_add(1, Ordering::Release))
            .touched_objects()
            .filter_map(|event| std::future::ready(event.ok()));
        (Self { store, unreadable, state, revision }, touched)
    }

    /// The object of this name.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Lookup<Arc<K>> {
        let mut reference = ObjectRef::new(name);
        reference.namespace = namespace.map(ToOwned::to_owned);
        let unreadable = || self.unreadable.reason(&reference);
        if let Some(why) = self.known().err().or_else(unreadable) {
            return Lookup::Unknown(why);
        }
        // Checked again: an object that becomes unreadable is recorded before it leaves the store.
        self.store.get(&reference).map_or_else(|| unreadable().map_or(Lookup::Absent, Lookup::Unknown), Lookup::Present)
    }

    /// The reason for one object in this namespace that exists and can't be read, if there is one; for callers that need complete lists.
    pub fn unreadable_in(&self, namespace: &str) -> Option<String> {
        self.unreadable.reason_in(namespace)
    }

    /// All objects that can be read, or the reason why they are not known. Absent if the cluster does not have the kind.
    pub fn all(&self) -> Lookup<Vec<Arc<K>>> {
        match self.known() {
            Err(why) => Lookup::Unknown(why),
            Ok(()) if self.state.load(Ordering::Acquire) == MISSING => Lookup::Absent,
            Ok(()) => Lookup::Present(self.store.state()),
        }
    }

    /// The revision of [`all`](Self::all). It grows before the objects change, so objects that are read after it are at least as new.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// All objects that are known and can be read; for callers that look again when more become known.
    pub fn known_objects(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// The store itself, for kube's controller.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    fn known(&self) -> Result<(), String> {
        match self.state.load(Ordering::Acquire) {
            STARTING => Err(format!("{} objects have not been listed yet", K::kind(&()))),
            _ => Ok(()),
        }
    }
}

/// True if the API server has no such kind (its CRD is not installed).
fn unknown_kind(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests;
