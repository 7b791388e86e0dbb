//! Malformed objects: admission and the controller handle any of them without a panic. A run has 250,000 cases; each can be reproduced by
//! its number.

use std::thread;

use hostile::{Dice, Vocabulary};
use serde_json::Value;

use super::{Audience, changes, in_use, judge};
use crate::{
    api::{CloneStrategy, DataVolume},
    clone::{
        check,
        fixtures::{facts, observed, volume},
        request::{Parsed, Request},
        status::status,
        step,
    },
    decode::decode,
    keys,
    object::{self, ObjectName, SourceKind, SourceName},
    pods::User,
    requester::Requester,
};

const CASES: u64 = 250_000;

const WORDS: [&str; 25] = [
    "",
    " ",
    "0",
    "-1",
    "1Gi",
    "1e99",
    "9223372036854775807Ei",
    "0.0000000001",
    "1Gi1Gi",
    "Ω≈ç√∫",
    "\u{202e}gnp.exe",
    "\0",
    "..",
    "a/b",
    "-----",
    "null",
    "{\"chosenBy\":\"Default\"}",
    "{\"username\":\"root\"}",
    "{",
    "copy",
    "Never",
    "-9h",
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00+14:00",
    "2026-12-31T23:59:60Z",
];

const KEYS: [&str; 19] = [
    "spec",
    "pvc",
    "storage",
    "source",
    "sourceRef",
    "snapshot",
    "resources",
    "requests",
    "volumeMode",
    "accessModes",
    "contentType",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    keys::CLONE_TYPE,
    keys::PLAN,
    keys::FALLBACK,
    keys::DEADLINE,
    keys::REQUESTER,
];

const VOCABULARY: Vocabulary = Vocabulary { words: &WORDS, keys: &KEYS, doublings: 13, fields: 300 };

/// Runs everything that a webhook or the controller computes from an object of another author.
fn judged(object: &Value, before: &DataVolume) -> bool {
    let Ok(volume) = decode::<DataVolume>(&object.to_string()) else { return false };
    let users = [User { pod: "pod".into(), scheduled: true, started: None, writes: true }];
    let facts = facts();
    let name = ObjectName { namespace: "here".into(), name: "disk".into() };
    let mut parsed = Request::parse_new(&volume);
    if let Parsed::Reference(..) = parsed {
        parsed = Request::resolved(&volume, SourceName { kind: SourceKind::Claim, object: name }).into();
    }
    if let Parsed::Wrong(errors) = &parsed {
        assert!(errors.iter().all(|error| !error.field.is_empty() && !error.message().is_empty()), "{errors:?}");
    }
    if let Parsed::Clone(request) = &parsed {
        for audience in [Audience::Person, Audience::Controller] {
            judge(request, &facts, audience);
        }
        in_use(request, CloneStrategy::Copy, &users);
    }
    changes(before, &volume, false);
    changes(&volume, before, true);
    object::annotation(&volume.metadata, keys::REQUESTER).and_then(Requester::read);
    let seen = observed(&volume, facts);
    if let Some(plan) = step(&seen) {
        assert_eq!(check::violations(&seen, &plan), vec![], "{volume:?}");
        status(&seen, &plan);
    }
    true
}

#[test]
fn whatever_is_written_is_judged() {
    let usual = volume(|_| {});
    let object = serde_json::to_value(&usual).unwrap();
    let workers = u64::try_from(thread::available_parallelism().map_or(2, usize::from)).unwrap();
    let one = |first: u64| {
        let mut understood = 0;
        for number in (first..CASES).step_by(usize::try_from(workers).unwrap()) {
            let mut dice = Dice::of(number);
            let mut spoilt = object.clone();
            for _ in 0..=dice.roll(4) {
                VOCABULARY.spoil(&mut spoilt, &mut dice);
            }
            understood += usize::from(judged(&spoilt, &usual));
        }
        understood
    };
    let understood: usize = thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|first| scope.spawn(move || one(first))).collect();
        all.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    // Otherwise only the decoder would be tested.
    assert!(understood > usize::try_from(CASES / 4).unwrap(), "{understood} of {CASES} were DataVolumes at all");
}
