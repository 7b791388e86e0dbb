//! A cluster in miniature: the objects of one clone, what storage and people do to them, and an API server that checks preconditions.
//! The step function that is shipped runs against it, with views that lag and with interruptions after any write.

use proptest::prelude::*;
use serde_json::json;

use super::{
    action::{Action, Exact, Kind},
    check::violations,
    fixtures::{annotated, facts, gi, now, observed, sized, volume},
    plan::{Claim, Mover, MoverState, Observed, Snapshot, User},
    status::status,
    step::step,
};
use crate::{
    api::{DataVolume, Phase},
    lookup::Lookup::{Absent, Present},
    meta,
    mover::Outcome,
};

/// What happens outside the controller.
#[derive(Debug, Clone, Copy)]
enum Event {
    SnapshotReady,
    SnapshotGone,
    ClaimBound,
    ClaimExpanded,
    MoverRuns,
    MoverCopied,
    MoverFails,
    MoverGone,
    WriterAppears,
    WriterLeaves,
    SourceDeleted,
    TimePasses,
}

#[derive(Debug, Clone)]
struct World {
    volume: DataVolume,
    claim: Option<Claim>,
    snapshot: Option<Snapshot>,
    mover: Option<Mover>,
    writer: bool,
    source_gone: bool,
    seconds: i64,
    version: u64,
    created: u32,
}

impl World {
    fn new(volume: DataVolume) -> Self {
        Self {
            volume,
            claim: None,
            snapshot: None,
            mover: None,
            writer: false,
            source_gone: false,
            seconds: 0,
            version: 1,
            created: 0,
        }
    }

    fn view(&self) -> Observed {
        let mut facts = facts();
        if self.source_gone {
            facts.source = Absent;
        }
        Observed {
            now: now() + jiff::SignedDuration::from_secs(self.seconds),
            claim: self.claim.clone().into(),
            snapshot: self.snapshot.clone().into(),
            mover: self.mover.clone().into(),
            source_users: if self.writer {
                vec![User { pod: "writer".into(), scheduled: true, started: Some(now()), writes: true }]
            } else {
                vec![]
            },
            ..observed(&self.volume, facts)
        }
    }

    fn exact(&mut self, name: &str) -> Exact {
        self.version += 1;
        self.created += 1;
        Exact { name: name.into(), uid: format!("{name}-{}", self.created), resource_version: self.version.to_string() }
    }

    fn happens(&mut self, event: Event) {
        self.version += 1;
        let version = self.version.to_string();
        match event {
            Event::SnapshotReady => {
                if let Some(snapshot) = self.snapshot.as_mut().filter(|_| !self.source_gone) {
                    snapshot.ready = true;
                }
            }
            Event::SnapshotGone => self.snapshot = self.snapshot.take().filter(|s| !s.deleting),
            Event::ClaimBound => {
                if let Some(claim) = &mut self.claim {
                    claim.phase = "Bound".into();
                    claim.capacity = Some(claim.capacity.unwrap_or(claim.request));
                    claim.exact.resource_version = version;
                }
            }
            Event::ClaimExpanded => {
                if let Some(claim) = self.claim.as_mut().filter(|c| c.phase == "Bound") {
                    claim.capacity = Some(claim.request);
                    claim.exact.resource_version = version;
                }
            }
            Event::MoverRuns => {
                if let Some(mover) = self.mover.as_mut().filter(|m| matches!(m.state, MoverState::Starting(_))) {
                    mover.state = MoverState::Running;
                    // The pod that uses the claim also binds it.
                    self.happens(Event::ClaimBound);
                }
            }
            Event::MoverCopied | Event::MoverFails => {
                let at = now() + jiff::SignedDuration::from_secs(self.seconds);
                if let Some(mover) = self.mover.as_mut().filter(|m| m.state == MoverState::Running) {
                    let outcome = match event {
                        Event::MoverCopied => Outcome::Copied { total: 1, written: 1, digest: "d".into() },
                        _ => Outcome::Retry { message: "an I/O error".into() },
                    };
                    mover.state = MoverState::Ended { at, outcome };
                }
            }
            Event::MoverGone => self.mover = self.mover.take().filter(|m| !m.deleting),
            Event::WriterAppears => self.writer = true,
            Event::WriterLeaves => self.writer = false,
            // The API server protects a claim that is in use; only an idle source goes.
            Event::SourceDeleted => {
                self.source_gone |= self.snapshot.as_ref().is_none_or(|s| s.ready) && self.mover.is_none();
            }
            Event::TimePasses => self.seconds += 400,
        }
    }

