//! Objects as a tenant may write them so that others suffer: times that few programs can hold, names that are paths, finalizers that stay.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use common::{
    api::{DataSource, DataVolume, Phase},
    keys,
    manifest::NAMESPACE,
    names,
};
use http::Request;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Event, PersistentVolumeClaim, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, LogParams, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::process::kill;
use crate::{
    harness::{
        Space, clone_of, gi, mi,
        wait::{self, Look, PATIENCE},
    },
    lab::command::until,
};

tests![
    a_time_of_the_year_9999_stops_nobody,
    an_object_that_cannot_be_read_stops_nobody,
    what_is_no_name_of_an_owner_is_no_path_and_stops_no_sweep,
    a_deleted_data_volume_leaves_nothing_beside_its_source_whatever_finalizers_it_has;
    alone:
    a_controller_starts_while_there_are_objects_that_cannot_be_read,
];

/// Far less than the 94 s for which a time of the year 9999 once stopped a watch, and more than a busy machine takes.
const SOON: Duration = Duration::from_secs(20);

const YEAR_9999: &str = "9999-12-31T23:59:59Z";

/// A request by hand: kube's client can't read the answers. `None` when it is refused.
async fn send(client: &Client, method: &str, path: &str, body: &Value) -> Result<Option<Value>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", if method == "PATCH" { "application/merge-patch+json" } else { "application/json" })
        .body(body.to_string().into_bytes())?;
    match client.request_text(request).await {
        Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{method} {path}")),
    }
}

fn path<K>(space: &Space, name: &str) -> String
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    format!("{}/{name}", K::url_path(&(), Some(space.name())))
}

/// As a tenant of `space`, writes what the API server takes and jiff can't represent: managed fields of a DataSource, and an Event.
async fn write_times(space: &Space, user: &str) -> Result<Client> {
    space.administered_by(user).await?;
    space.data_source("odd", json!({"pvc": {"namespace": space.name(), "name": "disk"}})).await?;
    let (client, odd) = (space.cluster().client_as(user)?, path::<DataSource>(space, "odd"));
    until("the managed fields to be replaced", PATIENCE, async || {
        let mut object = send(&client, "GET", &odd, &Value::Null).await?.context("the tenant may not read it")?;
        object["metadata"]["managedFields"] = json!([{
            "manager": "x", "operation": "Update", "apiVersion": "cdi.kubevirt.io/v1beta1", "time": YEAR_9999,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}},
        }]);
        match send(&client, "PUT", &odd, &object).await {
            Ok(Some(replaced)) => ensure!(replaced.to_string().contains(YEAR_9999), "it has no effect: {replaced}"),
            Ok(None) => bail!("the tenant may not replace it"),
            // The controller has written the status meanwhile.
            Err(error) => return Ok(Look::Continue(format!("{error:#}"))),
        }
        Ok(Look::Break(()))
    })
    .await?;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "odd", "namespace": space.name()},
        "involvedObject": {"kind": "PersistentVolumeClaim", "namespace": space.name(), "name": "disk"},
        "type": "Warning", "reason": "ProvisioningFailed", "message": "odd", "lastTimestamp": YEAR_9999,
    });
    let events = Event::url_path(&(), Some(space.name()));
    // A policy may refuse it; then it is no way to do harm.
    send(&client, "POST", &events, &event).await?;
    for touch in 0..7 {
        let label = json!({"metadata": {"labels": {"touch": touch.to_string()}}});
        send(&client, "PATCH", &odd, &label).await?.context("the tenant may not label it")?;
        send(&client, "PATCH", &path::<Event>(space, "odd"), &label).await.ok();
    }
    Ok(client)
}

/// A DataSource that nothing has to do with the others is told about soon.
async fn is_served(t: &Space, name: &str) -> Result<()> {
    t.data_source(name, json!({"pvc": {"namespace": t.name(), "name": "none"}})).await?;
    let told = t.data_source_is(name, "False", "NotFound", "doesn't exist");
    timeout(SOON, told).await.with_context(|| format!("no status within {SOON:?}"))?.map(drop)
}

