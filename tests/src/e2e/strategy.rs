//! Whose wish is heard.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{Cdi, DataVolume, StorageProfile},
    meta,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::command::{Look, until},
    harness::{CloneRequest, Space, clone_of, mi, wait::PATIENCE},
};

tests![the_requester_is_heard_before_the_class];

tests![alone: the_override_acts_on_the_next_clone_until_it_is_removed];

async fn the_requester_is_heard_before_the_class(t: &Space) -> Result<()> {
    let class = t.class().annotate(meta::CLASS_CLONE_STRATEGY, "copy").made().await?;
    let disk = t.source("disk").class(&class).blank().await?;
    let strategy = async |request: CloneRequest| -> Result<_> {
        Ok(t.dry_run(request).await?.0.metadata.annotations.and_then(|it| it.get(meta::CLONE_TYPE).cloned()))
    };
    ensure!(strategy(clone_of(&disk).class(&class)).await?.as_deref() == Some("copy"), "the class wants copies");
    let wish = clone_of(&disk).class(&class).annotate(meta::CLONE_TYPE, "snapshot");
    ensure!(strategy(wish).await?.as_deref() == Some("snapshot"), "the requester wants a snapshot");
    // And the profile's before the class's.
    let profile = json!({"spec": {"cloneStrategy": "csi-clone"}});
    let profiles: Api<StorageProfile> = t.everywhere();
    profiles.patch(&class, &PatchParams::default(), &Patch::Merge(profile)).await?;
    until("the profile's strategy", PATIENCE, async || {
        let found = strategy(clone_of(&disk).class(&class)).await?;
        Ok(if found.as_deref() == Some("csi-clone") {
            Look::Break(())
        } else {
            Look::Continue(format!("it is {found:?}"))
        })
    })
    .await
}

async fn the_override_acts_on_the_next_clone_until_it_is_removed(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    for (wish, name, strategy, by) in [
        (Some("copy"), "copied", "copy", " (wanted by cloneStrategyOverride of the CDI object)"),
        (Some("snapshot"), "snapshotted", "snapshot", " (wanted by cloneStrategyOverride of the CDI object)"),
        (None, "by-default", "snapshot", "\"cow\""),
    ] {
        t.override_strategy(wish).await?;
        seen(t, wish).await?;
        let clone = t.create(clone_of(&disk).named(name).with_owners()).await?;
        ensure!(
            clone.annotation(meta::CLONE_TYPE).as_deref() == Some(strategy),
            "{:?}",
            clone.now().metadata.annotations
        );
        let told = clone.warnings.first().context("nothing was told")?;
        ensure!(told.ends_with(by), "{told}");
        clone.succeeds().await?.has_bytes_of(&disk).await?;
    }
    // A word that isn't a strategy is refused by the definition itself.
    let cdis: Api<Cdi> = t.everywhere();
    let nonsense = Patch::Merge(json!({"spec": {"cloneStrategyOverride": "magic"}}));
    let refused = cdis.patch("cdi", &PatchParams::default(), &nonsense).await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 422), "{refused:?}");
    Ok(())
}

/// The webhooks learn of the override by a watch; a clone that shows what they know is asked for without being made.
async fn seen(t: &Space, wish: Option<&str>) -> Result<()> {
    let what = format!("the webhooks to know the override {wish:?}");
    // There are two of them: an answer of each is wanted.
    for _ in 0..8 {
        until(&what, PATIENCE, async || {
            let (volume, warnings): (DataVolume, _) = t.dry_run(clone_of("disk").named("probe")).await?;
            let by_override = warnings.iter().any(|line| line.contains("cloneStrategyOverride"));
            let found = volume.metadata.annotations.and_then(|it| it.get(meta::CLONE_TYPE).cloned());
            let known = by_override == wish.is_some() && found.as_deref() == Some(wish.unwrap_or("snapshot"));
            Ok(if known { Look::Break(()) } else { Look::Continue(format!("{found:?}, {warnings:?}")) })
        })
        .await?;
    }
    Ok(())
}
