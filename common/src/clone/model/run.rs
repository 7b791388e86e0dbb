//! The events of a miniature cluster, and the violations that they must not cause.

use std::{collections::HashSet, fmt, rc::Rc};

use super::{
    controller::{Controller, ModelWrite, Pass, Wish, bit, claim_name, pod_exact, volume_exact},
    world::{
        Budget, CLONES, Claim, ClaimPhase, Deed, Dv, From, Kind, Objects, Pod, PodState, SLOTS, Snapshot, Stranger,
        Volume, World, clone_of, target, temporary,
    },
};
use crate::{api::Phase, object::ObjectVersion};

/// A planted mistake, which the search must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// Writes have no preconditions: they change any object of the name.
    NoPreconditions,
    /// The claimRef is cleared, then set.
    ClearsClaimRef,
    /// The temporary claim is released as soon as its volume is rebound.
    DeletesEarly,
    /// The volume is rebound without a check of its holders.
    IgnoresHolders,
    /// The end is reported in CDI's place as soon as the claim is bound to anything.
    ReportsEarly,
    /// A claim that CDI has made, and fills, is taken for our own.
    TakesCdisClaim,
}

/// The parameters of a search.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub wish: Wish,
    pub clones: usize,
    pub budget: Budget,
    pub mistake: Option<Mistake>,
}

/// The part of a pass that is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    No,
    /// A crash follows after this number of writes.
    After(usize),
    /// The status is written, and a crash prevents the remaining deletions, which a finished clone writes beside it.
    StatusOnly,
}

/// An event in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Born(usize),
    Pass {
        clone: usize,
        turn: u8,
        late: bool,
        cut: Cut,
    },
    SweepClaim {
        slot: usize,
        late: bool,
    },
    SweepRelease {
        slot: usize,
        late: bool,
    },
    SweepPod {
        clone: usize,
        late: bool,
    },
    SweepSnapshot {
        leader: usize,
        late: bool,
    },
    SnapshotReady(usize),
    SnapshotRefused(usize),
    SnapshotLate(usize),
    SnapshotGone(usize),
    Provisioned(usize),
    ClaimRefused(usize),
    ClaimLate(usize),
    Bound(usize),
    LosesVolume(usize),
    ClaimGone(usize),
    Reclaimed(usize),
    Resized(usize),
    PodRuns(usize),
    PodCopied(usize),
    PodFails(usize),
    PodGone(usize),
    StrangerComes(usize),
    StrangerMounts(usize),
    StrangerLeaves(usize),
    Unmarked(usize),
    /// CDI writes the status of the DataVolume, perhaps from an old picture.
    CdiReports {
        clone: usize,
        late: bool,
    },
    CdiMakesClaim(usize),
    CdiFills(usize),
    /// The garbage collector deletes objects that have lost their owner.
    CollectsClaim(usize),
    CollectsPod(usize),
    CollectsSnapshot(usize),
    Does(Deed),
}

/// An event, and the kind whose cache stays stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub event: Event,
    pub keeps: Option<Kind>,
}

/// No more faults; drivers may still be late.
const REST: Budget =
    Budget { crash: false, deed: false, stale: false, trouble: false, stranger: false, unmark: false, most: u8::MAX };

/// A violation.
pub type Wrong = String;

/// A scenario with the functions that it runs.
pub struct Run {
    pub scenario: Scenario,
    pub controller: Controller,
}

/// The API server's answer.
#[derive(PartialEq, Eq)]
enum Answer {
    Done,
    Conflict,
}

impl Run {
    pub fn new(scenario: Scenario) -> Self {
        Self { controller: Controller::new(scenario.wish, scenario.mistake), scenario }
    }

    /// The initial state: only the first DataVolume exists; others may be created at any time.
    pub fn start(&self) -> World {
        let mut now = Objects::default();
        now.dvs[0] = Controller::newborn();
        World { now, old: None, budget: self.scenario.budget, done: None, troubled: false }
    }

    /// All possible events in `world`.
    pub fn events(&self, world: &World) -> Vec<Event> {
        let mut events = self.machines(&world.now);
        events.extend((0..self.scenario.clones).filter(|c| world.now.dvs[*c] == Dv::Unborn).map(Event::Born));
        for late in [false, true] {
            let Some(seen) = (if late { self.seen_late(world) } else { Some(world.now) }) else { continue };
            for clone in 0..self.scenario.clones {
                for (turn, pass) in self.passes(&seen, &world.now, clone) {
                    let whole = |cut| Event::Pass { clone, turn, late, cut };
                    events.push(whole(Cut::No));
                    if world.budget.crash {
                        events.extend((1..=pass.writes.len()).map(|writes| whole(Cut::After(writes))));
                        if pass.phase == Phase::Succeeded && !pass.writes.is_empty() {
                            events.push(whole(Cut::StatusOnly));
                        }
                    }
                }
            }
            events.extend(self.sweeps(&seen, &world.now, late));
            if late && self.scenario.wish.beside_cdi {
                let reports =
                    |clone: &usize| self.controller.by_cdi(&seen, *clone).is_some() && world.now.dvs[*clone].there();
                events.extend((0..CLONES).filter(reports).map(|clone| Event::CdiReports { clone, late }));
            }
        }
        if world.budget.unmark {
            let marked = |dv: Dv| matches!(dv, Dv::There { pin, .. } if self.controller.is_marked(pin));
            events.extend((0..CLONES).filter(|clone| marked(world.now.dvs[*clone])).map(Event::Unmarked));
        }
        if world.budget.deed {
            events.extend(Self::deeds(&world.now).into_iter().map(Event::Does));
        }
        if world.budget.stranger {
            let possible = |c: &usize| world.now.claims[temporary(*c)].is_some() && world.now.strangers[*c].is_none();
            events.extend((0..CLONES).filter(possible).map(Event::StrangerComes));
        }
        if world.budget.trouble {
            for (slot, claim) in claims(&world.now) {
                if claim.phase == ClaimPhase::Pending && claim.from != From::HeldBack && !claim.deleting {
                    events.extend([Event::ClaimRefused(slot), Event::ClaimLate(slot)]);
                }
            }
            for (leader, snapshot) in snapshots(&world.now) {
                if !snapshot.ready && !snapshot.deleting {
                    events.extend([Event::SnapshotRefused(leader), Event::SnapshotLate(leader)]);
                }
            }
            let running = |pod: Option<Pod>| pod.is_some_and(|p| p.state == PodState::Running);
            events.extend((0..CLONES).filter(|c| running(world.now.pods[*c])).map(Event::PodFails));
        }
        events
    }

