//! Events: how one is made and published.

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tracing::warn;

/// The longest note of an event in bytes. The API server rejects a longer one.
const MAX_NOTE_BYTES: usize = 1024;

/// An event of the type `Warning` or `Normal`. A note that is too long is cut.
pub fn event(is_warning: bool, reason: &str, text: &str, action: &str) -> Event {
    Event {
        type_: if is_warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(note(text)),
        action: action.to_owned(),
        secondary: None,
    }
}

/// Publishes events about an object. One that can't be published is a line in the log: nothing depends on it.
pub async fn publish(events: &[Event], about: &ObjectReference, recorder: &Recorder) {
    for result in join_all(events.iter().map(|event| recorder.publish(event, about))).await {
        if let Err(error) = result {
            warn!(error = %config::Chain(&error), "an event could not be published");
        }
    }
}

/// `text` as the note of an event, cut with an ellipsis where it is too long.
fn note(text: &str) -> String {
    if text.len() <= MAX_NOTE_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_NOTE_BYTES - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_as_long_as_the_api_server_accepts() {
        assert_eq!(note("short"), "short");
        assert_eq!(note(&"x".repeat(MAX_NOTE_BYTES)), "x".repeat(MAX_NOTE_BYTES));
        for long in
            ["x".repeat(MAX_NOTE_BYTES + 1), "ä".repeat(MAX_NOTE_BYTES), format!("x{}", "…".repeat(MAX_NOTE_BYTES))]
        {
            let cut = note(&long);
            assert!(
                cut.len() <= MAX_NOTE_BYTES && cut.len() > MAX_NOTE_BYTES - 4 && cut.ends_with('…'),
                "{}",
                cut.len()
            );
        }
    }
}
