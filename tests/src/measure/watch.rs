//! One object, watched since before it exists: whoever times something has to see the end of it at once.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

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