/// What the controllers that run have logged.
async fn log_of_the_controller(t: &Space) -> Result<String> {
    let pods: Api<Pod> = Api::namespaced(t.client().clone(), NAMESPACE);
    let ours = kube::api::ListParams::default().labels(&format!("{}={}", keys::COMPONENT_LABEL, keys::CONTROLLER));
    let mut log = String::new();
    for pod in pods.list(&ours).await?.items {
        log += &pods.logs(&pod.name_any(), &LogParams::default()).await?;
    }
    Ok(log)
}

/// kube's client would log whole lists.
fn has_no_bodies(log: &str) -> Result<()> {
    for piece in ["fieldsV1", "\"apiVersion\"", "kube_client::client"] {
        let line = log.lines().find(|line| line.contains(piece));
        ensure!(line.is_none(), "a body is in the log: {line:?}");
    }
    Ok(())
}

async fn a_time_of_the_year_9999_stops_nobody(t: &Space) -> Result<()> {
    let tenant = t.neighbour().await?;
    let client = write_times(&tenant, "mallory").await?;
    is_served(t, "other").await?;
    // What is odd in it is of no account for itself either.
    until("the status of the odd one", SOON, async || {
        let odd =
            send(&client, "GET", &path::<DataSource>(&tenant, "odd"), &Value::Null).await?.context("not readable")?;
        let told = odd["status"]["conditions"].to_string().contains("NotFound");
        Ok(if told { Look::Break(()) } else { Look::Continue(odd.to_string()) })
    })
    .await?;
    has_no_bodies(&log_of_the_controller(t).await?)
}

/// More times out of range than are clamped; only the controller may write them, and an admin.
async fn write_unreadable(space: &Space) -> Result<()> {
    space.data_source("unreadable", json!({"pvc": {"namespace": space.name(), "name": "disk"}})).await?;
    space.data_source_is("unreadable", "False", "NotFound", "doesn't exist").await?;
    let condition = |n: usize| json!({"type": format!("T{n}"), "status": "True", "lastTransitionTime": YEAR_9999, "lastHeartbeatTime": YEAR_9999});
    let conditions: Vec<_> = (0..30).map(condition).collect();
    let status = path::<DataSource>(space, "unreadable") + "/status";
    let written = send(space.client(), "PATCH", &status, &json!({"status": {"conditions": conditions}})).await?;
    written.map(drop).context("the status was refused")
}

async fn an_object_that_cannot_be_read_stops_nobody(t: &Space) -> Result<()> {
    let tenant = t.neighbour().await?;
    write_unreadable(&tenant).await?;
    is_served(t, "other").await?;
    until("a line in the log about the unreadable object", SOON, async || {
        let log = log_of_the_controller(t).await?;
        let told =
            |line: &&str| line.contains("can't be read") && line.contains(tenant.name()) && line.contains("unreadable");
        let lines: Vec<_> = log.lines().filter(told).map(ToOwned::to_owned).collect();
        has_no_bodies(&log)?;
        ensure!(lines.len() <= 3, "it is told again and again: {lines:#?}");
        Ok(if lines.is_empty() { Look::Continue("there is none".to_owned()) } else { Look::Break(()) })
    })
    .await?;
    // Readable again, it is served again.
    let status = path::<DataSource>(&tenant, "unreadable") + "/status";
    send(tenant.client(), "PATCH", &status, &json!({"status": {"conditions": null}})).await?;
    timeout(SOON, tenant.data_source_is("unreadable", "False", "NotFound", "doesn't exist")).await??;
    Ok(())
}

async fn a_controller_starts_while_there_are_objects_that_cannot_be_read(t: &Space) -> Result<()> {
    let tenant = t.neighbour().await?;
    write_times(&tenant, "mallory").await?;
    write_unreadable(&tenant).await?;
    // Returns when the new one is ready, which one that can't list DataSources never is.
    kill(t, keys::CONTROLLER).await?;
    is_served(t, "other").await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    t.create(clone_of(&disk)).await?.succeeds().await?.has_bytes_of(&disk).await?;
    has_no_bodies(&log_of_the_controller(t).await?)
}

