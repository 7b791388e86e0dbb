//! Status and events: only what changed.

use common::{
    api::{DataVolume, Phase},
    clone::{Action, Observed, Plan, Waiting, status::status},
};
use futures::future::join_all;
use kube::{
    Api, Resource, ResourceExt,
    api::PostParams,
    runtime::events::{Event, EventType},
};
use tracing::{info, warn};

use crate::{Error, run::Context, write::conflict};

/// The API server cuts a note at this many bytes, by refusing it.
const NOTE_BYTES: usize = 1024;

/// Writes the status and events that follow from the pass. True when the DataVolume is newer than the one that was looked at, whose
/// event will start the next pass.
pub async fn changes(
    volume: &DataVolume,
    resource_version: Option<String>,
    seen: &Observed,
    plan: &Plan,
    ctx: &Context,
) -> Result<bool, Error> {
    let next = status(seen, plan);
    if seen.volume.status == next {
        return Ok(false);
    }
    let mut updated = volume.clone();
    updated.metadata.resource_version = resource_version.or_else(|| volume.resource_version());
    updated.metadata.managed_fields = None;
    updated.status = Some(next);
    let api: Api<DataVolume> = Api::namespaced(ctx.client.clone(), &seen.volume.namespace);
    match api.replace_status(&seen.volume.name, &PostParams::default(), &updated).await {
        Ok(_) => {}
        Err(error) if conflict(&error) => return Ok(true),
        Err(error) => return Err(Error::Report(error)),
    }
    if seen.volume.status.phase != plan.phase {
        info!(
            namespace = seen.volume.namespace, name = seen.volume.name, phase = %plan.phase,
            waiting_for = plan.waiting.as_ref().map(Waiting::reason), "phase"
        );
        ctx.metrics.phase(plan.phase);
    }
    // After the status, so that what is told is also true, and told once.
    publish(volume, &events(seen, plan), ctx).await;
    Ok(false)
}

/// What is worth an event: a new phase, a new reason to wait for somebody, a fallback, the end.
fn events(seen: &Observed, plan: &Plan) -> Vec<Event> {
    let old = &seen.volume.status;
    let mut events = Vec::new();
    // Decided here, or at admission: told once, at the first sight of the decision.
    if let Some(Action::Pin(_)) = plan.actions.first() {
        if let Some(reason) = plan.chosen.as_ref().and_then(|c| c.fallback.as_ref()) {
            events.push(event(EventType::Warning, reason.code, reason.to_string()));
        }
    } else if let (Some(reason), true) = (&seen.volume.fallback, old.phase.is_unset()) {
        let code = seen.volume.fallback_code.as_deref().unwrap_or("CloneFallback");
        events.push(event(EventType::Warning, code, reason.clone()));
    }
    if old.phase != plan.phase {
        match plan.phase {
            Phase::Succeeded => {
                events.push(event(EventType::Normal, "CloneSucceeded", "The clone is complete".to_owned()));
            }
            Phase::Failed => {
                events.push(event(EventType::Warning, "CloneFailed", plan.failure.clone().unwrap_or_default()));
            }
            Phase::Pending => {}
            phase => {
                let what = plan.waiting.as_ref().map_or_else(|| "The clone is under way".to_owned(), Waiting::message);
                events.push(event(EventType::Normal, phase.as_str(), what));
            }
        }
    }
    if let Some(waiting) = plan.waiting.as_ref().filter(|w| w.needs_somebody()) {
        let known = old.clone.as_ref().and_then(|c| c.waiting_for.as_ref());
        if known.is_none_or(|known| {
            known.reason.as_deref() != Some(waiting.reason()) || known.message.as_deref() != Some(&waiting.message())
        }) {
            events.push(event(EventType::Warning, waiting.reason(), waiting.message()));
        }
    }
    events
}

fn event(type_: EventType, reason: &str, mut note: String) -> Event {
    if note.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES - '…'.len_utf8()).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
        note.truncate(end);
        note.push('…');
    }
    Event { type_, reason: reason.to_owned(), note: Some(note), action: "Clone".to_owned(), secondary: None }
}

/// An event that can't be published is a line in the log: nothing depends on it.
async fn publish(volume: &DataVolume, events: &[Event], ctx: &Context) {
    let about = volume.object_ref(&());
    for result in join_all(events.iter().map(|event| ctx.recorder.publish(event, &about))).await {
        if let Err(error) = result {
            warn!(error = %config::Chain(&error), "an event could not be published");
        }
    }
}
