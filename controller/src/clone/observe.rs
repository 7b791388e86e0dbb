//! Reads, without opinions.

use std::sync::Arc;

use common::{
    api::{DataVolume, Phase, snapshot::VolumeSnapshotContent},
    clone::{
        Facts, Settings,
        facts::{Source, driver_of},
        group::{Group, Shared},
        plan::{Authorization, Claim, Mover, Observed, Target, User, users_of},
        request::{MadeFor, ObjectName, Parsed, Request, SourceKind, SourceName},
        rules::event,
    },
    data_source::{self, Resolution},
    lookup::Lookup,
    meta, names,
    transfer::{self, SourceClaim, TargetClaim, Transfer},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod};
use kube::ResourceExt;

use super::authorize::{self, Stage};
use crate::{index::Key, run::Context};

/// All that a pass over `volume` looks at. `kind` says whether it is a DataVolume or the picture of a claim.
pub async fn everything(volume: &DataVolume, kind: MadeFor, ctx: &Context, now: Timestamp) -> Observed {
    let mut target = Target::of(volume);
    target.kind = kind;
    let here = ObjectName { namespace: target.namespace.clone(), name: target.name.clone() };
    let (parsed, unresolved) = parsed(volume, kind, ctx);
    // Noted before anything is looked at, so that no event falls between the two.
    ctx.index.note(&here, if over(&target) { Vec::new() } else { keys(volume, &parsed) });
    let request = match &parsed {
        Parsed::Clone(request) => Some(request.as_ref()),
        Parsed::Wrong(_) | Parsed::NotAClone | Parsed::Reference(..) => None,
    };
    let (namespace, uid) = (target.namespace.as_str(), target.uid.as_str());
    let settings = settings(ctx);
    let elsewhere = request.map_or(namespace, |request| &request.source.object.namespace);
    let source = request.map(|request| source(&request.source, ctx));
    let claim_at = |namespace: &str, name: &str| ctx.caches.claims.get(Some(namespace), name);
    let read = |claim: Lookup<Arc<PersistentVolumeClaim>>| {
        claim.map(|claim| {
            Claim::of(&claim, uid, volume_of(&claim, ctx).present().map(AsRef::as_ref), complaint(&claim, ctx))
        })
    };
    let pod_at = |name: String| ctx.caches.pods.get(Some(elsewhere), &name).map(|pod| Mover::of(&pod, uid, now));
    let target_claim = claim_at(namespace, &target.name);
    let temporary = claim_at(elsewhere, &names::temporary_claim(uid));
    Observed {
        now,
        authorized: match request.filter(|request| request.crosses() && !over(&target)) {
            // An answer is good for a while; one about what is begun now has to be of now.
            Some(_) if target_claim == Lookup::Absent && source == Some(Lookup::Absent) => {
                Lookup::Unknown("the source does not exist yet".to_owned())
            }
            Some(request) => {
                let uid = source.as_ref().and_then(Lookup::present).map(|source| source.uid.clone());
                let filled = temporary.present().is_some_and(|claim| claim.status.as_ref().is_some_and(is_bound));
                let stage = if filled { Stage::HandOver } else { Stage::Begin };
                authorize::ask(volume, &request.source, uid, stage, ctx).await
            }
            None => Lookup::Present(Authorization::Allowed),
        },
        source_populated: request.filter(|request| request.source.kind == SourceKind::Claim).and_then(|request| {
            let ObjectName { namespace, name } = &request.source.object;
            populated(claim_at(namespace, name).present()?, ctx)
        }),
        source_users: request
            .filter(|request| request.source.kind == SourceKind::Claim)
            .map(|request| users(&request.source.object, ctx))
            .unwrap_or_default(),
        target_users: request.map(|_| users(&here, ctx)).unwrap_or_default(),
        transfer: transfer(&temporary, &target_claim, ctx, now),
        claim: read(target_claim),
        restored: read(claim_at(elsewhere, &names::temporary_source(uid))),
        temporary: read(temporary),
        group: request.map_or(Lookup::Absent, |request| group(request, uid, ctx)),
        mover: pod_at(names::mover(uid)),
        consumer: pod_at(names::consumer(uid)),
        progress: ctx.progress.of(uid),
        facts: request.zip(source).map_or_else(Facts::unread, |(request, source)| settings.facts(request, source, now)),
        another_controller: settings.operator().present().cloned(),
        mover_settings: ctx.mover_settings.clone(),
        volume: target,
        parsed,
        unresolved,
    }
}