/// A claim that says that it was made for a clone; nothing ever fills it.
async fn claim_beside(space: &Space, uid: &str, owner: &str) -> Result<String> {
    let name = names::temporary_claim(uid);
    let claim = serde_json::from_value(json!({
        "metadata": {
            "name": name, "labels": {keys::OWNED_BY_UID: uid}, "annotations": {keys::OWNED_BY_DATA_VOLUME: owner},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Mi"}}},
    }))?;
    // Nobody else may write such labels.
    let controller = format!("system:serviceaccount:{NAMESPACE}:smartclone-controller");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(space.cluster().client_as(&controller)?, space.name());
    claims.create(&PostParams::default(), &claim).await.with_context(|| format!("create {name} for {owner:?}"))?;
    Ok(name)
}

async fn what_is_no_name_of_an_owner_is_no_path_and_stops_no_sweep(t: &Space) -> Result<()> {
    let victim = t.neighbour().await?;
    let mut odd = Vec::new();
    let tails = [
        "",
        "..",
        "../../../../api/v1/namespaces/kube-system/secrets/x",
        "%2f%2e%2e",
        "x/status",
        "mine?x=1",
        "a#b",
        "Ä",
    ];
    for (n, tail) in tails.iter().enumerate() {
        odd.push(claim_beside(t, &format!("bad{n}"), &format!("{}/{tail}", t.name())).await?);
    }
    odd.push(claim_beside(t, "bad", &format!("{0}/../{0}/x", t.name())).await?);
    // Of a clone that there never was.
    for n in 1..=5 {
        let uid = format!("00000000-0000-4000-8000-00000000000{n}");
        let orphan = claim_beside(&victim, &uid, &format!("{}/gone", t.name())).await?;
        let claims = victim.api::<PersistentVolumeClaim>();
        let gone = wait::gone(&claims, &orphan, None);
        timeout(SOON, gone).await.with_context(|| format!("{orphan} is there after {SOON:?}"))??;
    }
    for name in &odd {
        ensure!(t.api::<PersistentVolumeClaim>().get_opt(name).await?.is_some(), "{name} was taken for ours");
    }
    let audit = std::fs::read_to_string(t.lab()?.audit_log())?;
    for line in audit.lines().filter(|line| line.contains(t.name()) && line.contains(keys::CONTROLLER_MANAGER)) {
        let entry: Value = serde_json::from_str(line)?;
        let by_controller = entry["userAgent"].as_str().unwrap_or_default().starts_with(keys::CONTROLLER_MANAGER);
        let uri = entry["requestURI"].as_str().unwrap_or_default();
        let odd = ["..", "%2", "x=1", "x/status", "#", "secrets"].iter().any(|piece| uri.contains(piece));
        ensure!(!by_controller || !odd, "a name became a path: {uri}");
    }
    Ok(())
}

async fn a_deleted_data_volume_leaves_nothing_beside_its_source_whatever_finalizers_it_has(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").size(gi(2)).block().filled(mi(1024)).await?;
    let clone = t.create(clone_of(&disk).from(&gold).annotate(keys::CLONE_TYPE, "copy")).await?;
    clone.phase(Phase::CloneInProgress).await?;
    there_is::<Pod>(&gold, clone.uid()).await?;
    there_is::<PersistentVolumeClaim>(&gold, clone.uid()).await?;
    let volumes = t.api::<DataVolume>();
    let finalizers = |all: Value| Patch::Merge(json!({"metadata": {"finalizers": all}}));
    volumes.patch("clone", &PatchParams::default(), &finalizers(json!(["tenant.example/stay"]))).await?;
    volumes.delete("clone", &DeleteParams::default()).await?;
    let swept = timeout(2 * SOON, gold.nothing_left_but(&[&disk])).await.context("left beside the source");
    let held = volumes.get("clone").await;
    // Else the namespace could not be removed.
    volumes.patch("clone", &PatchParams::default(), &finalizers(Value::Null)).await?;
    swept??;
    ensure!(held?.metadata.deletion_timestamp.is_some(), "the finalizer did not hold it, so this proves nothing");
    t.nothing_left_but(&[]).await
}

/// Waits for something that was made for the clone with this UID.
async fn there_is<K>(space: &Space, uid: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let what = format!("a {} for {uid}", K::kind(&()));
    let selection = Config::default().labels(&format!("{}={uid}", keys::OWNED_BY_UID));
    wait::all(&space.api::<K>(), selection, &what, |found| {
        if found.is_empty() { Look::Continue("there is none".to_owned()) } else { Look::Break(()) }
    })
    .await
}