    /// The passes over `clone` that observe `seen`, one for each possible turn.
    fn passes(&self, seen: &Objects, now: &Objects, clone: usize) -> Vec<(u8, Rc<Pass>)> {
        let Some(pass) = self.controller.pass(seen, clone, 0) else { return Vec::new() };
        let mut passes = Vec::new();
        if pass.wants_snapshot {
            for turn in Controller::turns(seen, clone, |other| now.dvs[other] != Dv::Unborn) {
                passes.extend(self.controller.pass(seen, clone, turn).map(|pass| (turn, pass)));
            }
        }
        passes.push((0, pass));
        passes
    }

    fn sweeps(&self, seen: &Objects, now: &Objects, late: bool) -> Vec<Event> {
        let gone = |clone: usize| !seen.dvs[clone].there() && !now.dvs[clone].there();
        let mut events = Vec::new();
        for (slot, claim) in claims(seen) {
            if slot >= CLONES && !claim.deleting && gone(clone_of(slot)) {
                events.push(Event::SweepClaim { slot, late });
            }
            if claim.deleting && claim.kept && gone(clone_of(slot)) {
                events.push(Event::SweepRelease { slot, late });
            }
        }
        for clone in 0..CLONES {
            if seen.pods[clone].is_some_and(|pod| !pod.deleting) && gone(clone) {
                events.push(Event::SweepPod { clone, late });
            }
            if self.controller.superfluous(seen, clone, now) {
                events.push(Event::SweepSnapshot { leader: clone, late });
            }
        }
        events
    }

    /// The possible deletions by a user; the API server protects objects in use.
    fn deeds(now: &Objects) -> Vec<Deed> {
        let mut deeds = Vec::new();
        for clone in 0..CLONES {
            deeds.extend(now.dvs[clone].there().then_some(Deed::DataVolume(clone)));
            deeds.extend(now.pods[clone].filter(|p| !p.deleting).map(|_| Deed::Pod(clone)));
            deeds.extend(now.snapshots[clone].filter(|s| !s.deleting).map(|_| Deed::Snapshot(clone)));
        }
        deeds.extend(claims(now).filter(|(_, claim)| !claim.deleting).map(|(slot, _)| Deed::Claim(slot)));
        let cloning = claims(now).any(|(_, c)| c.from == From::Source && c.phase == ClaimPhase::Pending);
        let cutting = snapshots(now).any(|(_, s)| !s.ready);
        if !now.source_gone && !cloning && !cutting && now.pods == [None; CLONES] {
            deeds.push(Deed::Source);
        }
        deeds
    }

    /// The possible actions of Kubernetes, the sidecars and the drivers.
    fn machines(&self, now: &Objects) -> Vec<Event> {
        let mut events = Vec::new();
        for (slot, claim) in claims(now) {
            let pending = claim.phase == ClaimPhase::Pending;
            let has_one = now.volume_of(slot).is_some();
            let content = match claim.from {
                From::Blank => true,
                From::HeldBack | From::Cdi => false,
                From::Source => !now.source_gone,
                From::Snapshot(s) => now.snapshots[usize::from(s)].is_some_and(|s| s.ready && !s.deleting),
            };
            if pending && content && !has_one && !claim.deleting {
                events.push(Event::Provisioned(slot));
            }
            if pending && claim.volume.is_none() && has_one {
                events.push(Event::Bound(slot));
            }
            if claim.phase == ClaimPhase::Bound && now.named_by(slot).is_none_or(|v| v.claim != now.identity(slot)) {
                events.push(Event::LosesVolume(slot));
            }
            if claim.phase == ClaimPhase::Bound && claim.capacity < claim.request {
                events.push(Event::Resized(slot));
            }
            let clone = clone_of(slot);
            let used = slot >= CLONES && (now.pods[clone].is_some() || now.strangers[clone].is_some());
            if claim.deleting && !claim.kept && !used {
                events.push(Event::ClaimGone(slot));
            }
            let owned = slot < CLONES || self.controller.owned();
            if owned && !claim.deleting && now.dvs[clone_of(slot)] == Dv::Gone {
                events.push(Event::CollectsClaim(slot));
            }
        }
        for (name, volume) in now.volumes.iter().enumerate() {
            if volume.is_some_and(|v| v.claim.is_some_and(|claim| !now.exists(claim))) {
                events.push(Event::Reclaimed(name));
            }
        }
        for (leader, snapshot) in snapshots(now) {
            let from = From::Snapshot(u8::try_from(leader).unwrap());
            let restoring = claims(now).any(|(_, c)| c.from == from && c.phase == ClaimPhase::Pending);
            if !snapshot.ready && !snapshot.deleting && !snapshot.refused && !now.source_gone {
                events.push(Event::SnapshotReady(leader));
            }
            // Kubernetes keeps a snapshot that is being restored; its driver starts no new restore from it.
            if snapshot.deleting && !restoring {
                events.push(Event::SnapshotGone(leader));
            }
            let orphan = (0..CLONES).all(|c| snapshot.members & bit(c) == 0 || now.dvs[c] == Dv::Gone);
            if self.controller.owned() && orphan && !snapshot.deleting {
                events.push(Event::CollectsSnapshot(leader));
            }
        }
        for clone in 0..CLONES {
            let slot = temporary(clone);
            let bound = now.claims[slot].is_some_and(|c| c.phase == ClaimPhase::Bound);
            let deleting = now.claims[slot].is_some_and(|c| c.deleting);
            let mounted = bound && now.named_by(slot).is_some_and(|v| v.claim == now.identity(slot));
            match now.strangers[clone] {
                Some(Stranger::Waiting) if mounted && !deleting => {
                    events.extend([Event::StrangerMounts(clone), Event::StrangerLeaves(clone)]);
                }
                Some(_) => events.push(Event::StrangerLeaves(clone)),
                None => {}
            }
            if self.scenario.wish.beside_cdi {
                events.extend(self.cdi(now, clone));
            }
            let Some(pod) = now.pods[clone] else { continue };
            if pod.deleting {
                events.push(Event::PodGone(clone));
            } else if self.controller.owned() && now.dvs[clone] == Dv::Gone {
                events.push(Event::CollectsPod(clone));
            }
            // Kubelet mounts a claim that is bound to a volume which refers to it.
            match pod.state {
                // Kubelet starts no pod with a claim that is being deleted.
                PodState::Starting if mounted && !now.source_gone && !pod.deleting && !deleting => {
                    events.push(Event::PodRuns(clone));
                }
                PodState::Running => events.push(Event::PodCopied(clone)),
                _ => {}
            }
        }
        events
    }

