//! A cluster in miniature. What a UID, a version or a time is only matters by comparison, so an object's UID is the smallest number that
//! nobody remembers, its version is its content, and a time is either just now or long ago.

pub use crate::object::ClaimPhase;

/// At most this many clones.
pub const CLONES: usize = 2;

/// The claims by name: the clones' own, then the temporary ones.
pub const SLOTS: usize = 2 * CLONES;

/// The clone's own claim.
pub fn target(clone: usize) -> usize {
    clone
}

/// The claim that gets the content.
pub fn temporary(clone: usize) -> usize {
    CLONES + clone
}

/// For which clone a claim is.
pub fn clone_of(slot: usize) -> usize {
    slot % CLONES
}

/// A DataVolume; its annotations and status are kept elsewhere, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dv {
    #[default]
    Unborn,
    There {
        pin: u16,
        status: u16,
    },
    Gone,
}

impl Dv {
    pub fn there(self) -> bool {
        matches!(self, Self::There { .. })
    }
}

/// Where a claim's content comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From {
    Blank,
    HeldBack,
    Source,
    Snapshot(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub uid: u8,
    pub from: From,
    pub volume: Option<u8>,
    pub phase: ClaimPhase,
    pub deleting: bool,
    /// Our finalizer keeps it.
    pub kept: bool,
    /// Gi.
    pub request: u8,
    /// Gi.
    pub capacity: u8,
    pub copied: bool,
    pub nudged: bool,
    /// The driver has refused it for good.
    pub refused: bool,
    /// It was made longer ago than an attempt may take.
    pub late: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Volume {
    /// By slot and UID.
    pub claim: Option<(u8, u8)>,
    pub handed_over: bool,
    pub complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub uid: u8,
    /// Clones, as bits.
    pub members: u8,
    /// The clones that existed when it was asked for, as bits.
    pub older: u8,
    pub ready: bool,
    pub refused: bool,
    pub late: bool,
    pub deleting: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PodState {
    Starting,
    Running,
    Copied,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pod {
    pub uid: u8,
    /// The UID of the claim that it was started for.
    pub fills: u8,
    pub state: PodState,
    pub deleting: bool,
}

/// A pod of somebody else that names the temporary claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stranger {
    /// Created; kubelet has not mounted the volume.
    Waiting,
    /// It has the volume, whatever becomes of the claim.
    Mounted,
}

/// All objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Objects {
    pub dvs: [Dv; CLONES],
    pub claims: [Option<Claim>; SLOTS],
    pub volumes: [Option<Volume>; SLOTS],
    /// By the clone that leads.
    pub snapshots: [Option<Snapshot>; CLONES],
    pub pods: [Option<Pod>; CLONES],
    /// Looked up at the API server, never in a cache.
    pub strangers: [Option<Stranger>; CLONES],
    pub source_gone: bool,
}

impl Objects {
    /// Whether this very claim exists.
    pub fn exists(&self, (slot, uid): (u8, u8)) -> bool {
        self.claims[usize::from(slot)].is_some_and(|claim| claim.uid == uid)
    }

    /// The claim's identity, as a `claimRef` names it.
    pub fn identity(&self, slot: usize) -> Option<(u8, u8)> {
        self.claims[slot].map(|claim| (u8::try_from(slot).unwrap(), claim.uid))
    }

    /// The volume that names this claim.
    pub fn volume_of(&self, slot: usize) -> Option<usize> {
        let claim = self.identity(slot)?;
        self.volumes.iter().position(|volume| volume.is_some_and(|v| v.claim == Some(claim)))
    }

    /// The volume that this claim names.
    pub fn named_by(&self, slot: usize) -> Option<&Volume> {
        self.volumes[usize::from(self.claims[slot]?.volume?)].as_ref()
    }

    /// The temporary claim's volume names the clone's claim, which isn't bound to it yet.
    pub fn between(&self, clone: usize) -> bool {
        let target_claim = self.claims[target(clone)];
        let handed = self
            .named_by(temporary(clone))
            .is_some_and(|volume| volume.claim.is_some() && volume.claim == self.identity(target(clone)));
        handed && target_claim.is_some_and(|claim| claim.phase != ClaimPhase::Bound)
    }

    /// Only what concerns `clone`, so that what doesn't can't make a difference.
    pub fn about(&self, clone: usize) -> Self {
        let mut only = *self;
        for other in (0..CLONES).filter(|other| *other != clone) {
            only.dvs[other] = Dv::Unborn;
            only.pods[other] = None;
            only.strangers[other] = None;
            for slot in [target(other), temporary(other)] {
                only.claims[slot] = None;
            }
        }
        for (at, slot) in only.volumes.iter_mut().enumerate() {
            let named = |slot: usize| self.claims[slot].is_some_and(|c| c.volume.map(usize::from) == Some(at));
            let mine = slot.is_some_and(|v| v.claim.is_some_and(|(slot, _)| clone_of(slot.into()) == clone));
            if !mine && !named(target(clone)) && !named(temporary(clone)) {
                *slot = None;
            }
        }
        only
    }
}

/// The kinds that are watched, each apart from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    DataVolumes,
    Claims,
    Volumes,
    Snapshots,
    Pods,
    /// All of them: a pass that began long ago, or a second controller.
    All,
}

