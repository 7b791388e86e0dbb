//! Watches of small kinds, each of which fills a cache.

use std::fmt::Debug;

use config::{admin::Readiness, cache::Cache};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use kube::{Client, Resource, runtime::watcher};
use serde::de::DeserializeOwned;

/// A task that keeps the cache of a kind up to date until it is dropped, and the name of the kind.
pub type Watch = (&'static str, BoxFuture<'static, ()>);

/// Starts a cache and the watch that fills it. The process is not ready before the cache is.
pub(crate) fn watch<K>(client: &Client, readiness: &Readiness, plural: &'static str) -> (Cache<K>, Watch)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    watch_with(client, readiness, plural, |_| {})
}

/// The same; `changed` gets each object that was written or deleted, after the cache has it.
pub(crate) fn watch_with<K>(
    client: &Client,
    readiness: &Readiness,
    plural: &'static str,
    changed: impl Fn(K) + Send + 'static,
) -> (Cache<K>, Watch)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let strip = |object: &mut K| object.meta_mut().managed_fields = None;
    let (cache, stream) = Cache::watch(client.clone(), watcher::Config::default(), readiness.register(plural), strip);
    let each = move |object| {
        changed(object);
        std::future::ready(())
    };
    (cache, (plural, stream.for_each(each).boxed()))
}
