use std::sync::Arc;

use fake_api::{FakeApi, path_of};
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    clone::reconcile,
    fixture::{Fixture, answer, put},
};

/// The answer to the write of a status, true if the pass succeeds, and the number of events.
#[rstest]
#[case::written(None, true, 1)]
#[case::newer(Some(409), true, 0)]
#[case::gone(Some(404), true, 0)]
#[case::forbidden(Some(403), false, 0)]
#[case::failed(Some(500), false, 0)]
#[tokio::test(start_paused = true)]
async fn a_clone_that_is_gone_is_told_nothing(#[case] code: Option<u16>, #[case] ends: bool, #[case] events: usize) {
    let api = FakeApi::default();
    let claim = json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "cow", "resources": {"requests": {"storage": "1Gi"}},
    });
    let volume: DataVolume = put(
        &api,
        &json!({
            "metadata": {"namespace": "gold", "name": "a", "uid": "1"},
            "spec": {"source": {"pvc": {"namespace": "gold", "name": "no-such-disk"}}, "pvc": claim},
        }),
    );
    let fixture = Fixture::start(&api).await;
    let status = format!("{}/status", path_of::<DataVolume>(Some("gold"), "a"));
    if let Some(code) = code {
        api.answer_next("PUT", &status, answer(code));
    }
    let outcome = reconcile(Arc::new(volume), Arc::clone(&fixture.reconciler)).await;
    assert_eq!(outcome.is_ok(), ends, "{outcome:?}");
    let writes = api.take_writes();
    assert_eq!(writes.iter().filter(|request| request.path == status).count(), 1, "{writes:?}");
    assert_eq!(writes.iter().filter(|request| request.path.ends_with("/events")).count(), events, "{writes:?}");
}
