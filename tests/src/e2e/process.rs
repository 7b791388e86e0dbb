//! What becomes of clones when smartclone's own processes come and go.

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};
use common::{keys, manifest::NAMESPACE};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        apps::v1::Deployment,
        core::v1::{Pod, Secret},
    },
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams},
    runtime::watcher::Config,
};
use reference_csi::behaviour::Behaviour;
use serde_json::{Value, json};
use webhook::manifests::{CA_SECRET, MUTATING};

use crate::{
    harness::{
        CloneHandle, Space, clone_of, mi,
        wait::{self, Look, PATIENCE},
    },
    lab::command::until,
};

tests![;
    alone:
    a_controller_that_is_killed_in_the_middle_of_a_clone_loses_nothing,
    a_webhook_is_rolled_out_without_a_request_going_astray,
    the_authority_changes_twice_without_a_request_going_astray,
    a_second_look_is_silent,
];

fn pods(t: &Space) -> Api<Pod> {
    Api::namespaced(t.client().clone(), NAMESPACE)
}

fn selection(component: &str) -> String {
    format!("{}={component}", keys::COMPONENT_LABEL)
}

/// As a node's crash would, ends one of the pods of a component; returns when it is gone and as many as before serve.
pub(super) async fn kill(t: &Space, component: &str) -> Result<()> {
    let before = pods(t).list(&ListParams::default().labels(&selection(component))).await?.items;
    let victim = before.first().with_context(|| format!("there is no pod of the {component}"))?;
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods(t).delete(&victim.name_any(), &params).await?;
    replaced(t, component, &before[..1]).await
}

/// Replaces every pod of a component as an update does; returns when the old ones are gone.
pub(super) async fn roll_out(t: &Space, component: &str, update: impl Future<Output = Result<()>>) -> Result<()> {
    let before = pods(t).list(&ListParams::default().labels(&selection(component))).await?.items;
    update.await?;
    replaced(t, component, &before).await
}

/// Waits until none of `old` is there, and as many serve as there should be.
async fn replaced(t: &Space, component: &str, old: &[Pod]) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(t.client().clone(), NAMESPACE);
    let deployment = deployments.get(&common::manifest::name(component)).await?.spec.unwrap_or_default();
    let count = usize::try_from(deployment.replicas.unwrap_or(1))?;
    let config = Config::default().labels(&selection(component));
    wait::all(&pods(t), config, &format!("new pods of the {component}"), |pods| {
        let ready = |pod: &&&Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
            conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
        };
        let found = pods.iter().filter(ready).count();
        let left = pods.iter().filter(|pod| old.iter().any(|old| old.uid() == pod.uid())).count();
        if left == 0 && found == count {
            Look::Break(())
        } else {
            Look::Continue(format!("{found} of {count} are ready, {left} old ones are left"))
        }
    })
    .await
}

async fn a_controller_that_is_killed_in_the_middle_of_a_clone_loses_nothing(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(24)).await?;
    let by_snapshot = t.create(clone_of(&disk).class(&class).named("by-snapshot")).await?;
    let by_copy = t
        .create(clone_of(&disk).class(&class).named("by-copy").annotate(keys::CLONE_TYPE, "copy").with_owners())
        .await?;
    t.snapshot_for(|members| members.contains_key(by_snapshot.uid())).await?;
    kill(t, keys::CONTROLLER).await?;
    by_snapshot.succeeds().await?.has_bytes_of(&disk).await?;
    by_copy.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &by_snapshot, &by_copy]).await
}

/// Several clients ask without pause while `work` is done; each is answered with a yes, or it is an error. Returns how many were.
async fn admitted_while(t: &Space, work: impl Future<Output = Result<()>>) -> Result<usize> {
    let disk = t.source("disk").blank().await?;
    let admitted = Cell::new(0_usize);
    let asking = async || -> Result<()> {
        loop {
            let answer = t.dry_run(clone_of(&disk)).await;
            answer.with_context(|| format!("after {} that were admitted", admitted.get()))?;
            admitted.set(admitted.get() + 1);
        }
    };
    tokio::select! {
        done = work => done?,
        failed = try_join_all((0..4).map(|_| asking())) => failed.map(drop)?,
    }
    Ok(admitted.get())
}

async fn a_webhook_is_rolled_out_without_a_request_going_astray(t: &Space) -> Result<()> {
    let restart = async {
        let name = format!("deployment/{}", common::manifest::name(keys::WEBHOOK));
        t.kubectl(&["rollout", "restart", "--namespace", NAMESPACE, &name]).await.map(drop)
    };
    let admitted = admitted_while(t, roll_out(t, keys::WEBHOOK, restart)).await?;
    ensure!(admitted >= 100, "only {admitted} requests were made meanwhile, which proves little");
    Ok(())
}

