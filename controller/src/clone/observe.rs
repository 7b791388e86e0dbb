//! Reads, without opinions.

use common::{
    api::{DataVolume, Phase},
    clone::{
        Facts, Settings,
        plan::{Claim, Mover, Observed, Snapshot, Target, users_of},
        request::{Parsed, Request},
    },
    lookup::Lookup,
    names,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::run::Context;

/// All that a pass over `volume` looks at.
pub fn everything(volume: &DataVolume, ctx: &Context, now: Timestamp) -> Observed {
    let parsed = Request::parse(volume);
    let target = Target::of(volume);
    let (namespace, uid) = (target.namespace.as_str(), target.uid.as_str());
    let settings = Settings {
        classes: ctx.caches.classes.all(),
        snapshot_classes: ctx.caches.snapshot_classes.all(),
        profiles: ctx.caches.profiles.all(),
        cdis: ctx.caches.cdis.all(),
    };
    let request = match &parsed {
        Parsed::Clone(request) => Some(request.as_ref()),
        Parsed::Wrong(_) | Parsed::NotAClone => None,
    };
    // Who uses a claim matters to clones only; the pods of a cluster are many.
    let pods = request.map(|_| ctx.caches.pods.known_objects()).unwrap_or_default();
    let here = || pods.iter().map(|p| -> &Pod { p }).filter(|p| p.metadata.namespace.as_deref() == Some(namespace));
    let users = |claim: &str| users_of(claim, here());
    let source = request.map_or(Lookup::Absent, |r| ctx.caches.claims.get(Some(&r.source.namespace), &r.source.name));
    Observed {
        now,
        source_populated: source.present().and_then(|claim| populated(claim, ctx)),
        source_users: request.map(|r| users(&r.source.name)).unwrap_or_default(),
        target_users: users(&target.name),
        claim: ctx.caches.claims.get(Some(namespace), &target.name).map(|c| Claim::of(&c, uid, complaint(&c, ctx))),
        snapshot: ctx.caches.snapshots.get(Some(namespace), &names::snapshot(uid)).map(|s| Snapshot::of(&s, uid)),
        mover: ctx.caches.pods.get(Some(namespace), &names::mover(uid)).map(|p| Mover::of(&p, uid, now)),
        progress: ctx.progress.of(uid),
        facts: request.map_or_else(Facts::unread, |request| {
            let source = source.map(|claim| (*claim).clone());
            let volume = source.present().map_or(Lookup::Absent, |claim| volume_of(claim, ctx));
            settings.facts(request, &source, &volume)
        }),
        another_controller: settings.operator().present().cloned(),
        mover_settings: ctx.mover_settings.clone(),
        volume: target,
        parsed,
    }
}

/// The volume of a bound claim. The two are watched apart, so a bound claim whose volume isn't there is one not seen yet.
fn volume_of(claim: &PersistentVolumeClaim, ctx: &Context) -> Lookup<PersistentVolume> {
    let Some(name) = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty()) else {
        return Lookup::Absent;
    };
    match ctx.caches.volumes.get(None, name) {
        Lookup::Present(volume) => Lookup::Present((*volume).clone()),
        Lookup::Absent => Lookup::Unknown(format!("PersistentVolume {name:?} has not been seen yet")),
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}

/// Whether the DataVolume that fills `claim` is done; nothing, if there is no such DataVolume.
fn populated(claim: &PersistentVolumeClaim, ctx: &Context) -> Option<bool> {
    let owner = claim.owner_references().iter().find(|o| o.controller == Some(true) && o.kind == "DataVolume")?;
    let volume = ctx.caches.data_volumes.get(claim.namespace().as_deref(), &owner.name);
    let volume = volume.present().filter(|v| v.uid().as_deref() == Some(&owner.uid))?;
    Some(volume.status.as_ref().is_some_and(|s| s.phase == Phase::Succeeded))
}

/// The newest warning about a claim that has no volume yet.
fn complaint(claim: &PersistentVolumeClaim, ctx: &Context) -> Option<String> {
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound") {
        return None;
    }
    let events = ctx.caches.events.known_objects();
    let about = events.iter().filter(|e| e.involved_object.uid == claim.metadata.uid);
    let newest = about.max_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0).or(e.event_time.as_ref().map(|t| t.0)));
    newest.and_then(|e| e.message.clone())
}
