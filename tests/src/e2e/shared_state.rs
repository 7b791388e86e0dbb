//! What one tenant provokes says nothing about others: remembered refusals, Events, shared snapshots and deadlines.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{CloneStrategy, StorageProfile},
    keys,
};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use reference_csi::{
    behaviour::{Behaviour, Effect, FailCode, Fault},
    calls::Rpc,
};
use serde_json::json;

use crate::harness::{
    CloneHandle, Disk, Named as _, Space, clone_of, mi,
    wait::{self, Look},
};

tests![
    a_clone_that_is_far_too_large_is_no_lesson_for_others,
    an_event_written_by_hand_says_nothing_to_another_namespace,
    an_event_of_another_namespace_says_nothing_about_a_clone,
    stuck_snapshots_of_one_tenant_keep_nobody_else_waiting,
    a_clone_without_a_consumer_holds_no_snapshot,
];

const WORDS: &str = "call +1-555 to fix";

/// A user who may do everything in this namespace and nothing elsewhere.
async fn tenant(t: &Space) -> Result<String> {
    let user = format!("tenant-of-{}", t.name());
    t.administered_by(&user).await?;
    Ok(user)
}

/// Creates, as `user` in this namespace, the Event that the driver's provisioner would write about a claim of this name and UID.
async fn writes_event(t: &Space, user: &str, claim: (&str, &str)) -> Result<()> {
    let (name, uid) = claim;
    let component = format!("{}_by-hand", t.driver("cow").await?);
    let now = jiff::Timestamp::now().to_string();
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "by-hand"},
        "type": "Warning", "reason": "ProvisioningFailed",
        "message": format!("rpc error: code = FailedPrecondition desc = {WORDS}"),
        "involvedObject": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": t.name(), "name": name, "uid": uid,
        },
        "source": {"component": component}, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    }))?;
    let events: Api<Event> = Api::namespaced(t.cluster().client_as(user)?, t.name());
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

/// The UID of a clone's claim, which is made and has no volume yet.
async fn pending_claim(t: &Space, clone: &CloneHandle) -> Result<String> {
    let api = t.api::<PersistentVolumeClaim>();
    wait::object(&api, clone.name(), "the clone's claim", |claim| match claim.and_then(kube::ResourceExt::uid) {
        Some(uid) => Look::Break(uid),
        None => Look::Continue("there is none".to_owned()),
    })
    .await
}

/// Neither warned nor told of anything, it is made by the strategy that is wanted first, at the first attempt.
async fn is_a_usual_clone(clone: &CloneHandle, disk: &Disk) -> Result<()> {
    clone.succeeds().await?.has_bytes_of(disk).await?;
    for version in clone.versions() {
        let strategy = version.annotations().get(keys::CLONE_TYPE).cloned();
        ensure!(strategy.as_deref() == Some(CloneStrategy::Snapshot.as_str()), "{strategy:?}");
        let text = serde_json::to_string(&*version)?;
        ensure!(!text.contains(WORDS) && !text.contains("DriverRefused"), "{text}");
    }
    ensure!(clone.warnings.iter().all(|line| !line.contains("refused")), "{:?}", clone.warnings);
    ensure!(clone.status().clone.unwrap_or_default().attempts.is_empty(), "{:?}", clone.status());
    Ok(())
}

/// The StorageProfile, which everybody may read, remembers nothing of what one namespace met.
async fn nothing_is_remembered_for_all(t: &Space, class: &str) -> Result<()> {
    let profile = Api::<StorageProfile>::all(t.client().clone()).get(class).await?;
    let refusals = profile.status.map(|status| status.refusals).unwrap_or_default();
    ensure!(refusals.is_empty(), "{refusals:?}");
    Ok(())
}

async fn a_clone_that_is_far_too_large_is_no_lesson_for_others(t: &Space) -> Result<()> {
    let class = t.class().made().await?;
    let mallory = tenant(t).await?;
    let mine = t.source("mine").class(&class).block().filled(mi(4)).await?;
    let victim = t.neighbour().await?;
    let disk = victim.source("disk").class(&class).block().filled(mi(4)).await?;
    let huge = clone_of(&mine).class(&class).size_text("900Ti").by(&mallory);
    t.create(huge).await?.fails_with("OutOfRange").await?;

    let usual = clone_of(&disk).class(&class).annotate(keys::FALLBACK, "Never");
    is_a_usual_clone(&victim.create(usual).await?, &disk).await?;
    // Not even for the tenant's own usual clones.
    let own = t.create(clone_of(&mine).class(&class).named("own").by(&mallory)).await?;
    is_a_usual_clone(&own, &mine).await?;
    nothing_is_remembered_for_all(t, &class).await
}

