//! The shipped functions, applied to a miniature cluster.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{Hash, Hasher},
    rc::Rc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::run::Mistake;
use super::world::{
    CLONES, Claim, ClaimPhase, Dv, From, Objects, Pod, PodState, SLOTS, Snapshot, Volume, clone_of, target, temporary,
};
use crate::{
    api::{CloneStrategy, DataVolume, DataVolumeStatus, Phase},
    clone::{
        Kind, Write,
        beside::ReportedByCdi,
        check::violations,
        claim::{self, Content},
        cleanup::{Member, need},
        contract::tests::breaches,
        data_mover::{Mover, MoverState},
        facts::BesideCdi,
        fixtures::{beside_cdi, facts, gi, now, observed, volume},
        note::PlanNote,
        observed::{Authorization, Observed, Target},
        ownership::Owner,
        reconcile::step,
        shared_snapshot::{MAX_LIVE_SNAPSHOTS, Members, SharedSnapshot, SharedSnapshots, read_members, superfluous},
        status::status,
    },
    keys,
    lookup::Lookup::{Absent, Present},
    mover::Outcome,
    names,
    object::{self, ObjectName, ObjectVersion},
    quantity::Bytes,
    rebind::{self, ClaimIdentity, Rebind, SourceClaim, TargetClaim},
    storage::restore::RestoreRule,
};

/// The requested clone.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// `cdi.kubevirt.io/cloneType`.
    pub strategy: &'static str,
    /// True if the clone is in another namespace than the source.
    pub crosses: bool,
    /// True if the clone is larger than its source, and the driver restores at the source's size only.
    pub grows: bool,
    /// True if CDI's controller reports the DataVolume, and clones it when its mark is removed.
    pub beside_cdi: bool,
}

/// A write as the API server receives it.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelWrite {
    Pin(u16),
    CreateSnapshot {
        leader: usize,
        members: u8,
    },
    CreateClaim {
        slot: usize,
        from: From,
        request: u8,
    },
    CreatePod {
        clone: usize,
        fills: u8,
    },
    Grow {
        slot: usize,
        seen: ObjectVersion,
        to: u8,
    },
    MarkCopied {
        slot: usize,
        seen: ObjectVersion,
    },
    Nudge {
        slot: usize,
        seen: ObjectVersion,
    },
    HandOver {
        volume: usize,
        seen: ObjectVersion,
        to: (u8, u8),
    },
    /// Used by a planted mistake only.
    Clear {
        volume: usize,
    },
    DeleteClaim {
        slot: usize,
        seen: ObjectVersion,
    },
    Release {
        slot: usize,
        seen: ObjectVersion,
    },
    DeletePod {
        clone: usize,
        seen: ObjectVersion,
    },
    ReportForCdi,
}

impl fmt::Display for ModelWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(_) => f.write_str("pins the strategy"),
            Self::CreateSnapshot { leader, members } => write!(f, "creates snapshot {leader} for {members:#b}"),
            Self::CreateClaim { slot, from, .. } => write!(f, "creates {} ({from:?})", claim_name(*slot)),
            Self::CreatePod { clone, .. } => write!(f, "creates {}", names::mover(UIDS[*clone])),
            Self::Grow { slot, to, .. } => write!(f, "grows {} to {to}Gi", claim_name(*slot)),
            Self::MarkCopied { slot, .. } => write!(f, "marks {} copied", claim_name(*slot)),
            Self::Nudge { slot, .. } => write!(f, "nudges {}", claim_name(*slot)),
            Self::HandOver { volume, to: (slot, uid), .. } => {
                write!(f, "hands volume {volume} over to {} (UID {uid})", claim_name((*slot).into()))
            }
            Self::Clear { volume } => write!(f, "clears the claimRef of volume {volume}"),
            Self::DeleteClaim { slot, .. } => write!(f, "deletes {}", claim_name(*slot)),
            Self::Release { slot, .. } => write!(f, "releases {}", claim_name(*slot)),
            Self::DeletePod { clone, .. } => write!(f, "deletes {}", names::mover(UIDS[*clone])),
            Self::ReportForCdi => f.write_str("reports the end in CDI's place"),
        }
    }
}

