//! The reconciler of clones: a pass observes, plans (in `common`), checks the invariants, applies the writes and reports.

pub mod access;
mod apply;
mod holders;
pub mod mover_progress;
pub mod observe;
pub mod refusals;
mod report;
mod snapshot_batch;
mod status_throttle;

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{DataVolume, Phase},
    clone::{
        Observed, Plan, Waiting, Write, check,
        observed::{Authorization, MoverSettings},
        populator,
        shared_snapshot::Members,
        step,
    },
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
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::ObjectRef,
    },
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use self::{
    access::{AccessCache, Act},
    mover_progress::ProgressTracker,
    refusals::Refusals,
    snapshot_batch::{BatchKey, SnapshotBatches, Turn},
    status_throttle::StatusThrottle,
};
use crate::{
    Error,
    backoff::Backoff,
    context::{Context, name_of},
    periodic::RESYNC,
    triggers::{Indexes, dependents::Dependency},
};

/// The timeout of a pass. A pass makes a few writes, so only an API server that does not answer exceeds it.
const PASS_TIMEOUT: Duration = Duration::from_mins(1);

/// A right that is missing is asked for again after this time: no watch tells of rights.
const RIGHTS_RETRY: Duration = Duration::from_secs(15);

/// The reconciler of clones, and what its passes share.
pub struct Reconciler {
    pub(crate) context: Arc<Context>,
    pub(crate) indexes: Indexes,
    batches: SnapshotBatches,
    access: AccessCache,
    status_throttle: StatusThrottle,
    refusals: Refusals,
    progress: ProgressTracker,
    mover_settings: MoverSettings,
    backoff: Backoff,
}

impl Reconciler {
    /// A reconciler that knows nothing yet. `cloner_image` is the image of the pods that copy.
    pub fn new(context: Arc<Context>, indexes: Indexes, progress: ProgressTracker, cloner_image: String) -> Self {
        Self {
            context,
            indexes,
            batches: SnapshotBatches::default(),
            access: AccessCache::default(),
            status_throttle: StatusThrottle::default(),
            refusals: Refusals::default(),
            progress,
            mover_settings: MoverSettings { image: cloner_image },
            backoff: Backoff::default(),
        }
    }
}

/// Reconciles the objects of `controller`, one pass at a time for each. `triggered` are those that depend on another object that has changed.
pub async fn run<K, F>(
    controller: Controller<K>,
    triggered: impl Stream<Item = ObjectRef<K>> + Send + 'static,
    concurrency: u16,
    shutdown: Shutdown,
    pass: fn(Arc<K>, Arc<Reconciler>) -> F,
    reconciler: Arc<Reconciler>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    controller
        .with_config(controller::Config::default().concurrency(concurrency))
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
    /// Which of the two.
    pub kind: TargetKind,
    /// Whether the requester may follow the reference by which the source is named.
    pub reference: &'a Lookup<Authorization>,
}

/// No reference into another namespace, or one that the requester may follow.
const ALLOWED: Lookup<Authorization> = Lookup::Present(Authorization::Allowed);

/// Brings one DataVolume one step nearer to what its annotation promises.
pub async fn reconcile(volume: Arc<DataVolume>, ctx: Arc<Reconciler>) -> Result<Action, Error> {
    reconcile_within_timeout(CloneTarget { volume: &volume, kind: TargetKind::DataVolume, reference: &ALLOWED }, &ctx)
        .await
}

/// Brings one claim, that is to be filled without a DataVolume, one step nearer to that.
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
            // What it names, and whether it exists, is told to those who may get it: this is the same for one that isn't there.
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
        // Its event wakes us.
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
    let outcome = timeout(PASS_TIMEOUT, pass(target, ctx)).await.unwrap_or(Err(Error::Late(PASS_TIMEOUT)));
    timer.done(&outcome);
    outcome
}

async fn pass(target: CloneTarget<'_>, ctx: &Reconciler) -> Result<Action, Error> {
    let now = Timestamp::now();
    let mut seen = observe::observe(target, ctx, now).await; // reads; no opinions
    refusals::add_known(&mut seen, ctx); // what the driver refused to its namespace
    let Some(mut plan) = step(&seen) else { return Ok(Action::await_change()) }; // opinions; no reads, no clock
    let turn = if plan.wants_snapshot {
        gather(&mut seen, &mut plan, ctx)
    } else {
        ctx.batches.forget(&seen.volume.uid);
        None
    };
    let violations = check::violations(&seen, &plan); // the invariants, once more, on real data
    if !violations.is_empty() {
        return Err(Error::refused(&violations));
    }
    let writes = apply::apply_writes(target, &plan.actions, ctx); // each carries its precondition
    let stale = if plan.phase == Phase::Succeeded && !plan.actions.iter().any(Write::before_status) {
        // What is left to write can wait; what the user waits for can't. Neither needs the other to have happened.
        let (done, stale) = tokio::join!(writes, report::report(target, None, &seen, &plan, ctx));
        done?.stale | stale?
    } else {
        let done = writes.await;
        if let Some((key, members)) = turn {
            let served = done.as_ref().is_ok_and(|done| !done.stale && done.refused.is_none());
            ctx.batches.finish(&key, served.then_some(&members), Instant::now());
        }
        let done = done?;
        if let Some(refused) = done.refused {
            plan.refused(refused, &seen);
        }
        if let (false, Some(rest)) = (done.stale, ctx.status_throttle.delay(&seen, &plan, Instant::now())) {
            return Ok(Action::requeue(rest));
        }
        done.stale | report::report(target, done.resource_version, &seen, &plan, ctx).await? // only what changed
    };
    refusals::record(&seen, &plan, ctx).await; // what the driver refused, for others
    ctx.progress.follow(&seen);
    Ok(next(&plan, stale, now))
}

/// The clone needs a snapshot. If it is its turn, the plan is made once more, with those for whom it is to be taken.
fn gather(seen: &mut Observed, plan: &mut Plan, ctx: &Reconciler) -> Option<(BatchKey, Members)> {
    let chosen = plan.chosen.as_ref()?;
    let key = (chosen.source_uid.clone(), chosen.snapshot_class.clone());
    let name = ObjectName { namespace: seen.volume.namespace.clone(), name: seen.volume.name.clone() };
    let Lookup::Present(group) = &mut seen.group else { return None };
    let has_room = |namespace: &str| group.has_room(namespace, seen.now, |uid, name| waits(uid, name, ctx));
    match ctx.batches.join(key.clone(), (&seen.volume.uid, name), has_room, Instant::now()) {
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
            Some((key, members))
        }
    }
}

/// Whether a member of a snapshot is there and not done.
fn waits(uid: &str, name: &ObjectName, ctx: &Reconciler) -> bool {
    let volume = ctx.context.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let Some(volume) = volume.present().filter(|volume| volume.uid().as_deref() == Some(uid)) else {
        let claim = ctx.context.caches.claims.get(Some(&name.namespace), &name.name);
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
