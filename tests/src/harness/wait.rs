//! Waits for external changes: a watch, a deadline, and the last observed state.

use std::{collections::BTreeMap, fmt::Debug, ops::ControlFlow, time::Duration};

use anyhow::{Result, bail};
use futures::{Stream, StreamExt as _};
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::watcher::{self, Config, Event, watch_object, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

pub use crate::lab::command::Look;

/// The time limit for any step on a busy machine of two cores.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// The requirements of this module's watches on a kind.
pub trait Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {}

impl<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static> Kind for K {}

/// Checks one object after each change, until it matches; `None` while it does not exist.
pub async fn object<K: Kind, T>(
    api: &Api<K>,
    name: &str,
    what: &str,
    mut look: impl FnMut(Option<&K>) -> Look<T>,
) -> Result<T> {
    each(what, watch_object(api.clone(), name), |object| look(object.as_ref())).await
}

/// Waits until there is no object of this name, or only one with a UID other than `uid`.
pub async fn gone<K: Kind>(api: &Api<K>, name: &str, uid: Option<&str>) -> Result<()> {
    object(api, name, &format!("the end of {} {name}", K::kind(&())), |object| match object {
        Some(object) if uid.is_none() || object.uid().as_deref() == uid => {
            Look::Continue(format!("it is there, with the finalizers {:?}", object.finalizers()))
        }
        _ => Look::Break(()),
    })
    .await
}

/// Checks all objects of a selection after each change of one of them, until they match.
pub async fn all<K: Kind, T>(
    api: &Api<K>,
    selection: Config,
    what: &str,
    mut look: impl FnMut(&[&K]) -> Look<T>,
) -> Result<T> {
    let (mut known, mut listed) = (BTreeMap::new(), false);
    let id = |object: &K| (object.namespace(), object.name_any());
    each(what, watcher(api.clone(), selection), |event| {
        match event {
            Event::Init => {
                known.clear();
                listed = false;
            }
            Event::InitApply(object) | Event::Apply(object) => drop(known.insert(id(&object), object)),
            Event::Delete(object) => drop(known.remove(&id(&object))),
            Event::InitDone => listed = true,
        }
        if listed {
            look(&known.values().collect::<Vec<_>>())
        } else {
            Look::Continue("they are being listed".to_owned())
        }
    })
    .await
}

async fn each<E, T>(
    what: &str,
    events: impl Stream<Item = watcher::Result<E>> + Send,
    mut look: impl FnMut(E) -> Look<T>,
) -> Result<T> {
    let mut last = "nothing has been seen of it".to_owned();
    let waited = timeout(PATIENCE, async {
        let mut events = events.boxed();
        while let Some(event) = events.next().await {
            match look(event?) {
                ControlFlow::Break(found) => return Ok(found),
                ControlFlow::Continue(why) => last = why,
            }
        }
        bail!("the watch for {what} ended")
    })
    .await;
    waited.unwrap_or_else(|_| bail!("waited {} s for {what}: {last}", PATIENCE.as_secs()))
}
