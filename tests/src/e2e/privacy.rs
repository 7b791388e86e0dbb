//! What a tenant learns about a namespace in which she has no right: nothing, whatever is there. Each test asks twice, about something that
//! is there and something that isn't, and compares.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{DataSource, DataVolume},
    data_source::NOT_LOOKED_AT,
    keys,
    requester::Reference,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use webhook::manifests::{MUTATING, VALIDATING_CLAIMS};

use crate::harness::{CloneHandle, CloneRequest, Disk, Named as _, Space, clone_by, clone_of, mi};

tests![
    a_data_source_says_nothing_about_another_namespace,
    a_data_source_that_leads_elsewhere_later_says_nothing,
    a_claim_that_is_taken_over_and_goes_says_nothing,
    a_claim_that_is_said_to_be_filled_and_is_not_says_nothing,
    a_data_source_of_another_namespace_is_closed,
    a_data_source_that_is_closed_later_is_not_followed,
    a_clone_source_of_another_namespace_is_closed,
    a_clone_source_is_named_once,
    a_clone_source_that_is_closed_later_is_not_followed,
    pods_of_another_namespace_have_no_names,
];

/// The source that is there, and the name of one that isn't.
const THERE: &str = "disk";
const MISSING: &str = "void";

/// What the owner of a DataVolume sees of it, without times and with these names of hers made one.
fn visible(volume: &DataVolume, names: [&str; 2]) -> Result<Value> {
    let [clone, source] = names;
    let mut annotations = volume.annotations().clone();
    // Random.
    annotations.remove(keys::OWNERSHIP_KEY);
    let mut seen = json!({"annotations": annotations, "status": volume.status});
    without_times(&mut seen);
    let text = seen.to_string().replace(source, "SOURCE").replace(clone, "CLONE");
    Ok(serde_json::from_str(&text)?)
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !["lastTransitionTime", "lastHeartbeatTime", "since"].contains(&key.as_str()));
            map.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// Both wait for the right, look the same then, and no version of the one says more than the right that is missing; nothing is made.
async fn say_the_same(t: &Space, gold: &Space, disk: &Disk, [there, missing]: [&CloneHandle; 2]) -> Result<()> {
    let waits = |volume: &DataVolume| {
        let waiting = volume.status.as_ref()?.clone.as_ref()?.waiting_for.as_ref()?.reason.clone();
        (waiting.as_deref() == Some("CloneNotAuthorized")).then(|| volume.clone())
    };
    let mut seen = Vec::new();
    for (clone, source) in [(there, THERE), (missing, MISSING)] {
        let volume = clone.until(&format!("{} to wait for the right", clone.name()), waits).await?;
        seen.push(visible(&volume, [clone.name(), source])?);
        for version in clone.versions() {
            let text = serde_json::to_string(&json!({"a": version.annotations(), "s": version.status}))?;
            ensure!(!text.contains(disk.uid()), "the identity of the source is told: {text}");
            ensure!(!version.annotations().contains_key(keys::PLAN), "a plan is told: {text}");
            for word in ["does not exist", "smaller", "at least"] {
                ensure!(!text.contains(word), "{word:?} is told: {text}");
            }
        }
    }
    ensure!(seen[0] == seen[1], "{:#}\nis there, and isn't:\n{:#}", seen[0], seen[1]);
    gold.nothing_left_but(&[disk]).await?;
    t.nothing_left_but(&[]).await
}

/// A tenant with her own namespace, and another one with a disk in it of which she has no right to learn.
async fn tenant(t: &Space) -> Result<(Space, Disk)> {
    let gold = t.neighbour().await?;
    let disk = gold.source(THERE).filled(mi(4)).await?;
    t.administered_by("alice").await?;
    Ok((gold, disk))
}

/// What `kubectl` says when the tenant runs it.
async fn as_tenant(t: &Space, args: &[&str]) -> Result<String> {
    t.kubectl(&[&["--as=alice"], args].concat()).await
}

