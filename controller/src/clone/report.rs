//! The report of a pass: status and events, where they changed.

use common::{
    api::{DataVolume, DataVolumeStatus},
    clone::{
        Observed, Plan, Waiting,
        events::{CloneEvent, events},
        populator,
        status::status,
    },
    mode::Mode,
    object::{ObjectVersion, TargetKind, exact},
};
use config::api::Objects;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use kube::{Resource, ResourceExt, api::PostParams};
use serde_json::{Value, json};
use tracing::info;

use super::{CloneTarget, Reconciler};
use crate::{
    Error, events,
    write::{is_conflict, is_gone, patch_claim},
};

/// The reason of the event about a claim whose VolumeCloneSource does not exist.
const NO_CLONE_SOURCE: &str = "VolumeCloneSourceMissing";

/// The action of the events of clones.
const ACTION: &str = "Clone";

/// Writes the status and the events that follow from the pass. Returns true if the object is newer than the one that was read, or does not
/// exist any more; its event starts the next pass.
pub async fn report(
    target: CloneTarget<'_>,
    resource_version: Option<String>,
    seen: &Observed,
    plan: &Plan,
    ctx: &Reconciler,
) -> Result<bool, Error> {
    let next = status(seen, plan);
    let is_misled = seen.volume.reported_by_cdi.as_ref().is_some_and(|reported| reported.is_misled);
    if seen.volume.status == next && !is_misled {
        return Ok(false);
    }
    let resource_version = resource_version.or_else(|| target.volume.resource_version());
    let written = match (target.kind, record_of(seen)) {
        (_, Record::Nowhere) => {
            publish_wait(target, seen, plan, ctx).await;
            return Ok(false);
        }
        (_, Record::OnClaim(claim)) => patch_claim(claim, annotations(&next, seen, plan), &ctx.context.client).await,
        (TargetKind::DataVolume, Record::OnTarget) => {
            write_volume_status(target.volume, resource_version, next, ctx).await
        }
        (TargetKind::Claim, Record::OnTarget) => {
            let claim = exact(&target.volume.metadata);
            let claim = ObjectVersion { resource_version: resource_version.unwrap_or_default(), ..claim };
            patch_claim(&claim, annotations(&next, seen, plan), &ctx.context.client).await
        }
    };
    match written {
        Ok(()) => {}
        // Deleted in the meantime, like every object of a namespace that is being deleted: there is nothing to report to.
        Err(error) if is_conflict(&error) || is_gone(&error) => return Ok(true),
        Err(error) => return Err(Error::Report(error)),
    }
    if seen.volume.status.phase != plan.phase {
        info!(
            namespace = seen.volume.namespace, name = seen.volume.name, phase = %plan.phase,
            waiting_for = plan.waiting.as_ref().map(Waiting::reason), "phase"
        );
        ctx.context.metrics.phase(plan.phase);
    }
    // After the status, so that each event is published once and is true.
    publish(target, &events(seen, plan), ctx).await;
    Ok(false)
}

/// The place of a clone's status.
enum Record<'a> {
    /// The DataVolume, or the claim that is populated without one.
    OnTarget,
    /// The claim of the DataVolume, from which CDI derives the DataVolume's status.
    OnClaim(&'a ObjectVersion),
    /// There is none yet, and CDI writes the status of the DataVolume: only events are left.
    Nowhere,
}

fn record_of(seen: &Observed) -> Record<'_> {
    let is_cdis = seen.volume.kind == TargetKind::DataVolume && seen.mode.is_beside();
    if !is_cdis && seen.volume.reported_by_cdi.is_none() {
        return Record::OnTarget;
    }
    let claim = seen.claim.present().filter(|claim| seen.volume.reported_by_cdi.is_some() && claim.is_record());
    claim.map_or(Record::Nowhere, |claim| Record::OnClaim(&claim.exact))
}

/// The status as annotations of a claim.
fn annotations(status: &DataVolumeStatus, seen: &Observed, plan: &Plan) -> Value {
    let annotations = match seen.volume.kind {
        _ if seen.mode == Mode::Alone => populator::annotations(status),
        TargetKind::DataVolume => populator::annotations_for_cdi(status, plan.waiting.as_ref()),
        TargetKind::Claim => populator::annotations_beside_cdi(status),
    };
    json!({ "metadata": { "annotations": annotations } })
}

/// Publishes the reason to wait of a clone that has no status, when it changes.
async fn publish_wait(target: CloneTarget<'_>, seen: &Observed, plan: &Plan, ctx: &Reconciler) {
    let Some(waiting) = &plan.waiting else { return };
    if ctx.indexes.in_cdis_place.is_new_wait(&seen.volume.uid, waiting.reason(), &waiting.message()) {
        publish(target, &events(seen, plan), ctx).await;
    }
}

/// Publishes the end of a clone that CDI has not reported.
pub async fn ended_for_cdi(target: CloneTarget<'_>, ctx: &Reconciler) {
    let note = "The clone is complete and may be used; CDI has not reported it".to_owned();
    publish(target, &[CloneEvent::normal("CloneSucceeded", note)], ctx).await;
}

/// Replaces the status of a DataVolume.
async fn write_volume_status(
    volume: &DataVolume,
    resource_version: Option<String>,
    status: DataVolumeStatus,
    ctx: &Reconciler,
) -> Result<(), kube::Error> {
    let mut updated = volume.clone();
    updated.metadata.resource_version = resource_version;
    updated.metadata.managed_fields = None;
    updated.status = Some(status);
    let api = Objects::<DataVolume>::namespaced(ctx.context.client.clone(), &volume.namespace().unwrap_or_default());
    api.replace_status(&volume.name_any(), &PostParams::default(), &updated).await.map(|_| ())
}

/// Publishes an event about a claim whose VolumeCloneSource is missing. It is the only report: without the source there is no status.
pub async fn no_clone_source(claim: &PersistentVolumeClaim, note: &str, ctx: &Reconciler) {
    let event = events::event(true, NO_CLONE_SOURCE, note, ACTION);
    events::publish(&[event], &claim.object_ref(&()), &ctx.context.recorder).await;
}

async fn publish(target: CloneTarget<'_>, clone_events: &[CloneEvent], ctx: &Reconciler) {
    let about = match target.kind {
        TargetKind::DataVolume => target.volume.object_ref(&()),
        TargetKind::Claim => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            ..target.volume.object_ref(&())
        },
    };
    let all: Vec<_> =
        clone_events.iter().map(|event| events::event(event.is_warning, &event.reason, &event.note, ACTION)).collect();
    events::publish(&all, &about, &ctx.context.recorder).await;
}

#[cfg(test)]
mod tests;
