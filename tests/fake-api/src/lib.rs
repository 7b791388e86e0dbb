//! A fake API server: objects in memory behind a [`tower`] service, without sockets, which the unit tests of all crates share.
//!
//! [`FakeApi::client`] gives a client of it. A test puts objects in, prescribes answers that differ from what the objects give, and
//! reads what was sent and what the objects have become.
//!
//! Faithful to a real API server:
//!
//! - get (whole or metadata only), list and watch of any kind, in one namespace or in all;
//! - create, merge patch, JSON patch, replace, replace or patch of the status, delete;
//! - UIDs and versions, as preconditions of every write but the JSON patch (which tests what it likes by itself): 409 where they
//!   differ; 404 for what does not exist, 409 for a name that does, 403 in a namespace that is being deleted;
//! - finalizers; a write that changes nothing leaves the version; a write to an object leaves its status, and one to the status the
//!   object;
//! - SubjectAccessReviews, decided by the test.
//!
//! Not faithful: there are no schemas, defaults, validation, admission, RBAC, selectors, pages, managed fields, owner references
//! (nothing is collected), deletions of collections, generated names, and old versions that a watch could ask for in vain. Every kind
//! exists and has a status. A namespace exists as soon as something is in it. A watch is answered in pieces: each answer ends after the
//! changes that are known by then, and the client asks again.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "for tests only, and a fixture that is wrong ends its test"
)]

mod answer;
mod path;
mod store;

use std::{
    collections::BTreeSet,
    future::pending,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::Response;
use kube::{Client, Resource, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use self::answer::{Answer, Request};
use self::{path::Path, store::Store};

/// The error of a request that gets no answer.
type ServiceError = Box<dyn std::error::Error + Send + Sync>;

/// The decision about a SubjectAccessReview.
type Reviewer = Box<dyn Fn(&Value) -> bool + Send>;

/// What somebody else does just before a request is answered.
type Interference = Box<dyn FnOnce(&FakeApi) + Send>;

/// The server. Clones share it.
#[derive(Clone, Default)]
pub struct FakeApi(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The version of the newest change, for watches.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    store: Store,
    requests: Vec<Request>,
    prescribed: Vec<Prescribed>,
    /// The answer to a request for which none is prescribed, instead of what the objects give.
    otherwise: Option<Answer>,
    interferences: Vec<(Matcher, Interference)>,
    reviewer: Option<Reviewer>,
    ending_namespaces: BTreeSet<String>,
    watches_paused: bool,
}

#[derive(PartialEq)]
struct Matcher {
    method: String,
    path: String,
}

impl Matcher {
    fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned() }
    }

    fn matches(&self, request: &Request) -> bool {
        self.method == request.method && self.path == request.path
    }
}

struct Prescribed {
    matcher: Matcher,
    answer: Answer,
    once: bool,
}

/// The path of an object of this kind.
pub fn path_of<K: Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", K::url_path(&(), namespace.filter(|namespace| !namespace.is_empty())))
}