    /// The possible actions of CDI's controllers.
    fn cdi(&self, now: &Objects, clone: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let Dv::There { pin, .. } = now.dvs[clone] else { return events };
        let claim = now.claims[target(clone)];
        if claim.is_none() && !self.controller.is_marked(pin) {
            events.push(Event::CdiMakesClaim(clone));
        }
        let fills = |claim: Claim| claim.from == From::Cdi && claim.phase == ClaimPhase::Pending && !claim.deleting;
        if claim.is_some_and(fills) && !now.source_gone {
            events.push(Event::CdiFills(clone));
        }
        if self.controller.by_cdi(now, clone).is_some() {
            events.push(Event::CdiReports { clone, late: false });
        }
        events
    }

    /// The state after `event`, or the violation.
    pub fn apply(&self, world: &World, event: Event) -> Result<World, Wrong> {
        let mut next = *world;
        let now = &mut next.now;
        match event {
            Event::Born(clone) => now.dvs[clone] = Controller::newborn(),
            Event::Pass { clone, turn, late, cut } => self.carry_out(&mut next, clone, turn, late, cut)?,
            Event::SweepClaim { slot, late } => {
                let seen = self.look(&mut next, late);
                let exact = self.controller.claim_exact(slot, &seen.claims[slot].unwrap());
                self.delete_claim(&mut next, slot, &exact)?;
            }
            Event::SweepRelease { slot, late } => {
                let seen = self.look(&mut next, late);
                let exact = self.controller.claim_exact(slot, &seen.claims[slot].unwrap());
                self.release(&mut next, slot, &exact)?;
            }
            Event::SweepPod { clone, late } => {
                let seen = self.look(&mut next, late);
                let exact = pod_exact(clone, seen.pods[clone].unwrap());
                self.delete_pod(&mut next, clone, &exact);
            }
            Event::SweepSnapshot { leader, late } => {
                let seen = self.look(&mut next, late);
                let uid = seen.snapshots[leader].unwrap().uid;
                self.delete_snapshot(&mut next, leader, uid)?;
            }
            Event::SnapshotReady(leader) => now.snapshots[leader].as_mut().unwrap().ready = true,
            Event::SnapshotRefused(leader) => {
                now.snapshots[leader].as_mut().unwrap().refused = true;
                (next.budget, next.troubled) = (Budget { trouble: false, ..next.budget }.spent(), true);
            }
            Event::SnapshotLate(leader) => {
                now.snapshots[leader].as_mut().unwrap().late = true;
                (next.budget, next.troubled) = (Budget { trouble: false, ..next.budget }.spent(), true);
            }
            Event::SnapshotGone(leader) => now.snapshots[leader] = None,
            Event::CollectsSnapshot(leader) => {
                now.snapshots[leader].as_mut().unwrap().deleting = true;
            }
            Event::Provisioned(slot) => provision(&mut next, slot)?,
            Event::ClaimRefused(slot) => {
                now.claims[slot].as_mut().unwrap().refused = true;
                (next.budget, next.troubled) = (Budget { trouble: false, ..next.budget }.spent(), true);
            }
            Event::ClaimLate(slot) => {
                now.claims[slot].as_mut().unwrap().late = true;
                (next.budget, next.troubled) = (Budget { trouble: false, ..next.budget }.spent(), true);
            }
            Event::Bound(slot) => {
                let name = now.volume_of(slot).unwrap();
                let claim = now.claims[slot].as_mut().unwrap();
                claim.volume = Some(u8::try_from(name).unwrap());
                claim.phase = ClaimPhase::Bound;
                // A rebound volume has the size of its creation.
                claim.capacity = if claim.from == From::HeldBack { 1 } else { claim.request };
            }
            Event::LosesVolume(slot) => now.claims[slot].as_mut().unwrap().phase = ClaimPhase::Lost,
            Event::ClaimGone(slot) => now.claims[slot] = None,
            Event::Reclaimed(name) => {
                let volume = now.volumes[name].take().unwrap();
                let clone = volume.claim.map_or(0, |(slot, _)| clone_of(slot.into()));
                let done = whole(now, clone) || now.dvs[clone] == Dv::Gone;
                if volume.complete && next.done.is_none() && !next.troubled && !done {
                    return Err(format!("the content made for clone {clone} is lost"));
                }
            }
            Event::Resized(slot) => {
                let claim = now.claims[slot].as_mut().unwrap();
                claim.capacity = claim.request;
            }
            Event::PodRuns(clone) => now.pods[clone].as_mut().unwrap().state = PodState::Running,
            Event::PodCopied(clone) => {
                let claim = temporary(clone);
                let identity = now.identity(claim);
                let name = now.claims[claim].and_then(|c| c.volume).map(usize::from);
                match name.and_then(|name| now.volumes[name].as_mut()) {
                    Some(volume) if volume.claim == identity => volume.complete = true,
                    _ => return Err("the mover writes to a volume that isn't its claim's any more".to_owned()),
                }
                now.pods[clone].as_mut().unwrap().state = PodState::Copied;
            }
            Event::PodFails(clone) => {
                now.pods[clone].as_mut().unwrap().state = PodState::Failed;
                (next.budget, next.troubled) = (Budget { trouble: false, ..next.budget }.spent(), true);
            }
            Event::PodGone(clone) => now.pods[clone] = None,
            Event::StrangerComes(clone) => {
                now.strangers[clone] = Some(Stranger::Waiting);
                (next.budget, next.troubled) = (Budget { stranger: false, ..next.budget }.spent(), true);
            }
            Event::StrangerMounts(clone) => now.strangers[clone] = Some(Stranger::Mounted),
            Event::StrangerLeaves(clone) => now.strangers[clone] = None,
            Event::Unmarked(clone) => {
                if let Dv::There { pin, .. } = &mut now.dvs[clone] {
                    *pin = self.controller.unmarked(*pin);
                }
                (next.budget, next.troubled) = (Budget { unmark: false, ..next.budget }.spent(), true);
            }
            Event::CdiReports { clone, late } => {
                let seen = self.look(&mut next, late);
                let by_cdi = self.controller.by_cdi(&seen, clone);
                // A pass with a stale cache may report an earlier phase for a moment.
                let was_stale = world.budget.stale != self.scenario.budget.stale;
                let is_disturbed = late || was_stale || world.done.is_some() || world.troubled;
                if let Some(back) = by_cdi.and_then(|number| self.controller.goes_back(world.now.dvs[clone], number))
                    && !is_disturbed
                {
                    return Err(format!("the DataVolume of clone {clone} goes back {back}"));
                }
                if let (Dv::There { status, .. }, Some(number)) = (&mut next.now.dvs[clone], by_cdi) {
                    *status = number;
                }
            }
            Event::CdiMakesClaim(clone) => make_claim(&mut next, target(clone), From::Cdi, self.controller.grown()),
            Event::CdiFills(clone) => {
                let (slot, name) = (target(clone), next.volume_name());
                let claim = next.now.identity(slot);
                next.now.volumes[name] = Some(Volume { claim, handed_over: false, complete: true });
                if let Some(claim) = &mut next.now.claims[slot] {
                    claim.volume = u8::try_from(name).ok();
                    (claim.phase, claim.capacity) = (ClaimPhase::Bound, claim.request);
                }
            }
            Event::CollectsClaim(slot) => now.claims[slot].as_mut().unwrap().deleting = true,
            Event::CollectsPod(clone) => now.pods[clone].as_mut().unwrap().deleting = true,
            Event::Does(deed) => {
                match deed {
                    Deed::DataVolume(clone) => now.dvs[clone] = Dv::Gone,
                    Deed::Claim(slot) => now.claims[slot].as_mut().unwrap().deleting = true,
                    Deed::Snapshot(leader) => now.snapshots[leader].as_mut().unwrap().deleting = true,
                    Deed::Pod(clone) => now.pods[clone].as_mut().unwrap().deleting = true,
                    Deed::Source => now.source_gone = true,
                }
                (next.budget, next.done) = (Budget { deed: false, ..next.budget }.spent(), Some(deed));
            }
        }
        self.invariants(world, &next)?;
        Ok(next)
    }