    /// The API server: a write whose precondition doesn't hold changes nothing.
    fn write(&mut self, seen: &Observed, action: &Action) {
        let fresh = seen.volume.status == self.volume.status.clone().unwrap_or_default();
        match action {
            Action::Pin(annotations) if fresh => {
                let all = self.volume.metadata.annotations.get_or_insert_default();
                for (key, value) in annotations {
                    match value {
                        Some(value) => drop(all.insert((*key).to_owned(), value.clone())),
                        None => drop(all.remove(*key)),
                    }
                }
            }
            Action::Pin(_) => {}
            Action::CreateSnapshot(_) => {
                if self.snapshot.is_none() {
                    let exact = self.exact("snapshot");
                    self.snapshot = Some(Snapshot {
                        exact,
                        ours: true,
                        deleting: false,
                        ready: false,
                        restore_size: None,
                        error: None,
                    });
                }
            }
            Action::CreateClaim(claim) => {
                if self.claim.is_none() {
                    let read = Claim::of(claim, "dv", None);
                    let exact = self.exact("clone");
                    self.claim = Some(Claim { exact, phase: "Pending".into(), ..read });
                }
            }
            Action::CreateMover(_) => {
                if self.mover.is_none() {
                    let exact = self.exact("mover");
                    self.mover = Some(Mover { exact, ours: true, deleting: false, state: MoverState::Starting(None) });
                }
            }
            Action::GrowClaim { claim, to } => {
                if let Some(there) = self.claim.as_mut().filter(|c| c.exact == *claim) {
                    there.request = *to;
                }
            }
            Action::MarkCopied { claim, digest } => {
                if let Some(there) = self.claim.as_mut().filter(|c| c.exact == *claim) {
                    there.copied = Some(digest.clone());
                }
            }
            Action::Delete { kind: Kind::VolumeSnapshot, what } => {
                if let Some(there) = self.snapshot.as_mut().filter(|s| s.exact.uid == what.uid) {
                    there.deleting = true;
                }
            }
            Action::Delete { kind: Kind::Pod, what } => {
                if let Some(there) = self.mover.as_mut().filter(|m| m.exact.uid == what.uid) {
                    there.deleting = true;
                }
            }
        }
    }

    /// A pass over `seen`, cut short after `writes` writes. True when it wrote nothing at all.
    fn pass(&mut self, seen: &Observed, writes: usize) -> Result<bool, TestCaseError> {
        let Some(plan) = step(seen) else { return Ok(true) };
        prop_assert_eq!(violations(seen, &plan), vec![]);
        for action in plan.actions.iter().take(writes) {
            self.write(seen, action);
        }
        let next = status(seen, &plan);
        let silent = plan.actions.is_empty() && next == seen.volume.status;
        // Optimistic concurrency: a status computed from an old DataVolume is refused.
        if plan.actions.len() <= writes && seen.volume.status == self.volume.status.clone().unwrap_or_default() {
            self.volume.status = Some(next);
        }
        Ok(silent)
    }

    /// Storage does its work, nobody disturbs, and passes see what is there: how often until nothing is left to do.
    fn settle(&mut self) -> Result<u32, TestCaseError> {
        for passes in 1..60 {
            for event in [
                Event::WriterLeaves,
                Event::SnapshotReady,
                Event::SnapshotGone,
                Event::ClaimBound,
                Event::ClaimExpanded,
                Event::MoverGone,
                Event::MoverCopied,
                Event::MoverRuns,
                Event::TimePasses,
            ] {
                self.happens(event);
            }
            if self.pass(&self.view(), usize::MAX)? && self.snapshot.is_none() && self.mover.is_none() {
                return Ok(passes);
            }
        }
        Err(TestCaseError::fail(format!("never settles: {self:?}")))
    }

    fn phase(&self) -> Phase {
        self.volume.status.clone().unwrap_or_default().phase
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::SnapshotReady),
        3 => Just(Event::ClaimBound),
        3 => Just(Event::MoverRuns),
        2 => Just(Event::MoverCopied),
        1 => Just(Event::SnapshotGone),
        1 => Just(Event::ClaimExpanded),
        1 => Just(Event::MoverFails),
        1 => Just(Event::MoverGone),
        1 => Just(Event::WriterAppears),
        1 => Just(Event::WriterLeaves),
        1 => Just(Event::TimePasses),
    ]
}