async fn a_data_source_says_nothing_about_another_namespace(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let snapshot = gold.snapshot("monday", &disk, "cow").await?.ready().await?;
    let pvc = |name: &str| json!({"pvc": {"namespace": gold.name(), "name": name}});
    let of_snapshot = |name: &str| json!({"snapshot": {"namespace": gold.name(), "name": name}});
    t.data_source("by-claim", pvc(THERE)).await?;
    t.data_source("by-claim-void", pvc(MISSING)).await?;
    t.data_source("by-snapshot", of_snapshot("monday")).await?;
    t.data_source("by-snapshot-void", of_snapshot(MISSING)).await?;
    t.data_source("by-name", json!({"dataSource": {"namespace": t.name(), "name": "by-claim"}})).await?;
    t.data_source("by-name-void", json!({"dataSource": {"namespace": t.name(), "name": "by-claim-void"}})).await?;
    let told = async |name: &str, source: &str| -> Result<(DataSource, Value)> {
        let found = t.data_source_is(name, "Unknown", NOT_LOOKED_AT, "does not look into another namespace").await?;
        let mut status = json!(found.status);
        without_times(&mut status);
        Ok((found, serde_json::from_str(&status.to_string().replace(&format!("/{source} "), "/SOURCE "))?))
    };
    let conditions = |status: &Value| status["conditions"].clone();
    let mut void = None;
    for (name, source) in [("by-claim", THERE), ("by-snapshot", "monday"), ("by-name", THERE)] {
        let (_, there) = told(name, source).await?;
        let (found, missing) = told(&format!("{name}-void"), MISSING).await?;
        ensure!(conditions(&there) == conditions(&missing), "{there:#}\nis there, and isn't:\n{missing:#}");
        void.get_or_insert(found);
    }
    // What comes there is no news here: when its neighbour has heard of it, nothing is written on the tenant's.
    let void = void.context("none was looked at")?;
    gold.data_source("golden", pvc(MISSING)).await?;
    gold.data_source_is("golden", "False", "NotFound", "doesn't exist").await?;
    let late = gold.source(MISSING).blank().await?;
    gold.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    let now = t.api::<DataSource>().get(&void.name_any()).await?;
    ensure!(now.resource_version() == void.resource_version(), "written: {now:?}");
    gold.nothing_left_but(&[&disk, &snapshot, &late]).await
}

/// An own DataSource that is made when admission is over, so that nobody but the controller can ask.
async fn a_data_source_that_leads_elsewhere_later_says_nothing(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    // Smaller than the source, which would be told.
    let request = |name: &str| clone_by(name).named(name).size(mi(64)).by("alice");
    let there = t.create(request("late-there")).await?;
    let missing = t.create(request("late-void")).await?;
    for (clone, source) in [(&there, THERE), (&missing, MISSING)] {
        clone.waits_for("DataSourceNotReady").await?;
        t.data_source(clone.name(), json!({"pvc": {"namespace": gold.name(), "name": source}})).await?;
    }
    say_the_same(t, &gold, &disk, [&there, &missing]).await
}

/// The requests for a clone of what is there and of what isn't, made by the tenant.
fn both(gold: &Space) -> [CloneRequest; 2] {
    [(THERE, "first"), (MISSING, "second")]
        .map(|(source, name)| clone_of(source).named(name).size(mi(64)).from(gold).by("alice"))
}

async fn a_claim_that_is_taken_over_and_goes_says_nothing(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let class = t.class().waiting_for_consumer().made().await?;
    let mut clones = Vec::new();
    for request in both(&gold) {
        let name = ["first", "second"][clones.len()];
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "annotations": {keys::ALLOW_ADOPTION: "true"}},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": mi(64).to_string()}},
            },
        });
        t.apply(&t.api::<PersistentVolumeClaim>(), name, &claim).await?;
        let clone = t.create(request).await?;
        let told = &clone.warnings;
        ensure!(told.len() == 1 && told[0].contains("nothing was checked"), "{told:?}");
        as_tenant(t, &["delete", "persistentvolumeclaim", name]).await?;
        clones.push(clone);
    }
    say_the_same(t, &gold, &disk, [&clones[0], &clones[1]]).await
}

async fn a_claim_that_is_said_to_be_filled_and_is_not_says_nothing(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let mut clones = Vec::new();
    for request in both(&gold) {
        let clone = t.create(request.annotate(keys::PRE_POPULATED, "x")).await?;
        clone.waits_for("ClaimNotPopulated").await?;
        as_tenant(t, &["annotate", "datavolume", clone.name(), &format!("{}-", keys::PRE_POPULATED)]).await?;
        clones.push(clone);
    }
    say_the_same(t, &gold, &disk, [&clones[0], &clones[1]]).await
}

