use std::sync::atomic::{AtomicUsize, Ordering};

use common::api::CloneStrategy;
use fake_api::{FakeApi, path_of};
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::fixture::{Fixture, answer, lines};

const STATUS: &str = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles/fast/status";
const PROFILES: &str = "/apis/cdi.kubevirt.io/v1beta1/storageprofiles";

fn put_class(api: &FakeApi) {
    api.put::<StorageClass>(&json!({"metadata": {"name": "fast", "uid": "class"}, "provisioner": "csi.test"}));
}

fn put_profile(api: &FakeApi) {
    api.put::<StorageProfile>(&json!({"metadata": {"name": "fast"}, "spec": {}}));
}

fn refusal(driver: &str) -> Refusal {
    serde_json::from_value(json!({"driver": driver, "strategy": "snapshot"})).unwrap()
}

/// The drivers whose refusals are recorded.
fn recorded(api: &FakeApi) -> Vec<Value> {
    let profile = api.get::<StorageProfile>(None, "fast").unwrap_or_default();
    let refusals = profile["status"]["refusals"].as_array().cloned().unwrap_or_default();
    refusals.into_iter().map(|refusal| refusal["driver"].clone()).collect()
}

/// The answer to the creation of a class's profile, and the time until the next run.
#[rstest]
#[case::created(None, RESYNC)]
#[case::exists(Some(409), RESYNC)]
#[case::refused(Some(403), RETRY_FAILED)]
#[case::failed(Some(500), RETRY_FAILED)]
#[case::no_connection(Some(0), RETRY_FAILED)]
#[tokio::test(start_paused = true)]
async fn a_class_gets_a_profile(#[case] code: Option<u16>, #[case] expected: Duration) {
    let api = FakeApi::default();
    put_class(&api);
    let fixture = Fixture::start(&api).await;
    if let Some(code) = code {
        api.answer_next("POST", PROFILES, answer(code));
    }
    assert_eq!(reconcile(fixture.context(), &OpenRefusals::default()).await, expected);
    let writes = api.take_writes();
    assert_eq!(lines(&writes), [format!("POST {PROFILES}")]);
    let metadata = &writes[0].body["metadata"];
    assert_eq!((&metadata["name"], &metadata["ownerReferences"][0]["uid"]), (&json!("fast"), &json!("class")));
}

/// The answer to the write of a profile's status, and the time until the next run.
#[rstest]
#[case::written(None, RESYNC)]
#[case::newer(Some(409), RESYNC)]
#[case::gone(Some(404), RESYNC)]
#[case::refused(Some(422), RETRY_FAILED)]
#[case::failed(Some(500), RETRY_FAILED)]
#[tokio::test(start_paused = true)]
async fn a_profile_gets_a_status(#[case] code: Option<u16>, #[case] expected: Duration) {
    let api = FakeApi::default();
    put_class(&api);
    put_profile(&api);
    let fixture = Fixture::start(&api).await;
    if let Some(code) = code {
        api.answer_next("PUT", STATUS, answer(code));
    }
    assert_eq!(reconcile(fixture.context(), &OpenRefusals::default()).await, expected);
    let writes = api.take_writes();
    assert_eq!(lines(&writes), [format!("PUT {STATUS}")]);
    assert_eq!(writes[0].body["status"]["provisioner"], "csi.test");
    if code.is_none() {
        fixture.settle().await;
        reconcile(fixture.context(), &OpenRefusals::default()).await;
        assert_eq!(lines(&api.take_writes()), [""; 0], "it says so already");
    }
}

