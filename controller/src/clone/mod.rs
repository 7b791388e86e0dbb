//! One clone, one pass.

pub mod authorize;
pub mod haste;
mod holders;
pub mod learn;
pub mod observe;
mod report;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{DataVolume, Phase},
    clone::{
        Action as Write, Observed, Plan, Waiting, check,
        group::Members,
        plan::Authorization,
        populate,
        request::{MadeFor, ObjectName},
        step,
    },
    lookup::Lookup,
    requester::Reference,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{ResourceExt, runtime::controller::Action};
use tokio::time::timeout;

use self::authorize::Act;
use crate::{
    Error,
    index::Key,
    rally::{Cut, Turn},
    run::{Context, name_of},
    write,
};

/// A pass makes a handful of writes; longer than this and the API server is in trouble.
const LIMIT: Duration = Duration::from_mins(1);

/// The net under the watches: a pass without a cause, at most this often.
const RESYNC: Duration = Duration::from_mins(10);

/// A right that is missing is asked for again after this time: no watch tells of rights.
const RIGHTS_RETRY: Duration = Duration::from_secs(15);

/// What is cloned into: a DataVolume, or the picture of a claim that is filled without one.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The DataVolume, or the picture.
    pub volume: &'a DataVolume,
    /// Which of the two.
    pub kind: MadeFor,
    /// Whether the requester may follow the reference by which the source is named.
    pub reference: &'a Lookup<Authorization>,
}

/// No reference into another namespace, or one that the requester may follow.
const ALLOWED: Lookup<Authorization> = Lookup::Present(Authorization::Allowed);

/// Brings one DataVolume one step nearer to what its annotation promises.
pub async fn reconcile(volume: Arc<DataVolume>, ctx: Arc<Context>) -> Result<Action, Error> {
    limited(Subject { volume: &volume, kind: MadeFor::DataVolume, reference: &ALLOWED }, &ctx).await
}

/// Brings one claim, that is to be filled without a DataVolume, one step nearer to that.
pub async fn populate(claim: Arc<PersistentVolumeClaim>, ctx: Arc<Context>) -> Result<Action, Error> {
    let Some((namespace, name)) = populate::wanted(&claim) else {
        ctx.clone_sources.note(&name_of(&*claim), Vec::new());
        return Ok(Action::await_change());
    };
    let source = ObjectName { namespace: namespace.clone(), name: name.clone() };
    if claim.namespace().as_ref() != Some(&namespace) {
        let act = Act::Follow(Reference::VolumeCloneSource, source.clone());
        let reference = authorize::ask(&claim.metadata, act, &ctx).await;
        if reference != ALLOWED {
            // What it names, and whether it exists, is told to those who may get it: this is the same for one that isn't there.
            let picture = populate::picture(&claim, &populate::unread(&source));
            return limited(Subject { volume: &picture, kind: MadeFor::Claim, reference: &reference }, &ctx).await;
        }
    }
    ctx.clone_sources.note(&name_of(&*claim), vec![Key::CloneSource(source.clone())]);
    match ctx.caches.clone_sources.get(Some(&namespace), &name) {
        Lookup::Present(source) => {
            let picture = populate::picture(&claim, &source);
            limited(Subject { volume: &picture, kind: MadeFor::Claim, reference: &ALLOWED }, &ctx).await
        }
        // Its event wakes us.
        Lookup::Absent => {
            let note = format!("The VolumeCloneSource {source} does not exist; the claim is filled when it appears");
            report::no_clone_source(&claim, note, &ctx).await;
            Ok(Action::await_change())
        }
        Lookup::Unknown(_) => Ok(Action::requeue(Duration::from_secs(1))),
    }
}

async fn limited(subject: Subject<'_>, ctx: &Context) -> Result<Action, Error> {
    let timer = ctx.metrics.pass();
    let outcome = timeout(LIMIT, pass(subject, ctx)).await.unwrap_or(Err(Error::Late(LIMIT)));
    timer.done(&outcome);
    outcome
}