    /// The objects that a pass with a stale cache observes. If the claim of a succeeded clone is missing or not bound in the cache, it is
    /// read from the API server.
    fn seen_late(&self, world: &World) -> Option<Objects> {
        let mut seen = world.seen_late()?;
        for clone in 0..CLONES {
            let own = target(clone);
            let bound = seen.claims[own].is_some_and(|claim| claim.phase == ClaimPhase::Bound);
            if !bound && self.controller.recorded(&seen, clone) == Some(Phase::Succeeded) {
                seen.claims[own] = world.now.claims[own];
            }
        }
        Some(seen)
    }

    /// The objects that a pass or the cleanup observes.
    fn look(&self, next: &mut World, late: bool) -> Objects {
        let seen = if late { self.seen_late(next).unwrap() } else { next.now };
        if late {
            next.old = None;
        }
        seen
    }

    fn carry_out(&self, next: &mut World, clone: usize, turn: u8, late: bool, cut: Cut) -> Result<(), Wrong> {
        let seen = self.look(next, late);
        let pass = self.controller.pass(&seen, clone, turn).unwrap();
        if let Some(wrong) = pass.violations.first() {
            return Err(format!("the pass over clone {clone} {wrong}"));
        }
        let Dv::There { mut pin, status } = seen.dvs[clone] else { return Ok(()) };
        if cut != Cut::No {
            next.budget = Budget { crash: false, ..next.budget }.spent();
        }
        let writes = self.with_mistake(&pass, &seen, clone);
        let allowed = match cut {
            Cut::No => usize::MAX,
            Cut::After(writes) => writes,
            Cut::StatusOnly => 0,
        };
        for write in writes.iter().take(allowed) {
            if self.write(next, &seen, clone, write)? == Answer::Conflict {
                break;
            }
            if let ModelWrite::Pin(new) = write {
                pin = *new;
            }
        }
        if self.scenario.wish.beside_cdi {
            return if matches!(cut, Cut::After(_)) { Ok(()) } else { self.record(next, &seen, clone, &pass) };
        }
        // Optimistic concurrency: a status derived from an old DataVolume is rejected.
        if !matches!(cut, Cut::After(_)) && next.now.dvs[clone] == (Dv::There { pin, status }) {
            self.reported(&next.now, clone, &pass, next.done)?;
            next.now.dvs[clone] = Dv::There { pin, status: pass.status };
        }
        Ok(())
    }

