//! Whose wish is heard.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{Cdi, DataVolume, StorageProfile},
    keys,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    harness::{CloneHandle, CloneRequest, Disk, Space, clone_of, clone_of_snapshot, gi, mi, wait::PATIENCE},
    lab::command::{Look, until},
};

tests![
    the_requester_is_heard_before_the_class,
    the_storage_clones_a_file_system_where_that_is_wanted,
    the_storage_clones_a_device_to_a_larger_one;
    alone:
    the_override_acts_on_the_next_clone_until_it_is_removed,
];

async fn the_requester_is_heard_before_the_class(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "copy").made().await?;
    let disk = t.source("disk").class(&class).blank().await?;
    let strategy = async |request: CloneRequest| -> Result<_> {
        Ok(t.dry_run(request).await?.0.metadata.annotations.and_then(|it| it.get(keys::CLONE_TYPE).cloned()))
    };
    ensure!(strategy(clone_of(&disk).class(&class)).await?.as_deref() == Some("copy"), "the class wants copies");
    let wish = clone_of(&disk).class(&class).annotate(keys::CLONE_TYPE, "snapshot");
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

/// By the storage itself, with the same bytes; nothing else is left.
async fn is_cloned_by_the_storage(t: &Space, clone: &CloneHandle, disk: &Disk) -> Result<()> {
    clone.succeeds().await?.has_bytes_of(disk).await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("csi-clone"), "{:?}", clone.warnings);
    t.nothing_left_but(&[disk, clone]).await
}

async fn the_storage_clones_a_file_system_where_that_is_wanted(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).annotate(keys::CLONE_TYPE, "csi-clone")).await?;
    is_cloned_by_the_storage(t, &clone, &disk).await
}

async fn the_storage_clones_a_device_to_a_larger_one(t: &Space) -> Result<()> {
    let class = t.class().annotate(keys::CLASS_CLONE_STRATEGY, "csi-clone").made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(24)).await?;
    let clone = t.create(clone_of(&disk).class(&class).size(gi(2))).await?;
    is_cloned_by_the_storage(t, &clone, &disk).await?;
    let capacity = t.capacity(&clone).await?;
    ensure!(capacity >= Some(gi(2)), "{capacity:?}");
    Ok(())
}

async fn the_override_acts_on_the_next_clone_until_it_is_removed(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    for (wish, name, strategy, by) in [
        (Some("copy"), "copied", "copy", " (wanted by cloneStrategyOverride of the CDI object)"),
        (Some("snapshot"), "snapshotted", "snapshot", " (wanted by cloneStrategyOverride of the CDI object)"),
        (Some("csi-clone"), "cloned", "csi-clone", " (wanted by cloneStrategyOverride of the CDI object)"),
        (None, "by-default", "snapshot", "\"cow\""),
    ] {
        t.override_strategy(wish).await?;
        seen(t, wish).await?;
        let clone = t.create(clone_of(&disk).named(name).with_owners()).await?;
        ensure!(
            clone.annotation(keys::CLONE_TYPE).as_deref() == Some(strategy),
            "{:?}",
            clone.now().metadata.annotations
        );
        let told = clone.warnings.first().context("nothing was told")?;
        ensure!(told.ends_with(by), "{told}");
        // The same of a snapshot, of which the storage can't make a clone without restoring it.
        let restored = clone_of_snapshot(&snapshot).named(&format!("{name}-from-a-snapshot")).with_owners();
        let restored = t.create(restored).await?;
        let instead = if strategy == "csi-clone" { "copy" } else { strategy };
        ensure!(restored.annotation(keys::CLONE_TYPE).as_deref() == Some(instead), "{:?}", restored.warnings);
        clone.succeeds().await?.has_bytes_of(&disk).await?;
        restored.succeeds().await?.has_bytes_of(&disk).await?;
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
            let found = volume.metadata.annotations.and_then(|it| it.get(keys::CLONE_TYPE).cloned());
            let known = by_override == wish.is_some() && found.as_deref() == Some(wish.unwrap_or("snapshot"));
            Ok(if known { Look::Break(()) } else { Look::Continue(format!("{found:?}, {warnings:?}")) })
        })
        .await?;
    }
    Ok(())
}
