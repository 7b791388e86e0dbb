//! Reviews that no API server sends, two hundred thousand in a run: half of them damaged as text, half of them with misplaced values. Every
//! one gets one of the defined answers. Each case can be repeated by its number.
//!
//! `SMARTCLONE_FUZZ_CASES=100000000 cargo test -p webhook fuzz` tries more of them.

use std::{env, fmt, thread};

use anyhow::{Context, Result, bail, ensure};
use hostile::{Dice, Vocabulary};
use json_patch::Patch;
use k8s_openapi::ByteString;

use super::*;
use crate::fake_cluster::Webhook;

const CASES: u64 = 200_000;
const WORKERS: usize = 2;

/// The maximum length of a reply without its patch and the quoted texts.
const REPLY: usize = 64 << 10;

const WORDS: [&str; 34] = [
    "",
    " ",
    "0",
    "-1",
    "1Gi",
    "1e99",
    "9223372036854775807Ei",
    "0.0000000001",
    "Ω≈ç√∫",
    "\u{202e}gnp.exe",
    "\u{1b}[31m",
    "\0",
    "..",
    "a/b",
    "a?watch=true",
    "a#b%2e",
    "null",
    "{\"chosenBy\":\"Default\"}",
    "{\"username\":\"root\"}",
    "{",
    "copy",
    "Never",
    "-9h",
    "gold",
    "source",
    "clone",
    "CREATE",
    "UPDATE",
    "DELETE",
    CONTROLLER,
    "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00+14:00",
    "10000-01-01T00:00:00Z",
    "2026-12-31T23:59:60Z",
];

const KEYS: [&str; 27] = [
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
    "target",
    "dataSourceRef",
    "metadata",
    "deletionTimestamp",
    "creationTimestamp",
    "managedFields",
    "time",
    "ownerReferences",
    "annotations",
    "subResource",
    CLONE_TYPE,
    PLAN,
    FALLBACK,
    REQUESTER,
    POPULATED_FOR,
    ALLOW_ADOPTION,
];

/// Valid JSON values, and some that only begin like one.
const TOKENS: [&str; 14] = [
    "null",
    "true",
    "1e999",
    "-0",
    "1e-999",
    "18446744073709551616",
    "-1.5e300",
    "{}",
    "[]",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"",
    "01",
    "NaN",
];

pub(super) const VOCABULARY: Vocabulary = Vocabulary { words: &WORDS, keys: &KEYS, doublings: 12, fields: 30 };

/// The damaged parts of a request. Parts that users write are damaged more often than those that the API server writes.
const PARTS: [&str; 6] = ["userInfo", "kind", "operation", "namespace", "name", "uid"];

fn spoilt(mut review: Value, dice: &mut Dice) -> Vec<u8> {
    for _ in 0..=dice.roll(3) {
        let part = match dice.roll(12) {
            0 => dice.pick(&PARTS),
            1 => "oldObject",
            _ => "object",
        };
        VOCABULARY.spoil(&mut review["request"][part], dice);
    }
    review.to_string().into_bytes()
}

/// Text where a value could be.
fn token(dice: &mut Dice) -> String {
    match dice.roll(6) {
        0 => {
            let depth = 1 << dice.roll(9);
            let closed = if dice.roll(8) == 0 { 0 } else { depth };
            "[".repeat(depth) + &"]".repeat(closed)
        }
        1 => dice.pick(&TOKENS).to_owned(),
        _ => VOCABULARY.value(dice).to_string(),
    }
}

fn damaged(review: &Value, dice: &mut Dice) -> Vec<u8> {
    let mut text = review.to_string().into_bytes();
    for _ in 0..=dice.roll(2) {
        let at = dice.roll(text.len() + 1);
        let after = |mark: u8| text[at..].iter().position(|byte| *byte == mark).map_or(at, |found| at + found + 1);
        let key = dice.pick(&KEYS);
        let (at, splice) = match dice.roll(16) {
            0 => (at, dice.pick(&WORDS).into()),
            1 => (at, dice.pick(&[b"\xff".as_slice(), b"\xc0\xaf", b"\xed\xa0\x80", b"\0"]).into()),
            2 => {
                let end = text.len().min(at + dice.roll(200));
                (dice.roll(text.len() + 1), text[at..end].to_vec())
            }
            3 => {
                text.truncate(text.len() - text.len().min(dice.roll(20)));
                continue;
            }
            4..7 => {
                if let Some(byte) = text.get_mut(at) {
                    *byte ^= 1 << dice.roll(8);
                }
                continue;
            }
            // Most of what follows is still JSON.
            7..12 => (after(b'{'), format!("{key:?}:{},", token(dice)).into()),
            _ => (after(b':'), format!("{},{key:?}:", token(dice)).into()),
        };
        text.splice(at.min(text.len())..at.min(text.len()), splice);
    }
    text
}

