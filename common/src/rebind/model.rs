//! Model-based test of the rebind: a minimal form of Kubernetes' controller of claims and volumes, which may miss a change until a claim is
//! updated; users who delete claims and take volumes; and passes whose views lag and which may end before or after a write.

use jiff::SignedDuration;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::lookup::Lookup::{Absent, Present, Unknown};

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn id(namespace: &str, name: &str, uid: &str) -> ObjectVersion {
    ObjectVersion { namespace: namespace.into(), name: name.into(), uid: uid.into(), resource_version: "1".into() }
}

fn source() -> SourceClaim {
    SourceClaim {
        exact: id("here", "temporary", "s"),
        deleting: false,
        kept: false,
        phase: ClaimPhase::Bound,
        volume_name: Some("pv".into()),
        nudged_at: None,
    }
}

fn target() -> TargetClaim {
    TargetClaim {
        exact: id("there", "disk", "t"),
        deleting: false,
        phase: ClaimPhase::Pending,
        volume_name: None,
        held_back: true,
        nudged_at: None,
    }
}

fn volume(owner: ClaimIdentity) -> Volume {
    Volume { exact: id("", "pv", "v"), deleting: false, claim_ref: Some(owner), handed_over_at: None }
}

/// Returns the state before the first step.
fn begun() -> Rebind {
    Rebind {
        source: Present(source()),
        volume: Present(volume(source().identity())),
        target: Present(target()),
        now: start(),
    }
}

/// Returns the state `seconds` after the rebind, with the last nudge `nudged` seconds after the rebind.
fn waiting(seconds: i64, nudged: Option<i64>) -> Rebind {
    let at = |seconds| start() + SignedDuration::from_secs(seconds);
    Rebind {
        source: Present(SourceClaim { phase: ClaimPhase::Lost, ..source() }),
        volume: Present(Volume { handed_over_at: Some(start()), ..volume(target().identity()) }),
        target: Present(TargetClaim { nudged_at: nudged.map(at), ..target() }),
        now: at(seconds),
    }
}

fn with(change: impl FnOnce(&mut SourceClaim, &mut Volume, &mut TargetClaim)) -> Rebind {
    let (mut s, mut v, mut t) = (source(), volume(source().identity()), target());
    change(&mut s, &mut v, &mut t);
    Rebind { source: Present(s), volume: Present(v), target: Present(t), now: start() }
}

fn stranger() -> ClaimIdentity {
    ClaimIdentity { namespace: "here".into(), name: "temporary".into(), uid: "another".into() }
}

#[test]
fn the_volume_is_handed_over_with_both_identities() {
    assert_eq!(
        step(&begun()),
        Step::HandOver { volume: id("", "pv", "v"), from: source().identity(), to: target().identity(), at: start() }
    );
}

#[rstest]
#[case::claim_of_the_same_name(with(|_, v, _| v.claim_ref = Some(stranger())), Impossible::VolumeOfAnother(stranger()))]
#[case::nobodys(with(|_, v, _| v.claim_ref = None), Impossible::VolumeUnclaimed)]
#[case::reserved_by_name_only(
    with(|s, v, _| { s.exact.uid.clear(); v.claim_ref = Some(s.identity()); }),
    Impossible::VolumeOfAnother(ClaimIdentity { uid: String::new(), ..source().identity() })
)]
#[case::names_another_volume(
    with(|s, _, _| s.volume_name = Some("other".into())), Impossible::SourceNamesAnother(Some("other".into()))
)]
#[case::target_has_another_volume(
    with(|_, _, t| t.volume_name = Some("other".into())), Impossible::TargetBoundElsewhere("other".into())
)]
#[case::target_not_held_back(with(|_, _, t| t.held_back = false), Impossible::TargetNotHeldBack)]
#[case::source_goes(with(|s, _, _| s.deleting = true), Impossible::SourceDeleting)]
#[case::target_goes(with(|_, _, t| t.deleting = true), Impossible::TargetDeleting)]
#[case::volume_goes(with(|_, v, _| v.deleting = true), Impossible::VolumeDeleting)]
#[case::no_source(Rebind { source: Absent, ..begun() }, Impossible::SourceMissing)]
#[case::no_volume(Rebind { volume: Absent, ..begun() }, Impossible::VolumeMissing)]
#[case::no_target(Rebind { target: Absent, ..begun() }, Impossible::TargetMissing)]
#[case::target_recreated(
    Rebind { target: Present(TargetClaim { exact: id("there", "disk", "t2"), ..target() }), ..waiting(1, None) },
    Impossible::VolumeOfAnother(target().identity())
)]
fn what_is_not_ours_is_not_taken(#[case] rebind: Rebind, #[case] why: Impossible) {
    assert_eq!(step(&rebind), Step::Impossible(why));
}