/// Once it is lost, and once it is damaged: the successor is told to the API server before any replica uses it.
async fn the_authority_changes_twice_without_a_request_going_astray(t: &Space) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(t.client().clone(), NAMESPACE);
    let admitted = admitted_while(t, async {
        succeeded(t, async {
            secrets.delete(CA_SECRET, &DeleteParams::default()).await?;
            Ok(())
        })
        .await?;
        let damage = json!({"data": {"tls.key": ByteString(b"rubbish".to_vec())}});
        succeeded(t, async {
            secrets.patch(CA_SECRET, &PatchParams::default(), &Patch::Merge(damage)).await?;
            Ok(())
        })
        .await
    });
    let admitted = admitted.await?;
    ensure!(admitted >= 1000, "only {admitted} requests were made meanwhile, which proves little");
    Ok(())
}

/// Does what spoils the authority; returns when another one is trusted and every replica has a certificate of it.
async fn succeeded(t: &Space, spoil: impl Future<Output = Result<()>>) -> Result<()> {
    let configurations: Api<MutatingWebhookConfiguration> = t.everywhere();
    let bundle = |found: Option<&MutatingWebhookConfiguration>| -> Option<String> {
        let webhooks = found?.webhooks.as_ref()?;
        String::from_utf8(webhooks.first()?.client_config.ca_bundle.as_ref()?.0.clone()).ok()
    };
    let old = bundle(Some(&configurations.get(MUTATING).await?)).context("there is no caBundle")?;
    let predecessor = old.split_inclusive("-----END CERTIFICATE-----").next().context("the caBundle is empty")?;
    let since = Timestamp::now();
    spoil.await?;
    wait::object(&configurations, MUTATING, "the successor in the caBundle", |found| match bundle(found) {
        Some(new) if new != old && new.contains(predecessor.trim()) => Look::Break(()),
        now => Look::Continue(format!("{now:?}")),
    })
    .await?;
    let serving = pods(t).list(&ListParams::default().labels(&selection(keys::WEBHOOK))).await?.items;
    for pod in serving.iter().map(kube::ResourceExt::name_any) {
        until(&format!("a new certificate of {pod}"), PATIENCE, async || {
            let log = pods(t).logs(&pod, &LogParams { since_time: Some(since), ..LogParams::default() }).await?;
            let issued = log.contains("new certificate");
            Ok(if issued { Look::Break(()) } else { Look::Continue("its log knows of none".to_owned()) })
        })
        .await?;
    }
    Ok(())
}

/// However often it is looked at, a finished clone is not written to.
async fn a_second_look_is_silent(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.succeeds().await?;
    t.nothing_left_but(&[&disk, &clone]).await?;
    // A new controller sees everything for the first time; a label makes it look once more.
    kill(t, keys::CONTROLLER).await?;
    let api = t.api::<common::api::DataVolume>();
    let label = Patch::Merge(json!({"metadata": {"labels": {"look": "again"}}}));
    let touched = api.patch("clone", &PatchParams::default(), &label).await?;
    // By the time that a clone which was asked for later is done, the first one has been looked at.
    t.create(clone_of(&disk).named("later")).await?.succeeds().await?;
    let now = api.get("clone").await?;
    ensure!(now.resource_version() == touched.resource_version(), "written to again: {now:?}");
    let writes = writes_about(t, &clone)?;
    let last = writes.last().context("the audit log has no write at all, so it proves nothing")?;
    let done =
        clone.status().conditions.iter().filter_map(|it| it.last_heartbeat_time.as_ref().map(|time| time.0)).max();
    // The snapshot's deletion and the events follow the last status within the same pass.
    let limit = done.context("no heartbeat")? + jiff::SignedDuration::from_secs(2);
    ensure!(last.0 <= limit, "written to at {} though complete since {done:?}: {}", last.0, last.1);
    Ok(())
}

/// When the controller wrote something that has to do with a clone, and the line of the audit log about it.
fn writes_about(t: &Space, clone: &CloneHandle) -> Result<Vec<(jiff::Timestamp, String)>> {
    let log = std::fs::read_to_string(t.lab()?.audit_log())?;
    let mut writes = Vec::new();
    for line in log.lines().filter(|line| line.contains(t.name())) {
        let entry: Value = serde_json::from_str(line)?;
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let by_controller = text("/userAgent").starts_with(keys::CONTROLLER_MANAGER);
        let writes_something = matches!(text("/verb"), "create" | "update" | "patch" | "delete");
        let name = text("/objectRef/name");
        let about = name == "clone" || name.starts_with("clone.") || name.contains(clone.uid());
        if by_controller && writes_something && about && text("/objectRef/namespace") == t.name() {
            writes.push((text("/requestReceivedTimestamp").parse()?, line.to_owned()));
        }
    }
    Ok(writes)
}
