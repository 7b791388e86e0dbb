//! The observations of a pass over a clone: reads only, except for the record of the clone's dependencies. It is written before the reads
//! so that no event is missed.

use std::sync::Arc;

use common::{
    api::{DataVolume, Phase, snapshot::VolumeSnapshot},
    clone::{
        ClusterStorage, Facts, Kind, Waiting, beside,
        claim::{Claim, Content, owner_of_target},
        data_mover::Mover,
        facts::source_in_force,
        observed::{Authorization, MoverSettings, Observed, Target},
        ownership::{self, Created, Owner, Ownership},
        reconcile::missing_right,
        request::{Parsed, Request},
        shared_snapshot::{SharedSnapshot, SharedSnapshots},
    },
    data_source::{self, Resolution},
    keys,
    lookup::Lookup,
    mode::Mode,
    names,
    object::{self, ObjectName, SourceKind, SourceName},
    pods::{User, users_of},
    rebind::{self, Rebind, SourceClaim, TargetClaim},
    requester::Reference,
    storage::driver_event,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;

use super::{
    CloneTarget, Reconciler,
    access::{self, Act, Stage},
    inherit,
    source::{populated, source, volume_of},
};
use crate::{periodic, triggers::dependents::Dependency};

/// The request of a clone, and the authorization of its requester. It knows on which objects the clone depends; none of them has been read.
pub struct Permitted {
    target: Target,
    parsed: Parsed,
    unresolved: Option<Waiting>,
    authorized: Lookup<Authorization>,
    /// The name of its DataSource, if one names the source.
    reference: Option<ObjectName>,
}

impl Permitted {
    /// The request, if its requester may clone the source and the clone is not over.
    fn visible(&self) -> Option<&Request> {
        let allowed = self.authorized == Lookup::Present(Authorization::Allowed) && !over(&self.target);
        self.parsed.request().filter(|_| allowed)
    }

    /// The objects whose changes start a pass, except those that are created for the clone. Only objects of which its requester may know.
    pub fn dependencies(&self) -> Vec<Dependency> {
        if over(&self.target) {
            return Vec::new();
        }
        let mut keys = Vec::new();
        if let Some(name) = &self.reference {
            let denied = matches!(self.unresolved, Some(Waiting::NotAuthorized(_) | Waiting::CouldNotTell(_)));
            if name.namespace == self.target.namespace || !denied {
                keys.push(Dependency::DataSource(name.clone()));
            }
        }
        keys.extend(self.visible().map(|request| Dependency::Source(request.source.clone())));
        keys
    }
}

/// Follows the references of `target` and checks its requester's rights. Nothing in another namespace is read before.
pub async fn permitted(clone: CloneTarget<'_>, ctx: &Reconciler) -> Permitted {
    let CloneTarget { volume, reference, .. } = clone;
    let target = completed(clone, ctx);
    let (parsed, unresolved) = parsed(volume, &target, ctx).await;
    let mut permitted = Permitted {
        reference: volume.spec.source_ref.as_ref().map(|named| {
            let namespace = named.namespace.clone().filter(|namespace| !namespace.is_empty());
            let namespace = namespace.unwrap_or_else(|| target.namespace.clone());
            ObjectName { namespace, name: named.name.clone() }
        }),
        target,
        parsed,
        unresolved,
        authorized: Lookup::Present(Authorization::Allowed),
    };
    let crossing = permitted.parsed.request().filter(|request| request.crosses() && !over(&permitted.target));
    let authorized = match crossing {
        Some(_) if *reference != Lookup::Present(Authorization::Allowed) => reference.clone(),
        Some(request) => {
            // A cached answer is valid for a short time. An answer for one stage is not used for the other.
            let name = names::temporary_claim(&permitted.target.uid);
            let temporary = ctx.context.caches.claims.get(Some(&request.source.object.namespace), &name);
            let filled = temporary.present().is_some_and(|claim| claim.status.as_ref().is_some_and(is_bound));
            let stage = if filled { Stage::HandOver } else { Stage::Begin };
            access::ask(&volume.metadata, Act::Clone(request.source.clone(), stage), ctx).await
        }
        None => Lookup::Present(Authorization::Allowed),
    };
    permitted.authorized = authorized;
    permitted
}

/// Reads all inputs of a pass; decides nothing, writes nothing. Its [dependencies](Permitted::dependencies) are recorded before, so that no
/// event is missed in between.
pub fn observe(permitted: Permitted, ctx: &Reconciler, now: Timestamp) -> Observed {
    let (target, visible) = (&permitted.target, permitted.visible());
    let request = permitted.parsed.request();
    let here = ObjectName { namespace: target.namespace.clone(), name: target.name.clone() };
    let (namespace, uid) = (target.namespace.as_str(), target.uid.as_str());
    let elsewhere = request.map_or(namespace, |request| &request.source.object.namespace);
    let claim_at = |namespace: &str, name: &str| ctx.context.caches.claims.get(Some(namespace), name);
    let temporary = claim_at(elsewhere, &names::temporary_claim(uid));
    let storage = storage(ctx);
    let group = visible.map_or(Lookup::Absent, |request| group(request, target, ctx));
    let snapshot = group.present().and_then(|group| group.of(uid));
    let is_cut = snapshot.is_some_and(|snapshot| snapshot.ready);
    let source = visible.map(|request| {
        let recorded = target.recorded_source.as_ref();
        source_in_force(source(request, recorded, ctx), recorded, is_cut)
    });
    let owners = Ownership { uid, key: target.key.as_deref(), created: &target.created };
    let read = |claim: Lookup<Arc<PersistentVolumeClaim>>, owner: fn(&Ownership<'_>, &ObjectMeta) -> Owner| {
        claim.map(|claim| {
            let owner = owner(&owners, &claim.metadata);
            let volume = volume_of(&claim, ctx);
            Claim::of(&claim, owner, uid, volume.present().map(AsRef::as_ref), complaint(&claim, ctx))
        })
    };
    let of_target = |owners: &Ownership<'_>, meta: &ObjectMeta| owner_of_target(meta, owners.uid);
    let of_temporary = |owners: &Ownership<'_>, meta: &ObjectMeta| owners.of(Kind::PersistentVolumeClaim, meta);
    let pod_at = |name: String| {
        let pod = ctx.context.caches.pods.get(Some(elsewhere), &name);
        pod.map(|pod| Mover::of(&pod, owners.of(Kind::Pod, &pod.metadata), now))
    };
    let of_a_claim = visible.filter(|request| request.source.kind == SourceKind::Claim);
    let target_claim = claim_at(namespace, &target.name);
    Observed {
        now,
        source_populated: of_a_claim.and_then(|request| {
            let ObjectName { namespace, name } = &request.source.object;
            populated(claim_at(namespace, name).present()?, ctx)
        }),
        source_users: of_a_claim.map(|request| users(&request.source.object, ctx)).unwrap_or_default(),
        target_users: request.map(|_| users(&here, ctx)).unwrap_or_default(),
        rebind: rebind(&temporary, &target_claim, ctx, now),
        claim: read(target_claim, of_target),
        restored: read(claim_at(elsewhere, &names::temporary_source(uid)), of_temporary),
        temporary: read(temporary, of_temporary),
        group,
        mover: pod_at(names::mover(uid)),
        consumer: pod_at(names::consumer(uid)),
        progress: ctx.progress.of(uid),
        inherited: inherit::labels(target, permitted.reference.as_ref(), source.as_ref(), ctx),
        facts: visible.zip(source).map_or_else(Facts::unread, |(request, source)| storage.facts(request, source, now)),
        mode: storage.mode().present().cloned().unwrap_or(Mode::Alone),
        mover_settings: MoverSettings::of(
            ctx.cloner_image.clone(),
            storage.config().map(|config| &config.spec),
            storage.cdi(),
        ),
        holders: Lookup::Unknown("nobody looked yet".to_owned()),
        fresh_key: config::random::secret().ok(),
        authorized: permitted.authorized,
        volume: permitted.target,
        parsed: permitted.parsed,
        unresolved: permitted.unresolved,
    }
}

fn is_bound(status: &PersistentVolumeClaimStatus) -> bool {
    status.phase.as_deref() == Some("Bound")
}

fn over(target: &Target) -> bool {
    target.deleting || matches!(target.status.phase, Phase::Succeeded | Phase::Failed)
}

/// The clone with its record, which is on its claim where CDI writes the status. The UIDs of created objects in memory are added.
pub fn completed(CloneTarget { volume, kind, .. }: CloneTarget<'_>, ctx: &Reconciler) -> Target {
    let mut target = Target { kind, ..Target::of(volume) };
    if beside::is_taken(&target) && periodic::mode(&ctx.context).present().is_some_and(|it| *it != Mode::Alone) {
        let claim = ctx.context.caches.claims.get(Some(&target.namespace), &target.name);
        target = target.recorded_on_claim(volume, claim.present().map(AsRef::as_ref));
        if let Some(reported) = &mut target.reported_by_cdi {
            let version = claim.present().and_then(|claim| claim.metadata.resource_version.as_deref());
            reported.is_replaced = ctx.indexes.in_cdis_place.is_ended(&target.uid, version);
        }
    }
    ctx.indexes.created.complete(&target.uid, &mut target.created);
    target
}

/// The request with all references resolved, or the reason why one can't be.
async fn parsed(volume: &DataVolume, target: &Target, ctx: &Reconciler) -> (Parsed, Option<Waiting>) {
    let mut unresolved = None;
    let mut parsed = Request::parse(volume);
    // The resolved source of a DataSource is kept. If it is gone before anything of it was read, the DataSource is followed again.
    if let Parsed::Clone(request) = &parsed
        && request.by_reference
        && is_gone(&request.source, ctx)
        && !is_begun(target, &request.source.object.namespace, ctx)
    {
        parsed = Request::parse_new(volume);
    }
    if let Parsed::Reference(name, _) = &parsed {
        let name = name.clone();
        match follow(volume, &name, ctx).await {
            Ok(Resolution::Found(source)) => parsed = Request::resolved(volume, source).into(),
            Ok(Resolution::Not(why)) => unresolved = Some(Waiting::DataSource { name, why: why.message() }),
            Ok(Resolution::Unknown(why)) => unresolved = Some(Waiting::DataSource { name, why }),
            Err(waiting) => unresolved = Some(waiting),
        }
    }
    if let Parsed::Clone(request) = &mut parsed {
        request.made_for = target.kind;
    }
    (parsed, unresolved)
}

/// True if the source does not exist any more, or is being deleted.
fn is_gone(source: &SourceName, ctx: &Reconciler) -> bool {
    fn gone<K: ResourceExt>(found: &Lookup<Arc<K>>) -> bool {
        match found {
            Lookup::Present(object) => object.meta().deletion_timestamp.is_some(),
            Lookup::Absent => true,
            Lookup::Unknown(_) => false,
        }
    }
    let (namespace, name) = (Some(source.object.namespace.as_str()), source.object.name.as_str());
    match source.kind {
        SourceKind::Claim => gone(&ctx.context.caches.claims.get(namespace, name)),
        SourceKind::Snapshot => gone(&ctx.context.caches.snapshots.get(namespace, name)),
    }
}

/// True if an object was created for the clone that may have content of its source. Objects that this process created count before the
/// caches have them.
fn is_begun(target: &Target, beside: &str, ctx: &Reconciler) -> bool {
    let (uid, caches) = (target.uid.as_str(), &ctx.context.caches);
    let claim = |namespace: &str, name: &str| caches.claims.get(Some(namespace), name);
    let is_there = |name: String| claim(beside, &name).present().is_some();
    let own = claim(&target.namespace, &target.name);
    // The clone's own claim has no content of its source while it is held back.
    let is_held_back = |made: &str| {
        let claim = own.present().filter(|claim| claim.uid().as_deref() == Some(made));
        claim.is_some_and(|claim| Content::of(claim) == Content::HeldBack)
    };
    target.created.values().any(|made| !is_held_back(made))
        || is_there(names::temporary_claim(uid))
        || is_there(names::temporary_source(uid))
        || own.present().is_some_and(|claim| Content::of(claim) != Content::HeldBack)
        || caches.snapshots.known_objects().iter().any(|it| SharedSnapshot::of(it).members.contains_key(uid))
}

/// Resolves the DataSource of this name. In another namespace each DataSource in the chain is followed only if the requester may get it.
async fn follow(volume: &DataVolume, name: &ObjectName, ctx: &Reconciler) -> Result<Resolution, Waiting> {
    let sources = &ctx.context.caches.data_sources;
    let lookup = |namespace: &str, name: &str| sources.get(Some(namespace), name).map(|source| (*source).clone());
    if volume.namespace().as_deref() != Some(&name.namespace) {
        may_follow(volume, name, ctx).await?;
        let other = lookup(&name.namespace, &name.name).present().and_then(|s| s.spec.source.data_source.clone());
        // It can only be in the same namespace, and has to name a claim or a snapshot itself.
        if let Some(other) = other {
            may_follow(volume, &ObjectName { namespace: name.namespace.clone(), name: other.name }, ctx).await?;
        }
    }
    Ok(data_source::resolve_named(name, lookup))
}

async fn may_follow(volume: &DataVolume, name: &ObjectName, ctx: &Reconciler) -> Result<(), Waiting> {
    let act = Act::Follow(Reference::DataSource, name.clone());
    missing_right(&access::ask(&volume.metadata, act, ctx).await).map_or(Ok(()), Err)
}

fn storage(ctx: &Reconciler) -> ClusterStorage {
    ClusterStorage {
        classes: ctx.context.caches.classes.all(),
        snapshot_classes: ctx.context.caches.snapshot_classes.all(),
        profiles: ctx.context.caches.profiles.all(),
        cdis: ctx.context.caches.cdis.all(),
        configs: ctx.context.caches.configs.all(),
    }
}

/// The observed rebind from the temporary claim to the clone's.
fn rebind(
    temporary: &Lookup<Arc<PersistentVolumeClaim>>,
    target: &Lookup<Arc<PersistentVolumeClaim>>,
    ctx: &Reconciler,
    now: Timestamp,
) -> Rebind {
    let source = temporary.as_ref().map(|claim| SourceClaim::of(claim));
    let target = target.as_ref().map(|claim| TargetClaim::of(claim));
    let name = rebind::volume_between(source.present(), target.present()).map(ToOwned::to_owned);
    let volume = match (name, target.present()) {
        (Some(name), _) => ctx.context.caches.volumes.get(None, &name).map(|volume| rebind::Volume::of(&volume)),
        // Without the temporary claim only the volume itself says for which claim it is.
        (None, Some(target)) if target.held_back && source == Lookup::Absent => {
            let all = ctx.context.caches.volumes.known_objects();
            all.iter()
                .map(|volume| rebind::Volume::of(volume))
                .find(|volume| volume.claim_ref.as_ref().is_some_and(|owner| owner.uid == target.exact.uid))
                .into()
        }
        (None, _) => Lookup::Absent,
    };
    Rebind { source, volume, target, now }
}

/// The users of a claim.
pub fn users(claim: &ObjectName, ctx: &Reconciler) -> Vec<User> {
    let pods = ctx.indexes.pods_by_claim.of(claim);
    let pods: Vec<_> = pods
        .iter()
        .filter_map(|pod| ctx.context.caches.pods.get(Some(&claim.namespace), pod).present().cloned())
        .collect();
    users_of(&claim.name, pods.iter().map(|pod| -> &Pod { pod }), |pod| is_our_mover(pod, ctx))
}

/// True if a pod is the data mover of a clone, by the record or the key of that clone.
fn is_our_mover(pod: &Pod, ctx: &Reconciler) -> bool {
    let uid = pod.labels().get(keys::OWNED_BY_UID);
    let clone = object::annotation(&pod.metadata, keys::OWNED_BY_DATA_VOLUME).and_then(|name| name.split_once('/'));
    let (Some(uid), Some((namespace, name))) = (uid, clone) else { return false };
    let created =
        ctx.indexes.created.of(uid, &pod.name_any()).map(|known| (pod.name_any(), known)).into_iter().collect();
    let key = key_of(uid, &ObjectName { namespace: namespace.to_owned(), name: name.to_owned() }, ctx);
    Ownership { uid, key: key.as_deref(), created: &created }.of(Kind::Pod, &pod.metadata) == Owner::Ours
}

/// The ownership key of the clone `uid`, a DataVolume or a claim of this name.
fn key_of(uid: &str, name: &ObjectName, ctx: &Reconciler) -> Option<String> {
    let at = (Some(name.namespace.as_str()), name.name.as_str());
    let key = |meta: &ObjectMeta| {
        let same = meta.uid.as_deref() == Some(uid);
        object::annotation(meta, keys::OWNERSHIP_KEY).filter(|_| same).map(str::to_owned)
    };
    let volume = ctx.context.caches.data_volumes.get(at.0, at.1);
    let claim = ctx.context.caches.claims.get(at.0, at.1);
    volume.present().and_then(|v| key(&v.metadata)).or_else(|| claim.present().and_then(|c| key(&c.metadata)))
}

/// The owner of a temporary snapshot. Several clones share it; the key of the one that created it is the proof.
pub fn snapshot_owner(snapshot: &VolumeSnapshot, record: &Created, ctx: &Reconciler) -> Owner {
    let (name, shared) = (snapshot.name_any(), SharedSnapshot::of(snapshot));
    let creator = ownership::creator(&snapshot.metadata).unwrap_or_default();
    let known = ctx.indexes.created.of(creator, &name).or_else(|| record.get(&name).cloned());
    let created = known.map(|known| (name, known)).into_iter().collect();
    let key = shared.members.get(creator).and_then(|member| key_of(creator, member, ctx));
    let leader = snapshot.labels().get(keys::OWNED_BY_UID).cloned().unwrap_or_default();
    Ownership { uid: &leader, key: key.as_deref(), created: &created }.of(Kind::VolumeSnapshot, &snapshot.metadata)
}

/// Our temporary snapshots of the source, without those that somebody else created in our form.
fn group(request: &Request, target: &Target, ctx: &Reconciler) -> Lookup<SharedSnapshots> {
    if request.source.kind == SourceKind::Snapshot {
        return Lookup::Present(SharedSnapshots::default());
    }
    let source = &request.source.object;
    ctx.context.caches.snapshots.all().map(|all| SharedSnapshots {
        snapshots: all
            .iter()
            .filter(|snapshot| {
                snapshot.metadata.namespace.as_ref() == Some(&source.namespace)
                    && snapshot.spec.source.persistent_volume_claim_name.as_ref() == Some(&source.name)
            })
            .filter(|snapshot| snapshot_owner(snapshot, &target.created, ctx) == Owner::Ours)
            .map(|snapshot| SharedSnapshot::of(snapshot))
            .filter(|shared| shared.ours)
            .collect(),
    })
}

/// The newest warning about a claim that has no volume yet.
fn complaint(claim: &PersistentVolumeClaim, ctx: &Reconciler) -> Option<String> {
    if claim.status.as_ref().is_some_and(is_bound) {
        return None;
    }
    // Events of the provisioner only: anybody who may create Events may write anything into them.
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or_default();
    let class = ctx.context.caches.classes.get(None, class);
    let provisioner = class.present().map(|class| class.provisioner.as_str()).unwrap_or_default();
    let events = ctx.context.caches.events.known_objects();
    driver_event::newest_warning(events.iter().map(AsRef::as_ref), claim, provisioner)
}