#[rstest]
#[case::source(Rebind { source: Unknown("why".into()), ..begun() })]
#[case::volume(Rebind { volume: Unknown("why".into()), ..begun() })]
#[case::target(Rebind { target: Unknown("why".into()), ..begun() })]
#[case::volume_seen_late(with(|s, _, _| s.phase = ClaimPhase::Lost))]
#[case::volume_seen_later_than_the_target(with(|_, _, t| t.volume_name = Some("pv".into())))]
fn what_can_not_be_told_is_no_verdict(#[case] rebind: Rebind) {
    assert!(matches!(step(&rebind), Step::Unknown(_)), "{:?}", step(&rebind));
}

/// The first nudge is due after two seconds, the next ones each time the wait has doubled.
#[rstest]
#[case::at_once(0, None, Some(2))]
#[case::after_two_seconds(2, None, None)]
#[case::just_nudged(2, Some(2), Some(4))]
#[case::waited_twice_as_long(4, Some(2), None)]
#[case::four_times(7, Some(4), Some(8))]
#[case::not_too_rarely(500, Some(400), None)]
#[case::nudged_before_the_hand_over(0, Some(-5), Some(2))]
fn nudges(#[case] seconds: i64, #[case] nudged: Option<i64>, #[case] again: Option<i64>) {
    let rebind = waiting(seconds, nudged);
    match (step(&rebind), again) {
        (Step::Wait { look_again_at, .. }, Some(again)) => {
            assert_eq!(look_again_at, Some(start() + SignedDuration::from_secs(again)));
        }
        (Step::Nudge { at, .. }, None) => assert_eq!(at, rebind.now),
        (other, _) => panic!("{other:?}"),
    }
}

/// A source that is still bound `seconds` after the rebind, with the last nudge `nudged` seconds after it: `again` is the time of the next
/// pass, or `None` if the source is nudged now.
#[rstest]
#[case::never_touched(0, None, None)]
#[case::touched_before_the_hand_over(0, Some(-5), None)]
#[case::just_touched(0, Some(0), Some(2))]
#[case::touched_a_while_ago(3, Some(1), None)]
#[case::touched_late(5, Some(4), Some(8))]
#[case::not_too_rarely(500, Some(400), None)]
fn a_source_is_touched_until_it_is_lost(#[case] seconds: i64, #[case] nudged: Option<i64>, #[case] again: Option<i64>) {
    let at = |seconds| start() + SignedDuration::from_secs(seconds);
    let shell = SourceClaim { nudged_at: nudged.map(at), ..source() };
    let rebind = Rebind { source: Present(shell.clone()), ..waiting(seconds, None) };
    match (empty_source(&rebind), again) {
        (Step::Wait { what: Waiting::Losing(_), look_again_at }, Some(again)) => {
            assert_eq!(look_again_at, Some(at(again)));
        }
        (Step::Nudge { claim, at }, None) => assert_eq!((claim, at), (shell.exact, rebind.now)),
        (other, _) => panic!("{other:?}"),
    }
}

#[rstest]
#[case::lost(Present(SourceClaim { phase: ClaimPhase::Lost, ..source() }), true)]
#[case::on_its_way_out(Present(SourceClaim { deleting: true, ..source() }), true)]
#[case::gone(Absent, true)]
#[case::unknown(Unknown("why".into()), false)]
fn nothing_is_left_to_be_lost(#[case] source: Lookup<SourceClaim>, #[case] moved: bool) {
    let next = empty_source(&Rebind { source, ..waiting(1, None) });
    assert_eq!(next, if moved { Step::Moved } else { Step::Unknown("why".into()) });
}

