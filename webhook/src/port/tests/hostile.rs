//! Callers that don't know the secret path, and learn nothing about it.

use std::sync::Mutex;

use prometheus_client::encoding::text;
use rstest::rstest;
use tracing_subscriber::fmt::MakeWriter;

use super::{limits::Served, *};
use crate::{
    fake_cluster::{World, creation},
    manifests::{MUTATE_PATH, ROUTES},
};

pub(super) const SEGMENT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The answer to every guess; nothing in it depends on the request.
const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n";

/// Guesses that any caller may try.
fn guesses() -> Vec<String> {
    let wrong = SEGMENT.replace("f0", "f1");
    let routes: Vec<_> = ROUTES.iter().map(|(_, route)| *route).collect();
    let fixed = ["/", "*", "/live", "/ready", "/metrics", "/log-level", "/..", "//", "/?timeout=5s", "/%2f"];
    let mut guesses: Vec<String> = fixed.map(str::to_owned).into();
    for route in routes {
        guesses.push(route.to_owned());
        guesses.push(format!("{route}?timeout=5s"));
        guesses.push(format!("/{wrong}{route}"));
        guesses.push(format!("/{}{route}", &SEGMENT[..63]));
        guesses.push(format!("/{}{route}", SEGMENT.to_uppercase()));
        guesses.push(format!("/x/{SEGMENT}{route}"));
        guesses.push(format!("https://webhook.test{route}"));
        guesses.push(format!("/?{SEGMENT}{route}"));
    }
    guesses.push(format!("/{SEGMENT}"));
    guesses
}

#[rstest]
#[tokio::test]
async fn who_does_not_know_the_path_gets_404_and_nothing_else(
    #[values("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE")] method: &str,
) {
    let served = Served::start(World::new().webhook().await, Limits::default());
    for guess in guesses() {
        // The body never arrives: the answer does not wait for it.
        let head = format!("{method} {guess} HTTP/1.1\r\nhost: webhook.test\r\ncontent-length: 1000000\r\n\r\n");
        let answer = served.ask(&head).await;
        let (before, after) = answer.split_once("date: ").unwrap_or((&answer, ""));
        // The answer to a HEAD request does not state the length.
        let expected =
            if method == "HEAD" { NOT_FOUND.replace("content-length: 0\r\n", "") } else { NOT_FOUND.to_owned() };
        assert_eq!((before, after.split_once("\r\n").unwrap_or_default().1), (&*expected, "\r\n"), "{method} {guess}");
    }
    let answer = served.ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!answer.contains("200"), "{answer}");
    assert_eq!(served.review(SEGMENT).await, 200);
}

/// The log of the process, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn the_secret_is_in_no_log_metric_or_answer() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone());
    let _subscriber = tracing::subscriber::set_default(lines.finish());
    let served = Served::start(World::new().webhook().await, Limits::default());
    let review = creation(&serde_json::json!({"spec": {"source": {"pvc": {"namespace": "ns", "name": "source"}}}}));
    let mut answers = Vec::new();
    for body in [review.to_string(), "{".to_owned(), String::new()] {
        for (_, route) in ROUTES.iter().chain(&[("", "/unknown"), ("", "/")]) {
            for method in ["POST", "GET"] {
                let length = body.len();
                let request = format!(
                    "{method} /{SEGMENT}{route}?timeout=5s HTTP/1.1\r\nhost: webhook.test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                answers.push(served.ask(&request).await);
            }
        }
    }
    let mut metrics = String::new();
    text::encode(&mut metrics, &served.registry).unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains(MUTATE_PATH) && metrics.contains(MUTATE_PATH), "{log}{metrics}");
    for text in answers.iter().chain([&metrics, &log]) {
        assert!(!text.contains(&SEGMENT[..16]), "{text}");
    }
}