    /// Records the status on the clone's claim, if that is still the observed version.
    fn record(&self, next: &mut World, seen: &Objects, clone: usize, pass: &Pass) -> Result<(), Wrong> {
        let own = target(clone);
        let known = seen.claims[own].filter(|claim| claim.from != From::Cdi && !claim.deleting);
        if known.is_none() || next.now.claims[own] != known {
            return Ok(());
        }
        self.reported(&next.now, clone, pass, next.done)?;
        if let Some(claim) = &mut next.now.claims[own] {
            claim.record = pass.status;
        }
        Ok(())
    }

    fn with_mistake(&self, pass: &Pass, seen: &Objects, clone: usize) -> Vec<ModelWrite> {
        let mut writes = Vec::new();
        let is_bound = seen.claims[target(clone)].is_some_and(|claim| claim.phase == ClaimPhase::Pending);
        if self.scenario.mistake == Some(Mistake::ReportsEarly) && is_bound {
            writes.push(ModelWrite::ReportForCdi);
        }
        for write in &pass.writes {
            if let (Some(Mistake::ClearsClaimRef), ModelWrite::HandOver { volume, .. }) = (self.scenario.mistake, write)
            {
                writes.push(ModelWrite::Clear { volume: *volume });
            }
            writes.push(write.clone());
            if let (Some(Mistake::DeletesEarly), ModelWrite::HandOver { .. }) = (self.scenario.mistake, write) {
                let slot = temporary(clone);
                if let Some(claim) = &seen.claims[slot] {
                    writes.push(ModelWrite::Release { slot, seen: self.controller.claim_exact(slot, claim) });
                }
            }
        }
        writes
    }

    /// Checks the status of `clone` before it is written.
    fn reported(&self, now: &Objects, clone: usize, pass: &Pass, done: Option<Deed>) -> Result<(), Wrong> {
        let before = self.controller.recorded(now, clone);
        let own = target(clone);
        let deleted = done == Some(Deed::Claim(own));
        if let Some(end @ (Phase::Succeeded | Phase::Failed)) = before
            && pass.phase != end
            && !deleted
        {
            return Err(format!("clone {clone} goes from {end} to {}", pass.phase));
        }
        if pass.phase == Phase::Succeeded && before != Some(Phase::Succeeded) && !deleted && !whole(now, clone) {
            return Err(format!("clone {clone} is said to have succeeded without a complete volume"));
        }
        Ok(())
    }

    /// Applies a write as the API server does.
    fn write(&self, next: &mut World, seen: &Objects, clone: usize, write: &ModelWrite) -> Result<Answer, Wrong> {
        let blind = self.scenario.mistake == Some(Mistake::NoPreconditions);
        let same = |slot: usize, now: &Objects, seen: &ObjectVersion| {
            now.claims[slot].is_some_and(|claim| blind || self.controller.claim_exact(slot, &claim) == *seen)
        };
        Self::keeps_off(&next.now, write)?;
        match write {
            ModelWrite::ReportForCdi => {
                let own = target(clone);
                let is_blind = self.scenario.mistake == Some(Mistake::ReportsEarly);
                let is_same = next.now.claims[own] == seen.claims[own] || is_blind;
                if next.now.dvs[clone] != seen.dvs[clone] || !is_same {
                    return Ok(Answer::Conflict);
                }
                if !whole(&next.now, clone) {
                    return Err(format!("clone {clone} is said to have succeeded without a complete volume"));
                }
                if let Dv::There { status, .. } = &mut next.now.dvs[clone] {
                    *status = self.controller.with_phase(Phase::Succeeded);
                }
            }
            ModelWrite::Pin(new) => match &mut next.now.dvs[clone] {
                Dv::There { pin, status } if (Dv::There { pin: *pin, status: *status }) == seen.dvs[clone] => {
                    *pin = *new;
                }
                _ => return Ok(Answer::Conflict),
            },
            ModelWrite::CreateSnapshot { leader, members } => {
                let older = (0..CLONES).filter(|c| next.now.dvs[*c] != Dv::Unborn).map(bit).sum::<u8>();
                if members & !older != 0 {
                    return Err("a snapshot is older than one of its members".to_owned());
                }
                if next.now.snapshots[*leader].is_none() {
                    let uid = next.fresh(|objects, n| objects.snapshots[*leader].is_some_and(|s| s.uid == n));
                    next.now.snapshots[*leader] = Some(Snapshot {
                        uid,
                        members: *members,
                        older,
                        ready: false,
                        refused: false,
                        late: false,
                        deleting: false,
                    });
                }
            }
            ModelWrite::CreateClaim { slot, from, request } => {
                if next.now.claims[*slot].is_none() {
                    make_claim(next, *slot, *from, *request);
                }
            }
            ModelWrite::CreatePod { clone, fills } => {
                if next.now.pods[*clone].is_none() {
                    let uid = next.fresh(|objects, n| objects.pods[*clone].is_some_and(|p| p.uid == n));
                    next.now.pods[*clone] =
                        Some(Pod { uid, fills: *fills, state: PodState::Starting, deleting: false });
                }
            }
            ModelWrite::Grow { slot, seen, .. }
            | ModelWrite::MarkCopied { slot, seen }
            | ModelWrite::Nudge { slot, seen } => {
                if !same(*slot, &next.now, seen) {
                    return Ok(Answer::Conflict);
                }
                let Some(claim) = &mut next.now.claims[*slot] else { return Ok(Answer::Conflict) };
                match write {
                    ModelWrite::Grow { to, .. } => claim.request = claim.request.max(*to),
                    ModelWrite::MarkCopied { .. } => claim.copied = true,
                    _ => claim.nudged = true,
                }
            }
            ModelWrite::HandOver { volume: name, seen, to } => {
                if next.now.strangers[clone] == Some(Stranger::Mounted) {
                    return Err(format!("somebody else has volume {name} at the hand-over"));
                }
                let there = next.now.volumes[*name];
                if !there.is_some_and(|v| blind || volume_exact(*name, v) == *seen) {
                    // A planted mistake may have cleared the claimRef just now.
                    let cleared = there.is_some_and(|volume| volume.claim.is_none());
                    if !cleared {
                        return Ok(Answer::Conflict);
                    }
                }
                let Some(volume) = &mut next.now.volumes[*name] else { return Ok(Answer::Conflict) };
                (volume.claim, volume.handed_over) = (Some(*to), true);
            }
            ModelWrite::Clear { volume } => {
                if let Some(volume) = &mut next.now.volumes[*volume] {
                    volume.claim = None;
                }
            }
            ModelWrite::DeleteClaim { slot, seen } => self.delete_claim(next, *slot, seen)?,
            ModelWrite::Release { slot, seen } => {
                if !same(*slot, &next.now, seen) {
                    return Ok(Answer::Conflict);
                }
                self.release(next, *slot, seen)?;
            }
            ModelWrite::DeletePod { clone, seen } => self.delete_pod(next, *clone, seen),
        }
        Ok(Answer::Done)
    }

