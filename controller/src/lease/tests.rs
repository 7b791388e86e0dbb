use config::args::ShutdownArgs;
use fake_api::{FakeApi, path_of};
use rstest::rstest;
use serde_json::Value;

use super::*;
use crate::fixture::{answer, lines};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/smartclone/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/smartclone/leases/smartclone-controller";
const NOW: &str = "2026-01-02T03:04:05.000000Z";
const LATER: &str = "2026-01-02T03:04:15.000000Z";

fn heartbeat(api: &FakeApi) -> Heartbeat {
    Heartbeat { api: Objects::namespaced(api.client(), NAMESPACE), holder: "pod-b".to_owned(), held: None }
}

fn shutdown() -> Shutdown {
    Shutdown::new(&ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO })
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(api: &FakeApi) -> Value {
    api.get::<Lease>(Some(NAMESPACE), NAME).map(|lease| lease["spec"].clone()).unwrap_or_default()
}

/// A Lease that the pod before this one left.
fn left_behind(api: &FakeApi, holder: &str) {
    api.put::<Lease>(&json!({"metadata": {"namespace": NAMESPACE, "name": NAME}, "spec": {
        "holderIdentity": holder, "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 3,
    }}));
}

#[test]
fn the_path_is_that_of_the_kind() {
    assert_eq!(path_of::<Lease>(Some(NAMESPACE), NAME), LEASE);
}

/// The holder of the Lease that is there, and the transitions afterwards.
#[rstest]
#[case::none(None, 0)]
#[case::of_a_killed_pod(Some("pod-a"), 4)]
#[case::released(Some(""), 4)]
#[case::of_this_pod_before_its_restart(Some("pod-b"), 4)]
#[tokio::test]
async fn the_lease_is_acquired_and_renewed(#[case] holder: Option<&str>, #[case] transitions: i32) {
    let (api, ready) = (FakeApi::default(), Readiness::new(shutdown()));
    if let Some(holder) = holder {
        left_behind(&api, holder);
    }
    let mut heartbeat = heartbeat(&api);
    assert_eq!(heartbeat.beat(&ready, time(NOW)).await, PERIOD);
    let acquired = json!({
        "holderIdentity": "pod-b", "leaseDurationSeconds": 30, "acquireTime": NOW, "renewTime": NOW, "leaseTransitions": transitions,
    });
    assert_eq!(spec(&api), acquired);
    api.take_requests();

    assert_eq!(heartbeat.beat(&ready, time(LATER)).await, PERIOD);
    assert_eq!((spec(&api)["acquireTime"].as_str(), spec(&api)["renewTime"].as_str()), (Some(NOW), Some(LATER)));
    assert_eq!(lines(&api.take_requests()), [format!("PATCH {LEASE}")], "one request, no read");

    heartbeat.release().await;
    assert_eq!((spec(&api)["holderIdentity"].as_str(), spec(&api)["renewTime"].as_str()), (Some(""), Some(LATER)));
}

#[tokio::test]
async fn nobody_renews_before_the_watches_are_synced() {
    let (api, ready) = (FakeApi::default(), Readiness::new(shutdown()));
    let condition = ready.register("datavolumes");
    let mut heartbeat = heartbeat(&api);
    assert_eq!(heartbeat.beat(&ready, time(NOW)).await, NOT_READY);
    heartbeat.release().await;
    assert_eq!(lines(&api.take_requests()), [""; 0], "nothing is held, nothing is released");
    condition.ready();
    assert_eq!(heartbeat.beat(&ready, time(NOW)).await, PERIOD);
    condition.not_ready();
    assert_eq!(heartbeat.beat(&ready, time(LATER)).await, NOT_READY);
    assert_eq!(spec(&api)["renewTime"], NOW);
}

/// The code of the answer to the first write, with a Lease there or not.
#[rstest]
#[case::created_by_another(false, 409)]
#[case::creation_refused(false, 403)]
#[case::newer(true, 409)]
#[case::gone(true, 404)]
#[case::failed(true, 500)]
#[case::no_connection(true, 0)]
#[tokio::test]
async fn a_failed_renewal_is_tried_again(#[case] exists: bool, #[case] code: u16) {
    let (api, ready) = (FakeApi::default(), Readiness::new(shutdown()));
    if exists {
        left_behind(&api, "pod-a");
    }
    let (method, path) = if exists { ("PATCH", LEASE) } else { ("POST", LEASES) };
    api.answer_next(method, path, answer(code));
    let mut heartbeat = heartbeat(&api);
    assert_eq!(heartbeat.beat(&ready, time(NOW)).await, RETRY);
    assert_eq!(heartbeat.beat(&ready, time(LATER)).await, PERIOD);
    assert_eq!(spec(&api)["renewTime"], LATER);
}

/// Somebody has changed the Lease: the renewal that carries the older version fails, and the next one reads it.
#[tokio::test]
async fn a_lease_that_was_changed_is_taken_over_anew() {
    let (api, ready) = (FakeApi::default(), Readiness::new(shutdown()));
    let mut heartbeat = heartbeat(&api);
    heartbeat.beat(&ready, time(NOW)).await;
    left_behind(&api, "pod-c");
    assert_eq!(heartbeat.beat(&ready, time(LATER)).await, RETRY);
    assert_eq!(heartbeat.beat(&ready, time(LATER)).await, PERIOD);
    assert_eq!((spec(&api)["holderIdentity"].as_str(), spec(&api)["renewTime"].as_str()), (Some("pod-b"), Some(LATER)));
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_each_period_and_released_at_the_shutdown() {
    let (api, shutdown) = (FakeApi::default(), shutdown());
    let running = run(api.client(), "pod-b".to_owned(), Readiness::new(shutdown.clone()), shutdown.clone());
    let stop = async {
        tokio::time::sleep(PERIOD * 2 + PERIOD / 2).await;
        shutdown.begin();
    };
    tokio::join!(running, stop);
    let expected =
        [format!("POST {LEASES}"), format!("PATCH {LEASE}"), format!("PATCH {LEASE}"), format!("PATCH {LEASE}")];
    assert_eq!(lines(&api.take_writes()), expected, "acquired, renewed twice, released");
    assert_eq!(spec(&api)["holderIdentity"], "");
}