fn is_bound(status: &PersistentVolumeClaimStatus) -> bool {
    status.phase.as_deref() == Some("Bound")
}

fn over(target: &Target) -> bool {
    target.deleting || matches!(target.status.phase, Phase::Succeeded | Phase::Failed)
}

/// What is asked for, all references followed; or why they can't be.
fn parsed(volume: &DataVolume, kind: MadeFor, ctx: &Context) -> (Parsed, Option<String>) {
    let mut unresolved = None;
    let mut parsed = Request::parse(volume);
    if let Parsed::Reference(name, _) = &parsed {
        let lookup = |namespace: &str, name: &str| {
            ctx.caches.data_sources.get(Some(namespace), name).map(|source| (*source).clone())
        };
        match data_source::resolve_named(name, lookup) {
            Resolution::Found(source) => parsed = Request::resolved(volume, source).into(),
            Resolution::Not(why) => unresolved = Some(why.message()),
            Resolution::Unknown(why) => unresolved = Some(why),
        }
    }
    if let Parsed::Clone(request) = &mut parsed {
        request.made_for = kind;
    }
    (parsed, unresolved)
}

/// What the clone waits for, as far as it isn't made for it.
fn keys(volume: &DataVolume, parsed: &Parsed) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Some(reference) = &volume.spec.source_ref {
        let namespace = reference.namespace.clone().filter(|n| !n.is_empty()).or_else(|| volume.namespace());
        let object = ObjectName { namespace: namespace.unwrap_or_default(), name: reference.name.clone() };
        keys.push(Key::DataSource(object));
    }
    if let Parsed::Clone(request) = parsed {
        keys.push(Key::Source(request.source.clone()));
    }
    keys
}

fn settings(ctx: &Context) -> Settings {
    Settings {
        classes: ctx.caches.classes.all(),
        snapshot_classes: ctx.caches.snapshot_classes.all(),
        profiles: ctx.caches.profiles.all(),
        cdis: ctx.caches.cdis.all(),
        configs: ctx.caches.configs.all(),
    }
}

fn source(name: &SourceName, ctx: &Context) -> Lookup<Source> {
    let ObjectName { namespace, name: object } = &name.object;
    match name.kind {
        SourceKind::Claim => ctx.caches.claims.get(Some(namespace), object).map(|claim| {
            let volume = volume_of(&claim, ctx);
            let driver = driver_of(claim.metadata.uid.as_ref(), volume.as_ref().map(AsRef::as_ref));
            Source::of(&claim, driver)
        }),
        SourceKind::Snapshot => ctx.caches.snapshots.get(Some(namespace), object).map(|snapshot| {
            let status = snapshot.status.as_ref();
            let bound = status.and_then(|status| status.bound_volume_snapshot_content_name.as_deref());
            Source::of_snapshot(&snapshot, &bound.map_or(Lookup::Absent, |name| content(name, ctx)))
        }),
    }
}

/// The two are watched apart, so a content that is named and isn't there is one not seen yet.
fn content(name: &str, ctx: &Context) -> Lookup<VolumeSnapshotContent> {
    match ctx.caches.contents.get(None, name) {
        Lookup::Present(content) => Lookup::Present((*content).clone()),
        Lookup::Absent => Lookup::Unknown(format!("VolumeSnapshotContent {name:?} has not been seen yet")),
        Lookup::Unknown(why) => Lookup::Unknown(why),
    }
}