    /// Checks that a write does not concern a claim that CDI has made.
    fn keeps_off(now: &Objects, write: &ModelWrite) -> Result<(), Wrong> {
        let slot = match write {
            ModelWrite::Grow { slot, .. }
            | ModelWrite::MarkCopied { slot, .. }
            | ModelWrite::Nudge { slot, .. }
            | ModelWrite::DeleteClaim { slot, .. }
            | ModelWrite::Release { slot, .. } => *slot,
            ModelWrite::HandOver { to, .. } => usize::from(to.0),
            _ => return Ok(()),
        };
        let is_cdis = now.claims[slot].is_some_and(|claim| claim.from == From::Cdi);
        if is_cdis { Err(format!("CDI's claim is touched: {write}")) } else { Ok(()) }
    }

    fn delete_claim(&self, next: &mut World, slot: usize, seen: &ObjectVersion) -> Result<(), Wrong> {
        let blind = self.scenario.mistake == Some(Mistake::NoPreconditions);
        let Some(claim) = next.now.claims[slot] else { return Ok(()) };
        if !blind && self.controller.claim_exact(slot, &claim) != *seen {
            return Ok(());
        }
        if !claim.kept {
            self.may_go(next, slot)?;
        }
        if let Some(claim) = &mut next.now.claims[slot] {
            claim.deleting = true;
        }
        Ok(())
    }

    /// Removes our finalizer from a claim, with its version as a precondition.
    fn release(&self, next: &mut World, slot: usize, seen: &ObjectVersion) -> Result<(), Wrong> {
        let blind = self.scenario.mistake == Some(Mistake::NoPreconditions);
        let Some(claim) = next.now.claims[slot] else { return Ok(()) };
        if !blind && self.controller.claim_exact(slot, &claim) != *seen {
            return Ok(());
        }
        self.may_go(next, slot)?;
        if let Some(claim) = &mut next.now.claims[slot] {
            claim.kept = false;
        }
        Ok(())
    }

    /// Checks that the deletion of a claim, and of its volume, loses no data.
    fn may_go(&self, next: &World, slot: usize) -> Result<(), Wrong> {
        let clone = clone_of(slot);
        let Some(claim) = next.now.claims[slot] else { return Ok(()) };
        // A lost claim has no volume.
        let shell = claim.phase == ClaimPhase::Lost;
        if slot >= CLONES && !shell && next.now.dvs[clone].there() && next.now.between(clone) {
            return Err(format!("{} is deleted before the clone's claim is bound", claim_name(slot)));
        }
        let full = next.now.named_by(slot).is_some_and(|v| v.complete && v.claim == next.now.identity(slot));
        // Without mark and claim the clone is CDI's.
        let is_cdis = match next.now.dvs[clone] {
            Dv::There { pin, .. } if self.scenario.wish.beside_cdi => {
                !self.controller.is_marked(pin) && next.now.claims[target(clone)].is_none_or(|it| it.from == From::Cdi)
            }
            _ => false,
        };
        let wanted = !whole(&next.now, clone)
            && !is_cdis
            && self.controller.wants(next.now.dvs[clone], claim.from)
            && self
                .controller
                .recorded(&next.now, clone)
                .is_some_and(|p| !matches!(p, Phase::Succeeded | Phase::Failed));
        // A claim that a user deletes while it is populated is created again.
        if full && wanted && next.done != Some(Deed::Claim(slot)) {
            return Err(format!("{} is deleted with the content that is wanted", claim_name(slot)));
        }
        Ok(())
    }

    fn delete_pod(&self, next: &mut World, clone: usize, seen: &ObjectVersion) {
        let blind = self.scenario.mistake == Some(Mistake::NoPreconditions);
        if let Some(pod) = &mut next.now.pods[clone]
            && (blind || pod_exact(clone, *pod).uid == seen.uid)
        {
            pod.deleting = true;
        }
    }

