//! The reconciler of clones: a pass observes, plans (in `common`), checks the invariants, applies the writes and reports.

pub mod access;
mod apply;
mod holders;
pub mod in_cdis_place;
mod inherit;
pub mod mover_progress;
pub mod observe;
pub mod refusals;
mod report;
mod snapshot_batch;
pub mod source;
mod status_throttle;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{DataVolume, Phase},
    clone::{Observed, Plan, Waiting, Write, check, observed::Authorization, plan::Turn, populator, step},
    lookup::Lookup,
    object::{ObjectName, TargetKind},
    requester::Reference,
};
use config::shutdown::Shutdown;
use futures::{Stream, StreamExt, future::ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Resource, ResourceExt,
    runtime::{Controller, controller::Action, reflector::ObjectRef},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use self::{
    access::{AccessCache, Act},
    mover_progress::ProgressTracker,
    refusals::Refusals,
    snapshot_batch::{Answer, Room, SnapshotBatches},
    status_throttle::StatusThrottle,
};
use crate::{
    Error,
    backoff::Backoff,
    context::{Context, name_of},
    periodic::{self, RESYNC, RETRY_NOT_SYNCED},
    triggers::{Indexes, dependents::Dependency},
};

/// The timeout of a pass. A pass makes a few writes, so only an API server that does not answer exceeds it.
const PASS_TIMEOUT: Duration = Duration::from_mins(1);

/// The time until a missing right is checked again. No watch reports a change of rights.
const RIGHTS_RETRY: Duration = Duration::from_secs(15);

/// The reconciler of clones, and the state that its passes share.
pub struct Reconciler {
    pub(crate) context: Arc<Context>,
    pub(crate) indexes: Indexes,
    batches: SnapshotBatches,
    access: AccessCache,
    status_throttle: StatusThrottle,
    refusals: Refusals,
    progress: ProgressTracker,
    cloner_image: String,
    backoff: Backoff,
}

impl Reconciler {
    /// A reconciler with empty state. `cloner_image` is the image of the data movers.
    pub fn new(context: Arc<Context>, indexes: Indexes, progress: ProgressTracker, cloner_image: String) -> Self {
        Self {
            context,
            indexes,
            batches: SnapshotBatches::default(),
            access: AccessCache::default(),
            status_throttle: StatusThrottle::default(),
            refusals: Refusals::default(),
            progress,
            cloner_image,
            backoff: Backoff::default(),
        }
    }
}

/// Reconciles the objects of `controller`, one pass at a time for each. `triggered` are those that depend on another object that has
/// changed.
pub async fn run<K, F>(
    controller: Controller<K>,
    triggered: impl Stream<Item = ObjectRef<K>> + Send + 'static,
    shutdown: Shutdown,
    pass: fn(Arc<K>, Arc<Reconciler>) -> F,
    reconciler: Arc<Reconciler>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    controller
        .reconcile_on(triggered)
        .graceful_shutdown_on(async move { shutdown.draining().await })
        .run(
            move |object: Arc<K>, reconciler: Arc<Reconciler>| async move {
                let outcome = pass(Arc::clone(&object), Arc::clone(&reconciler)).await;
                if outcome.is_ok() {
                    reconciler.backoff.forget(&*object);
                }
                outcome
            },
            |object, error, reconciler| reconciler.backoff.next(&*object, error),
            reconciler,
        )
        .for_each(|_| ready(()))
        .await;
}

/// The clone target: a DataVolume, or a DataVolume built from a claim that references a VolumeCloneSource (volume populator).
#[derive(Clone, Copy)]
pub struct CloneTarget<'a> {
    /// The DataVolume, or the one that was built from the claim.
    pub volume: &'a DataVolume,
    /// The kind of the object that the clone is for.
    pub kind: TargetKind,
    /// The right of the requester to follow the reference that names the source.
    pub reference: &'a Lookup<Authorization>,
}

/// No reference into another namespace, or one that the requester may follow.
const ALLOWED: Lookup<Authorization> = Lookup::Present(Authorization::Allowed);

