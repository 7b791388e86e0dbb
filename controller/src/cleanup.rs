//! The cleanup: removes temporary objects whose owner is gone, shared snapshots that no clone needs, and finalizers that CDI left behind.
//! `common::clone::cleanup` decides. The API server itself is asked if an owner exists, because caches lag behind.

mod former;
mod lost;

use common::object::ClaimPhase;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    api::{
        DataVolume,
        snapshot::{VolumeSnapshot, VolumeSnapshotContent},
    },
    clone::{
        claim::{Claim, Content, kept},
        cleanup::{Member, Owner, need, needs_its_own, owner_of, retry_after},
        observed::Target,
        ownership, populator,
        shared_snapshot::{Need, SharedSnapshot, superfluous},
    },
    lookup::Lookup,
    mode::Mode,
    names,
    object::{ObjectName, ObjectVersion, exact},
    storage::snapshot_class::RETAIN,
};
use config::{api::Objects, shutdown::Shutdown};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::PersistentVolumeClaim};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::{
    clone::{Reconciler, source},
    periodic::{self, RESYNC, RETRY_NOT_SYNCED, Trigger},
    write,
};

/// The delay of a run, so that it serves a burst of events.
const BURST_DELAY: Duration = Duration::from_millis(100);

/// Objects that could not be removed, by UID: the number of failures in a row, and the time of the next attempt. An error belongs to one
/// object; the others are removed all the same.
#[derive(Default)]
struct Failures(HashMap<String, (u32, Instant)>);

impl Failures {
    fn is_due(&self, uid: &str, now: Instant) -> bool {
        self.0.get(uid).is_none_or(|(_, at)| *at <= now)
    }

    /// Records a failure. Returns the time until the next attempt.
    fn note(&mut self, uid: &str, now: Instant) -> Duration {
        let (failures, at) = self.0.entry(uid.to_owned()).or_insert((0, now));
        *failures = failures.saturating_add(1);
        let after = retry_after(*failures);
        *at = now + after;
        after
    }

    fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// The time until the first object is due. Those that were not tried for long are gone.
    fn next(&mut self, now: Instant) -> Option<Duration> {
        self.0.retain(|_, (_, at)| now.saturating_duration_since(*at) < RESYNC);
        self.0.values().map(|(_, at)| at.saturating_duration_since(now)).min()
    }
}

/// A run of the cleanup.
struct Cleanup<'a> {
    ctx: &'a Reconciler,
    failures: &'a mut Failures,
    /// True if the API server does not answer. The rest then waits for the next run.
    cut_off: bool,
}

/// Runs the cleanup whenever it is triggered.
pub async fn run(ctx: Arc<Reconciler>, trigger: Trigger, shutdown: Shutdown) {
    let failures = Arc::<Mutex<Failures>>::default();
    periodic::run(trigger, shutdown, || {
        let (ctx, failures) = (Arc::clone(&ctx), Arc::clone(&failures));
        async move {
            tokio::time::sleep(BURST_DELAY).await;
            clean_up(&ctx, &mut *failures.lock().await).await
        }
    })
    .await;
}

/// Removes what nothing needs any more. Returns the time until the next run.
async fn clean_up(ctx: &Reconciler, failures: &mut Failures) -> Duration {
    let mode = match periodic::mode(&ctx.context) {
        Lookup::Present(Mode::Passive(_)) => return RESYNC,
        Lookup::Present(mode) => mode,
        Lookup::Absent | Lookup::Unknown(_) => return RETRY_NOT_SYNCED,
    };
    let mut cleanup = Cleanup { ctx, failures, cut_off: false };
    cleanup.snapshots().await;
    cleanup.orphans(&ctx.context.caches.claims.known_objects()).await;
    cleanup.orphans(&ctx.context.caches.pods.known_objects()).await;
    if mode == Mode::Alone {
        cleanup.former_finalizers().await;
    } else {
        cleanup.lost_volumes().await;
    }
    // A removal that fails is not retried at once.
    failures.next(Instant::now()).map_or(RESYNC, |next| next.max(BURST_DELAY))
}