async fn pass(subject: Subject<'_>, ctx: &Context) -> Result<Action, Error> {
    let now = Timestamp::now();
    let mut seen = observe::everything(subject, ctx, now).await; // reads; no opinions
    learn::recall(&mut seen, ctx); // what the driver refused to its namespace
    let Some(mut plan) = step(&seen) else { return Ok(Action::await_change()) }; // opinions; no reads, no clock
    let turn = if plan.wants_snapshot {
        gather(&mut seen, &mut plan, ctx)
    } else {
        ctx.rally.forget(&seen.volume.uid);
        None
    };
    let violations = check::violations(&seen, &plan); // the invariants, once more, on real data
    if !violations.is_empty() {
        return Err(Error::refused(&violations));
    }
    let writes = write::each(subject, &plan.actions, ctx); // each carries its precondition
    let stale = if plan.phase == Phase::Succeeded && !plan.actions.iter().any(Write::comes_first) {
        // What is left to write can wait; what the user waits for can't. Neither needs the other to have happened.
        let (done, stale) = tokio::join!(writes, report::changes(subject, None, &seen, &plan, ctx));
        done?.stale | stale?
    } else {
        let done = writes.await;
        if let Some((cut, members)) = turn {
            let served = done.as_ref().is_ok_and(|done| !done.stale && done.refused.is_none());
            ctx.rally.leave(&cut, served.then_some(&members), Instant::now());
        }
        let done = done?;
        if let Some(refused) = done.refused {
            plan.refused(refused, &seen);
        }
        if let (false, Some(rest)) = (done.stale, ctx.haste.withhold(&seen, &plan, Instant::now())) {
            return Ok(Action::requeue(rest));
        }
        done.stale | report::changes(subject, done.resource_version, &seen, &plan, ctx).await? // only what changed
    };
    learn::from(&seen, &plan, ctx).await; // what the driver refused, for others
    ctx.progress.follow(&seen);
    Ok(next(&plan, stale, now))
}

/// The clone needs a snapshot. If it is its turn, the plan is made once more, with those for whom it is to be taken.
fn gather(seen: &mut Observed, plan: &mut Plan, ctx: &Context) -> Option<(Cut, Members)> {
    let chosen = plan.chosen.as_ref()?;
    let cut = (chosen.source_uid.clone(), chosen.snapshot_class.clone());
    let name = ObjectName { namespace: seen.volume.namespace.clone(), name: seen.volume.name.clone() };
    let Lookup::Present(group) = &mut seen.group else { return None };
    let has_room = |namespace: &str| group.has_room(namespace, seen.now, |uid, name| waits(uid, name, ctx));
    match ctx.rally.enter(cut.clone(), (&seen.volume.uid, name), has_room, Instant::now()) {
        Turn::Later(rest) => {
            group.again_at = seen.now.checked_add(rest).ok();
            plan.look_again_at = [plan.look_again_at, group.again_at].into_iter().flatten().min();
            None
        }
        Turn::Now(members) => {
            group.turn = Some(members.clone());
            if let Some(next) = step(seen) {
                *plan = next;
            }
            Some((cut, members))
        }
    }
}

/// Whether a member of a snapshot is there and not done.
fn waits(uid: &str, name: &ObjectName, ctx: &Context) -> bool {
    let volume = ctx.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let Some(volume) = volume.present().filter(|volume| volume.uid().as_deref() == Some(uid)) else {
        let claim = ctx.caches.claims.get(Some(&name.namespace), &name.name);
        return claim.present().is_some_and(|claim| claim.uid().as_deref() == Some(uid));
    };
    let phase = volume.status.as_ref().map(|status| status.phase).unwrap_or_default();
    volume.metadata.deletion_timestamp.is_none() && !matches!(phase, Phase::Succeeded | Phase::Failed)
}

/// When to look again although nothing is heard: at a deadline, soon after a write that met a newer object (its event is on the way), after a
/// while when the API server refused something or the requester lacks a right (what was missing need not be of a kind that we watch), else in the slow resync.
fn next(plan: &Plan, stale: bool, now: Timestamp) -> Action {
    let after = match plan.look_again_at {
        _ if stale => Duration::from_secs(1),
        // What was made beside the source goes step by step.
        _ if matches!(plan.waiting, Some(Waiting::NotAuthorized(_))) && !plan.actions.is_empty() => {
            Duration::from_secs(1)
        }
        _ if matches!(plan.waiting, Some(Waiting::Refused { .. } | Waiting::NotAuthorized(_))) => RIGHTS_RETRY,
        Some(at) => Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10),
        None if plan.waiting.is_none() && plan.actions.is_empty() => return Action::await_change(),
        None => RESYNC,
    };
    Action::requeue(after.min(RESYNC))
}

/// For logs.
pub fn named(subject: Subject<'_>) -> (String, String) {
    (subject.volume.namespace().unwrap_or_default(), subject.volume.name_any())
}