async fn a_data_source_of_another_namespace_is_closed(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let request = || clone_by("golden").from(&gold).by("alice");
    let missing = t.refuses(request()).await?.by(MUTATING)?;
    gold.data_source("golden", json!({"pvc": {"namespace": gold.name(), "name": THERE}})).await?;
    gold.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    let there = t.refuses(request()).await?.by(MUTATING)?;
    ensure!(there.text() == missing.text(), "{there}\nis there, and isn't:\n{missing}");
    ensure!(!there.text().contains(THERE), "what it stands for is told: {there}");
    there.about("spec.sourceRef", "FieldValueForbidden", "user \"alice\" may not read DataSource")?.causes(1)?;

    // Each right opens one door.
    gold.lets_read("alice", Reference::DataSource, "golden").await?;
    let denial = t.refuses(request()).await?.by(MUTATING)?;
    denial.about("spec.sourceRef", "FieldValueForbidden", "user \"alice\" may not clone")?.causes(1)?;
    gold.lets_clone("alice", &disk).await?;
    let clone = t.create(request()).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

async fn a_data_source_that_is_closed_later_is_not_followed(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    gold.lets_clone("alice", &disk).await?;
    gold.lets_read("alice", Reference::DataSource, "golden").await?;
    let clone = t.create(clone_by("golden").from(&gold).by("alice")).await?;
    clone.waits_for("DataSourceNotReady").await?;
    gold.forbids_reading("alice", Reference::DataSource, "golden").await?;
    gold.data_source("golden", json!({"pvc": {"namespace": gold.name(), "name": THERE}})).await?;
    let message = clone.waits_for("CloneNotAuthorized").await?;
    ensure!(message.contains("user \"alice\" may not read DataSource") && !message.contains(THERE), "{message}");
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await
}

async fn a_clone_source_of_another_namespace_is_closed(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let request = || t.claim_from("golden").from(&gold).by("alice");
    let missing = request().refused().await?.by(VALIDATING_CLAIMS)?;
    gold.clone_source("golden", &disk).await?;
    let there = request().refused().await?.by(VALIDATING_CLAIMS)?;
    ensure!(there.text() == missing.text(), "{there}\nis there, and isn't:\n{missing}");
    ensure!(!there.text().contains(THERE), "what it names is told: {there}");
    let field = format!("metadata.annotations[{}]", keys::DATA_SOURCE_NAMESPACE);
    there.about(&field, "FieldValueForbidden", "user \"alice\" may not read VolumeCloneSource")?.causes(1)?;

    gold.lets_read("alice", Reference::VolumeCloneSource, "golden").await?;
    let denial = request().refused().await?.by(VALIDATING_CLAIMS)?;
    denial.about(&field, "FieldValueForbidden", "user \"alice\" may not clone")?.causes(1)?;
    gold.lets_clone("alice", &disk).await?;
    let claim = request().made().await?;
    claim.succeeds().await?;
    claim.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&claim]).await
}

/// Neither the tenant nor anybody else says afterwards that a claim is to be filled from another namespace.
async fn a_clone_source_is_named_once(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    let claim = t.claim_from("golden").by("alice").made().await?;
    let annotation = format!("{}={}", keys::DATA_SOURCE_NAMESPACE, gold.name());
    let annotate = ["annotate", "persistentvolumeclaim", claim.name(), annotation.as_str()];
    let refused = async || -> Result<String> {
        let mut errors = Vec::new();
        for answer in [as_tenant(t, &annotate).await, t.kubectl(&annotate).await] {
            let error = format!("{:#}", answer.err().context("it was annotated")?);
            ensure!(error.contains("is said at its creation"), "{error}");
            errors.push(error);
        }
        Ok(errors.join("\n"))
    };
    let missing = refused().await?;
    gold.clone_source("golden", &disk).await?;
    let there = refused().await?;
    ensure!(there == missing, "{there}\nis there, and isn't:\n{missing}");
    as_tenant(t, &["annotate", "persistentvolumeclaim", claim.name(), "example.com/note=mine"]).await?;
    // What she asked for goes on meaning that.
    let own = t.source("own").filled(mi(4)).await?;
    t.clone_source("golden", &own).await?;
    claim.succeeds().await?;
    claim.has_bytes_of(&own).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&own, &claim]).await
}

async fn a_clone_source_that_is_closed_later_is_not_followed(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    gold.lets_clone("alice", &disk).await?;
    gold.lets_read("alice", Reference::VolumeCloneSource, "golden").await?;
    let claim = t.claim_from("golden").from(&gold).by("alice").made().await?;
    t.event(claim.uid(), "VolumeCloneSourceMissing", "does not exist").await?;
    gold.forbids_reading("alice", Reference::VolumeCloneSource, "golden").await?;
    gold.clone_source("golden", &disk).await?;
    let message = claim.waits_for("CloneNotAuthorized").await?;
    ensure!(message.contains("user \"alice\" may not read VolumeCloneSource"), "{message}");
    gold.nothing_left_but(&[&disk]).await?;
    let spec = t.api::<PersistentVolumeClaim>().get(claim.name()).await?.spec;
    ensure!(spec.as_ref().is_some_and(|spec| spec.volume_name.is_none()), "it has a volume: {spec:?}");
    Ok(())
}

async fn pods_of_another_namespace_have_no_names(t: &Space) -> Result<()> {
    let (gold, disk) = tenant(t).await?;
    gold.lets_clone("alice", &disk).await?;
    let pod = gold.pod_using(&disk).await?;
    let clone = t.create(clone_of(&disk).from(&gold).by("alice")).await?;
    let told = clone.warnings.join("\n");
    ensure!(told.contains("the clone waits until 1 pod no longer uses the source"), "{told}");
    let message = clone.waits_for("CloneSourceInUse").await?;
    for version in clone.versions() {
        let text = serde_json::to_string(&json!({"s": version.status, "told": told, "message": message}))?;
        ensure!(!text.contains(pod.name()), "the pod's name is told: {text}");
    }
    pod.delete().await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}