/// The number of conflicting writes just before, and the recorded result.
#[rstest]
#[case::alone(0, Ok(()))]
#[case::once_too_late(1, Ok(()))]
#[case::nearly_always_too_late(MAX_ATTEMPTS - 1, Ok(()))]
#[case::always_too_late(MAX_ATTEMPTS, Err(409))]
#[tokio::test(start_paused = true)]
async fn a_refusal_is_recorded_beside_those_of_others(#[case] others: usize, #[case] expected: Result<(), u16>) {
    let api = FakeApi::default();
    put_profile(&api);
    let fixture = Fixture::start(&api).await;
    for other in 0..others {
        api.before_next("PUT", STATUS, move |api| {
            let path = path_of::<StorageProfile>(None, "fast");
            let mut profile = api.get_at(&path).unwrap();
            profile["status"]["refusals"] = json!([{"driver": format!("other-{other}")}]);
            api.put_at(&path, &profile);
        });
    }
    let asked = AtomicUsize::new(0);
    let done = record(fixture.context(), "fast", |known| {
        asked.fetch_add(1, Ordering::Relaxed);
        Some(known.iter().cloned().chain([refusal("mine")]).collect())
    });
    let done = done.await.map_err(|error| match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    });
    assert_eq!(done, expected);
    assert_eq!(asked.into_inner(), (others + 1).min(MAX_ATTEMPTS));
    let last = others.checked_sub(1).map(|other| json!(format!("other-{other}")));
    assert_eq!(recorded(&api), last.into_iter().chain(done.is_ok().then(|| json!("mine"))).collect::<Vec<_>>());
}

#[rstest]
#[case::profile_is_gone_meanwhile(Some(404), Ok(()), 1)]
#[case::refused(Some(403), Err(403), 1)]
#[case::failed(Some(500), Err(500), 1)]
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_recorded(
    #[case] code: Option<u16>,
    #[case] expected: Result<(), u16>,
    #[case] attempts: usize,
) {
    let api = FakeApi::default();
    put_profile(&api);
    let fixture = Fixture::start(&api).await;
    api.answer_always("PUT", STATUS, answer(code.unwrap_or_default()));
    let done = record(fixture.context(), "fast", |_| Some(vec![refusal("mine")])).await;
    assert_eq!(done.map_err(|error| if let kube::Error::Api(status) = error { status.code } else { 0 }), expected);
    assert_eq!(api.take_writes().len(), attempts);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_where_there_is_nothing_to_record() {
    let api = FakeApi::default();
    put_profile(&api);
    let fixture = Fixture::start(&api).await;
    let ctx = fixture.context();
    record(ctx, "fast", |_| None).await.unwrap();
    record(ctx, "fast", |known| Some(known.to_vec())).await.unwrap();
    record(ctx, "unknown", |_| Some(vec![refusal("mine")])).await.unwrap();
    assert_eq!(lines(&api.take_writes()), [""; 0]);
    assert_eq!(refusal("x").strategy, Some(CloneStrategy::Snapshot), "the fixture is read");
}

/// Beside CDI the refusals are in an annotation. The number of conflicting writes just
/// before, and the number of requests that write.
#[rstest]
#[case::alone(0, 1)]
#[case::too_late(1, 2)]
#[tokio::test(start_paused = true)]
async fn beside_cdi_a_refusal_is_recorded_in_an_annotation(#[case] others: usize, #[case] writes: usize) {
    let api = FakeApi::default();
    put_profile(&api);
    let status = json!({"operatorVersion": "v1.66.0"});
    api.put::<common::api::Cdi>(&json!({"metadata": {"name": "cdi"}, "spec": {}, "status": status}));
    let fixture = Fixture::start(&api).await;
    let path = path_of::<StorageProfile>(None, "fast");
    for _ in 0..others {
        api.before_next("PATCH", &path_of::<StorageProfile>(None, "fast"), |api| {
            let path = path_of::<StorageProfile>(None, "fast");
            let mut profile = api.get_at(&path).unwrap();
            profile["metadata"]["labels"] = json!({"of": "somebody"});
            api.put_at(&path, &profile);
        });
    }
    let shared = || Refusal { namespaces: 3, ..refusal("mine") };
    record(fixture.context(), "fast", |known| Some([known, &[shared()]].concat())).await.unwrap();
    assert_eq!(lines(&api.take_writes()), vec![format!("PATCH {path}"); writes]);
    fixture.settle().await;
    let profile = fixture.context().caches.profiles.get(None, "fast");
    let cached = refusals::recorded(profile.present().unwrap(), true);
    assert_eq!(cached, [shared()]);
    assert_eq!(recorded(&api), [""; 0], "the status is CDI's");

    record(fixture.context(), "fast", |_| Some(Vec::new())).await.unwrap();
    assert_eq!(api.get_at(&path).unwrap()["metadata"]["annotations"].get(keys::REFUSALS), None);
}
