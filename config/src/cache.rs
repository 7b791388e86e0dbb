//! What decisions read, kept up to date by watches. Nobody waits for it: what a cache has not seen yet is *unknown*, not absent.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use common::lookup::Lookup;
use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    api::{GetParams, ListParams},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::{Chain, admin::ReadyHandle};

const STARTING: u8 = 0;
const SYNCED: u8 = 1;
const MISSING: u8 = 2;

/// One object, asked for instead of remembered. Names are what users write, and what can't be one is never part of a path: there is no
/// such object.
pub async fn ask<K: Resource + Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> Lookup<K> {
    if !can_be(api, name) {
        return Lookup::Absent;
    }
    answer(api.get_opt(name).await)
}

/// The same as the API server remembers it, which is quick, and may be older than what was written a moment ago.
pub async fn glance<K: Resource + Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> Lookup<K> {
    if !can_be(api, name) {
        return Lookup::Absent;
    }
    answer(match api.get_with(name, &GetParams::any()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        answer => answer.map(Some),
    })
}

/// All objects, asked for instead of remembered. Absent when the cluster doesn't know the kind.
pub async fn ask_all<K>(api: Api<K>) -> Lookup<Vec<Arc<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    answer(match api.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        answer => answer.map(|list| Some(list.items.into_iter().map(Arc::new).collect())),
    })
}

fn can_be<K: Resource>(api: &Api<K>, name: &str) -> bool {
    is_name(name) && api.namespace().is_none_or(is_name)
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
    state: Arc<AtomicU8>,
    revision: Arc<AtomicU64>,
}

impl<K> Clone for Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), state: Arc::clone(&self.state), revision: Arc::clone(&self.revision) }
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    /// A cache, and the stream that fills it: it yields every object that was written or deleted, after the cache has it.
    /// `ready` is met once the first list is complete, or once it is certain that the cluster doesn't know the kind. `strip` drops what
    /// nobody reads.
    pub fn watch(
        api: Api<K>,
        config: watcher::Config,
        ready: ReadyHandle,
        strip: fn(&mut K),
    ) -> (Self, impl Stream<Item = K> + Send) {
        let (store, writer) = reflector::store();
        let state = Arc::new(AtomicU8::new(STARTING));
        let revision = Arc::new(AtomicU64::new(0));
        let (seen, changes) = (Arc::clone(&state), Arc::clone(&revision));
        let stream = watcher(api, config).default_backoff().modify(strip);
        let touched = reflector::reflector(writer, stream)
            .inspect(move |event| match event {
                Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                    seen.store(SYNCED, Ordering::Release);
                    ready.ready();
                }
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Err(error) => {
                    if unknown_kind(error) {
                        seen.store(MISSING, Ordering::Release);
                        ready.ready();
                    } else {
                        warn!(kind = %K::kind(&()), error = %crate::Chain(error), "a watch was interrupted");
                    }
                }
            })
            // After all that `all` depends on.
            .inspect(move |_| _ = changes.fetch_add(1, Ordering::Release))
            .touched_objects()
            .filter_map(|event| std::future::ready(event.ok()));
        (Self { store, state, revision }, touched)
    }

    /// The object of this name.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Lookup<Arc<K>> {
        let mut reference = ObjectRef::new(name);
        reference.namespace = namespace.map(ToOwned::to_owned);
        self.known().map_or_else(Lookup::Unknown, |()| self.store.get(&reference).into())
    }

    /// All objects, or why they aren't known. Absent when the cluster doesn't know the kind.
    pub fn all(&self) -> Lookup<Vec<Arc<K>>> {
        match self.known() {
            Err(why) => Lookup::Unknown(why),
            Ok(()) if self.state.load(Ordering::Acquire) == MISSING => Lookup::Absent,
            Ok(()) => Lookup::Present(self.store.state()),
        }
    }

    /// Another number whenever [`all`](Self::all) may give something else than before. Whoever reads it first has objects at least as new.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// All objects that are known, for those who look again when more become known.
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

/// Something could have this name: no more than what all kinds have in common.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    (1..=253).contains(&text.len()) && text.chars().all(plain) && !matches!(text, "." | "..")
}

/// The API server has no such kind (its CRD is not installed).
fn unknown_kind(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause) | watcher::Error::WatchStartFailed(cause)) = error else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, future::pending, sync::Mutex, time::Duration};

    use http::{Request, Response};
    use k8s_openapi::api::storage::v1::StorageClass;
    use kube::{Client, client::Body};
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::{admin::Readiness, args::ShutdownArgs, shutdown::Shutdown};

    /// Answers one request after the other, then none.
    fn api_server(answers: impl IntoIterator<Item = Value>) -> Client {
        let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = answers.lock().unwrap().pop_front();
            async move {
                let Some(answer) = answer else { pending().await };
                Ok::<_, Infallible>(Response::new(Body::from(format!("{answer}\n").into_bytes())))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_told_is_another_revision() {
        let class = |name: &str| {
            json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
                "metadata": {"name": name, "resourceVersion": "2"}, "provisioner": "p",
            })
        };
        let listed = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClassList",
            "metadata": {"resourceVersion": "1"}, "items": [class("first")],
        });
        let watched = |kind: &str, name: &str| json!({"type": kind, "object": class(name)});
        let client = api_server([listed, watched("ADDED", "second"), watched("DELETED", "first")]);
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let ready = Readiness::new(Shutdown::new(&args)).register("storageclasses");
        let (cache, stream) = Cache::watch(Api::<StorageClass>::all(client), watcher::Config::default(), ready, |_| {});
        let mut stream = std::pin::pin!(stream);
        let mut seen = vec![(cache.revision(), None)];
        // The first list is told of before it is complete.
        for known in [0, 2, 1] {
            stream.next().await.unwrap();
            let all = cache.all().present().map(Vec::len);
            assert_eq!(all.unwrap_or_default(), known);
            seen.push((cache.revision(), all));
        }
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    }

    #[rstest]
    #[case::label("disk-1", true)]
    #[case::subdomain("a.b.c", true)]
    #[case::of_a_role("system:node", true)]
    #[case::none("", false)]
    #[case::here(".", false)]
    #[case::parent("..", false)]
    #[case::path("a/b", false)]
    #[case::query("a?watch=true", false)]
    #[case::fragment("a#b", false)]
    #[case::encoded("%2e%2e", false)]
    #[case::control("a\0", false)]
    #[case::letters_of_others("ä", false)]
    #[case::longest(&"a".repeat(253), true)]
    #[case::too_long(&"a".repeat(254), false)]
    fn names(#[case] text: &str, #[case] expected: bool) {
        assert_eq!(is_name(text), expected);
    }
}