/// Reconciles one DataVolume: brings it one step nearer to the strategy in its annotation.
pub async fn reconcile(volume: Arc<DataVolume>, ctx: Arc<Reconciler>) -> Result<Action, Error> {
    reconcile_within_timeout(CloneTarget { volume: &volume, kind: TargetKind::DataVolume, reference: &ALLOWED }, &ctx)
        .await
}

/// Reconciles one claim that is populated without a DataVolume.
pub async fn populate(claim: Arc<PersistentVolumeClaim>, ctx: Arc<Reconciler>) -> Result<Action, Error> {
    let Some((namespace, name)) = populator::wanted(&claim) else {
        ctx.indexes.claims_by_clone_source.record(&name_of(&*claim), Vec::new());
        return Ok(Action::await_change());
    };
    let source = ObjectName { namespace: namespace.clone(), name: name.clone() };
    if claim.namespace().as_ref() != Some(&namespace) {
        let act = Act::Follow(Reference::VolumeCloneSource, source.clone());
        let reference = access::ask(&claim.metadata, act, &ctx).await;
        if reference != ALLOWED {
            // Only a requester who may get the VolumeCloneSource learns if it exists and what it contains. Others see the same result in
            // both cases.
            let volume = populator::as_data_volume(&claim, &populator::unread(&source));
            return reconcile_within_timeout(
                CloneTarget { volume: &volume, kind: TargetKind::Claim, reference: &reference },
                &ctx,
            )
            .await;
        }
    }
    ctx.indexes.claims_by_clone_source.record(&name_of(&*claim), vec![Dependency::CloneSource(source.clone())]);
    match ctx.context.caches.clone_sources.get(Some(&namespace), &name) {
        Lookup::Present(source) => {
            let volume = populator::as_data_volume(&claim, &source);
            reconcile_within_timeout(
                CloneTarget { volume: &volume, kind: TargetKind::Claim, reference: &ALLOWED },
                &ctx,
            )
            .await
        }
        // The event of its creation starts the next pass.
        Lookup::Absent => {
            let note = format!("The VolumeCloneSource {source} does not exist; the claim is filled when it appears");
            report::no_clone_source(&claim, &note, &ctx).await;
            Ok(Action::await_change())
        }
        Lookup::Unknown(_) => Ok(Action::requeue(Duration::from_secs(1))),
    }
}

async fn reconcile_within_timeout(target: CloneTarget<'_>, ctx: &Reconciler) -> Result<Action, Error> {
    let timer = ctx.context.metrics.pass();
    let outcome = timeout(PASS_TIMEOUT, Box::pin(pass(target, ctx))).await.unwrap_or(Err(Error::Late(PASS_TIMEOUT)));
    timer.done(&outcome);
    outcome
}

async fn pass(target: CloneTarget<'_>, ctx: &Reconciler) -> Result<Action, Error> {
    let now = Timestamp::now();
    if periodic::mode(&ctx.context).present().is_none() {
        return Ok(Action::requeue(RETRY_NOT_SYNCED)); // whether the clone is CDI's is not known yet
    }
    let permitted = observe::permitted(target, ctx).await; // the requester's rights, before anything else
    let here = ObjectName { namespace: target.volume.namespace().unwrap_or_default(), name: target.volume.name_any() };
    ctx.indexes.dependents.record(&here, permitted.dependencies());
    let observed = observe::observe(permitted, ctx, now); // reads only
    let observed = if observed.is_closed() {
        ctx.indexes.dependents.add(&here, Dependency::Nodes);
        Observed { holders: holders::observe(&observed, ctx).await, ..observed } // asks the API server, not a cache
    } else {
        observed
    };
    let observed = refusals::with_known(observed, ctx); // what the driver refused to its namespace
    let Some(plan) = step(&observed) else { return Ok(Action::await_change()) }; // pure: no reads, no clock
    let turn = turn(&observed, &plan, ctx); // whether other clones of the source go first
    let plan = plan.with_turn(&turn);
    let violations = check::violations(&observed, &plan); // the invariants, once more, on real data
    if !violations.is_empty() {
        return Err(Error::refused(&violations));
    }
    let writes = apply::apply_writes(target, &plan.actions, ctx); // each carries its precondition
    if plan.phase == Phase::Succeeded && !plan.actions.iter().any(Write::before_status) {
        // The remaining writes don't delay the status that the user waits for. Neither depends on the other.
        let (done, stale) = tokio::join!(writes, report::report(target, None, &observed, &plan, ctx));
        let stale = done?.stale | stale?;
        return Ok(finish(&observed, &plan, stale, ctx).await);
    }
    let done = writes.await;
    asked(&plan, &turn, done.as_ref().is_ok_and(|done| !done.stale && done.refused.is_none()), ctx);
    let done = done?;
    let plan = match done.refused {
        Some(why) => plan.refused(why, &observed),
        None => plan,
    };
    if let (false, Some(rest)) = (done.stale, ctx.status_throttle.delay(&observed, &plan, Instant::now())) {
        return Ok(Action::requeue(rest));
    }
    let stale = done.stale | report::report(target, done.resource_version, &observed, &plan, ctx).await?; // only what changed
    Ok(finish(&observed, &plan, stale, ctx).await)
}

