use std::sync::{Arc, Mutex};

use fake_api::{Answer, FakeApi};
use rstest::rstest;
use serde_json::{Value, json};
use tracing::{Level, Metadata, Subscriber, span, subscriber};

use super::*;
use crate::fixture::{answer, recorder};

const PATH: &str = "/apis/events.k8s.io/v1/namespaces/n/events";

/// The levels of all logged lines.
#[derive(Clone, Default)]
struct Levels(Arc<Mutex<Vec<Level>>>);

impl Subscriber for Levels {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("controller")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().unwrap().push(*event.metadata().level());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn about() -> ObjectReference {
    serde_json::from_value(json!({"kind": "DataVolume", "namespace": "n", "name": "a", "uid": "u"})).unwrap()
}

#[test]
fn a_note_is_as_long_as_the_api_server_accepts() {
    assert_eq!(note("short"), "short");
    assert_eq!(note(&"x".repeat(MAX_NOTE_BYTES)), "x".repeat(MAX_NOTE_BYTES));
    for long in ["x".repeat(MAX_NOTE_BYTES + 1), "ä".repeat(MAX_NOTE_BYTES), format!("x{}", "…".repeat(MAX_NOTE_BYTES))]
    {
        let cut = note(&long);
        assert!(cut.len() <= MAX_NOTE_BYTES && cut.len() > MAX_NOTE_BYTES - 4 && cut.ends_with('…'), "{}", cut.len());
    }
}

#[tokio::test]
async fn an_event_says_what_happened_to_whom() {
    let api = FakeApi::default();
    let events = [event(true, "Late", &"x".repeat(2000), "Clone"), event(false, "Done", "all of it", "Transfer")];
    publish(&events, &about(), &recorder(&api)).await;
    let mut sent = api.take_writes();
    sent.sort_by_key(|request| request.body["reason"].to_string());
    let fields = |body: &Value| ["type", "reason", "action"].map(|field| body[field].as_str().unwrap().to_owned());
    assert_eq!(sent.len(), 2);
    assert_eq!(fields(&sent[0].body), ["Normal", "Done", "Transfer"]);
    assert_eq!(fields(&sent[1].body), ["Warning", "Late", "Clone"]);
    assert_eq!(sent[0].body["note"], "all of it");
    assert_eq!(sent[1].body["note"].as_str().map(str::len), Some(MAX_NOTE_BYTES));
    for request in sent {
        assert_eq!(request.to_string(), format!("POST {PATH}"));
        assert_eq!(request.body["regarding"]["uid"], "u");
        assert_eq!(request.body["reportingController"], common::keys::CONTROLLER_MANAGER);
    }
}

/// A repeated event is counted in the existing one while that is recent.
#[tokio::test]
async fn an_event_that_is_repeated_is_counted() {
    let api = FakeApi::default();
    let recorder = recorder(&api);
    for _ in 0..2 {
        publish(&[event(true, "Late", "x", "Clone")], &about(), &recorder).await;
    }
    let sent = api.take_writes();
    assert_eq!(sent.iter().map(|request| request.method.as_str()).collect::<Vec<_>>(), ["POST", "PATCH"]);
    assert_eq!(sent[1].body["series"]["count"], 2);
}

/// The answer to the first of two events, and the levels of the lines in the log.
#[rstest]
#[case::published(None, &[])]
#[case::namespace_ends(Some(Answer::namespace_ends("events", "a", "n")), &[Level::DEBUG])]
#[case::namespace_is_gone(Some(namespace_not_found()), &[Level::DEBUG])]
#[case::forbidden(Some(answer(403)), &[Level::WARN])]
#[case::not_found(Some(answer(404)), &[Level::WARN])]
#[case::failed(Some(answer(500)), &[Level::WARN])]
#[case::no_connection(Some(answer(0)), &[Level::WARN])]
#[tokio::test]
async fn an_event_that_cannot_be_published_is_a_line_in_the_log(
    #[case] answer: Option<Answer>,
    #[case] expected: &[Level],
) {
    let api = FakeApi::default();
    if let Some(answer) = answer {
        api.answer_next("POST", PATH, answer);
    }
    let levels = Levels::default();
    let _guard = subscriber::set_default(levels.clone());
    publish(&[event(true, "A", "x", "Clone"), event(true, "B", "x", "Clone")], &about(), &recorder(&api)).await;
    assert_eq!(*levels.0.lock().unwrap(), expected);
    assert_eq!(api.take_writes().len(), 2, "the other event is published");
}

fn namespace_not_found() -> Answer {
    let status = json!({
        "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "namespaces \"n\" not found",
        "details": {"name": "n", "kind": "namespaces"},
    });
    Answer::json(404, &status)
}
