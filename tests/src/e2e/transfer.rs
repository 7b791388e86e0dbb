//! Claims and DataVolumes that move: with every byte, or not at all.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{DataVolume, ObjectTransfer, Phase},
    keys::{RECLAIM_POLICY, TRANSFER, TRANSFER_FINALIZER},
};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use serde_json::{Value, json};
use webhook::manifests::VALIDATING_TRANSFERS;

use super::process::kill;
use crate::harness::{
    Denial, Named as _, Space, clone_of, gi, mi,
    wait::{self, Look},
};

tests![
    a_claim_moves_to_another_namespace_with_its_data,
    a_device_moves_as_well,
    a_claim_gets_another_name_and_keeps_what_its_user_wrote_on_it,
    a_used_claim_is_waited_for_and_the_pod_is_named,
    a_required_annotation_is_waited_for,
    a_source_may_come_later,
    a_data_volume_moves_with_its_claim,
    a_transfer_that_is_deleted_while_it_waits_leaves_all_as_it_was,
    a_transfer_that_is_deleted_at_any_moment_leaves_one_claim,
    what_can_not_be_is_refused;
    alone:
    a_controller_that_is_killed_in_the_middle_of_transfers_loses_nothing,
];

const CLAIM: &str = "PersistentVolumeClaim";

/// A second namespace, removed after the first.
async fn elsewhere(t: &Space) -> Result<Space> {
    let there = Space::new(t.cluster(), t.client(), "elsewhere").await?;
    t.undo(there.clone().end());
    Ok(there)
}

/// One that is asked for.
struct Handle<'a> {
    t: &'a Space,
    name: String,
}

#[expect(clippy::needless_pass_by_value, reason = "a JSON literal at every call")]
fn spec(kind: &str, from: (&Space, &str), target: Value) -> Value {
    json!({"source": {"kind": kind, "namespace": from.0.name(), "name": from.1}, "target": target})
}

async fn ask(t: &Space, spec: Value) -> Result<ObjectTransfer, kube::Error> {
    let name = format!("{}-", t.name());
    let object = serde_json::from_value(json!({"metadata": {"generateName": name}, "spec": spec}));
    t.everywhere().create(&PostParams::default(), &object.map_err(kube::Error::SerdeError)?).await
}

async fn transfer(t: &Space, spec: Value) -> Result<Handle<'_>> {
    let name = ask(t, spec).await?.name_any();
    let (api, left): (Api<ObjectTransfer>, _) = (t.everywhere(), name.clone());
    t.undo(async move {
        match api.delete(&left, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    });
    Ok(Handle { t, name })
}

async fn refused(t: &Space, spec: Value) -> Result<Denial> {
    match ask(t, spec).await {
        Ok(transfer) => anyhow::bail!("admitted: {transfer:?}"),
        Err(error) => Denial::of(error),
    }
}

impl Handle<'_> {
    /// Waits until its phase and the reason of its condition are these; the message is returned.
    async fn is(&self, phase: &str, reason: &str) -> Result<String> {
        let api: Api<ObjectTransfer> = self.t.everywhere();
        let what = format!("ObjectTransfer {} to be {phase} ({reason})", self.name);
        wait::object(&api, &self.name, &what, |transfer| {
            let status = transfer.and_then(|it| it.status.clone()).unwrap_or_default();
            let condition = status.conditions.first().cloned().unwrap_or_default();
            let done = if phase == "Complete" { "True" } else { "False" };
            let as_wanted = status.phase == phase
                && condition.type_ == "Complete"
                && condition.status == done
                && condition.reason.as_deref() == Some(reason);
            if as_wanted {
                Look::Break(condition.message.unwrap_or_default())
            } else {
                Look::Continue(format!("it is {status:?}"))
            }
        })
        .await
    }

    async fn completes(&self) -> Result<()> {
        self.is("Complete", "TransferComplete").await.map(drop)
    }

    /// Deletes it and waits until it is gone.
    async fn delete(self) -> Result<()> {
        let api: Api<ObjectTransfer> = self.t.everywhere();
        api.delete(&self.name, &DeleteParams::default()).await?;
        wait::gone(&api, &self.name, None).await
    }
}