impl Cleanup<'_> {
    /// True if this object is due in this run.
    fn is_due(&self, meta: &ObjectMeta) -> bool {
        !self.cut_off && self.failures.is_due(meta.uid.as_deref().unwrap_or_default(), Instant::now())
    }

    /// Records the outcome for one object.
    fn done(&mut self, kind: &str, meta: &ObjectMeta, result: Result<bool, kube::Error>) {
        let uid = meta.uid.as_deref().unwrap_or_default();
        let (namespace, name) = (&meta.namespace, &meta.name);
        match result {
            Ok(removed) => {
                self.failures.forget(uid);
                if removed {
                    info!(kind, namespace, name, "deleted what nobody needs any more");
                }
            }
            Err(error) => {
                let retry_in = self.failures.note(uid, Instant::now());
                self.cut_off = !matches!(error, kube::Error::Api(_) | kube::Error::SerdeError(_));
                warn!(
                    kind, namespace, name, error = %config::Chain(&error), ?retry_in,
                    "what nobody needs any more could not be deleted"
                );
            }
        }
    }

    /// Removes shared snapshots that no member needs. Makes sure that the snapshot in the storage system is deleted with each.
    async fn snapshots(&mut self) {
        for snapshot in self.ctx.context.caches.snapshots.known_objects() {
            let shared = SharedSnapshot::of(&snapshot);
            if !shared.ours || !self.is_due(&snapshot.metadata) {
                continue;
            }
            // Done as soon as the content exists: whoever deletes the clone or its namespace deletes the snapshot with it, without us. The
            // event of the content starts the next run; until then the snapshot controller may still have the old policy.
            if let Some(content) = retained_content(&shared, self.ctx) {
                let result = write::discard_content(&content, &self.ctx.context.client).await;
                let result = match result {
                    Err(error) if write::is_conflict(&error) || write::is_gone(&error) => Ok(()),
                    result => result,
                };
                self.done("VolumeSnapshot", &snapshot.metadata, result.map(|()| false));
                continue;
            }
            if shared.deleting || restoring(&shared, self.ctx) {
                continue;
            }
            let result = remove_snapshot(&shared, self.ctx).await;
            self.done("VolumeSnapshot", &snapshot.metadata, result);
        }
    }

    /// Removes temporary objects whose owner is gone.
    async fn orphans<K>(&mut self, all: &[Arc<K>])
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        for object in all {
            let meta = object.meta();
            let Some(owner) = owner_of(meta) else { continue };
            if is_cached(&owner, self.ctx) || !self.is_due(meta) {
                continue;
            }
            let result = remove_orphan::<K>(meta, &owner, self.ctx).await;
            self.done(&K::kind(&()), meta, result);
        }
    }
}

/// Removes a shared snapshot if no member needs it. Returns true if it did.
async fn remove_snapshot(shared: &SharedSnapshot, ctx: &Reconciler) -> Result<bool, kube::Error> {
    let mut needs = Vec::new();
    for (uid, name) in &shared.members {
        let state = need_of_member(uid, name, shared, ctx).await?;
        needs.push(state);
        if state != Need::Over {
            break;
        }
    }
    if !superfluous(needs) {
        return Ok(false);
    }
    write::delete::<VolumeSnapshot>(&shared.exact, &ctx.context.client).await?;
    Ok(true)
}

/// Removes a temporary object unless its owner exists. Returns true if it did.
async fn remove_orphan<K>(meta: &ObjectMeta, owner: &Owner, ctx: &Reconciler) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    if exists(owner, ctx).await? {
        return Ok(false);
    }
    let kept = kept(meta);
    // The policy of the volume is set before the claim is gone. A claim that our finalizer does not keep is gone as soon as it is deleted.
    if let Some(volume) = retained_volume(meta, ctx).filter(|_| kept.is_none() || meta.deletion_timestamp.is_some()) {
        write::discard_volume(&volume, &ctx.context.client).await?;
        return Ok(false);
    }
    match kept {
        Some(rest) if meta.deletion_timestamp.is_some() => {
            write::release(&exact(meta), &rest, &ctx.context.client).await?;
        }
        Some(_) | None => write::delete::<K>(&exact(meta), &ctx.context.client).await?,
    }
    Ok(true)
}

/// The content that refers to a temporary snapshot by UID, if its `deletionPolicy` is `Retain` and it is not being deleted.
fn retained_content(shared: &SharedSnapshot, ctx: &Reconciler) -> Option<ObjectVersion> {
    let contents = ctx.context.caches.contents.known_objects();
    let is_its = |content: &&Arc<VolumeSnapshotContent>| {
        content.spec.volume_snapshot_ref.uid.as_ref() == Some(&shared.exact.uid)
            && content.spec.deletion_policy == RETAIN
            && content.metadata.deletion_timestamp.is_none()
    };
    contents.iter().find(is_its).map(|content| exact(&content.metadata))
}