/// No field of the former claim stays in the `claimRef`.
#[test]
fn the_patch_says_all_of_the_reference() {
    let patch = hand_over(&id("", "pv", "v"), &target().identity(), start());
    assert_eq!(patch["metadata"]["uid"], "v");
    assert_eq!(patch["metadata"]["resourceVersion"], "1");
    let reference = &patch["spec"]["claimRef"];
    assert_eq!(
        (&reference["namespace"], &reference["name"], &reference["uid"]),
        (&json!("there"), &json!("disk"), &json!("t"))
    );
    assert!(reference["resourceVersion"].is_null() && reference.get("resourceVersion").is_some());
}

/// An event outside the passes.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// Kubernetes' controller processes its queue.
    Sync,
    TimePasses,
    SourceDeleted,
    TargetDeleted,
    TargetRecreated,
    AdminGivesVolumeAway,
    TargetBoundElsewhere,
}

#[derive(Debug, Clone)]
struct World {
    source: Option<SourceClaim>,
    volume: Volume,
    target: Option<TargetClaim>,
    /// True if the target is in the queue of Kubernetes' controller.
    queued: bool,
    /// True if the source is in the queue. A rebind does not change the source.
    source_queued: bool,
    /// True if the controller misses that a volume was rebound.
    misses: bool,
    /// The UIDs of the targets that were ever bound to the volume.
    bound: Vec<String>,
    targets: u32,
    version: u64,
    milliseconds: i64,
}

impl World {
    fn new(misses: bool) -> Self {
        Self {
            source: Some(source()),
            volume: volume(source().identity()),
            target: Some(target()),
            queued: false,
            source_queued: false,
            misses,
            bound: Vec::new(),
            targets: 0,
            version: 1,
            milliseconds: 0,
        }
    }

    fn now(&self) -> Timestamp {
        start() + SignedDuration::from_millis(self.milliseconds)
    }