/// Waits until a namespace has exactly these claims, each with a volume of its own, which is like any other.
async fn only_claims(t: &Space, named: &[&str]) -> Result<()> {
    let what = format!("the claims of {} to be {named:?}", t.name());
    wait::all(&t.api::<PersistentVolumeClaim>(), Config::default(), &what, |claims| {
        let found: Vec<_> = claims.iter().map(|claim| claim.name_any()).collect();
        let bound = claims.iter().all(|it| it.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound"));
        if bound && found == named { Look::Break(()) } else { Look::Continue(format!("there are {found:?}")) }
    })
    .await?;
    wait::all(&t.everywhere::<PersistentVolume>(), Config::default(), &what, |volumes| {
        let spec = |volume: &PersistentVolume| volume.spec.clone().unwrap_or_default();
        let here =
            volumes.iter().filter(|it| spec(it).claim_ref.and_then(|c| c.namespace).as_deref() == Some(t.name()));
        let mut found: Vec<_> = here.clone().filter_map(|it| spec(it).claim_ref?.name).collect();
        found.sort();
        let usual = here.clone().all(|it| {
            spec(it).persistent_volume_reclaim_policy.as_deref() == Some("Delete")
                && !it.annotations().contains_key(RECLAIM_POLICY)
        });
        if usual && found == named {
            Look::Break(())
        } else {
            Look::Continue(format!("there are volumes of {found:?}"))
        }
    })
    .await
}

async fn volume_of(t: &Space, claim: &str) -> Result<String> {
    let claim = t.bound(claim).await?;
    claim.spec.and_then(|spec| spec.volume_name).context("no volume")
}

async fn a_claim_moves_to_another_namespace_with_its_data(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let disk = t.source("disk").filled(mi(24)).await?;
    let (digest, volume) = (t.digest(&disk, None).await?, volume_of(t, "disk").await?);
    let moving = transfer(t, spec(CLAIM, (t, "disk"), json!({"namespace": there.name(), "name": "moved"}))).await?;
    let told = moving.is("Complete", "TransferComplete").await?;
    ensure!(told.contains(&format!("{}/disk is now {}/moved", t.name(), there.name())), "{told}");
    ensure!(volume_of(&there, "moved").await? == volume, "another volume");
    only_claims(t, &[]).await?;
    // What is over is nobody's business any more: its end changes nothing.
    moving.delete().await?;
    only_claims(&there, &["moved"]).await?;
    ensure!(there.digest("moved", None).await? == digest, "other bytes");
    Ok(())
}

async fn a_device_moves_as_well(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let disk = t.source("disk").block().filled(mi(4)).await?;
    let digest = t.digest(&disk, Some(disk.size.0)).await?;
    transfer(t, spec(CLAIM, (t, "disk"), json!({"namespace": there.name()}))).await?.completes().await?;
    ensure!(there.digest("disk", Some(disk.size.0)).await? == digest, "other bytes");
    only_claims(t, &[]).await?;
    only_claims(&there, &["disk"]).await
}

async fn a_claim_gets_another_name_and_keeps_what_its_user_wrote_on_it(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).filled(mi(4)).await?;
    let digest = t.digest(&disk, None).await?;
    let words = json!({"metadata": {"labels": {"tier": "gold"}, "annotations": {"example.com/note": "mine"}}});
    let api = t.api::<PersistentVolumeClaim>();
    api.patch("disk", &PatchParams::default(), &Patch::Merge(words)).await?;
    transfer(t, spec(CLAIM, (t, "disk"), json!({"name": "renamed"}))).await?.completes().await?;
    only_claims(t, &["renamed"]).await?;
    let claim = api.get("renamed").await?;
    ensure!(claim.labels().get("tier").map(String::as_str) == Some("gold"), "{:?}", claim.metadata);
    ensure!(claim.annotations().contains_key("example.com/note"), "{:?}", claim.metadata);
    ensure!(t.digest("renamed", None).await? == digest, "other bytes");
    Ok(())
}

