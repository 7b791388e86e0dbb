use std::{collections::VecDeque, convert::Infallible, future::pending, sync::Mutex, time::Duration};

use hostile::{Dice, Vocabulary};
use http::{Request, Response};
use k8s_openapi::api::{core::v1::Event, storage::v1::StorageClass};
use kube::{Client, ResourceExt, client::Body};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::*;
use crate::{admin::Readiness, args::ShutdownArgs, metrics, shutdown::Shutdown};

/// Answers one request after the other, each with one JSON text per line, then no more.
fn api_server(answers: impl IntoIterator<Item = Vec<Value>>) -> Client {
    let answers = Arc::new(Mutex::new(answers.into_iter().collect::<VecDeque<_>>()));
    let service = tower::service_fn(move |_: Request<Body>| {
        let answer = answers.lock().unwrap().pop_front();
        async move {
            let Some(answer) = answer else { pending().await };
            // The API server writes the type before the object.
            let line = |value: &Value| match (value.get("type"), value.get("object")) {
                (Some(kind), Some(object)) => format!(r#"{{"type":{kind},"object":{object}}}"#),
                _ => value.to_string(),
            };
            let lines: Vec<_> = answer.iter().map(line).chain([String::new()]).collect();
            Ok::<_, Infallible>(Response::new(Body::from(lines.join("\n").into_bytes())))
        }
    });
    Client::new(service, "default")
}

fn readiness() -> Readiness {
    let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
    Readiness::new(Shutdown::new(&args))
}

fn class(name: &str, version: u64) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name, "resourceVersion": version.to_string()}, "provisioner": "p",
    })
}

/// An object that exists and can't be decoded.
fn odd_class(name: &str, version: u64) -> Value {
    let mut class = class(name, version);
    class["provisioner"] = json!(["p"]);
    class
}

fn list(items: &[Value]) -> Vec<Value> {
    vec![json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClassList",
        "metadata": {"resourceVersion": "1"}, "items": items,
    })]
}

fn watched(kind: &str, object: impl Into<Value>) -> Value {
    json!({"type": kind, "object": object.into()})
}

fn watch(client: Client, readiness: &Readiness) -> (Cache<StorageClass>, impl Stream<Item = StorageClass> + Send) {
    Cache::watch(client, watcher::Config::default(), readiness.register("storageclasses"), |_| {})
}

#[tokio::test(start_paused = true)]
async fn whatever_is_told_is_another_revision() {
    let client = api_server([
        list(&[class("first", 2)]),
        vec![watched("ADDED", class("second", 2))],
        vec![watched("DELETED", class("first", 2))],
    ]);
    let ready = readiness();
    let (cache, stream) = watch(client, &ready);
    let mut stream = std::pin::pin!(stream);
    let mut seen = vec![(cache.revision(), None)];
    // Objects of the first list are yielded before it is complete.
    for known in [0, 2, 1] {
        stream.next().await.unwrap();
        let all = cache.all().present().map(Vec::len);
        assert_eq!(all.unwrap_or_default(), known);
        seen.push((cache.revision(), all));
    }
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
}

/// The clock stands still unless a task waits, and every back-off is longer.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Reads until the watch yields `neighbour`.
async fn told_of_neighbour(stream: &mut (impl Stream<Item = StorageClass> + Unpin), patience: Duration) {
    let told = async { while stream.next().await.unwrap().name_any() != "neighbour" {} };
    timeout(patience, told).await.expect("the watch has come to a halt");
}

/// The state of a name as one word.
fn state(cache: &Cache<StorageClass>, name: &str) -> &'static str {
    match cache.get(None, name) {
        Lookup::Present(_) => "present",
        Lookup::Absent => "absent",
        Lookup::Unknown(_) => "unknown",
    }
}

/// Each step is one event. After it the watch yields `neighbour`, so that the event has been handled.
#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_unknown_until_it_can_be_or_is_gone() {
    let steps = [
        ("it is listed like that", None, "unknown"),
        ("it becomes readable", Some(watched("MODIFIED", class("odd", 3))), "present"),
        ("it becomes unreadable", Some(watched("MODIFIED", odd_class("odd", 4))), "unknown"),
        ("it is deleted", Some(watched("DELETED", odd_class("odd", 5))), "absent"),
        ("it is created readable", Some(watched("ADDED", class("odd", 6))), "present"),
        ("its last state is unreadable", Some(watched("DELETED", odd_class("odd", 7))), "absent"),
        ("it is created unreadable", Some(watched("ADDED", odd_class("odd", 8))), "unknown"),
        ("nothing happens", Some(watched("BOOKMARK", class("odd", 9))), "unknown"),
        ("it is deleted in a readable state", Some(watched("DELETED", class("odd", 10))), "absent"),
    ];
    let mut answers = vec![list(&[class("a", 1), odd_class("odd", 1), class("b", 1)])];
    answers.extend(steps.iter().map(|(_, event, _)| {
        event.iter().cloned().chain([watched("MODIFIED", class("neighbour", 2))]).collect::<Vec<_>>()
    }));
    let (start, readiness) = (Instant::now(), readiness());
    let before = metrics::unreadable("StorageClass");
    let (cache, stream) = watch(api_server(answers), &readiness);
    let mut stream = std::pin::pin!(stream);
    for (what, _, expected) in steps {
        told_of_neighbour(&mut stream, AT_ONCE).await;
        assert_eq!(state(&cache, "odd"), expected, "{what}");
        let all = cache.all().present().map(|all| all.iter().any(|class| class.name_any() == "odd"));
        assert_eq!(all, Some(expected == "present"), "{what}");
        assert_eq!((state(&cache, "a"), state(&cache, "b")), ("present", "present"), "{what}");
        assert_eq!(readiness.missing(), Vec::<&str>::new(), "{what}");
    }
    // No back-off: the clock stands still unless a task waits.
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(metrics::unreadable("StorageClass") >= before + 3);
}

