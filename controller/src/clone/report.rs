//! Status and events: only what changed.

use common::{
    api::{DataVolume, DataVolumeStatus, Phase},
    clone::{Action, Observed, Plan, Waiting, populate, request::MadeFor, status::status},
};
use config::api::Objects;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use kube::{
    Resource, ResourceExt,
    api::{Patch, PostParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;
use tracing::{info, warn};

use super::Subject;
use crate::{
    Error,
    run::Context,
    write::{conflict, params},
};

/// The API server cuts a note at this many bytes, by refusing it.
const NOTE_BYTES: usize = 1024;

/// The reason of the event about a claim whose VolumeCloneSource isn't there.
const NO_CLONE_SOURCE: &str = "VolumeCloneSourceMissing";

/// Writes the status and events that follow from the pass. True when the object is newer than the one that was looked at, whose event will
/// start the next pass.
pub async fn changes(
    subject: Subject<'_>,
    resource_version: Option<String>,
    seen: &Observed,
    plan: &Plan,
    ctx: &Context,
) -> Result<bool, Error> {
    let next = status(seen, plan);
    if seen.volume.status == next {
        return Ok(false);
    }
    let resource_version = resource_version.or_else(|| subject.volume.resource_version());
    let written = match subject.kind {
        MadeFor::DataVolume => on_volume(subject.volume, resource_version, next, ctx).await,
        MadeFor::Claim => on_claim(subject.volume, resource_version, &next, ctx).await,
    };
    match written {
        Ok(()) => {}
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
    publish(subject, &events(seen, plan), ctx).await;
    Ok(false)
}

async fn on_volume(
    volume: &DataVolume,
    resource_version: Option<String>,
    status: DataVolumeStatus,
    ctx: &Context,
) -> Result<(), kube::Error> {
    let mut updated = volume.clone();
    updated.metadata.resource_version = resource_version;
    updated.metadata.managed_fields = None;
    updated.status = Some(status);
    let api = Objects::<DataVolume>::namespaced(ctx.client.clone(), &volume.namespace().unwrap_or_default());
    api.replace_status(&volume.name_any(), &PostParams::default(), &updated).await.map(|_| ())
}

/// A claim has no place for our status but its annotations.
async fn on_claim(
    picture: &DataVolume,
    resource_version: Option<String>,
    status: &DataVolumeStatus,
    ctx: &Context,
) -> Result<(), kube::Error> {
    let patch = json!({ "metadata": {
        "uid": picture.uid(), "resourceVersion": resource_version, "annotations": populate::annotations(status),
    }});
    let api =
        Objects::<PersistentVolumeClaim>::namespaced(ctx.client.clone(), &picture.namespace().unwrap_or_default());
    api.patch(&picture.name_any(), &params(), &Patch::Merge(patch)).await.map(|_| ())
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
    if !plan.notes.is_empty() {
        events.push(event(EventType::Warning, "CloneIncomplete", plan.notes.join("; ")));
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

/// A claim can't be told what it waits for in another way: without its VolumeCloneSource there is nothing to report on.
pub async fn no_clone_source(claim: &PersistentVolumeClaim, note: String, ctx: &Context) {
    let published =
        ctx.recorder.publish(&event(EventType::Warning, NO_CLONE_SOURCE, note), &claim.object_ref(&())).await;
    if let Err(error) = published {
        warn!(error = %config::Chain(&error), "an event could not be published");
    }
}

/// An event that can't be published is a line in the log: nothing depends on it.
async fn publish(subject: Subject<'_>, events: &[Event], ctx: &Context) {
    let about = match subject.kind {
        MadeFor::DataVolume => subject.volume.object_ref(&()),
        MadeFor::Claim => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            ..subject.volume.object_ref(&())
        },
    };
    for result in join_all(events.iter().map(|event| ctx.recorder.publish(event, &about))).await {
        if let Err(error) = result {
            warn!(error = %config::Chain(&error), "an event could not be published");
        }
    }
}
