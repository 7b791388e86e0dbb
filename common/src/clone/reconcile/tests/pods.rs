//! The consumer pod that triggers provisioning with late binding, and its failure to start.

use super::*;

fn consumer(change: impl FnOnce(&mut Mover)) -> Lookup<Mover> {
    let mut pod = Mover {
        exact: exact("smartclone-consumer-dv"),
        ours: true,
        trusted: true,
        over: false,
        deleting: false,
        fills: None,
        state: MoverState::Starting(Some("0/3 nodes are available: 3 Insufficient cpu".to_owned())),
    };
    change(&mut pod);
    Lookup::Present(pod)
}

/// The pod, the latest warning about the claim, and the reported reason and message.
#[rstest]
#[case::no_pod_yet(Lookup::Absent, None, "ClaimNotBound", "is making the volume")]
#[case::starts(consumer(|pod| pod.state = MoverState::Starting(None)), None, "ClaimNotBound", "is making the volume")]
#[case::runs(consumer(|pod| pod.state = MoverState::Running), None, "ClaimNotBound", "is making the volume")]
#[case::has_no_node(consumer(|_| {}), None, "CloneMoverNotRunning", "0/3 nodes are available")]
#[case::has_no_image(
    consumer(|pod| pod.state = MoverState::Starting(Some("ImagePullBackOff".into()))), None, "CloneMoverNotRunning", "ImagePullBackOff"
)]
#[case::the_driver_says_more(consumer(|_| {}), Some("no space"), "ClaimNotBound", "no space")]
#[case::goes(consumer(|pod| pod.deleting = true), None, "ClaimNotBound", "is making the volume")]
#[case::of_somebody_else(consumer(|pod| pod.ours = false), None, "ClaimNotBound", "is making the volume")]
fn a_consumer_that_does_not_run_is_told(
    #[case] consumer: Lookup<Mover>,
    #[case] complaint: Option<&str>,
    #[case] reason: &str,
    #[case] words: &str,
) {
    let volume = volume(|object| {
        annotated(keys::PLAN, r#"{"chosenBy": "Default", "sourceUid": "source"}"#)(object);
        annotated(keys::CLONE_TYPE, "snapshot")(object);
        annotated(keys::OWNERSHIP_KEY, "key")(object);
        annotated(keys::IMMEDIATE_BINDING, "true")(object);
    });
    let mut facts = facts();
    if let Lookup::Present(class) = &mut facts.target_class {
        class.waits_for_consumer = true;
    }
    let content = Content::Snapshot("smartclone-snapshot-dv".into());
    let complaint = complaint.map(ToOwned::to_owned);
    let is_absent = consumer == Lookup::Absent;
    let seen = Observed {
        claim: Lookup::Present(Claim { phase: ClaimPhase::Pending, complaint, ..claim("clone", content) }),
        consumer,
        ..observed(&volume, facts)
    };
    let plan = step(&seen).unwrap();
    let waiting = plan.waiting.as_ref().unwrap();
    assert_eq!(waiting.reason(), reason, "{plan:?}");
    assert!(waiting.message().contains(words), "{}", waiting.message());
    assert_eq!(plan.actions.iter().any(|action| matches!(action, Write::CreatePod(_))), is_absent, "{plan:?}");
}