/// The result of a pass.
#[derive(Debug, Clone)]
pub struct Pass {
    pub writes: Vec<ModelWrite>,
    /// The status after the pass.
    pub status: u16,
    pub phase: Phase,
    pub wants_snapshot: bool,
    /// The reasons why it must not be carried out.
    pub violations: Vec<String>,
    /// The reason to wait.
    pub waiting: Option<&'static str>,
}

const UIDS: [&str; CLONES] = ["a", "b"];

pub fn claim_name(slot: usize) -> String {
    let clone = clone_of(slot);
    if slot == target(clone) { format!("clone-{}", UIDS[clone]) } else { names::temporary_claim(UIDS[clone]) }
}

fn slot_of(name: &str) -> Option<usize> {
    (0..SLOTS).find(|slot| claim_name(*slot) == name)
}

fn clone_by_uid(uid: &str) -> Option<usize> {
    UIDS.iter().position(|known| *known == uid)
}

fn exact(namespace: &str, name: String, uid: String, content: &impl Hash) -> ObjectVersion {
    let mut version = DefaultHasher::new();
    content.hash(&mut version);
    ObjectVersion { namespace: namespace.into(), name, uid, resource_version: version.finish().to_string() }
}

pub fn volume_exact(name: usize, volume: Volume) -> ObjectVersion {
    exact("", name.to_string(), format!("volume {name}"), &volume)
}

pub fn pod_exact(clone: usize, pod: Pod) -> ObjectVersion {
    exact("here", names::mover(UIDS[clone]), format!("pod {}", pod.uid), &pod)
}

/// A table of distinct values, by number.
struct Table<T> {
    numbers: HashMap<String, u16>,
    values: Vec<Rc<T>>,
}

impl<T: serde::Serialize> Table<T> {
    fn number(&mut self, value: T) -> u16 {
        let text = serde_json::to_string(&value).unwrap();
        *self.numbers.entry(text).or_insert_with(|| {
            self.values.push(Rc::new(value));
            u16::try_from(self.values.len() - 1).unwrap()
        })
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new() }
    }
}

type Annotations = BTreeMap<String, String>;

/// The shipped functions with cached results.
pub struct Controller {
    wish: Wish,
    /// A planted mistake: ignores the holders of the volume.
    blind: bool,
    /// A planted mistake: takes a claim of CDI's for its own.
    greedy: bool,
    pins: RefCell<Table<Annotations>>,
    statuses: RefCell<Table<DataVolumeStatus>>,
    passes: RefCell<HashMap<(usize, u8, Objects), Rc<Pass>>>,
    needs: RefCell<HashMap<(usize, u8, Objects), bool>>,
}

impl Controller {
    pub fn new(wish: Wish, mistake: Option<Mistake>) -> Self {
        let this = Self {
            wish,
            blind: mistake == Some(Mistake::IgnoresHolders),
            greedy: mistake == Some(Mistake::TakesCdisClaim),
            pins: RefCell::default(),
            statuses: RefCell::default(),
            passes: RefCell::default(),
            needs: RefCell::default(),
        };
        // The first entries are those of a new DataVolume.
        let mut pin = vec![(keys::CLONE_TYPE, wish.strategy)];
        if wish.beside_cdi {
            pin.extend([
                (keys::PRE_POPULATED, keys::SENTINEL),
                (keys::BESIDE_CDI, "true"),
                (keys::OWNERSHIP_KEY, "key"),
            ]);
        }
        let pin = pin.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        this.pins.borrow_mut().number(pin.collect());
        this.statuses.borrow_mut().number(DataVolumeStatus::default());
        this
    }

    pub fn newborn() -> Dv {
        Dv::There { pin: 0, status: 0 }
    }

    /// The phase that smartclone has recorded: on the DataVolume, or on its claim beside CDI.
    pub fn recorded(&self, objects: &Objects, clone: usize) -> Option<Phase> {
        let phase = self.phase(objects.dvs[clone])?;
        if !self.wish.beside_cdi {
            return Some(phase);
        }
        Some(objects.claims[target(clone)].map(|claim| self.status(claim.record).phase).unwrap_or_default())
    }

