//! Values as nobody should write them, and objects with such values in them; each can be had again by its number.

use serde_json::{Map, Value, json};

/// Times that the API server takes, or writes itself when it brings them to UTC, and some that it doesn't take.
pub const TIMES: [&str; 16] = [
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-30T22:00:01Z",
    "10000-01-01T09:59:59Z",
    "0000-01-01T00:00:00Z",
    "0000-01-01T00:00:00+14:00",
    "-0001-12-31T14:00:00Z",
    "0001-01-01T00:00:00Z",
    "2026-12-31T23:59:60Z",
    "2026-12-31T23:59:61Z",
    "2026-02-29T24:00:00Z",
    "2026-01-01t00:00:00.123456789123z",
    "2026-01-01T00:00:00+23:59",
    "2026-01-01T00:00:00",
    "2026-01-01",
    "now",
];

/// Managed fields as whoever replaces an object may write them, or as nobody can.
pub fn managed_fields(dice: &mut Dice) -> Value {
    let one = |dice: &mut Dice| {
        let time = match dice.roll(8) {
            0 => json!(dice.roll(1000)),
            1 => json!({}),
            _ => json!(dice.pick(&TIMES)),
        };
        let depth = dice.roll(200);
        json!({
            "manager": "x", "operation": "Update", "apiVersion": "v1", "time": time, "fieldsType": "FieldsV1",
            "fieldsV1": (0..depth).fold(json!({}), |inner, _| json!({"f:spec": inner})),
        })
    };
    match dice.roll(8) {
        0 => Value::Null,
        1 => json!("none"),
        2 => one(dice),
        _ => (0..dice.roll(4)).map(|_| one(dice)).collect(),
    }
}

/// Numbers without a pattern, the same whenever they begin with the same one.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of case `number`.
    pub fn of(number: u64) -> Self {
        Self(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Less than `sides`, of which there is at least one.
    pub fn roll(&mut self, sides: usize) -> usize {
        // Marsaglia's xorshift: it need not be good, only without end.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or_default()
    }

    /// One of `all`, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())]
    }
}

/// What values are made of.
#[derive(Debug, Clone, Copy)]
pub struct Vocabulary {
    /// Texts.
    pub words: &'static [&'static str],
    /// Fields that an object may get.
    pub keys: &'static [&'static str],
    /// How many times the length of a text is doubled at most.
    pub doublings: usize,
    /// How many fields a made-up object has at most.
    pub fields: usize,
}

impl Vocabulary {
    /// Any value.
    pub fn value(&self, dice: &mut Dice) -> Value {
        match dice.roll(14) {
            0 => Value::Null,
            1 => json!(dice.roll(2) == 0),
            2 => json!(u64::MAX),
            3 => json!(-1.5e300),
            4 => json!([]),
            5 => json!({}),
            6 => json!("x".repeat(1 << dice.roll(self.doublings))),
            7 => (0..dice.roll(100)).fold(json!("deep"), |inner, _| json!([inner])),
            8 => (0..dice.roll(self.fields)).map(|n| (format!("key-{n}"), json!(n))).collect::<Map<_, _>>().into(),
            9 => json!(dice.pick(&TIMES)),
            10 => managed_fields(dice),
            _ => json!(dice.pick(self.words)),
        }
    }

    /// Changes something anywhere in `value`.
    pub fn spoil(&self, value: &mut Value, dice: &mut Dice) {
        let deeper = dice.roll(5) > 0;
        match value {
            Value::Object(map) if deeper && !map.is_empty() => {
                let at = dice.roll(map.len());
                let Some(key) = map.keys().nth(at).cloned() else { return };
                match dice.roll(8) {
                    0 => drop(map.remove(&key)),
                    1 => drop(map.insert(dice.pick(self.keys).to_owned(), self.value(dice))),
                    _ => self.spoil(&mut map[&key], dice),
                }
            }
            Value::Array(items) if deeper && !items.is_empty() => {
                let at = dice.roll(items.len());
                self.spoil(&mut items[at], dice);
            }
            other => *other = self.value(dice),
        }
    }
}