/// The volume of a bound claim. The two are watched apart, so a bound claim whose volume isn't there is one not seen yet.
pub fn volume_of(claim: &PersistentVolumeClaim, ctx: &Context) -> Lookup<Arc<PersistentVolume>> {
    let Some(name) = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty()) else {
        return Lookup::Absent;
    };
    match ctx.caches.volumes.get(None, name) {
        Lookup::Absent => Lookup::Unknown(format!("PersistentVolume {name:?} has not been seen yet")),
        seen => seen,
    }
}

/// The hand-over from the temporary claim to the clone's.
fn transfer(
    temporary: &Lookup<Arc<PersistentVolumeClaim>>,
    target: &Lookup<Arc<PersistentVolumeClaim>>,
    ctx: &Context,
    now: Timestamp,
) -> Transfer {
    let source = temporary.as_ref().map(|claim| SourceClaim::of(claim));
    let target = target.as_ref().map(|claim| TargetClaim::of(claim));
    let name = transfer::volume_between(source.present(), target.present()).map(ToOwned::to_owned);
    let volume = match (name, target.present()) {
        (Some(name), _) => ctx.caches.volumes.get(None, &name).map(|volume| transfer::Volume::of(&volume)),
        // Without the temporary claim nothing but the volume itself says whose it is to be.
        (None, Some(target)) if target.held_back && source == Lookup::Absent => {
            let all = ctx.caches.volumes.known_objects();
            all.iter()
                .map(|volume| transfer::Volume::of(volume))
                .find(|volume| volume.claim_ref.as_ref().is_some_and(|owner| owner.uid == target.exact.uid))
                .into()
        }
        (None, _) => Lookup::Absent,
    };
    Transfer { source, volume, target, now }
}

/// Who uses a claim.
fn users(claim: &ObjectName, ctx: &Context) -> Vec<User> {
    let pods = ctx.users.of(claim);
    let pods: Vec<_> =
        pods.iter().filter_map(|pod| ctx.caches.pods.get(Some(&claim.namespace), pod).present().cloned()).collect();
    users_of(&claim.name, pods.iter().map(|pod| -> &Pod { pod }))
}

/// Our temporary snapshots of the source.
fn group(request: &Request, uid: &str, ctx: &Context) -> Lookup<Group> {
    if request.source.kind == SourceKind::Snapshot {
        return Lookup::Present(Group::default());
    }
    let source = &request.source.object;
    ctx.caches.snapshots.all().map(|all| Group {
        snapshots: all
            .iter()
            .filter(|snapshot| {
                snapshot.metadata.namespace.as_ref() == Some(&source.namespace)
                    && snapshot.spec.source.persistent_volume_claim_name.as_ref() == Some(&source.name)
            })
            .map(|snapshot| Shared::of(snapshot))
            .filter(|shared| shared.ours || shared.members.contains_key(uid))
            .collect(),
        ..Group::default()
    })
}

/// Whether the DataVolume that fills `claim` is done; nothing, if there is no such DataVolume.
fn populated(claim: &PersistentVolumeClaim, ctx: &Context) -> Option<bool> {
    let owner = meta::controller(&claim.metadata).filter(|owner| owner.kind == "DataVolume")?;
    let volume = ctx.caches.data_volumes.get(claim.namespace().as_deref(), &owner.name);
    let volume = volume.present().filter(|v| v.uid().as_deref() == Some(&owner.uid))?;
    Some(volume.status.as_ref().is_some_and(|s| s.phase == Phase::Succeeded))
}

/// The newest warning about a claim that has no volume yet.
fn complaint(claim: &PersistentVolumeClaim, ctx: &Context) -> Option<String> {
    if claim.status.as_ref().is_some_and(is_bound) {
        return None;
    }
    // Its own words only: whoever may write Events may write anything into them.
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let class = ctx.caches.classes.get(None, class);
    let provisioner = class.present().map(|class| class.provisioner.as_str()).unwrap_or_default();
    let events = ctx.caches.events.known_objects();
    event::newest_warning(events.iter().map(AsRef::as_ref), claim, provisioner)
}
