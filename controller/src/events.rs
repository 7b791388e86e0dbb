//! Events: their creation and publication.

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tracing::{debug, warn};

use crate::write::is_namespace_ending;

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

/// Publishes events about an object. A failure is only logged, because nothing depends on it: as a warning, except for an object whose
/// namespace is being deleted, in which no event can be created.
pub async fn publish(events: &[Event], about: &ObjectReference, recorder: &Recorder) {
    for result in join_all(events.iter().map(|event| recorder.publish(event, about))).await {
        match result {
            Ok(()) => {}
            Err(error) if is_namespace_ending(&error) => {
                debug!(namespace = about.namespace, name = about.name, "an event is left out: its namespace ends");
            }
            Err(error) => warn!(error = %config::Chain(&error), "an event could not be published"),
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
mod tests;
