use CloneStrategy::{Copy, CsiClone, Snapshot};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::clone::fixtures::gi;

fn at(minutes: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_mins(minutes)).unwrap()
}

fn key() -> RefusalKey {
    RefusalKey { strategy: Snapshot, driver: "driver".into(), source_class: "slow".into(), class: "fast".into() }
}

fn asks(size: Bytes) -> VolumeRequest {
    VolumeRequest { size, mode: VolumeMode::Block, access_modes: vec!["ReadWriteOnce".into()], attributes_class: None }
}

fn met(scope: Scope, size: Bytes) -> MetRefusal {
    MetRefusal {
        key: key(),
        request: asks(size),
        code: "FailedPrecondition",
        scope,
        read_in: ErrorSource::Status,
        message: "no".into(),
    }
}

fn counts(known: &NamespaceRefusals, namespace: &str, request: &VolumeRequest, minute: i64) -> bool {
    known.in_force(namespace, "fast", at(minute)).iter().any(|refusal| refusal.is_about(&key(), request))
}

/// One refusal for a request of 2Gi in namespace `a`: true if it counts for the request in the same namespace. It counts for no other
/// namespace.
#[rstest]
#[case::like(Scope::Request, |_: &mut VolumeRequest| {}, true)]
#[case::larger(Scope::Request, |r: &mut VolumeRequest| r.size = gi(900), true)]
#[case::smaller(Scope::Request, |r: &mut VolumeRequest| r.size = gi(1), false)]
#[case::other_mode(Scope::Request, |r: &mut VolumeRequest| r.mode = VolumeMode::Filesystem, false)]
#[case::other_access(Scope::Request, |r: &mut VolumeRequest| r.access_modes = vec!["ReadWriteMany".into()], false)]
#[case::other_attributes(Scope::Request, |r: &mut VolumeRequest| r.attributes_class = Some("gold".into()), false)]
#[case::class_like(Scope::StorageClass, |_: &mut VolumeRequest| {}, true)]
#[case::class_other_mode(Scope::StorageClass, |r: &mut VolumeRequest| r.mode = VolumeMode::Filesystem, true)]
#[case::class_smaller(Scope::StorageClass, |r: &mut VolumeRequest| r.size = gi(1), false)]
#[case::about_one_object(Scope::Object, |_: &mut VolumeRequest| {}, false)]
fn counts_in_its_namespace(#[case] scope: Scope, #[case] change: fn(&mut VolumeRequest), #[case] expected: bool) {
    let mut known = NamespaceRefusals::default();
    assert_eq!(known.record("a", &met(scope, gi(2)), at(0)), None);
    let mut request = asks(gi(2));
    change(&mut request);
    assert_eq!(counts(&known, "a", &request, 4), expected);
    assert!(!counts(&known, "a", &request, 5), "five minutes are over");
    assert!(!counts(&known, "b", &request, 4), "another namespace");
}

/// Refusals that are never remembered, or never evidence for other namespaces, however many namespaces met them.
#[rstest]
#[case::status_of_a_class(|_: &mut MetRefusal| {}, true, true)]
#[case::event(|m: &mut MetRefusal| m.read_in = ErrorSource::Event, true, false)]
#[case::event_of_another_namespace(|m: &mut MetRefusal| m.read_in = ErrorSource::ForeignEvent, false, false)]
#[case::request(|m: &mut MetRefusal| m.scope = Scope::Request, true, false)]
#[case::object(|m: &mut MetRefusal| m.scope = Scope::Object, false, false)]
#[case::copy(|m: &mut MetRefusal| m.key.strategy = Copy, false, false)]
fn for_whom(#[case] change: fn(&mut MetRefusal), #[case] own: bool, #[case] all: bool) {
    let mut known = NamespaceRefusals::default();
    let mut met = met(Scope::StorageClass, gi(1));
    change(&mut met);
    let shared = ["a", "b", "c", "d"].map(|namespace| known.record(namespace, &met, at(0)).is_some());
    assert_eq!(known.in_force("a", "fast", at(1)).len(), usize::from(own));
    assert_eq!(shared, [false, false, all, false]);
}