/// A watch that has to start again, as after 410 Gone, lists the same object again.
#[tokio::test(start_paused = true)]
async fn a_list_knows_what_has_become_readable() {
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "old"}});
    let neighbour = || vec![watched("MODIFIED", class("neighbour", 2))];
    let client = api_server([
        list(&[odd_class("still", 1), odd_class("cured", 1), odd_class("deleted", 1)]),
        neighbour().into_iter().chain([gone]).collect(),
        list(&[odd_class("still", 1), class("cured", 2)]),
        neighbour(),
    ]);
    let ready = readiness();
    let (cache, stream) = watch(client, &ready);
    let mut stream = std::pin::pin!(stream);
    let states = |cache: &Cache<_>| ["still", "cured", "deleted"].map(|name| state(cache, name));
    told_of_neighbour(&mut stream, AT_ONCE).await;
    assert_eq!(states(&cache), ["unknown"; 3]);
    told_of_neighbour(&mut stream, Duration::from_mins(1)).await;
    assert_eq!(states(&cache), ["unknown", "present", "absent"]);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_is_of_a_namespace() {
    let event = |namespace: &str, reason: Value| {
        json!({
            "metadata": {"name": "e", "namespace": namespace, "resourceVersion": "1"},
            "involvedObject": {}, "reason": reason,
        })
    };
    let client = api_server([list(&[event("a", json!("why")), event("b", json!(1))])]);
    let readiness = readiness();
    let ready = readiness.register("events");
    let (cache, stream) = Cache::<Event>::watch(client, watcher::Config::default(), ready, |_| {});
    let mut stream = std::pin::pin!(stream);
    assert_eq!(stream.next().await.unwrap().namespace().as_deref(), Some("a"));
    let _ = timeout(Duration::from_millis(1), stream.next()).await;
    assert_eq!((cache.unreadable_in("a"), cache.unreadable_in("b").is_some()), (None, true));
}

const VOCABULARY: Vocabulary = Vocabulary {
    words: &["", "..", "a/b", "\u{202e}", "null", "1e99"],
    keys: &["metadata", "managedFields", "creationTimestamp", "labels", "provisioner", "parameters"],
    doublings: 20,
    fields: 300,
};

/// A list with a random object between two neighbours, then the same as an event; repeated.
#[tokio::test(start_paused = true)]
async fn whatever_an_object_holds_its_neighbours_are_known() {
    let start = Instant::now();
    for number in 0..300 {
        let mut dice = Dice::of(number);
        let spoilt = |dice: &mut Dice| {
            let mut odd = class("odd", 1);
            odd["metadata"]["managedFields"] = hostile::managed_fields(dice);
            for _ in 0..=dice.roll(3) {
                VOCABULARY.spoil(&mut odd, dice);
            }
            // Without these the API server stores nothing.
            if !odd["metadata"].is_object() {
                odd = json!({"metadata": {"managedFields": hostile::managed_fields(dice)}});
            }
            odd["metadata"]["name"] = json!("odd");
            odd["metadata"]["resourceVersion"] = json!("1");
            odd
        };
        let listed = list(&[class("a", 1), spoilt(&mut dice), class("b", 1)]);
        let events = vec![watched("MODIFIED", spoilt(&mut dice)), watched("MODIFIED", class("neighbour", 2))];
        let readiness = readiness();
        let (cache, stream) = watch(api_server([listed.clone(), events.clone()]), &readiness);
        let mut stream = std::pin::pin!(stream);
        told_of_neighbour(&mut stream, AT_ONCE).await;
        assert_eq!(
            (state(&cache, "a"), state(&cache, "b")),
            ("present", "present"),
            "case {number}: {listed:?} {events:?}"
        );
        assert_ne!(state(&cache, "odd"), "absent", "case {number}: {listed:?} {events:?}");
        assert_eq!(readiness.missing(), Vec::<&str>::new(), "case {number}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "a watch has backed off");
}
