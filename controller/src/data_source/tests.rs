use common::keys;
use fake_api::FakeApi;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::fixture::{Fixture, answer, lines, put};

const STATUS: &str = "/apis/cdi.kubevirt.io/v1beta1/namespaces/gold/datasources/disk/status";

/// The DataSource `gold/disk`, whose claim does not exist.
fn put_source(api: &FakeApi) -> Arc<DataSource> {
    let source = json!({"pvc": {"namespace": "gold", "name": "disk"}});
    Arc::new(put(api, &json!({"metadata": {"namespace": "gold", "name": "disk"}, "spec": {"source": source}})))
}

/// The answer to the write of a status, and true if the pass succeeds.
#[rstest]
#[case::written(None, true)]
#[case::newer(Some(409), true)]
#[case::gone(Some(404), true)]
#[case::refused(Some(403), false)]
#[case::failed(Some(500), false)]
#[case::no_connection(Some(0), false)]
#[tokio::test(start_paused = true)]
async fn a_data_source_gets_a_status(#[case] code: Option<u16>, #[case] done: bool) {
    let api = FakeApi::default();
    let source = put_source(&api);
    let fixture = Fixture::start(&api).await;
    if let Some(code) = code {
        api.answer_next("PUT", STATUS, answer(code));
    }
    let outcome = reconcile(Arc::clone(&source), Arc::clone(fixture.context())).await;
    assert_eq!(outcome.ok(), done.then(|| Action::requeue(RESYNC)));
    let writes = api.take_writes();
    assert_eq!(lines(&writes), [format!("PUT {STATUS}")]);
    assert_eq!(writes[0].body["metadata"]["resourceVersion"], json!(source.metadata.resource_version));
    let ready = writes[0].body["status"]["conditions"].as_array().unwrap().iter().find(|it| it["type"] == "Ready");
    assert_eq!(ready.unwrap()["status"], "False");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_says_so_already_is_not_written() {
    let api = FakeApi::default();
    let source = put_source(&api);
    let fixture = Fixture::start(&api).await;
    reconcile(source, Arc::clone(fixture.context())).await.unwrap();
    api.take_writes();
    let written = serde_json::from_value(api.get::<DataSource>(Some("gold"), "disk").unwrap()).unwrap();
    reconcile(Arc::new(written), Arc::clone(fixture.context())).await.unwrap();
    assert_eq!(lines(&api.take_writes()), [""; 0]);
}

/// Nothing is written beside CDI's own operator, or for a DataSource that is being deleted.
#[rstest]
#[case::another_operator(true, json!({}))]
#[case::deleted(false, json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x"]}))]
#[tokio::test(start_paused = true)]
async fn a_data_source_is_left_alone(#[case] operator: bool, #[case] change: serde_json::Value) {
    let api = FakeApi::default();
    let mut source = (*put_source(&api)).clone();
    source.metadata.deletion_timestamp = serde_json::from_value(change["deletionTimestamp"].clone()).unwrap();
    if operator {
        let status = json!({"operatorVersion": "v1.60"});
        api.put::<common::api::Cdi>(&json!({"metadata": {"name": "cdi"}, "spec": {}, "status": status}));
    }
    let fixture = Fixture::start(&api).await;
    reconcile(Arc::new(source), Arc::clone(fixture.context())).await.unwrap();
    assert_eq!(lines(&api.take_writes()), [""; 0]);
}

/// The labels of a DataSource follow its claim in its own namespace only. Labels of others stay.
#[rstest]
#[case::inherits(json!({}), "gold", Some("u1"))]
#[case::user_s_own(json!({(keys::DEFAULT_PREFERENCE): "f"}), "gold", None)]
#[case::of_another_namespace(json!({}), "secret", None)]
#[tokio::test(start_paused = true)]
async fn a_data_source_inherits(
    #[case] own: serde_json::Value,
    #[case] namespace: &str,
    #[case] expected: Option<&str>,
) {
    let api = FakeApi::default();
    let labels = json!({(keys::DEFAULT_INSTANCE_TYPE): "u1", "team": "x"});
    put::<PersistentVolumeClaim>(
        &api,
        &json!({"metadata": {"namespace": namespace, "name": "disk", "labels": labels}, "spec": {}}),
    );
    let source = json!({"pvc": {"namespace": namespace, "name": "disk"}});
    let object = json!({"metadata": {"namespace": "gold", "name": "disk", "labels": own}, "spec": {"source": source}});
    let source: Arc<DataSource> = Arc::new(put(&api, &object));
    let fixture = Fixture::start(&api).await;
    reconcile(Arc::clone(&source), Arc::clone(fixture.context())).await.unwrap();
    let writes = api.take_writes();
    let Some(expected) = expected else {
        return assert_eq!(lines(&writes), [format!("PUT {STATUS}")]);
    };
    assert_eq!(lines(&writes), [format!("PATCH {}", STATUS.trim_end_matches("/status"))]);
    assert_eq!(writes[0].body["metadata"]["resourceVersion"], json!(source.metadata.resource_version));
    let written: DataSource = serde_json::from_value(api.get::<DataSource>(Some("gold"), "disk").unwrap()).unwrap();
    assert_eq!(written.labels()[keys::DEFAULT_INSTANCE_TYPE], expected);
    // The next pass writes the status and no label.
    reconcile(Arc::new(written), Arc::clone(fixture.context())).await.unwrap();
    assert_eq!(lines(&api.take_writes()), [format!("PUT {STATUS}")]);
}