    fn touch(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn happens(&mut self, event: Event) {
        let version = self.touch();
        match event {
            Event::Sync => self.sync(&version),
            Event::TimePasses => self.milliseconds += 400,
            // Kubernetes protects a claim in use; this one is not in use.
            Event::SourceDeleted => self.source = None,
            Event::TargetDeleted => self.target = None,
            Event::TargetRecreated => {
                self.targets += 1;
                let mut exact = id("there", "disk", &format!("t{}", self.targets));
                exact.resource_version = version;
                self.target = Some(TargetClaim { exact, ..target() });
            }
            Event::AdminGivesVolumeAway => {
                self.volume.claim_ref = Some(stranger());
                self.volume.exact.resource_version = version;
            }
            Event::TargetBoundElsewhere => {
                if let Some(target) = self.target.as_mut().filter(|t| t.volume_name.is_none()) {
                    target.volume_name = Some("other".into());
                    target.phase = ClaimPhase::Bound;
                    target.exact.resource_version = version;
                }
            }
        }
    }

    fn sync(&mut self, version: &str) {
        let owner = self.volume.claim_ref.clone();
        if let Some(source) = self.source.as_mut().filter(|_| std::mem::take(&mut self.source_queued))
            && owner.as_ref() != Some(&source.identity())
            && source.phase == ClaimPhase::Bound
        {
            source.phase = ClaimPhase::Lost;
            source.exact.resource_version = version.to_owned();
        }
        if let Some(target) = self.target.as_mut().filter(|_| std::mem::take(&mut self.queued))
            && target.volume_name.is_none()
            && owner == Some(target.identity())
        {
            target.volume_name = Some(self.volume.exact.name.clone());
            target.phase = ClaimPhase::Bound;
            target.exact.resource_version = version.to_owned();
            self.bound.push(target.exact.uid.clone());
        }
    }

    /// Applies a write as the API server does: nothing changes if the precondition does not hold.
    fn write(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let version = self.touch();
        match step {
            Step::HandOver { volume, to, at, .. } if *volume == self.volume.exact => {
                prop_assert_eq!(self.volume.claim_ref.as_ref(), Some(&source().identity()), "taken from a stranger");
                prop_assert!(!to.uid.is_empty());
                self.volume.claim_ref = Some(to.clone());
                self.volume.handed_over_at = Some(*at);
                self.volume.exact.resource_version = version;
                self.queued |= !self.misses;
            }
            Step::Nudge { claim, at } => {
                if let Some(there) = self.source.as_mut().filter(|s| s.exact == *claim) {
                    there.nudged_at = Some(*at);
                    there.exact.resource_version.clone_from(&version);
                    self.source_queued = true;
                }
                if let Some(there) = self.target.as_mut().filter(|t| t.exact == *claim) {
                    there.nudged_at = Some(*at);
                    there.exact.resource_version = version;
                    self.queued = true;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Returns the view of a pass in which claims and volumes lag by so many states.
fn view(history: &[World], claims: usize, volumes: usize) -> Rebind {
    let at = |lag: usize| &history[history.len().saturating_sub(1 + lag)];
    Rebind {
        source: at(claims).source.clone().into(),
        volume: Present(at(volumes).volume.clone()),
        target: at(claims).target.clone().into(),
        now: at(0).now(),
    }
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Sync),
        6 => Just(Event::TimePasses),
        1 => Just(Event::SourceDeleted),
        1 => Just(Event::TargetDeleted),
        1 => Just(Event::TargetRecreated),
        1 => Just(Event::AdminGivesVolumeAway),
        1 => Just(Event::TargetBoundElsewhere),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// With any order of events, stale views and interrupted passes, no volume is taken from another claim, no volume is ever without a
    /// `claimRef`, and `Moved` is reported only if it is true. Once nobody interferes any more, the rebind ends as moved or as impossible.
    /// If nobody interfered at all, it ends as moved, even if Kubernetes misses every change until a nudge.
    #[test]
    fn every_road_ends(
        misses in any::<bool>(),
        peaceful in any::<bool>(),
        road in proptest::collection::vec((events(), 0usize..4, 0usize..4, any::<bool>()), 0..24),
    ) {
        let mut world = World::new(misses);
        let mut history = vec![world.clone()];
        for (event, claims, volumes, written) in road {
            if !peaceful || matches!(event, Event::Sync | Event::TimePasses) {
                world.happens(event);
                history.push(world.clone());
            }
            let next = step(&view(&history, claims, volumes));
            if next == Step::Moved {
                let seen = view(&history, claims, volumes).target.present().map(|t| t.exact.uid.clone());
                prop_assert!(seen.is_some_and(|uid| world.bound.contains(&uid)), "not moved: {:?}", world);
            }
            if written {
                world.write(&next)?;
            }
            prop_assert!(world.volume.claim_ref.is_some());
            history.push(world.clone());
        }
        let mut ended = None;
        for _ in 0..40 {
            world.happens(Event::Sync);
            world.happens(Event::TimePasses);
            history.push(world.clone());
            let next = step(&view(&history, 0, 0));
            world.write(&next)?;
            if matches!(next, Step::Moved | Step::Impossible(_)) {
                ended = Some(next);
                break;
            }
        }
        prop_assert!(ended.is_some(), "never ends: {:?}", world);
        if peaceful {
            prop_assert_eq!(ended, Some(Step::Moved));
            // The source is nudged until Kubernetes sets it to Lost; only then may it be deleted.
            for _ in 0..8 {
                let seen = view(&history, 0, 0);
                prop_assert_eq!(step(&seen), Step::Moved);
                let next = empty_source(&seen);
                if next == Step::Moved {
                    break;
                }
                world.write(&next)?;
                world.happens(Event::Sync);
                world.happens(Event::TimePasses);
                history.push(world.clone());
            }
            prop_assert_eq!(world.source.as_ref().map(|source| source.phase), Some(ClaimPhase::Lost), "{:?}", world);
            prop_assert_eq!(empty_source(&view(&history, 0, 0)), Step::Moved);
            // The source may be deleted now; the step is still `Moved`.
            world.happens(Event::SourceDeleted);
            history.push(world);
            prop_assert_eq!(step(&view(&history, 0, 0)), Step::Moved);
        }
    }
}