pub const KINDS: [Kind; 6] = [Kind::DataVolumes, Kind::Claims, Kind::Volumes, Kind::Snapshots, Kind::Pods, Kind::All];

impl Objects {
    /// `self`, with `kind` as it is in `other`.
    pub fn with(&self, kind: Kind, other: &Self) -> Self {
        let mut mixed = *self;
        match kind {
            Kind::DataVolumes => mixed.dvs = other.dvs,
            Kind::Claims => (mixed.claims, mixed.source_gone) = (other.claims, other.source_gone),
            Kind::Volumes => mixed.volumes = other.volumes,
            Kind::Snapshots => mixed.snapshots = other.snapshots,
            Kind::Pods => mixed.pods = other.pods,
            Kind::All => mixed = Self { strangers: self.strangers, ..*other },
        }
        mixed
    }
}

/// What a person deletes, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    DataVolume(usize),
    Claim(usize),
    Snapshot(usize),
    Pod(usize),
    Source,
}

/// What may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub crash: bool,
    pub deed: bool,
    pub stale: bool,
    pub trouble: bool,
    /// Somebody else starts a pod with the temporary claim.
    pub stranger: bool,
    /// At most so many of these.
    pub most: u8,
}

impl Budget {
    /// One thing less may go wrong.
    pub fn spent(self) -> Self {
        let most = self.most - 1;
        if most == 0 { Self::default() } else { Self { most, ..self } }
    }
}

/// A state of the cluster, of what is remembered of an earlier one, and of what may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub now: Objects,
    /// What a pass may still see of one kind.
    pub old: Option<(Kind, Objects)>,
    pub budget: Budget,
    /// What a person has done.
    pub done: Option<Deed>,
    /// A driver has refused or been too slow.
    pub troubled: bool,
}

impl World {
    /// What a pass sees that looks at the old picture.
    pub fn seen_late(&self) -> Option<Objects> {
        self.old.map(|(kind, old)| self.now.with(kind, &old))
    }

    /// `uids` of everybody who is or was known under a name; the smallest that is free.
    pub fn fresh(&self, known: impl Fn(&Objects, u8) -> bool) -> u8 {
        let free = |n: u8| !known(&self.now, n) && self.old.is_none_or(|(_, old)| !known(&old, n));
        (0..=u8::MAX).find(|n| free(*n)).unwrap()
    }

    /// A UID for a new claim.
    pub fn claim_uid(&self, slot: usize) -> u8 {
        let at = u8::try_from(slot).unwrap();
        self.fresh(|objects, n| {
            let filled = slot >= CLONES && objects.pods[clone_of(slot)].is_some_and(|pod| pod.fills == n);
            filled || objects.exists((at, n)) || objects.volumes.iter().flatten().any(|v| v.claim == Some((at, n)))
        })
    }

    /// A name for a new volume.
    pub fn volume_name(&self) -> usize {
        let name = self.fresh(|objects, n| {
            objects.volumes.get(usize::from(n)).is_some_and(Option::is_some)
                || objects.claims.iter().flatten().any(|claim| claim.volume == Some(n))
        });
        assert!(usize::from(name) < SLOTS, "the model has too few volumes");
        name.into()
    }
}
