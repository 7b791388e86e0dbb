//! Removes what nobody needs any more: shared snapshots that all their members have been restored from, and temporary objects whose owner
//! is gone. What is right is said by `common::clone::sweep`; an owner counts as gone only when the API server itself says so.

use std::{sync::Arc, time::Duration};

use common::{
    api::{DataVolume, snapshot::VolumeSnapshot},
    clone::{
        group::{Need, Shared, superfluous},
        plan::{Claim, Content, Target, exact},
        populate,
        request::ObjectName,
        sweep::{Member, need},
    },
    lookup::Lookup,
    meta, names,
};
use config::shutdown::Shutdown;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::PersistentVolumeClaim};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::{
    clone::observe,
    level::{self, Bell, RESYNC, SOON},
    run::Context,
    write,
};

/// Things happen in flocks; one look serves them all.
const FLOCK: Duration = Duration::from_millis(100);

/// Sweeps whenever the bell was rung.
pub async fn run(ctx: Arc<Context>, bell: Bell, shutdown: Shutdown) {
    level::whenever(bell, shutdown, || {
        let ctx = Arc::clone(&ctx);
        async move {
            tokio::time::sleep(FLOCK).await;
            if matches!(level::ours(&ctx), Lookup::Present(true)) { all(&ctx).await } else { SOON }
        }
    })
    .await;
}

async fn all(ctx: &Context) -> Duration {
    let snapshots = snapshots(ctx).await;
    let claims = orphans(ctx, &ctx.caches.claims.known_objects()).await;
    let pods = orphans(ctx, &ctx.caches.pods.known_objects()).await;
    match [snapshots, claims, pods].into_iter().collect::<Result<Vec<_>, _>>() {
        Ok(_) => RESYNC,
        Err(error) => {
            warn!(error = %config::Chain(&error), "what is superfluous could not be removed");
            SOON
        }
    }
}

async fn snapshots(ctx: &Context) -> Result<(), kube::Error> {
    for snapshot in ctx.caches.snapshots.known_objects() {
        if !snapshot.labels().contains_key(meta::OWNED_BY_UID) {
            continue;
        }
        let shared = Shared::of(&snapshot);
        if !shared.ours || shared.deleting || restoring(&shared, ctx) {
            continue;
        }
        let mut needs = Vec::new();
        for (uid, name) in &shared.members {
            let state = member(uid, name, &shared, ctx).await?;
            needs.push(state);
            if state != Need::Over {
                break;
            }
        }
        if superfluous(needs) {
            write::delete::<VolumeSnapshot>(&shared.exact, ctx).await?;
            info!(namespace = shared.exact.namespace, name = shared.exact.name, "deleted a snapshot that nobody needs");
        }
    }
    Ok(())
}

/// A claim is being restored from it. Deleting it now would leave finalizers behind (external-provisioner#1449).
fn restoring(shared: &Shared, ctx: &Context) -> bool {
    ctx.caches.claims.known_objects().iter().any(|claim| {
        let source = claim.spec.as_ref().and_then(|s| s.data_source_ref.as_ref());
        claim.namespace().as_deref() == Some(&shared.exact.namespace)
            && source.is_some_and(|source| source.kind == "VolumeSnapshot" && source.name == shared.exact.name)
            && claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound")
            && claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost")
    })
}

/// Whether the clone `uid` needs the snapshot.
async fn member(uid: &str, name: &ObjectName, shared: &Shared, ctx: &Context) -> Result<Need, kube::Error> {
    let claim = ctx.caches.claims.get(Some(&name.namespace), &name.name);
    let volume = ctx.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let target = match (&volume, &claim) {
        (Lookup::Unknown(_), _) | (_, Lookup::Unknown(_)) => return Ok(Need::Unknown),
        (Lookup::Present(volume), _) if volume.uid().as_deref() == Some(uid) => Target::of(volume),
        (_, Lookup::Present(claim)) if claim.uid().as_deref() == Some(uid) => {
            let Some((namespace, source)) = populate::wanted(claim) else { return Ok(Need::Over) };
            match ctx.caches.clone_sources.get(Some(&namespace), &source) {
                Lookup::Present(source) => Target::of(&populate::picture(claim, &source)),
                Lookup::Absent => return Ok(Need::Over),
                Lookup::Unknown(_) => return Ok(Need::Unknown),
            }
        }
        // Gone, or newer than the caches.
        _ => return Ok(if exists(uid, name, ctx).await? { Need::Needed } else { Need::Over }),
    };
    let temporary = ctx.caches.claims.get(Some(&shared.exact.namespace), &names::temporary_claim(uid));
    let read = |claim: &Lookup<Arc<PersistentVolumeClaim>>| {
        claim
            .present()
            .map(|claim| Claim::of(claim, uid, observe::volume_of(claim, ctx).present().map(AsRef::as_ref), None))
    };
    // A claim that somebody made himself says by its own binding nothing about the restore beside the source.
    let filled = |claim: &Claim| claim.content != Content::HeldBack || claim.phase == "Bound";
    let member = Member {
        deleting: target.deleting,
        phase: target.status.phase,
        history: target.history,
        claim: read(&claim).filter(filled),
        temporary: read(&temporary),
        waits_for: common::clone::sweep::waits_for(&target.status, shared.created),
    };
    Ok(need(&member, &shared.exact.name))
}

/// Temporary objects whose owner is gone.
async fn orphans<K>(ctx: &Context, all: &[Arc<K>]) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    for object in all {
        let meta = object.meta();
        let labelled = meta.labels.as_ref().and_then(|labels| labels.get(meta::OWNED_BY_UID));
        let owner = meta::annotation(meta, meta::OWNED_BY_DATA_VOLUME);
        let (Some(uid), Some(owner), None) = (labelled, owner, &meta.deletion_timestamp) else { continue };
        let Some((namespace, name)) = owner.split_once('/') else { continue };
        let name = ObjectName { namespace: namespace.to_owned(), name: name.to_owned() };
        // Its name holds the same UID, or it isn't ours.
        if !object.name_any().ends_with(uid.as_str()) || known(uid, &name, ctx) || exists(uid, &name, ctx).await? {
            continue;
        }
        write::delete::<K>(&exact(meta), ctx).await?;
        info!(kind = %K::kind(&()), namespace = meta.namespace, name = meta.name, "deleted what has lost its owner");
    }
    Ok(())
}

fn known(uid: &str, name: &ObjectName, ctx: &Context) -> bool {
    let volume = ctx.caches.data_volumes.get(Some(&name.namespace), &name.name);
    let claim = ctx.caches.claims.get(Some(&name.namespace), &name.name);
    volume.present().is_some_and(|v| v.uid().as_deref() == Some(uid))
        || claim.present().is_some_and(|c| c.uid().as_deref() == Some(uid))
}

/// Asks the API server, as the caches may be behind.
async fn exists(uid: &str, name: &ObjectName, ctx: &Context) -> Result<bool, kube::Error> {
    let volumes: Api<DataVolume> = Api::namespaced(ctx.client.clone(), &name.namespace);
    if volumes.get_opt(&name.name).await?.is_some_and(|volume| volume.uid().as_deref() == Some(uid)) {
        return Ok(true);
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &name.namespace);
    Ok(claims.get_opt(&name.name).await?.is_some_and(|claim| claim.uid().as_deref() == Some(uid)))
}