async fn a_used_claim_is_waited_for_and_the_pod_is_named(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let user = t.pod_using(&disk).await?;
    let moving = transfer(t, spec(CLAIM, (t, "disk"), json!({"namespace": there.name()}))).await?;
    let told = moving.is("Pending", "SourceInUse").await?;
    ensure!(told.contains(&format!("pod {:?}", user.name())), "{told}");
    only_claims(t, &["disk"]).await?;
    only_claims(&there, &[]).await?;
    user.delete().await?;
    moving.completes().await?;
    only_claims(t, &[]).await?;
    only_claims(&there, &["disk"]).await
}

async fn a_required_annotation_is_waited_for(t: &Space) -> Result<()> {
    t.source("disk").blank().await?;
    let mut wanted = spec(CLAIM, (t, "disk"), json!({"name": "moved"}));
    wanted["source"]["requiredAnnotations"] = json!({"example.com/released": "yes"});
    let moving = transfer(t, wanted).await?;
    let told = moving.is("Pending", "RequiredAnnotations").await?;
    ensure!(told.contains("example.com/released=yes"), "{told}");
    let released = Patch::Merge(json!({"metadata": {"annotations": {"example.com/released": "yes"}}}));
    t.api::<PersistentVolumeClaim>().patch("disk", &PatchParams::default(), &released).await?;
    moving.completes().await?;
    only_claims(t, &["moved"]).await
}

