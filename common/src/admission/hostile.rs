//! Objects as nobody should write them: whatever is in them, they are judged, never a reason to fall over. A million in a run; each can be
//! had again by its number.

use std::thread;

use serde_json::{Map, Value, json};

use super::{Asked, Verdict, changes, in_use, judge, parse, resolved};
use crate::{
    api::{CloneStrategy, DataVolume},
    clone::{
        check,
        fixtures::{facts, observed, volume},
        plan::User,
        request::{ObjectName, SourceKind, SourceName},
        status::status,
        step,
    },
    meta,
    requester::Requester,
};

const CASES: u64 = 1_000_000;

/// Numbers without a pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // Marsaglia's xorshift: it need not be good, only without end.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.roll(all.len())]
    }
}

const WORDS: [&str; 22] = [
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
];

const KEYS: [&str; 16] = [
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
    meta::CLONE_TYPE,
    meta::PLAN,
    meta::FALLBACK,
    meta::DEADLINE,
    meta::REQUESTER,
];

fn hostile(dice: &mut Dice) -> Value {
    match dice.roll(12) {
        0 => Value::Null,
        1 => json!(dice.roll(2) == 0),
        2 => json!(u64::MAX),
        3 => json!(-1.5e300),
        4 => json!([]),
        5 => json!({}),
        6 => json!("x".repeat(1 << dice.roll(13))),
        7 => (0..dice.roll(100)).fold(json!("deep"), |inner, _| json!([inner])),
        8 => (0..dice.roll(300)).map(|n| (format!("key-{n}"), json!(n))).collect::<Map<_, _>>().into(),
        _ => json!(dice.pick(&WORDS)),
    }
}

/// Changes something anywhere in `value`.
fn spoil(value: &mut Value, dice: &mut Dice) {
    let deeper = dice.roll(5) > 0;
    match value {
        Value::Object(map) if deeper && !map.is_empty() => {
            let at = dice.roll(map.len());
            let Some(key) = map.keys().nth(at).cloned() else { return };
            match dice.roll(8) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(dice.pick(&KEYS).to_owned(), hostile(dice))),
                _ => spoil(&mut map[&key], dice),
            }
        }
        Value::Array(items) if deeper && !items.is_empty() => {
            let at = dice.roll(items.len());
            spoil(&mut items[at], dice);
        }
        other => *other = hostile(dice),
    }
}

/// Everything that a webhook or the controller asks of an object that somebody else has written.
fn judged(object: Value, before: &DataVolume) -> bool {
    let Ok(volume) = serde_json::from_value::<DataVolume>(object) else { return false };
    let users = [User { pod: "pod".into(), scheduled: true, started: None, writes: true }];
    let facts = facts();
    let name = ObjectName { namespace: "here".into(), name: "disk".into() };
    let request = match parse(&volume) {
        Ok(Asked::Clone(request)) => Some(request),
        Ok(Asked::Reference(..)) => resolved(&volume, SourceName { kind: SourceKind::Claim, object: name }).ok(),
        Err(Verdict::Denied(errors)) => {
            assert!(errors.iter().all(|error| !error.field.is_empty() && !error.message().is_empty()), "{errors:?}");
            None
        }
        Err(_) => None,
    };
    if let Some(request) = &request {
        judge(request, &facts);
        in_use(request, CloneStrategy::Copy, &users);
    }
    changes(before, &volume, false);
    changes(&volume, before, true);
    let stamp = volume.metadata.annotations.as_ref().and_then(|all| all.get(meta::REQUESTER));
    stamp.and_then(|stamp| Requester::read(stamp));
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
            let mut dice = Dice(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
            let mut spoilt = object.clone();
            for _ in 0..=dice.roll(4) {
                spoil(&mut spoilt, &mut dice);
            }
            understood += usize::from(judged(spoilt, &usual));
        }
        understood
    };
    let understood: usize = thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|first| scope.spawn(move || one(first))).collect();
        all.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    // Else it would be the decoder alone that is tested.
    assert!(understood > usize::try_from(CASES / 4).unwrap(), "{understood} of {CASES} were DataVolumes at all");
}
