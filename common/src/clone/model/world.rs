//! A miniature cluster. UIDs, versions and times matter only by comparison: an object's UID is the smallest unused number, its version is
//! its content, and a time is either recent or long ago.

pub use crate::object::ClaimPhase;

/// The maximum number of clones.
pub const CLONES: usize = 2;

/// The claims by name: the clones' own, then the temporary ones.
pub const SLOTS: usize = 2 * CLONES;

/// The slot of the clone's own claim.
pub fn target(clone: usize) -> usize {
    clone
}

/// The slot of the temporary claim.
pub fn temporary(clone: usize) -> usize {
    CLONES + clone
}

/// The clone to which the claim belongs.
pub fn clone_of(slot: usize) -> usize {
    slot % CLONES
}

/// A DataVolume; its annotations and status are stored in tables, by number.
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

/// The data source of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum From {
    Blank,
    HeldBack,
    Source,
    Snapshot(u8),
    /// CDI's populator.
    Cdi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub uid: u8,
    pub from: From,
    pub volume: Option<u8>,
    pub phase: ClaimPhase,
    pub deleting: bool,
    /// True if our finalizer keeps it.
    pub kept: bool,
    /// The requested size in Gi.
    pub request: u8,
    /// The size in Gi.
    pub capacity: u8,
    pub copied: bool,
    pub nudged: bool,
    /// True if the driver has refused it permanently.
    pub refused: bool,
    /// True if it is older than an attempt's deadline.
    pub late: bool,
    /// The status of the clone that is recorded on it, beside CDI; by number, as that of a DataVolume.
    pub record: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Volume {
    /// The claimRef, by slot and UID.
    pub claim: Option<(u8, u8)>,
    pub handed_over: bool,
    pub complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Snapshot {
    pub uid: u8,
    /// The clones that share it, as bits.
    pub members: u8,
    /// The clones that existed when it was requested, as bits.
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
    /// The UID of the claim that it populates.
    pub fills: u8,
    pub state: PodState,
    pub deleting: bool,
}

/// A foreign pod that uses the temporary claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stranger {
    /// Created; kubelet has not mounted the volume.
    Waiting,
    /// Has mounted the volume, whatever happens to the claim.
    Mounted,
}

/// All objects of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Objects {
    pub dvs: [Dv; CLONES],
    pub claims: [Option<Claim>; SLOTS],
    pub volumes: [Option<Volume>; SLOTS],
    /// Indexed by the clone after which the snapshot is named.
    pub snapshots: [Option<Snapshot>; CLONES],
    pub pods: [Option<Pod>; CLONES],
    /// Read from the API server, never from a cache.
    pub strangers: [Option<Stranger>; CLONES],
    pub source_gone: bool,
}

impl Objects {
    /// True if the claim with this slot and UID exists.
    pub fn exists(&self, (slot, uid): (u8, u8)) -> bool {
        self.claims[usize::from(slot)].is_some_and(|claim| claim.uid == uid)
    }

    /// The claim's identity, as in a `claimRef`.
    pub fn identity(&self, slot: usize) -> Option<(u8, u8)> {
        self.claims[slot].map(|claim| (u8::try_from(slot).unwrap(), claim.uid))
    }

    /// The volume whose `claimRef` is this claim.
    pub fn volume_of(&self, slot: usize) -> Option<usize> {
        let claim = self.identity(slot)?;
        self.volumes.iter().position(|volume| volume.is_some_and(|v| v.claim == Some(claim)))
    }

    /// The volume in this claim's `volumeName`.
    pub fn named_by(&self, slot: usize) -> Option<&Volume> {
        self.volumes[usize::from(self.claims[slot]?.volume?)].as_ref()
    }

    /// True if the temporary claim's volume refers to the clone's claim, which isn't bound to it yet.
    pub fn between(&self, clone: usize) -> bool {
        let target_claim = self.claims[target(clone)];
        let handed = self
            .named_by(temporary(clone))
            .is_some_and(|volume| volume.claim.is_some() && volume.claim == self.identity(target(clone)));
        handed && target_claim.is_some_and(|claim| claim.phase != ClaimPhase::Bound)
    }

    /// The objects that concern `clone`, so that others can't make a difference.
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

/// The kinds, each of which has its own watch.
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
    /// Returns `self`, with `kind` as in `other`.
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

/// A deletion by a user, which occurs once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    DataVolume(usize),
    Claim(usize),
    Snapshot(usize),
    Pod(usize),
    Source,
}

/// The faults that may still occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    pub crash: bool,
    pub deed: bool,
    pub stale: bool,
    pub trouble: bool,
    /// A foreign pod with the temporary claim.
    pub stranger: bool,
    /// Somebody removes the mark of a clone beside CDI.
    pub unmark: bool,
    /// The maximum number of these faults.
    pub most: u8,
}

impl Budget {
    /// The budget after one more fault.
    pub fn spent(self) -> Self {
        let most = self.most - 1;
        if most == 0 { Self::default() } else { Self { most, ..self } }
    }
}

/// A state of the cluster, of a stale cache, and of the remaining faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub now: Objects,
    /// The old state of one kind that a pass may still see.
    pub old: Option<(Kind, Objects)>,
    pub budget: Budget,
    /// The user's deletion.
    pub done: Option<Deed>,
    /// True if a driver has refused or been too slow.
    pub troubled: bool,
}

impl World {
    /// The objects that a pass with a stale cache sees.
    pub fn seen_late(&self) -> Option<Objects> {
        self.old.map(|(kind, old)| self.now.with(kind, &old))
    }

    /// The smallest number that is unused in the current and the cached state.
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
