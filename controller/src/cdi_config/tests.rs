use fake_api::FakeApi;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::{
    fixture::{Fixture, answer, lines},
    periodic::RETRY_FAILED,
};

const CONFIGS: &str = "/apis/cdi.kubevirt.io/v1beta1/cdiconfigs";
const STATUS: &str = "/apis/cdi.kubevirt.io/v1beta1/cdiconfigs/config/status";

/// True if the object exists before, the code of the answer to the write, and the time until the next run.
#[rstest]
#[case::created(false, None, RESYNC)]
#[case::created_by_another(false, Some(409), RESYNC)]
#[case::creation_refused(false, Some(403), RETRY_FAILED)]
#[case::creation_failed(false, Some(0), RETRY_FAILED)]
#[case::written(true, None, RESYNC)]
#[case::newer(true, Some(409), RESYNC)]
#[case::gone(true, Some(404), RESYNC)]
#[case::refused(true, Some(422), RETRY_FAILED)]
#[case::failed(true, Some(500), RETRY_FAILED)]
#[case::no_connection(true, Some(0), RETRY_FAILED)]
#[tokio::test(start_paused = true)]
async fn the_config_exists_and_has_a_status(
    #[case] exists: bool,
    #[case] code: Option<u16>,
    #[case] expected: Duration,
) {
    let api = FakeApi::default();
    if exists {
        api.put::<CdiConfig>(&json!({"metadata": {"name": "config"}, "spec": {}}));
    }
    let fixture = Fixture::start(&api).await;
    let (method, path) = if exists { ("PUT", STATUS) } else { ("POST", CONFIGS) };
    if let Some(code) = code {
        api.answer_next(method, path, answer(code));
    }
    assert_eq!(reconcile(fixture.context()).await, expected);
    assert_eq!(lines(&api.take_writes()), [format!("{method} {path}")]);
    if exists && code.is_none() {
        fixture.settle().await;
        reconcile(fixture.context()).await;
        assert_eq!(lines(&api.take_writes()), [""; 0], "it says so already");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_beside_another_operator() {
    let api = FakeApi::default();
    let status = json!({"operatorVersion": "v1.60"});
    api.put::<common::api::Cdi>(&json!({"metadata": {"name": "cdi"}, "spec": {}, "status": status}));
    let fixture = Fixture::start(&api).await;
    assert_eq!(reconcile(fixture.context()).await, RESYNC);
    assert_eq!(lines(&api.take_writes()), [""; 0]);
}