    fn delete_snapshot(&self, next: &mut World, leader: usize, uid: u8) -> Result<(), Wrong> {
        let blind = self.scenario.mistake == Some(Mistake::NoPreconditions);
        let from = From::Snapshot(u8::try_from(leader).unwrap());
        let now = next.now;
        let restoring = claims(&now).find(|(slot, claim)| {
            claim.from == from && claim.phase == ClaimPhase::Pending && now.dvs[clone_of(*slot)].there()
        });
        let Some(snapshot) = &mut next.now.snapshots[leader] else { return Ok(()) };
        if !blind && snapshot.uid != uid {
            return Ok(());
        }
        // A snapshot that is needed again because a user deleted the claim may be missed by a stale cleanup. The deadline ends the wait.
        let again = matches!(next.done, Some(Deed::Claim(_)));
        if let Some((slot, claim)) = restoring.filter(|_| !again)
            && self.controller.wants(now.dvs[clone_of(slot)], claim.from)
            && !claim.deleting
        {
            return Err(format!("a snapshot is deleted while {} is restored from it", claim_name(slot)));
        }
        snapshot.deleting = true;
        Ok(())
    }

    /// Checks the invariants of all states.
    fn invariants(&self, before: &World, after: &World) -> Result<(), Wrong> {
        let now = &after.now;
        for (name, volume) in now.volumes.iter().enumerate() {
            if volume.is_some_and(|v| v.claim.is_none()) {
                return Err(format!("volume {name} is anybody's: its claimRef is cleared"));
            }
        }
        for (clone, other) in [(0, 1), (1, 0)] {
            let own = target(clone);
            let Some(claim) = now.claims[own].filter(|claim| claim.phase == ClaimPhase::Bound) else { continue };
            if claim.volume.is_some() && now.claims[target(other)].is_some_and(|c| c.volume == claim.volume) {
                return Err("two clones have one volume".to_owned());
            }
            let volume = now.named_by(own);
            if volume.is_none_or(|volume| volume.claim != now.identity(own)) {
                return Err(format!("the volume of clone {clone} is taken away from it"));
            }
            let said = self.controller.phase(now.dvs[clone]) == Some(Phase::Succeeded);
            if said && volume.is_none_or(|volume| !volume.complete) {
                return Err(format!("clone {clone} has succeeded and isn't complete"));
            }
        }
        let lost = |clone: usize| {
            let said = self.controller.phase(now.dvs[clone]) == Some(Phase::Succeeded);
            said && before.now.claims[target(clone)].is_some() && now.claims[target(clone)].is_none()
        };
        let own_end = |clone: usize| {
            matches!(after.done, Some(Deed::DataVolume(c)) if c == clone)
                || after.done == Some(Deed::Claim(target(clone)))
        };
        match (0..CLONES).find(|clone| lost(*clone) && !own_end(*clone)) {
            Some(clone) => Err(format!("the finished claim of clone {clone} is gone")),
            None => Ok(()),
        }
    }

    /// Follows `world` without faults until nothing changes any more, and checks the final state.
    pub fn settles(&self, world: &World, known: &mut HashSet<World>) -> Result<(), (Wrong, Vec<Event>)> {
        let mut world = World { old: None, budget: REST, ..*world };
        let (mut way, mut told) = (Vec::new(), Vec::new());
        while !known.contains(&world) {
            way.push(world);
            if way.len() > 300 {
                return Err(("it never ends".to_owned(), told));
            }
            match self.next(&world) {
                Ok(Some((event, next))) => {
                    told.push(event);
                    world = next;
                }
                Ok(None) => match self.ends(&world.now, world.done) {
                    Ok(()) => break,
                    Err(wrong) => return Err((wrong, told)),
                },
                Err(wrong) => return Err((wrong, told)),
            }
        }
        known.extend(way);
        Ok(())
    }

    /// The next event that changes anything: the cluster's first, then the controller's; if there is none, deadlines pass.
    fn next(&self, world: &World) -> Result<Option<(Event, World)>, Wrong> {
        let now = &world.now;
        let refused = |event: &Event| match event {
            Event::Provisioned(slot) => now.claims[*slot].is_some_and(|claim| claim.refused),
            // Kubernetes never binds a rebound volume unless the claim is annotated.
            Event::Bound(slot) => now.claims[*slot].is_some_and(|claim| claim.from == From::HeldBack && !claim.nudged),
            _ => false,
        };
        let mut events: Vec<_> = self.machines(now).into_iter().filter(|event| !refused(event)).collect();
        for clone in 0..self.scenario.clones {
            let passes = self.passes(now, now, clone);
            // All existing clones that need one.
            let wants = |other: usize| self.controller.pass(now, other, 0).is_some_and(|pass| pass.wants_snapshot);
            let all = (0..CLONES).filter(|c| wants(*c)).map(bit).sum::<u8>();
            let best = passes.iter().map(|(turn, _)| *turn).filter(|turn| turn & !all == 0).max();
            events.extend(best.map(|turn| Event::Pass { clone, turn, late: false, cut: Cut::No }));
        }
        events.extend(self.sweeps(now, now, false));
        let late = claims(now).filter(|(_, c)| c.phase == ClaimPhase::Pending && !c.late && c.from != From::HeldBack);
        events.extend(late.map(|(slot, _)| Event::ClaimLate(slot)));
        let late = snapshots(now).filter(|(_, s)| !s.ready && !s.late);
        events.extend(late.map(|(leader, _)| Event::SnapshotLate(leader)));
        for event in events {
            let mut next = self.apply(world, event)?;
            next.budget = REST;
            if next != *world {
                return Ok(Some((event, next)));
            }
        }
        Ok(None)
    }