/// Ends a pass: records the driver's refusals and returns the time of the next pass.
async fn finish(observed: &Observed, plan: &Plan, stale: bool, ctx: &Reconciler) -> Action {
    refusals::record(observed, plan, ctx).await; // what the driver refused, for others
    ctx.progress.follow(observed);
    next(plan, stale, observed.now)
}

/// Decides if this pass may create the snapshot that the clone needs, and for which clones.
fn turn(observed: &Observed, plan: &Plan, ctx: &Reconciler) -> Turn {
    let (Some(wanted), Lookup::Present(group)) = (&plan.wanted_snapshot, &observed.group) else {
        ctx.batches.leave(&observed.volume.uid);
        return Turn::Later(None);
    };
    let name = ObjectName { namespace: observed.volume.namespace.clone(), name: observed.volume.name.clone() };
    let room = Room {
        is_cutting: group.is_cutting(),
        of: |namespace: &str| group.has_room(namespace, observed.now, |uid, name| waits(uid, name, ctx)),
    };
    match ctx.batches.join(wanted.as_ref().into(), (&observed.volume.uid, name), room, Instant::now()) {
        Answer::Ask(members) => Turn::Now(members),
        Answer::Wait(rest) => Turn::Later(observed.now.checked_add(rest).ok()),
    }
}

/// Reports to the batch if the snapshot was created.
fn asked(plan: &Plan, turn: &Turn, served: bool, ctx: &Reconciler) {
    if let (Some(wanted), Turn::Now(members)) = (&plan.wanted_snapshot, turn) {
        ctx.batches.finish(&wanted.as_ref().into(), served.then_some(members), Instant::now());
    }
}

/// True if a member of a snapshot exists and is not done.
fn waits(uid: &str, name: &ObjectName, ctx: &Reconciler) -> bool {
    let volume = ctx.context.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let Some(volume) = volume.present().filter(|volume| volume.uid().as_deref() == Some(uid)) else {
        let claim = ctx.context.caches.claims.get(Some(&name.namespace), &name.name);
        return claim.present().is_some_and(|claim| claim.uid().as_deref() == Some(uid));
    };
    let phase = volume.status.as_ref().map(|status| status.phase).unwrap_or_default();
    volume.metadata.deletion_timestamp.is_none() && !matches!(phase, Phase::Succeeded | Phase::Failed)
}

/// The time of the next pass if no event starts one earlier: at a deadline; soon after a conflict (the event of the newer object is on its
/// way); after [`RIGHTS_RETRY`] if the API server refused a write or the requester lacks a right (no watch may report the change); else the
/// resync interval.
fn next(plan: &Plan, stale: bool, now: Timestamp) -> Action {
    let after = match plan.look_again_at {
        _ if stale => Duration::from_secs(1),
        // Objects in the source's namespace are removed step by step.
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