fn volumes() -> impl Strategy<Value = DataVolume> {
    (prop_oneof!["snapshot", "csi-clone", "copy"], prop_oneof![Just("1Gi"), Just("2Gi")], any::<bool>()).prop_map(
        |(strategy, size, decided)| {
            volume(|object| {
                sized(size)(object);
                object["metadata"]["annotations"][meta::CLONE_TYPE] = json!(strategy);
                if decided {
                    annotated(meta::PLAN, "{}")(object);
                }
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, whatever the controller sees late, wherever it is interrupted: no invariant is broken, and as
    /// soon as nothing disturbs any more the clone is complete, of the size that was asked for, with nothing left behind, and the
    /// controller falls silent.
    #[test]
    fn every_road_ends_in_a_complete_clone(
        volume in volumes(),
        road in proptest::collection::vec((events(), 0usize..4, 0usize..3), 0..24),
    ) {
        let mut world = World::new(volume);
        let mut views = vec![world.view()];
        for (event, lag, writes) in road {
            world.happens(event);
            views.push(world.view());
            let seen = views[views.len().saturating_sub(1 + lag)].clone();
            world.pass(&seen, writes)?;
            views.push(world.view());
        }
        world.settle()?;
        prop_assert_eq!(world.phase(), Phase::Succeeded);
        let claim = world.claim.clone().expect("a claim");
        let asked = super::fixtures::request(&world.volume).size.unwrap();
        prop_assert!(claim.capacity >= Some(asked), "{claim:?}");
    }

    /// Success is for ever: what happens to the source afterwards changes nothing and writes nothing.
    #[test]
    fn a_complete_clone_needs_its_source_no_more(volume in volumes(), after in proptest::collection::vec(events(), 0..6)) {
        let mut world = World::new(volume);
        world.settle()?;
        world.happens(Event::SourceDeleted);
        for event in after {
            world.happens(event);
            prop_assert!(world.pass(&world.view(), usize::MAX)?);
        }
        prop_assert_eq!(world.phase(), Phase::Succeeded);
    }
}

/// A source that isn't there is waited for, by its name.
#[test]
fn a_source_that_vanishes_is_waited_for_by_name() {
    let mut world = World::new(volume(annotated(meta::PLAN, "{}")));
    world.source_gone = true;
    let seen = world.view();
    let plan = step(&seen).unwrap();
    assert_eq!(plan.actions, vec![]);
    assert_eq!(plan.waiting.as_ref().map(super::Waiting::reason), Some("CloneWithoutSource"));
    assert!(plan.waiting.unwrap().message().contains("here/disk"));
}

/// A writer that starts during a copy makes it worthless: the mover is stopped, and started again when the writer is gone.
#[test]
fn a_writer_during_a_copy_spoils_it() {
    let mut world = World::new(volume(|object| {
        annotated(meta::PLAN, "{}")(object);
        annotated(meta::CLONE_TYPE, "copy")(object);
    }));
    for event in [Event::ClaimBound, Event::TimePasses, Event::MoverRuns] {
        world.pass(&world.view(), usize::MAX).unwrap();
        world.happens(event);
    }
    world.happens(Event::WriterAppears);
    let seen = world.view();
    let plan = step(&seen).unwrap();
    assert!(matches!(plan.actions[..], [Action::Delete { kind: Kind::Pod, .. }]), "{plan:?}");
    assert_eq!(plan.waiting.map(|w| w.reason()), Some("CloneSourceInUse"));
}

/// What isn't ours is neither adopted nor touched, whatever its name.
#[test]
fn a_strangers_objects_are_left_alone() {
    let mut world = World::new(volume(annotated(meta::PLAN, "{}")));
    world.pass(&world.view(), usize::MAX).unwrap();
    world.pass(&world.view(), usize::MAX).unwrap();
    let mut seen = world.view();
    if let Present(snapshot) = &mut seen.snapshot {
        snapshot.ours = false;
    }
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));

    seen.claim = Present(Claim {
        exact: Exact { name: "clone".into(), uid: "x".into(), resource_version: "1".into() },
        ours: false,
        deleting: false,
        phase: "Bound".into(),
        request: gi(1),
        capacity: Some(gi(1)),
        file_system_grows_at_mount: false,
        copied: Some("forged".into()),
        complaint: None,
    });
    let plan = step(&seen).unwrap();
    assert_eq!((plan.actions, plan.waiting.map(|w| w.reason())), (vec![], Some("ErrResourceExists")));
}