async fn a_source_may_come_later(t: &Space) -> Result<()> {
    let moving = transfer(t, spec(CLAIM, (t, "disk"), json!({"name": "moved"}))).await?;
    let told = moving.is("Pending", "SourceMissing").await?;
    ensure!(told.contains(&format!("{}/disk", t.name())), "{told}");
    // Waited for by hand: the harness waits for the claim to be bound, and by then it may have moved.
    let claim = json!({
        "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    t.api::<PersistentVolumeClaim>().create(&PostParams::default(), &serde_json::from_value(claim)?).await?;
    moving.completes().await?;
    only_claims(t, &["moved"]).await
}

async fn a_data_volume_moves_with_its_claim(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let (digest, volume) = (t.digest(&clone, None).await?, volume_of(t, "clone").await?);
    // Its claim alone would be missed by it.
    let denial = refused(t, spec(CLAIM, (t, "clone"), json!({"namespace": there.name()}))).await?;
    denial.by(VALIDATING_TRANSFERS)?.about("spec.source.kind", "FieldValueInvalid", "kind DataVolume")?;
    let target = json!({"namespace": there.name(), "name": "moved"});
    transfer(t, spec("DataVolume", (t, "clone"), target)).await?.completes().await?;
    let moved = there.api::<DataVolume>().get("moved").await?;
    ensure!(moved.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded), "{:?}", moved.status);
    ensure!(moved.annotations().contains_key(TRANSFER), "{:?}", moved.metadata);
    ensure!(volume_of(&there, "moved").await? == volume, "another volume");
    ensure!(there.digest("moved", None).await? == digest, "other bytes");
    wait::gone(&t.api::<DataVolume>(), "clone", None).await?;
    only_claims(t, &["disk"]).await?;
    only_claims(&there, &["moved"]).await
}

async fn a_transfer_that_is_deleted_while_it_waits_leaves_all_as_it_was(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let disk = t.source("disk").filled(mi(4)).await?;
    let user = t.pod_using(&disk).await?;
    let moving = transfer(t, spec(CLAIM, (t, "disk"), json!({"namespace": there.name()}))).await?;
    moving.is("Pending", "SourceInUse").await?;
    moving.delete().await?;
    user.delete().await?;
    t.nothing_left_but(&[&disk]).await?;
    there.nothing_left_but(&[]).await
}

/// As soon as each has begun, and whatever it has just done: there or here, and nowhere else.
async fn a_transfer_that_is_deleted_at_any_moment_leaves_one_claim(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    for name in ["first", "second", "third", "fourth"] {
        let disk = t.source(name).filled(mi(4)).await?;
        let digest = t.digest(&disk, None).await?;
        let moving = transfer(t, spec(CLAIM, (t, name), json!({"namespace": there.name()}))).await?;
        let api: Api<ObjectTransfer> = t.everywhere();
        wait::object(&api, &moving.name, "it to be held", |transfer| match transfer {
            Some(it) if it.finalizers().iter().any(|f| f == TRANSFER_FINALIZER) || it.status.is_some() => {
                Look::Break(())
            }
            _ => Look::Continue("it is not".to_owned()),
        })
        .await?;
        moving.delete().await?;
        let claims = [t, &there].map(Space::api::<PersistentVolumeClaim>);
        let mut places = Vec::new();
        for (space, claims) in [t, &there].into_iter().zip(claims) {
            // One that was deleted a moment ago may still be on its way out; one that is lost is an empty shell.
            let holds = |claim: &PersistentVolumeClaim| {
                let lost = claim.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Lost");
                claim.metadata.deletion_timestamp.is_none() && !lost
            };
            places.extend(claims.get_opt(name).await?.filter(holds).map(|_| space));
        }
        let [place] = places[..] else { anyhow::bail!("{name} is in {} places", places.len()) };
        ensure!(place.digest(name, None).await? == digest, "other bytes in {name}");
    }
    Ok(())
}

async fn what_can_not_be_is_refused(t: &Space) -> Result<()> {
    t.source("disk").blank().await?;
    t.source("taken").blank().await?;
    let denial = refused(t, spec(CLAIM, (t, "disk"), json!({"name": "taken"}))).await?;
    denial.by(VALIDATING_TRANSFERS)?.about("spec.target", "FieldValueInvalid", "name another target")?.causes(1)?;
    let denial = refused(t, spec(CLAIM, (t, "disk"), json!({"name": "Not A Name"}))).await?;
    denial.by(VALIDATING_TRANSFERS)?.about("spec.target.name", "FieldValueInvalid", "lower case")?;
    for target in [json!({}), json!({"name": "disk"})] {
        let denial = refused(t, spec(CLAIM, (t, "disk"), target)).await?;
        denial.by_definition()?.about("spec.target", "FieldValueRequired", "another namespace, another name")?;
    }
    let denial = refused(t, spec("Pod", (t, "disk"), json!({"name": "moved"}))).await?;
    denial.by_definition()?.about("spec.source.kind", "FieldValueNotSupported", "PersistentVolumeClaim")?;
    // A source that isn't there is waited for, but what it asks for can't be changed meanwhile.
    let moving = transfer(t, spec(CLAIM, (t, "late"), json!({"name": "moved"}))).await?;
    let change = Patch::Merge(json!({"spec": {"target": {"name": "elsewhere"}}}));
    let api: Api<ObjectTransfer> = t.everywhere();
    match api.patch(&moving.name, &PatchParams::default(), &change).await {
        Ok(changed) => anyhow::bail!("changed: {changed:?}"),
        Err(error) => {
            Denial::of(error)?.by_definition()?.about("spec", "FieldValueForbidden", "can't be changed")?;
        }
    }
    moving.delete().await?;
    only_claims(t, &["disk", "taken"]).await
}

async fn a_controller_that_is_killed_in_the_middle_of_transfers_loses_nothing(t: &Space) -> Result<()> {
    let there = elsewhere(t).await?;
    let names = ["a", "b", "c", "d", "e", "f"];
    let disk = t.source("a").filled(mi(4)).await?;
    let digest = t.digest(&disk, None).await?;
    for name in names.iter().skip(1) {
        t.source(name).blank().await?;
    }
    let asked = names.map(|name| transfer(t, spec(CLAIM, (t, name), json!({"namespace": there.name()}))));
    let moving = try_join_all(asked).await?;
    kill(t, common::keys::CONTROLLER).await?;
    for transfer in moving {
        transfer.completes().await?;
        transfer.delete().await?;
    }
    only_claims(t, &[]).await?;
    only_claims(&there, &names).await?;
    ensure!(there.digest("a", None).await? == digest, "other bytes");
    Ok(())
}