    /// The pin without the mark.
    pub fn unmarked(&self, pin: u16) -> u16 {
        let mut annotations = (*self.pins.borrow().values[usize::from(pin)]).clone();
        annotations.remove(keys::PRE_POPULATED);
        self.pins.borrow_mut().number(annotations)
    }

    /// True if the mark keeps CDI off.
    pub fn is_marked(&self, pin: u16) -> bool {
        self.pins.borrow().values[usize::from(pin)].contains_key(keys::PRE_POPULATED)
    }

    /// The status that CDI derives from the clone's claim: it shows the phase that is recorded there, and its own progress for a claim that
    /// it fills itself.
    pub fn by_cdi(&self, objects: &Objects, clone: usize) -> Option<u16> {
        let Dv::There { pin, status } = objects.dvs[clone] else { return None };
        let phase = match objects.claims[target(clone)] {
            None if self.is_marked(pin) => Phase::Pending,
            None => return None,
            Some(claim) if claim.deleting => return None,
            Some(claim) if claim.from == From::Cdi && claim.phase == ClaimPhase::Bound => Phase::Succeeded,
            Some(claim) if claim.from == From::Cdi => Phase::CloneScheduled,
            Some(claim) => match self.status(claim.record).phase {
                Phase::Failed => return None,
                Phase::Unset | Phase::Pending => Phase::CloneScheduled,
                phase => phase,
            },
        };
        (self.status(status).phase != phase).then(|| self.with_phase(phase))
    }

    /// The phases between which CDI would take the DataVolume back, if it would.
    pub fn goes_back(&self, dv: Dv, number: u16) -> Option<String> {
        const ORDER: [Phase; 8] = [
            Phase::Unset,
            Phase::Pending,
            Phase::CloneScheduled,
            Phase::SnapshotForSmartCloneInProgress,
            Phase::CloneFromSnapshotSourceInProgress,
            Phase::CloneInProgress,
            Phase::RebindInProgress,
            Phase::Succeeded,
        ];
        let place = |phase: Phase| ORDER.iter().position(|known| *known == phase);
        let (old, new) = (self.phase(dv)?, self.status(number).phase);
        (place(new)? < place(old)?).then(|| format!("from {old} to {new}"))
    }

    /// A status of CDI's.
    pub fn with_phase(&self, phase: Phase) -> u16 {
        self.statuses.borrow_mut().number(DataVolumeStatus { phase, ..DataVolumeStatus::default() })
    }

    pub fn phase(&self, dv: Dv) -> Option<Phase> {
        match dv {
            Dv::There { status, .. } => Some(self.status(status).phase),
            Dv::Unborn | Dv::Gone => None,
        }
    }

    /// True if a claim populated from `from` matches the strategy in force.
    pub fn wants(&self, dv: Dv, from: From) -> bool {
        let Dv::There { pin, .. } = dv else { return false };
        let pins = self.pins.borrow();
        let annotation = |key| pins.values[usize::from(pin)].get(key).map(String::as_str);
        let note = annotation(keys::PLAN).and_then(PlanNote::read);
        let pinned = note.and_then(|note| note.strategy_in_force(annotation(keys::CLONE_TYPE)));
        pinned.map_or(self.wish.strategy, CloneStrategy::as_str)
            == match from {
                From::Snapshot(_) => "snapshot",
                From::Source => "csi-clone",
                From::Blank | From::HeldBack | From::Cdi => "copy",
            }
    }

    fn status(&self, number: u16) -> Rc<DataVolumeStatus> {
        Rc::clone(&self.statuses.borrow().values[usize::from(number)])
    }