#[test]
fn three_namespaces_with_no_success_between_speak_for_the_class() {
    let refusal = met(Scope::StorageClass, gi(1));
    let mut known = NamespaceRefusals::default();
    for _ in 0..9 {
        assert_eq!(known.record("a", &refusal, at(0)), None, "one namespace, however often");
    }
    assert_eq!(known.record("b", &refusal, at(0)), None);
    known.succeeded("x", &key(), gi(1));
    assert!(known.record("a", &refusal, at(1)).is_none() && known.record("c", &refusal, at(1)).is_none());
    let evidence = known.record("d", &met(Scope::StorageClass, gi(4)), at(1)).unwrap();
    assert_eq!((evidence.namespaces, evidence.size), (3, gi(4)));
    // A refusal that already counts for all is not counted again.
    assert_eq!(known.record("e", &refusal, at(2)), None);
}

#[test]
fn one_that_asks_for_far_too_much_moves_only_its_like() {
    let mut known = NamespaceRefusals::default();
    known.record("a", &met(Scope::StorageClass, gi(1)), at(0));
    known.record("b", &met(Scope::StorageClass, gi(1)), at(0));
    let evidence = known.record("c", &met(Scope::StorageClass, gi(900 << 10)), at(0)).unwrap();
    assert_eq!(evidence.size, gi(900 << 10));
}

fn after_three(refusals: &[Refusal], minute: i64) -> Vec<Refusal> {
    let evidence = ClassEvidence { key: key(), code: "FailedPrecondition", namespaces: 3, size: gi(1) };
    refused(refusals, &evidence, at(minute))
}

fn is_open(refusals: &[Refusal], minute: i64) -> bool {
    refusals.iter().any(|known| is_about(known, &key()) && open(known, at(minute)))
}

#[test]
fn a_second_refusal_in_a_row_counts_twice_as_long_and_a_success_forgets() {
    let once = after_three(&[], 0);
    assert!(is_open(&once, 4) && !is_open(&once, 5));
    assert_eq!(after_three(&once, 1), once, "nothing to write");
    let smaller = ClassEvidence { key: key(), code: "x", namespaces: 3, size: Bytes(1) };
    let wider = refused(&once, &smaller, at(1));
    assert_eq!((least_size(&wider[0]), &wider[0].until), (Bytes(1), &once[0].until));
    let twice = after_three(&once, 5);
    assert!(is_open(&twice, 14) && !is_open(&twice, 15));
    assert_eq!(twice.len(), 1);
    assert_eq!(succeeded(&twice, &key(), gi(1)), Some(vec![]));
    assert_eq!(succeeded(&twice, &key(), Bytes(1)), None, "a smaller one says nothing");
    assert_eq!(succeeded(&twice, &RefusalKey { strategy: CsiClone, ..key() }, gi(1)), None);
}

/// A refusal of an earlier version, which did not record the number of namespaces.
#[test]
fn one_that_a_single_namespace_met_counts_for_nobody() {
    let mut old = after_three(&[], 0);
    old[0].namespaces = 0;
    assert!(!is_open(&old, 1));
    assert_eq!(after_three(&old, 1)[0].count, 1);
}

proptest! {
    /// Both memories stay bounded in number and time.
    #[test]
    fn bounded(events in prop::collection::vec((0u8..60, 0usize..1500, 1i64..500), 1..120)) {
        let (mut refusals, mut known, mut minute) = (Vec::new(), NamespaceRefusals::default(), 0);
        for (class, namespace, passed) in events {
            minute += passed;
            let key = RefusalKey { source_class: class.to_string(), ..key() };
            known.record(&namespace.to_string(), &MetRefusal { key: key.clone(), ..met(Scope::Request, gi(1)) }, at(minute));
            prop_assert!(known.0.len() <= REMEMBERED_NAMESPACES && known.0.values().all(|known| known.len() <= REMEMBERED));
            let evidence = ClassEvidence { key: key.clone(), code: "no", namespaces: 3, size: gi(1) };
            refusals = refused(&refusals, &evidence, at(minute));
            prop_assert!(refusals.len() <= REMEMBERED);
            let of_key: Vec<_> = refusals.iter().filter(|r| is_about(r, &key)).collect();
            prop_assert_eq!(of_key.len(), 1);
            prop_assert!(open(of_key[0], at(minute)) && of_key[0].until.as_ref().unwrap().0 <= at(minute + 360));
        }
    }
}