struct Case {
    number: u64,
    path: &'static str,
    body: Vec<u8>,
}

impl Case {
    fn new(number: u64, seeds: &[(&'static str, Value)], dice: &mut Dice) -> Self {
        let (usual, seed) = &seeds[dice.roll(seeds.len())];
        let path = if dice.roll(16) == 0 { dice.pick(&PATHS) } else { usual };
        let body = if dice.roll(2) == 0 { damaged(seed, dice) } else { spoilt(seed.clone(), dice) };
        Self { number, path, body }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(4 << 10)];
        write!(
            f,
            "case {}, {} bytes to {}: {}",
            self.number,
            self.body.len(),
            self.path,
            String::from_utf8_lossy(shown)
        )
    }
}

/// Reviews of all kinds as an API server sends them.
async fn seeds(webhook: &Webhook) -> Vec<(&'static str, Value)> {
    let kinds: [Change; 10] = [
        as_is,
        by_storage,
        wish_copy,
        annotated_already,
        pre_populated,
        import,
        sources::from_gold,
        sources::of_snapshot,
        sources::by_reference,
        sources::by_reference_to_gold,
    ];
    let mut seeds = Vec::new();
    for object in kinds.map(clone) {
        let written = webhook.mutate(&object).await.on(&object);
        seeds.push((MUTATE_PATH, creation(&object)));
        seeds.push((VALIDATE_PATH, creation(&written)));
        seeds.push((VALIDATE_PATH, review("UPDATE", USER, &written, &written)));
    }
    let claim = claims::claim(as_is);
    let written = webhook.mutate_claim(USER, &claim).await.on(&claim);
    seeds.push((MUTATE_CLAIM_PATH, creation(&claim)));
    seeds.push((VALIDATE_CLAIM_PATH, creation(&written)));
    seeds.push((VALIDATE_CLAIM_PATH, review("UPDATE", USER, &written, &written)));
    let transfer = json!({
        "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "ObjectTransfer", "metadata": {"name": "move"},
        "spec": {"source": {"kind": "DataVolume", "namespace": "ns", "name": "a"}, "target": {"namespace": "gold"}},
    });
    seeds.push((TRANSFER_PATH, creation(&transfer)));
    seeds.push((TRANSFER_PATH, review("UPDATE", USER, &transfer, &transfer)));
    seeds
}

/// The end of a review.
#[derive(Debug, PartialEq)]
enum End {
    Malformed,
    Undecided,
    Allowed,
    /// With the review of the patched object.
    Patched(Value),
    /// Because of these fields.
    Denied(Vec<String>),
}

/// Sends a review, and checks the answer. `answers`: the cluster always answers.
async fn answered(webhook: &Webhook, answers: bool, path: &str, body: &[u8]) -> Result<End> {
    let (status, text) = webhook.post(path, body.to_vec()).await;
    let Review { api_version, request, .. } = match (status, serde_json::from_slice(body)) {
        (StatusCode::OK, Ok(review)) => review,
        (StatusCode::BAD_REQUEST, Err(_)) if text.len() < REPLY => return Ok(End::Malformed),
        (StatusCode::INTERNAL_SERVER_ERROR, Ok(_)) if !answers && text.starts_with("smartclone can't decide now: ") => {
            return Ok(End::Undecided);
        }
        (_, read) => bail!("{status}: {text} ({:?})", read.err()),
    };
    let reply: Value = serde_json::from_str(&text)?;
    ensure!(reply["apiVersion"] == json!(api_version) && reply["kind"] == "AdmissionReview", "{text}");
    let response = &reply["response"];
    ensure!(response["uid"] == request.uid, "{text}");
    let changes = response["patch"].as_str().unwrap_or_default();
    ensure!(text.len() <= REPLY + request.uid.len() + changes.len(), "{} bytes: {text}", text.len());
    if response["allowed"] == false {
        let status = &response["status"];
        let told = |text: &Value| text.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
        let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let fields: Vec<_> =
            causes.iter().filter_map(|cause| told(&cause["message"]).and(told(&cause["field"]))).collect();
        ensure!([403, 409, 422].iter().any(|code| status["code"] == *code), "{text}");
        ensure!(!fields.is_empty() && fields.len() == causes.len(), "{text}");
        ensure!(told(&status["message"]).is_some() && changes.is_empty(), "{text}");
        return Ok(End::Denied(fields));
    }
    ensure!(response["allowed"] == true && response.get("status").is_none(), "{text}");
    if changes.is_empty() {
        return Ok(End::Allowed);
    }
    let ByteString(changes) = serde_json::from_value(response["patch"].clone())?;
    // An object that no API server could have decoded, such as one with half a character in an unknown field, is not patched by it either.
    let [object, old_object] =
        [request.object, request.old_object].map(|text| serde_json::from_str::<Value>(text.get()));
    let (Ok(mut object), Ok(old_object)) = (object, old_object) else { return Ok(End::Allowed) };
    json_patch::patch(&mut object, &serde_json::from_slice::<Patch>(&changes)?)?;
    Ok(End::Patched(json!({
        "apiVersion": api_version, "kind": "AdmissionReview",
        "request": {
            "uid": request.uid, "kind": request.kind, "subResource": request.sub_resource, "name": request.name,
            "namespace": request.namespace, "operation": request.operation.as_str(), "userInfo": request.user_info,
            "object": object, "oldObject": old_object,
        },
    })))
}

/// Returns the answer. Checks that a patched object is not patched again, and is accepted unless its name is taken. A review without a
/// user, which no API server sends, is never accepted.
async fn settled(webhook: &Webhook, answers: bool, case: &Case) -> Result<End> {
    let end = answered(webhook, answers, case.path, &case.body).await?;
    if let End::Patched(review) = &end {
        let body = review.to_string();
        let again = answered(webhook, answers, case.path, body.as_bytes()).await?;
        ensure!(again == End::Allowed, "decided anew after {end:?}: {again:?}");
        let nobody = review["request"]["userInfo"]["username"].as_str().is_none_or(str::is_empty);
        // An update that lost something may also be invalid for another reason.
        let is_new = review["request"]["operation"] == "CREATE";
        if case.path == MUTATE_PATH && !nobody && is_new {
            let verdict = answered(webhook, answers, VALIDATE_PATH, body.as_bytes()).await?;
            let taken = |fields: &[String]| fields == ["metadata.name"];
            ensure!(matches!(&verdict, End::Denied(fields) if taken(fields)) || verdict == End::Allowed, "{verdict:?}");
        }
    }
    Ok(end)
}

/// Runs every `WORKERS`th case from `first` on. Returns the numbers of reviews that were allowed unchanged, patched and denied.
async fn run(first: u64, cases: u64) -> Result<[u64; 3]> {
    let world = || sources::image(claims::there(World::new()));
    let everything = &world().object(REVIEWS, json!(true)).webhook().await;
    let nothing = &world().object(REVIEWS, json!(false)).webhook().await;
    let unknown = &world().without(REVIEWS).webhook().await;
    let seeds = seeds(everything).await;
    let [mut allowed, mut patched, mut denied] = [0; 3];
    for number in (first..cases).step_by(WORKERS) {
        let mut dice = Dice::of(number);
        let case = Case::new(number, &seeds, &mut dice);
        let (webhook, answers) =
            dice.pick(&[(everything, true), (everything, true), (nothing, true), (unknown, false)]);
        let start = tokio::time::Instant::now();
        match settled(webhook, answers, &case).await.with_context(|| case.to_string())? {
            End::Malformed | End::Undecided => {}
            End::Allowed => allowed += 1,
            End::Patched(_) => patched += 1,
            End::Denied(_) => denied += 1,
        }
        // The clock stands still unless a task waits.
        ensure!(start.elapsed().is_zero(), "answered after {:?}: {case}", start.elapsed());
    }
    Ok([allowed, patched, denied])
}

#[test]
fn whatever_is_sent_is_answered() -> Result<()> {
    let cases = env::var("SMARTCLONE_FUZZ_CASES").map_or(Ok(CASES), |cases| cases.parse())?;
    let worker = |first: u64| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()?
            .block_on(run(first, cases))
    };
    let ends = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS as u64).map(|first| scope.spawn(move || worker(first))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Result<Vec<_>>>()
    })?;
    let [allowed, patched, denied] = [0, 1, 2].map(|end| ends.iter().map(|ends| ends[end]).sum::<u64>());
    // Otherwise only the decoder would be tested.
    let enough = allowed + patched + denied > cases / 2 && patched.min(denied) > cases / 20;
    ensure!(enough, "of {cases} only {allowed} were allowed, {patched} patched and {denied} denied");
    Ok(())
}
