use common::keys::PRE_POPULATED;
use fake_api::FakeApi;
use kube::runtime::{reflector, watcher::Event};
use rstest::rstest;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::keys::{CDI, CLONE_TOKEN};

/// A server with the namespace of the source, where `friend` may clone.
fn admission(rates: bool, replicas: i32) -> (FakeApi, Admission) {
    let api = FakeApi::default();
    api.put::<Namespace>(&json!({"metadata": {"name": "golden"}}));
    api.put::<Namespace>(&json!({"metadata": {"name": "n"}}));
    api.review_with(|review| {
        let attributes = &review["spec"]["resourceAttributes"];
        review["spec"]["user"] == "friend"
            && attributes["subresource"] == "source"
            && attributes["namespace"] == "golden"
    });
    let (cdis, mut writer) = reflector::store();
    let spec = json!({"infra": {"apiServerReplicas": replicas}});
    let cdi = json!({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "metadata": {"name": CDI}, "spec": spec});
    writer.apply_watcher_event(&Event::Apply(serde_json::from_value(cdi).unwrap()));
    let (configs, _) = reflector::store();
    let version = Version::new(1, 66, 0);
    let admission = Admission::new(api.client(), Tokens::new("s"), version, rates, (cdis, configs));
    (api, admission)
}

fn request(user: &str, namespace: &str, sentinel: bool) -> Request {
    let annotations = if sentinel { json!({PRE_POPULATED: "smartclone.dev"}) } else { json!({}) };
    let spec = json!({"source": {"pvc": {"namespace": namespace, "name": "disk"}}, "storage": {}});
    serde_json::from_value(json!({
        "uid": "u", "operation": "CREATE", "namespace": "n", "userInfo": {"username": user},
        "object": {"metadata": {"name": "d", "annotations": annotations}, "spec": spec},
    }))
    .unwrap()
}

#[rstest]
#[case::own_namespace("tenant", "n", false, "token")]
#[case::with_the_right("friend", "golden", false, "token")]
#[case::with_the_right_and_the_sentinel("friend", "golden", true, "token")]
#[case::without_the_right("tenant", "golden", false, "denied")]
#[case::tolerated("tenant", "golden", true, "nothing")]
#[case::no_namespace("friend", "nowhere", false, "denied")]
#[tokio::test]
async fn a_clone_needs_the_right_on_its_source(
    #[case] user: &str,
    #[case] namespace: &str,
    #[case] sentinel: bool,
    #[case] wanted: &str,
) {
    let (_, admission) = admission(false, 1);
    let answer = match admission.mutate(&request(user, namespace, sentinel)).await.unwrap() {
        Decision::Allow => "nothing",
        Decision::Annotate { key, .. } => {
            assert_eq!(key, CLONE_TOKEN);
            "token"
        }
        Decision::Deny(_) => "denied",
    };
    assert_eq!(answer, wanted);
}

#[tokio::test]
async fn a_claim_of_the_name_is_read_live() {
    let (api, admission) = admission(false, 1);
    let request = request("friend", "n", false);
    assert_eq!(admission.validate(&request).await.unwrap(), Decision::Allow);
    api.put::<PersistentVolumeClaim>(&json!({"metadata": {"namespace": "n", "name": "d"}}));
    assert!(matches!(admission.validate(&request).await.unwrap(), Decision::Deny(_)));
}

/// Each clone reads the namespace and the claim: 10 at once, then 5 a second, for each replica.
#[rstest]
#[case::as_shipped(1, 18)]
#[case::four_replicas(4, 3)]
#[tokio::test(start_paused = true)]
async fn reads_are_limited_for_each_replica(#[case] replicas: i32, #[case] seconds: u64) {
    let (_, admission) = admission(true, replicas);
    let start = Instant::now();
    let reviews = (0..50).map(async |_| {
        let request = request("friend", "n", false);
        admission.mutate(&request).await.unwrap();
        admission.validate(&request).await.unwrap();
    });
    futures::future::join_all(reviews).await;
    let took = start.elapsed().as_secs_f64();
    assert!((took - f64::from(u32::try_from(seconds).unwrap())).abs() < 1.0, "{took}");
}