    /// Checks the final state.
    fn ends(&self, now: &Objects, done: Option<Deed>) -> Result<(), Wrong> {
        let mut waits = false;
        for clone in 0..self.scenario.clones {
            let own = now.claims[target(clone)];
            match self.controller.phase(now.dvs[clone]) {
                None if own.is_some() => return Err(format!("the claim of clone {clone}, which is gone, stays")),
                None | Some(Phase::Failed) => {}
                Some(_) if self.controller.recorded(now, clone) == Some(Phase::Failed) => {}
                Some(Phase::Succeeded) => {
                    let Some(claim) = own.filter(|claim| claim.phase == ClaimPhase::Bound) else {
                        return Err(format!("clone {clone} has succeeded and has no claim"));
                    };
                    // The status of the claim that a user deleted may be reported for the next one of its name.
                    let another = done == Some(Deed::Claim(target(clone)));
                    if claim.capacity < self.controller.grown() && !another {
                        return Err(format!("clone {clone} is too small"));
                    }
                }
                // A deleted source can't be cloned.
                Some(_) if now.source_gone => waits = true,
                Some(phase) => {
                    let why = self.controller.pass(now, clone, 0).and_then(|pass| pass.waiting).unwrap_or_default();
                    return Err(format!("clone {clone} stays in {phase} ({why})"));
                }
            }
        }
        if !waits {
            if let Some((slot, _)) = claims(now).find(|(slot, _)| *slot >= CLONES) {
                return Err(format!("{} is left", claim_name(slot)));
            }
            if now.pods != [None; CLONES] {
                return Err("a mover is left".to_owned());
            }
            if now.snapshots != [None; CLONES] {
                return Err("a snapshot is left".to_owned());
            }
        }
        if now.volumes.iter().flatten().any(|v| v.claim.is_none_or(|claim| !now.exists(claim))) {
            return Err("a volume is left that nobody claims".to_owned());
        }
        Ok(())
    }

    /// Describes the event.
    pub fn tell(&self, world: &World, step: Step) -> impl fmt::Display {
        let what = match step.event {
            Event::Pass { clone, turn, late, cut } => {
                let seen = if late { self.seen_late(world).unwrap_or(world.now) } else { world.now };
                let pass = self.controller.pass(&seen, clone, turn);
                let (writes, phase) =
                    pass.map(|pass| (self.with_mistake(&pass, &seen, clone), pass.phase)).unwrap_or_default();
                let writes: Vec<_> = writes.iter().map(ToString::to_string).collect();
                let late = if late { " with an old picture" } else { "" };
                let cut = match cut {
                    Cut::No => format!("reports {phase}"),
                    Cut::After(n) => format!("CRASH after {n} of these"),
                    Cut::StatusOnly => format!("reports {phase}, CRASH before the rest"),
                };
                format!(
                    "controller  pass over clone {clone}{late}: {}",
                    writes.into_iter().chain([cut]).collect::<Vec<_>>().join(", ")
                )
            }
            Event::SweepClaim { .. }
            | Event::SweepRelease { .. }
            | Event::SweepPod { .. }
            | Event::SweepSnapshot { .. } => {
                format!("sweep       {:?}", step.event)
            }
            Event::Does(deed) => format!("user        deletes {deed:?}"),
            Event::Born(clone) => format!("user        creates clone {clone}"),
            Event::Provisioned(slot)
            | Event::ClaimRefused(slot)
            | Event::ClaimLate(slot)
            | Event::Bound(slot)
            | Event::LosesVolume(slot)
            | Event::ClaimGone(slot)
            | Event::Resized(slot)
            | Event::CollectsClaim(slot) => {
                let happens = format!("{:?}", step.event);
                format!("cluster     {}: {}", claim_name(slot), happens.split('(').next().unwrap_or_default())
            }
            other => format!("cluster     {other:?}"),
        };
        match step.keeps {
            Some(kind) => format!("{what}   (a cache of {kind:?} stays behind)"),
            None => what,
        }
    }
}

fn make_claim(next: &mut World, slot: usize, from: From, request: u8) {
    let uid = next.claim_uid(slot);
    next.now.claims[slot] = Some(Claim {
        uid,
        from,
        volume: None,
        phase: ClaimPhase::Pending,
        deleting: false,
        kept: slot >= CLONES,
        request,
        capacity: 0,
        copied: false,
        nudged: false,
        refused: false,
        late: false,
        record: 0,
    });
}

fn provision(next: &mut World, slot: usize) -> Result<(), Wrong> {
    let claim = next.now.claims[slot].unwrap();
    if let From::Snapshot(leader) = claim.from {
        let snapshot = next.now.snapshots[usize::from(leader)].unwrap();
        if snapshot.older & bit(clone_of(slot)) == 0 {
            return Err(format!("{} is restored from a snapshot that is older than its DataVolume", claim_name(slot)));
        }
    }
    let name = next.volume_name();
    next.now.volumes[name] =
        Some(Volume { claim: next.now.identity(slot), handed_over: false, complete: claim.from != From::Blank });
    Ok(())
}

/// True if the clone has its content.
fn whole(objects: &Objects, clone: usize) -> bool {
    let own = target(clone);
    let bound = objects.claims[own].is_some_and(|claim| claim.phase == ClaimPhase::Bound);
    bound && objects.named_by(own).is_some_and(|v| v.complete && v.claim == objects.identity(own))
}

fn claims(objects: &Objects) -> impl Iterator<Item = (usize, &Claim)> {
    (0..SLOTS).filter_map(|slot| Some((slot, objects.claims[slot].as_ref()?)))
}

fn snapshots(objects: &Objects) -> impl Iterator<Item = (usize, &Snapshot)> {
    (0..CLONES).filter_map(|leader| Some((leader, objects.snapshots[leader].as_ref()?)))
}