impl FakeApi {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells the watches.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state);
        self.0.version.send_replace(state.store.version());
        result
    }

    /// A client of the server. Its default namespace is `default`.
    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let api = api.clone();
            async move { api.serve(request).await }
        });
        Client::new(service, "default")
    }

    /// Adds or replaces an object of kind `K`, as it is. Where they are left out it gets a kind, a creation time, a UID, and always a new
    /// version. Returns what is stored.
    pub fn put<K: Resource<DynamicType = ()>>(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = json!(K::api_version(&()));
        object["kind"] = json!(K::kind(&()));
        let meta = &mut object["metadata"];
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let path = path_of::<K>(meta["namespace"].as_str(), meta["name"].as_str().unwrap());
        self.put_at(&path, &object)
    }

    /// Adds or replaces the object at a path, as it is. It gets a new version, and a UID where it has none. Returns what is stored.
    pub fn put_at(&self, path: &str, object: &Value) -> Value {
        self.change(|state| state.store.put(path, object.clone()))
    }

    /// The object at a path.
    pub fn get_at(&self, path: &str) -> Option<Value> {
        self.state().store.get(path).cloned()
    }

    /// The object of kind `K` of this name.
    pub fn get<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.get_at(&path_of::<K>(namespace, name))
    }

    /// Removes what is at a path: an object, whatever its finalizers, or all objects of a collection.
    pub fn remove_at(&self, path: &str) {
        self.change(|state| {
            let Some(parsed) = Path::parse(path) else { return };
            let paths = if parsed.name.is_some() { vec![path.to_owned()] } else { state.store.paths(&parsed) };
            for path in paths {
                state.store.remove(&path);
            }
        });
    }

    /// Removes the object of kind `K` of this name, whatever its finalizers.
    pub fn remove<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>, name: &str) {
        self.remove_at(&path_of::<K>(namespace, name));
    }

    /// From now on nothing can be created in this namespace, because it is being deleted.
    pub fn end_namespace(&self, namespace: &str) {
        self.state().ending_namespaces.insert(namespace.to_owned());
    }

    /// From now on watches tell nothing.
    pub fn pause_watches(&self) {
        self.state().watches_paused = true;
    }

    /// Decides about SubjectAccessReviews. Without it, nobody may do anything.
    pub fn review_with(&self, reviewer: impl Fn(&Value) -> bool + Send + 'static) {
        self.state().reviewer = Some(Box::new(reviewer));
    }

    /// Prescribes the answer to the next request of this method and path. Several answers are given one after the other.
    pub fn answer_next(&self, method: &str, path: &str, answer: Answer) {
        self.state().prescribed.push(Prescribed { matcher: Matcher::new(method, path), answer, once: true });
    }

    /// Prescribes the answer to every request of this method and path.
    pub fn answer_always(&self, method: &str, path: &str, answer: Answer) {
        let matcher = Matcher::new(method, path);
        let mut state = self.state();
        state.prescribed.retain(|prescribed| prescribed.once || prescribed.matcher != matcher);
        state.prescribed.push(Prescribed { matcher, answer, once: false });
    }

    /// Withdraws every answer that is prescribed, but for [`answer_otherwise`](Self::answer_otherwise).
    pub fn withdraw_answers(&self) {
        self.state().prescribed.clear();
    }

    /// Prescribes the answer to every request for which none is prescribed, but for watches and for reviews that the test decides.
    pub fn answer_otherwise(&self, answer: Answer) {
        self.state().otherwise = Some(answer);
    }

    /// Does something just before the next request of this method and path is answered, as somebody else might.
    pub fn before_next(&self, method: &str, path: &str, interference: impl FnOnce(&Self) + Send + 'static) {
        self.state().interferences.push((Matcher::new(method, path), Box::new(interference)));
    }

    /// The requests since the last call, in their order.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// Those of the requests since the last call that change something.
    pub fn take_writes(&self) -> Vec<Request> {
        self.take_requests().into_iter().filter(Request::is_write).collect()
    }

    async fn serve(&self, request: http::Request<Body>) -> Result<Response<Body>, ServiceError> {
        let request = Request::read(request).await?;
        let interference = {
            let mut state = self.state();
            state.requests.push(request.clone());
            let position = state.interferences.iter().position(|(matcher, _)| matcher.matches(&request));
            position.map(|position| state.interferences.remove(position).1)
        };
        if let Some(interfere) = interference {
            interfere(self);
        }
        let prescribed = self.state().prescribed(&request);
        let answer = match prescribed {
            Some(answer) => answer,
            None if request.method == "WATCH" => self.watch(&request).await,
            None => self.change(|state| state.answer(&request)),
        };
        match answer {
            Answer::Reply(code, body) => Ok(Response::builder().status(code).body(Body::from(body.into_bytes()))?),
            Answer::Disconnect(kind) => Err(io::Error::from(kind).into()),
            Answer::Never => pending().await,
        }
    }

    /// Answers a watch as soon as there is a change to tell.
    async fn watch(&self, request: &Request) -> Answer {
        let Some(collection) = Path::parse(&request.path) else { return not_found() };
        let since = request.parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
        let mut changes = self.0.version.subscribe();
        loop {
            let (events, paused) = {
                let state = self.state();
                (state.store.events_after(&collection, since), state.watches_paused)
            };
            if !events.is_empty() && !paused {
                return Answer::Reply(200, events);
            }
            if changes.changed().await.is_err() {
                return Answer::Never;
            }
        }
    }
}

impl State {
    /// The answer that a test prescribes for this request: first those that are given once.
    fn prescribed(&mut self, request: &Request) -> Option<Answer> {
        let matches = |it: &Prescribed, once| it.once == once && it.matcher.matches(request);
        if let Some(position) = self.prescribed.iter().position(|it| matches(it, true)) {
            return Some(self.prescribed.remove(position).answer);
        }
        self.prescribed.iter().find(|it| matches(it, false)).map(|it| it.answer.clone())
    }

    fn answer(&mut self, request: &Request) -> Answer {
        match (&self.reviewer, &self.otherwise) {
            (Some(reviewer), _) if request.is_review() => return review(&request.body, reviewer(&request.body)),
            (_, Some(answer)) => return answer.clone(),
            (None, None) if request.is_review() => return review(&request.body, false),
            (_, None) => {}
        }
        let Some(path) = Path::parse(&request.path) else { return not_found() };
        if path.name.is_none() && request.method == "GET" {
            return self.store.list(&path);
        }
        if let Some(namespace) = path.namespace.as_ref().filter(|it| self.ending_namespaces.contains(*it))
            && request.method == "POST"
        {
            let name = request.body["metadata"]["name"].as_str().unwrap_or_default();
            return Answer::namespace_ends(&path.plural, name, namespace);
        }
        self.store.answer(&path, request)
    }
}

/// A SubjectAccessReview with its answer.
fn review(review: &Value, allowed: bool) -> Answer {
    let mut answered = review.clone();
    answered["status"] = json!({"allowed": allowed});
    Answer::json(201, &answered)
}

fn not_found() -> Answer {
    Answer::failure(404, "the server could not find the requested resource")
}

#[cfg(test)]
mod tests;