/// The volume of a temporary claim, if it would remain after the claim is deleted.
fn retained_volume(meta: &ObjectMeta, ctx: &Reconciler) -> Option<ObjectVersion> {
    let found = ctx.context.caches.claims.get(meta.namespace.as_deref(), meta.name.as_deref()?);
    let claim = found.present().filter(|claim| claim.uid() == meta.uid)?;
    let volume = source::volume_of(claim, ctx);
    let uid = meta.uid.as_deref()?;
    Claim::of(claim, ownership::Owner::Ours, uid, volume.present().map(AsRef::as_ref), None).retained
}

/// True if a claim is being restored from the snapshot. Its deletion now would leave finalizers behind (external-provisioner#1449).
fn restoring(shared: &SharedSnapshot, ctx: &Reconciler) -> bool {
    ctx.context.caches.claims.known_objects().iter().any(|claim| {
        let source = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref());
        claim.namespace().as_deref() == Some(&shared.exact.namespace)
            && source.is_some_and(|source| source.kind == "VolumeSnapshot" && source.name == shared.exact.name)
            && claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound")
            && claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost")
    })
}

/// Returns the need that the clone `uid` has for the snapshot.
async fn need_of_member(
    uid: &str,
    name: &ObjectName,
    shared: &SharedSnapshot,
    ctx: &Reconciler,
) -> Result<Need, kube::Error> {
    let claim = ctx.context.caches.claims.get(Some(&name.namespace), &name.name);
    let volume = ctx.context.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let target = match (&volume, &claim) {
        (Lookup::Unknown(_), _) | (_, Lookup::Unknown(_)) => return Ok(Need::Unknown),
        (Lookup::Present(volume), _) if volume.uid().as_deref() == Some(uid) => Target::of(volume),
        (_, Lookup::Present(claim)) if claim.uid().as_deref() == Some(uid) => {
            let Some((namespace, source)) = populator::wanted(claim) else { return Ok(Need::Over) };
            match ctx.context.caches.clone_sources.get(Some(&namespace), &source) {
                Lookup::Present(source) => Target::of(&populator::as_data_volume(claim, &source)),
                Lookup::Absent => return Ok(Need::Over),
                Lookup::Unknown(_) => return Ok(Need::Unknown),
            }
        }
        // The clone is gone, or newer than the caches.
        _ => {
            let owner = Owner { uid: uid.to_owned(), name: name.clone() };
            return Ok(if exists(&owner, ctx).await? { Need::Needed } else { Need::Over });
        }
    };
    let temporary = ctx.context.caches.claims.get(Some(&shared.exact.namespace), &names::temporary_claim(uid));
    let read = |claim: &Lookup<Arc<PersistentVolumeClaim>>| {
        claim.present().map(|claim| {
            Claim::of(
                claim,
                ownership::Owner::Ours,
                uid,
                source::volume_of(claim, ctx).present().map(AsRef::as_ref),
                None,
            )
        })
    };
    // The binding of a claim that the user created says nothing about the restore in the source's namespace.
    let filled = |claim: &Claim| claim.content != Content::HeldBack || claim.phase == ClaimPhase::Bound;
    let member = Member {
        deleting: target.deleting,
        phase: target.status.phase,
        history: target.history,
        claim: read(&claim).filter(filled),
        temporary: read(&temporary),
        waits_for: common::clone::cleanup::waits_for(&target.status, shared.created),
    };
    Ok(need(&member, &shared.exact.name))
}

/// True if the caches have the owner. They may lag behind the API server, but never run ahead of it.
fn is_cached(owner: &Owner, ctx: &Reconciler) -> bool {
    let (namespace, name) = (Some(owner.name.namespace.as_str()), owner.name.name.as_str());
    let volume = ctx.context.caches.data_volumes.get(namespace, name);
    let claim = ctx.context.caches.claims.get(namespace, name);
    volume.present().is_some_and(|volume| needs_its_own(&volume.metadata, &owner.uid))
        || claim.present().is_some_and(|claim| needs_its_own(&claim.metadata, &owner.uid))
}

/// Asks the API server if the owner exists, because the caches may lag behind. Reads its metadata only, which can always be decoded.
async fn exists(owner: &Owner, ctx: &Reconciler) -> Result<bool, kube::Error> {
    let ObjectName { namespace, name } = &owner.name;
    let there = |found: Option<ObjectMeta>| found.is_some_and(|meta| needs_its_own(&meta, &owner.uid));
    let volumes = Objects::<DataVolume>::namespaced(ctx.context.client.clone(), namespace);
    if there(volumes.metadata(name).await?) {
        return Ok(true);
    }
    let claims = Objects::<PersistentVolumeClaim>::namespaced(ctx.context.client.clone(), namespace);
    Ok(there(claims.metadata(name).await?))
}

#[cfg(test)]
mod tests;
