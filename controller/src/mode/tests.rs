use std::fmt::Debug;

use fake_api::FakeApi;
use futures::{FutureExt, StreamExt};
use kube::runtime::reflector::Lookup as Named;
use prometheus_client::encoding::text;
use rstest::rstest;
use serde_json::json;

use super::*;
use crate::fixture::{Fixture, answer};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Creates or changes the CDI object; without a version, CDI's operator is not in the cluster.
fn put_cdi(api: &FakeApi, version: Option<&str>) {
    let status = version.map(|version| json!({"operatorVersion": version}));
    api.put::<Cdi>(&json!({"metadata": {"name": "cdi"}, "spec": {}, "status": status}));
}

/// Type and note of the events that were published since the last call.
fn published(api: &FakeApi) -> Vec<(String, String)> {
    let events = api.take_writes().into_iter().filter(|request| request.path.contains("/events"));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    events
        .map(|request| {
            assert_eq!((&request.body["reason"], &request.body["regarding"]["name"]), (&json!(REASON), &json!("cdi")));
            (text(&request.body["type"]), text(&request.body["note"]))
        })
        .collect()
}

fn triggered<K>(affected: &mut mpsc::UnboundedReceiver<ObjectRef<K>>) -> Vec<String>
where
    K: Named<DynamicType = ()> + Debug,
{
    std::iter::from_fn(|| affected.next().now_or_never().flatten()).map(|object| object.name).collect()
}

fn exposed(gauge: &ModeGauge) -> String {
    let mut registry = Registry::with_prefix("smartclone");
    registry.register("mode", "", gauge.0.clone());
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    let ones = text.lines().filter(|line| line.ends_with(" 1"));
    ones.collect::<Vec<_>>().join("\n")
}

/// The version in the CDI object, the mode in the gauge, and the type of the event.
#[rstest]
#[case::alone(None, "alone", "Normal")]
#[case::beside(Some("v1.66.0"), "beside", "Normal")]
#[case::passive(Some("v1.50.0"), "passive", "Warning")]
#[tokio::test(start_paused = true)]
async fn the_mode_at_the_start_is_reported_once(
    #[case] version: Option<&str>,
    #[case] expected: &str,
    #[case] kind: &str,
) {
    let api = FakeApi::default();
    put_cdi(&api, version);
    let fixture = Fixture::start(&api).await;
    let (reporter, mut affected) = ModeReporter::new(Arc::clone(fixture.context()), ModeGauge::default());
    assert_eq!(reporter.reconcile().await, RESYNC);
    assert_eq!(reporter.reconcile().await, RESYNC);
    let events = published(&api);
    assert_eq!(events.iter().map(|(kind, _)| kind.as_str()).collect::<Vec<_>>(), [kind]);
    assert_eq!(exposed(&reporter.gauge), format!("smartclone_mode{{mode=\"{expected}\"}} 1"));
    assert_eq!(triggered(&mut affected.volumes), [""; 0], "every clone gets a pass at the start anyhow");
}

/// CDI is installed, upgraded, and removed: each change is reported, and starts a pass over all clones.
#[tokio::test(start_paused = true)]
async fn a_change_is_reported_and_starts_passes() {
    let api = FakeApi::default();
    put_cdi(&api, None);
    let meta = |name: &str| json!({"namespace": "n", "name": name});
    api.put::<DataVolume>(&json!({"metadata": meta("dv"), "spec": {}}));
    api.put::<PersistentVolumeClaim>(&json!({"metadata": meta("plain"), "spec": {}}));
    api.put::<PersistentVolumeClaim>(&json!({"metadata": meta("bare"), "spec": {
        "dataSourceRef": {"apiGroup": "cdi.kubevirt.io", "kind": "VolumeCloneSource", "name": "vcs"},
    }}));
    let fixture = Fixture::start(&api).await;
    let (reporter, mut affected) = ModeReporter::new(Arc::clone(fixture.context()), ModeGauge::default());
    reporter.reconcile().await;
    published(&api);
    for version in [Some("v1.65.0"), Some("v1.66.0"), None] {
        put_cdi(&api, version);
        fixture.settle().await;
        reporter.reconcile().await;
        let [(_, note)] = &published(&api)[..] else { panic!("not one event") };
        assert!(note.contains(version.unwrap_or("no CDI operator")), "{note}");
        assert_eq!(
            (triggered(&mut affected.volumes), triggered(&mut affected.claims)),
            (vec!["dv".into()], vec!["bare".into()])
        );
    }
    assert_eq!(exposed(&reporter.gauge), "smartclone_mode{mode=\"alone\"} 1");
}

/// An event is not necessary: neither a refusal nor a missing CDI object keeps the mode from being followed.
#[rstest]
#[case::refused(true)]
#[case::no_object(false)]
#[tokio::test(start_paused = true)]
async fn an_event_that_cannot_be_published_changes_nothing(#[case] exists: bool) {
    let api = FakeApi::default();
    if exists {
        put_cdi(&api, None);
        api.answer_always("POST", EVENTS, answer(403));
    }
    let fixture = Fixture::start(&api).await;
    let (reporter, _affected) = ModeReporter::new(Arc::clone(fixture.context()), ModeGauge::default());
    assert_eq!(reporter.reconcile().await, RESYNC);
    assert_eq!(exposed(&reporter.gauge), "smartclone_mode{mode=\"alone\"} 1");
    assert_eq!(published(&api).len(), usize::from(exists));
}