    /// The namespace of the clones.
    fn here(&self) -> &'static str {
        if self.wish.crosses { "there" } else { "here" }
    }

    fn namespace(&self, slot: usize) -> &'static str {
        if slot < CLONES { self.here() } else { "here" }
    }

    pub fn grown(&self) -> u8 {
        if self.wish.grows { 2 } else { 1 }
    }

    /// True if the garbage collector deletes temporary objects together with their DataVolume.
    pub fn owned(&self) -> bool {
        !self.wish.crosses
    }

    fn data_volume(&self, clone: usize, pin: u16, status: u16) -> DataVolume {
        let size = if self.wish.grows { "2Gi" } else { "1Gi" };
        let annotations = &self.pins.borrow().values[usize::from(pin)];
        let mut made = volume(|object| {
            object["metadata"]["name"] = json!(claim_name(clone));
            object["metadata"]["namespace"] = json!(self.here());
            object["metadata"]["uid"] = json!(UIDS[clone]);
            object["metadata"]["annotations"] = json!(annotations.as_ref());
            object["spec"]["pvc"]["resources"]["requests"]["storage"] = json!(size);
        });
        made.status = Some((*self.status(status)).clone());
        made
    }

    pub fn claim_exact(&self, slot: usize, claim: &Claim) -> ObjectVersion {
        let uid = format!("{slot}/{}", claim.uid);
        exact(self.namespace(slot), claim_name(slot), uid, &Claim { late: false, refused: false, ..*claim })
    }

    fn identity(&self, (slot, uid): (u8, u8)) -> ClaimIdentity {
        let at = usize::from(slot);
        ClaimIdentity { namespace: self.namespace(at).into(), name: claim_name(at), uid: format!("{slot}/{uid}") }
    }

    fn claim(&self, objects: &Objects, slot: usize) -> Option<claim::Claim> {
        let claim = objects.claims[slot]?;
        Some(claim::Claim {
            exact: self.claim_exact(slot, &claim),
            ours: true,
            trusted: true,
            kept: claim.kept.then(Vec::new),
            deleted_at: claim.deleting.then(|| ago(if claim.late { 1000 } else { 1 })),
            deletable: slot >= CLONES || claim.phase != ClaimPhase::Bound,
            controlled: slot < CLONES || self.owned(),
            made_for_it: true,
            populated: false,
            waits_for_cdi: claim.from == From::Cdi && !self.greedy,
            sealed: false,
            deleting: claim.deleting,
            created: Some(ago(if claim.late { 1000 } else { 1 })),
            phase: claim.phase,
            content: match claim.from {
                From::Blank => Content::Blank,
                From::HeldBack | From::Cdi => Content::HeldBack,
                From::Source => Content::Claim("disk".into()),
                From::Snapshot(leader) => Content::Snapshot(names::snapshot(UIDS[usize::from(leader)])),
            },
            attributes_class: None,
            selected_node: None,
            handed_over: objects.named_by(slot).is_some_and(|v| v.handed_over && v.claim == objects.identity(slot)),
            request: gi(claim.request.into()),
            capacity: (claim.capacity > 0).then(|| gi(claim.capacity.into())),
            volume_capacity: None,
            expansion: None,
            copied: claim.copied.then(|| "digest".into()),
            complaint: claim.refused.then(|| REFUSAL.into()),
            retained: None,
            nudged_at: None,
        })
    }

    /// Builds it as the controller's `observe` does.
    fn rebind(&self, objects: &Objects, clone: usize) -> Rebind {
        let source = objects.claims[temporary(clone)].map(|claim| SourceClaim {
            exact: self.claim_exact(temporary(clone), &claim),
            deleting: claim.deleting,
            kept: claim.kept,
            phase: claim.phase,
            volume_name: claim.volume.map(|name| name.to_string()),
            nudged_at: None,
        });
        let target = objects.claims[target(clone)].map(|claim| TargetClaim {
            exact: self.claim_exact(target(clone), &claim),
            deleting: claim.deleting,
            phase: claim.phase,
            volume_name: claim.volume.map(|name| name.to_string()),
            held_back: matches!(claim.from, From::HeldBack | From::Cdi),
            nudged_at: claim.nudged.then(|| ago(1)),
        });
        let name = rebind::volume_between(source.as_ref(), target.as_ref()).and_then(|name| name.parse().ok());
        let name = match (name, &target) {
            (Some(name), _) => Some(name),
            (None, Some(target)) if target.held_back && source.is_none() => {
                objects.volume_of(super::world::target(clone))
            }
            (None, _) => None,
        };
        let volume = name.and_then(|name: usize| Some((name, objects.volumes[name]?)));
        Rebind {
            source: source.into(),
            target: target.into(),
            volume: volume
                .map(|(name, volume)| rebind::Volume {
                    exact: volume_exact(name, volume),
                    deleting: false,
                    claim_ref: volume.claim.map(|claim| self.identity(claim)),
                    handed_over_at: volume.handed_over.then(|| ago(2)),
                })
                .into(),
            now: now(),
        }
    }

    fn shared(&self, leader: usize, snapshot: Snapshot) -> SharedSnapshot {
        SharedSnapshot {
            exact: exact("here", names::snapshot(UIDS[leader]), format!("snapshot {}", snapshot.uid), &snapshot),
            ours: true,
            deleting: snapshot.deleting,
            created: Some(ago(if snapshot.late { 1000 } else { 1 })),
            members: self.members(snapshot.members),
            ready: snapshot.ready,
            restore_size: Some(gi(1)),
            error: snapshot.refused.then(|| REFUSAL.into()),
        }
    }

    fn members(&self, bits: u8) -> Members {
        let those = (0..CLONES).filter(|clone| bits & bit(*clone) != 0);
        let name = |clone| ObjectName { namespace: self.here().into(), name: claim_name(clone) };
        those.map(|clone| (UIDS[clone].to_owned(), name(clone))).collect()
    }

    fn observe(&self, objects: &Objects, clone: usize) -> Option<Observed> {
        let Dv::There { pin, status } = objects.dvs[clone] else { return None };
        let volume = self.data_volume(clone, pin, status);
        let mut facts = facts();
        if let (true, Present(class)) = (self.wish.grows, &mut facts.target_class) {
            class.restore = RestoreRule::SourceSizeOnly;
        }
        if objects.source_gone {
            (facts.source, facts.source_class) = (Absent, Absent);
        }
        let snapshots = objects.snapshots.iter().enumerate();
        let mut plain = observed(&volume, facts);
        if self.wish.beside_cdi {
            plain.mode = beside_cdi();
            plain.facts.beside_cdi = Some(BesideCdi { waits_for_consumers: true });
            let record = objects.claims[target(clone)].map(|claim| self.status(claim.record));
            plain.volume.status = record.map(|record| (*record).clone()).unwrap_or_default();
            let phase = self.status(status).phase;
            plain.volume.reported_by_cdi = Some(ReportedByCdi { phase, is_replaced: false, is_misled: false });
        }
        Some(Observed {
            authorized: Present(Authorization::Allowed),
            claim: self.claim(objects, target(clone)).into(),
            temporary: self.claim(objects, temporary(clone)).into(),
            rebind: self.rebind(objects, clone),
            group: Present(SharedSnapshots {
                snapshots: snapshots.filter_map(|(at, s)| s.map(|s| self.shared(at, s))).collect(),
            }),
            holders: Present(if self.blind {
                Vec::new()
            } else {
                objects.strangers[clone].map(|stranger| format!("{stranger:?}")).into_iter().collect()
            }),
            mover: objects.pods[clone]
                .map(|pod| Mover {
                    exact: pod_exact(clone, pod),
                    ours: true,
                    trusted: true,
                    over: matches!(pod.state, PodState::Copied | PodState::Failed),
                    deleting: pod.deleting,
                    fills: Some(format!("{}/{}", temporary(clone), pod.fills)),
                    state: match pod.state {
                        PodState::Starting => MoverState::Starting(None),
                        PodState::Running => MoverState::Running,
                        PodState::Copied => {
                            ended(Outcome::Copied { total: 1, written: 1, digest: "digest".into(), notes: vec![] })
                        }
                        PodState::Failed => ended(Outcome::Retry { message: "an I/O error".into() }),
                    },
                })
                .into(),
            ..plain
        })
    }

    /// The result of a pass over `clone` that observes `objects`; `turn` are the clones for which it may request a snapshot.
    pub fn pass(&self, objects: &Objects, clone: usize, turn: u8) -> Option<Rc<Pass>> {
        let about = objects.about(clone);
        if !about.dvs[clone].there() {
            return None;
        }
        let key = (clone, turn, about);
        if let Some(known) = self.passes.borrow().get(&key) {
            return Some(Rc::clone(known));
        }
        let pass = Rc::new(self.make(&about, clone, turn)?);
        self.passes.borrow_mut().insert(key, Rc::clone(&pass));
        Some(pass)
    }

    fn make(&self, objects: &Objects, clone: usize, turn: u8) -> Option<Pass> {
        let seen = self.observe(objects, clone)?;
        let plan = step(&seen)?;
        let wants_snapshot = plan.wanted_snapshot.is_some();
        let plan = if turn > 0 { plan.with_turn(&crate::clone::plan::Turn::Now(self.members(turn))) } else { plan };
        let mut next = status(&seen, &plan);
        // A UID has no meaning beyond the life of an object here; ownership is not part of this model.
        if let Some(clone) = &mut next.clone {
            clone.created.clear();
        }
        if self.wish.beside_cdi && next.phase == Phase::Succeeded {
            // CDI gets no time to report, which is the hardest case.
            for condition in &mut next.conditions {
                condition.last_transition_time = Some(Time(ago(10)));
            }
        }
        let Dv::There { pin, .. } = objects.dvs[clone] else { return None };
        let mut found: Vec<_> = violations(&seen, &plan).iter().map(ToString::to_string).collect();
        found.extend(breaches(&seen, &plan));
        let mut writes = Vec::new();
        for action in &plan.actions {
            match self.write(action, pin) {
                Some(write) => writes.push(write),
                None => found.push(format!("would write what isn't ours: {action:?}")),
            }
        }
        Some(Pass {
            writes,
            phase: next.phase,
            status: self.statuses.borrow_mut().number(next),
            wants_snapshot,
            violations: found,
            waiting: plan.waiting.as_ref().map(crate::clone::Waiting::reason),
        })
    }

    /// Translates a write; `None` if it doesn't concern an object of ours.
    fn write(&self, action: &Write, pin: u16) -> Option<ModelWrite> {
        Some(match action {
            Write::Pin(pinned) => {
                let mut annotations = (*self.pins.borrow().values[usize::from(pin)]).clone();
                for (key, value) in &pinned.annotations {
                    match value {
                        Some(value) => annotations.insert((*key).to_owned(), value.clone()),
                        None => annotations.remove(*key),
                    };
                }
                ModelWrite::Pin(self.pins.borrow_mut().number(annotations))
            }
            Write::CreateSnapshot(snapshot) => {
                let name = snapshot.metadata.name.as_ref()?;
                let members = read_members(object::annotation(&snapshot.metadata, keys::MEMBERS)?)?;
                ModelWrite::CreateSnapshot {
                    leader: UIDS.iter().position(|uid| names::snapshot(uid) == *name)?,
                    members: members.keys().map(|uid| clone_by_uid(uid).map(bit)).sum::<Option<u8>>()?,
                }
            }
            Write::CreateClaim(claim) => {
                let read = claim::Claim::of(claim, Owner::Ours, "", None, None);
                ModelWrite::CreateClaim {
                    slot: slot_of(&read.exact.name)?,
                    from: match &read.content {
                        Content::Blank => From::Blank,
                        Content::HeldBack => From::HeldBack,
                        Content::Claim(_) => From::Source,
                        Content::Snapshot(name) => {
                            let leader = UIDS.iter().position(|uid| names::snapshot(uid) == *name)?;
                            From::Snapshot(u8::try_from(leader).ok()?)
                        }
                    },
                    request: whole(read.request),
                }
            }
            Write::CreatePod(pod) => {
                let name = pod.metadata.name.as_ref()?;
                let fills = object::annotation(&pod.metadata, keys::FILLS)?.split_once('/')?.1;
                ModelWrite::CreatePod {
                    clone: UIDS.iter().position(|uid| names::mover(uid) == *name)?,
                    fills: fills.parse().ok()?,
                }
            }
            Write::GrowClaim { claim, to } => {
                ModelWrite::Grow { slot: slot_of(&claim.name)?, seen: claim.clone(), to: whole(*to) }
            }
            Write::MarkCopied { claim, .. } => {
                ModelWrite::MarkCopied { slot: slot_of(&claim.name)?, seen: claim.clone() }
            }
            Write::Release { claim, .. } => ModelWrite::Release { slot: slot_of(&claim.name)?, seen: claim.clone() },
            Write::Nudge { claim, .. } => ModelWrite::Nudge { slot: slot_of(&claim.name)?, seen: claim.clone() },
            Write::HandOver { volume, to, .. } => {
                let (slot, uid) = to.uid.split_once('/')?;
                ModelWrite::HandOver {
                    volume: volume.name.parse().ok()?,
                    seen: volume.clone(),
                    to: (slot.parse().ok()?, uid.parse().ok()?),
                }
            }
            Write::Delete { kind: Kind::PersistentVolumeClaim, what } => {
                ModelWrite::DeleteClaim { slot: slot_of(&what.name)?, seen: what.clone() }
            }
            Write::Delete { kind: Kind::Pod, what } => ModelWrite::DeletePod {
                clone: UIDS.iter().position(|uid| names::mover(uid) == what.name)?,
                seen: what.clone(),
            },
            // No StorageClass of the model retains volumes.
            Write::ReportForCdi { .. } => ModelWrite::ReportForCdi,
            Write::Adopt(_)
            | Write::Seal { .. }
            | Write::DiscardVolume { .. }
            | Write::Delete { kind: Kind::VolumeSnapshot, .. } => {
                return None;
            }
        })
    }

    /// The possible turns of a clone that needs a snapshot: for itself alone, or also for the others that needed one before.
    pub fn turns(objects: &Objects, clone: usize, once: impl Fn(usize) -> bool) -> Vec<u8> {
        if objects.snapshots.iter().flatten().count() >= MAX_LIVE_SNAPSHOTS {
            return Vec::new();
        }
        let others = (0..CLONES).filter(|other| *other != clone && once(*other)).map(bit).sum::<u8>();
        if others == 0 { vec![bit(clone)] } else { vec![bit(clone), bit(clone) | others] }
    }

    /// True if the cleanup, which observes `objects`, deletes the snapshot; it reads from the API server if members still exist.
    pub fn superfluous(&self, objects: &Objects, leader: usize, now: &Objects) -> bool {
        let Some(snapshot) = objects.snapshots[leader].filter(|snapshot| !snapshot.deleting) else { return false };
        let name = names::snapshot(UIDS[leader]);
        let beside = |slot: usize| self.namespace(slot) == "here";
        let restoring = objects.claims.iter().enumerate().any(|(slot, claim)| {
            let from = From::Snapshot(u8::try_from(leader).unwrap());
            beside(slot) && claim.is_some_and(|c| c.from == from && c.phase == ClaimPhase::Pending)
        });
        let members = (0..CLONES).filter(|clone| snapshot.members & bit(*clone) != 0);
        !restoring
            && superfluous(members.map(|clone| match objects.dvs[clone] {
                Dv::There { .. } if self.needs(objects, clone, leader, &name) => {
                    crate::clone::shared_snapshot::Need::Needed
                }
                Dv::There { .. } => crate::clone::shared_snapshot::Need::Over,
                _ if now.dvs[clone].there() => crate::clone::shared_snapshot::Need::Needed,
                _ => crate::clone::shared_snapshot::Need::Over,
            }))
    }

    fn needs(&self, objects: &Objects, clone: usize, leader: usize, name: &str) -> bool {
        let about = objects.about(clone);
        let key = (clone, bit(leader), about);
        if let Some(known) = self.needs.borrow().get(&key) {
            return *known;
        }
        let Dv::There { pin, status } = about.dvs[clone] else { return false };
        let volume = Target::of(&self.data_volume(clone, pin, status));
        let filled = |claim: &claim::Claim| claim.content != Content::HeldBack || claim.phase == ClaimPhase::Bound;
        let member = Member {
            deleting: false,
            phase: volume.status.phase,
            history: volume.history,
            claim: self.claim(&about, target(clone)).filter(filled),
            temporary: self.claim(&about, temporary(clone)),
            waits_for: crate::clone::cleanup::waits_for(&volume.status, Some(ago(1))),
        };
        let needed = need(&member, name) != crate::clone::shared_snapshot::Need::Over;
        self.needs.borrow_mut().insert(key, needed);
        needed
    }
}

pub fn bit(clone: usize) -> u8 {
    1 << clone
}

fn whole(size: Bytes) -> u8 {
    u8::try_from(size.0 >> 30).unwrap()
}

/// A terminal error of a driver.
const REFUSAL: &str = "rpc error: code = OutOfRange desc = not on this pool";

fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

fn ended(outcome: Outcome) -> MoverState {
    MoverState::Ended { at: ago(60), outcome }
}