/// Long enough to write an Event while a claim waits for its volume.
fn slow_volumes() -> Behaviour {
    Behaviour { volume_takes_ms: Some(12_000), ..Behaviour::default() }
}

async fn an_event_written_by_hand_says_nothing_to_another_namespace(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow_volumes()).made().await?;
    let mallory = tenant(t).await?;
    let mine = t.source("mine").class(&class).block().filled(mi(4)).await?;
    let victim = t.neighbour().await?;
    let disk = victim.source("disk").class(&class).block().filled(mi(4)).await?;
    let decoy = t.create(clone_of(&mine).class(&class).named("decoy").by(&mallory)).await?;
    let uid = pending_claim(t, &decoy).await?;
    writes_event(t, &mallory, (decoy.name(), &uid)).await?;
    // It is a hint about this one, in whose namespace it was written.
    let falls_back = |volume: &common::api::DataVolume| {
        volume.annotations().get(keys::CLONE_TYPE).is_some_and(|strategy| strategy == "copy").then_some(())
    };
    decoy.until("the tenant's clone to become a copy", falls_back).await?;

    let usual = clone_of(&disk).class(&class).annotate(keys::FALLBACK, "Never");
    is_a_usual_clone(&victim.create(usual).await?, &disk).await?;
    nothing_is_remembered_for_all(t, &class).await
}

async fn an_event_of_another_namespace_says_nothing_about_a_clone(t: &Space) -> Result<()> {
    let class = t.class().behaving(slow_volumes()).made().await?;
    let mallory = tenant(t).await?;
    let victim = t.neighbour().await?;
    let disk = victim.source("disk").class(&class).block().filled(mi(4)).await?;
    let clone = victim.create(clone_of(&disk).class(&class)).await?;
    let uid = pending_claim(&victim, &clone).await?;
    writes_event(t, &mallory, (clone.name(), &uid)).await?;
    is_a_usual_clone(&clone, &disk).await
}

async fn stuck_snapshots_of_one_tenant_keep_nobody_else_waiting(t: &Space) -> Result<()> {
    // The pool of this class is full, whatever is restored into it.
    let fault = Fault {
        name: "full".to_owned(),
        rpc: Rpc::CreateVolume,
        skip: 0,
        times: u32::MAX,
        effect: Effect::Fail(FailCode::ResourceExhausted),
    };
    let full = Behaviour { faults: vec![fault], ..Behaviour::default() };
    let class = t.class().behaving(full).annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").block().filled(mi(4)).await?;
    let mallory = tenant(t).await?;
    gold.lets_clone(&mallory, &disk).await?;
    let mut stuck = Vec::new();
    for name in ["one", "two"] {
        let request = clone_of(&disk).from(&gold).class(&class).named(name).by(&mallory);
        let clone = t.create(request.annotate(keys::DEADLINE, "87600h")).await?;
        let told = clone.warnings.iter().any(|line| line.contains("longer than allowed") && line.contains("1h"));
        ensure!(told, "nothing is said of the deadline: {:?}", clone.warnings);
        gold.snapshot_for(|members| members.contains_key(clone.uid())).await?;
        stuck.push(clone);
    }
    let usual = gold.create(clone_of(&disk).annotate(keys::FALLBACK, "Never")).await?;
    is_a_usual_clone(&usual, &disk).await?;
    // And a neighbour who may clone it, too.
    let other = t.neighbour().await?;
    let usual = other.create(clone_of(&disk).from(&gold).annotate(keys::FALLBACK, "Never")).await?;
    is_a_usual_clone(&usual, &disk).await?;
    for clone in &stuck {
        ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "they were not stuck");
        t.api::<common::api::DataVolume>().delete(clone.name(), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn a_clone_without_a_consumer_holds_no_snapshot(t: &Space) -> Result<()> {
    let class = t.class().waiting_for_consumer().annotate(keys::COMPATIBLE_WITH, "cow").made().await?;
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let snapshots = t.snapshots_taken().await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.waits_for("WaitForFirstConsumer").await?;
    ensure!(snapshots.so_far().is_empty(), "{:?}", snapshots.so_far());
    let consumer = t.pod_using(&clone).await?;
    clone.succeeds().await?;
    consumer.delete().await?;
    let taken = snapshots.so_far();
    taken.first().with_context(|| format!("it was not cloned by snapshot: {:?}", clone.warnings))?;
    clone.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &clone]).await
}
