//! What is refused, by whom, with which words; and what is not.

use anyhow::{Result, ensure};
use common::{api::DataVolume, keys};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use webhook::manifests::{MUTATING, VALIDATING};

use crate::harness::{Denial, Named as _, Space, clone_of, gi, mi};

tests![
    a_smaller_clone_is_refused_with_the_least_size,
    a_size_has_to_make_sense,
    the_words_of_modes_are_checked,
    an_unknown_storage_class_is_refused,
    a_complete_claim_needs_size_and_access_modes,
    exactly_one_form_is_given,
    a_claim_is_not_cloned_onto_itself,
    a_name_that_a_stranger_s_claim_has_is_refused,
    a_strategy_has_to_exist_and_to_be_possible,
    where_no_fallback_is_allowed_none_is_taken,
    a_forged_decision_is_refused,
    all_mistakes_are_told_at_once,
    a_decision_is_not_changed_by_users,
    a_spec_is_not_changed,
    labels_are_nobody_s_business,
    an_import_is_left_alone,
    a_dry_run_shows_the_decision_and_leaves_nothing,
];

const SIZE: &str = "spec.storage.resources.requests.storage";

async fn a_smaller_clone_is_refused_with_the_least_size(t: &Space) -> Result<()> {
    let disk = t.source("disk").size(gi(2)).blank().await?;
    let denial = t.refuses(clone_of(&disk).size(gi(1))).await?;
    denial.by(MUTATING)?.about(SIZE, "FieldValueInvalid", "2Gi")?.causes(1)?;
    // What the refusal advises is admitted.
    t.dry_run(clone_of(&disk).size(gi(2))).await?;
    Ok(())
}

async fn a_size_has_to_make_sense(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    for (size, words) in [("-1Gi", "negative"), ("1Ki", "at least 1Mi"), ("10gi", "not a quantity"), ("9Ei", "2^63-1")]
    {
        let denial = t.refuses(clone_of(&disk).size_text(size)).await?;
        denial.about(SIZE, "FieldValueInvalid", words)?;
    }
    Ok(())
}

async fn the_words_of_modes_are_checked(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let denial = t.refuses(clone_of(&disk).mode("Blob")).await?;
    denial.about("spec.storage.volumeMode", "FieldValueNotSupported", "\"Filesystem\"")?;
    let denial = t.refuses(clone_of(&disk).field("accessModes", json!(["ReadWriteOnce", "WriteOnly"]))).await?;
    denial.about("spec.storage.accessModes[1]", "FieldValueNotSupported", "\"ReadWriteMany\"")?;
    Ok(())
}

async fn an_unknown_storage_class_is_refused(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let denial = t.refuses(clone_of(&disk).class("gold")).await?;
    denial
        .by(MUTATING)?
        .about("spec.storage.storageClassName", "FieldValueNotFound", "kubectl get storageclass")?
        .causes(1)?;
    Ok(())
}

async fn a_complete_claim_needs_size_and_access_modes(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let request = clone_of(&disk).as_claim(gi(1)).field("resources", json!({})).field("accessModes", json!([]));
    let denial = t.refuses(request).await?.by(MUTATING)?;
    let denial = denial.about("spec.pvc.resources.requests.storage", "FieldValueRequired", "size of the clone")?;
    denial.about("spec.pvc.accessModes", "FieldValueRequired", "at least one access mode")?.causes(2)?;
    let request = clone_of(&disk).as_claim(gi(1)).field("volumeName", json!("pv-1"));
    t.refuses(request).await?.by(MUTATING)?.about(
        "spec.pvc.volumeName",
        "FieldValueForbidden",
        "an existing one can't be chosen",
    )?;
    Ok(())
}

async fn exactly_one_form_is_given(t: &Space) -> Result<()> {
    for (change, words) in
        [(json!({"pvc": {"accessModes": ["ReadWriteOnce"]}}), "not both"), (json!({"storage": null}), "describe")]
    {
        let mut object = clone_of("disk").object(t.name());
        merge(&mut object["spec"], change);
        let created = t.api::<DataVolume>().patch("clone", &PatchParams::apply("test"), &Patch::Apply(&object)).await;
        let denial = denied(created)?;
        ensure!(denial.text().contains(words), "{denial}");
        denial.about(
            "spec.storage",
            if words == "describe" { "FieldValueRequired" } else { "FieldValueForbidden" },
            words,
        )?;
    }
    Ok(())
}

fn merge(object: &mut Value, change: Value) {
    let (Some(object), Value::Object(change)) = (object.as_object_mut(), change) else { return };
    for (key, value) in change {
        if value.is_null() { drop(object.remove(&key)) } else { drop(object.insert(key, value)) }
    }
}

async fn a_claim_is_not_cloned_onto_itself(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let denial = t.refuses(clone_of(&disk).named("disk")).await?;
    denial.by(MUTATING)?.about("spec.source.pvc.name", "FieldValueInvalid", "rename the DataVolume")?;
    Ok(())
}

async fn a_name_that_a_stranger_s_claim_has_is_refused(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let stranger = t.source("taken").blank().await?;
    let denial = t.refuses(clone_of(&disk).named("taken")).await?;
    denial.by(MUTATING)?.about("metadata.name", "FieldValueInvalid", "rename the DataVolume or delete the claim")?;
    t.nothing_left_but(&[&disk, &stranger]).await
}

async fn a_strategy_has_to_exist_and_to_be_possible(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let field = format!("metadata.annotations[{}]", keys::CLONE_TYPE);
    let denial = t.refuses(clone_of(&disk).annotate(keys::CLONE_TYPE, "magic")).await?;
    denial.by(MUTATING)?.about(&field, "FieldValueNotSupported", "\"snapshot\", \"csi-clone\", \"copy\"")?;
    // Wished for and not to be had: said at once, with the reason and the cure.
    let denial = t.refuses(clone_of(&disk).class("other").annotate(keys::CLONE_TYPE, "snapshot")).await?;
    denial.by(MUTATING)?.about(&field, "FieldValueInvalid", "IncompatibleProvisioners")?.causes(1)?;
    Ok(())
}

async fn where_no_fallback_is_allowed_none_is_taken(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let field = format!("metadata.annotations[{}]", keys::FALLBACK);
    let denial = t.refuses(clone_of(&disk).class("other").annotate(keys::FALLBACK, "Never")).await?;
    denial.by(MUTATING)?.about(&field, "FieldValueInvalid", "no fallback is allowed: IncompatibleProvisioners")?;
    let denial = t.refuses(clone_of(&disk).annotate(keys::FALLBACK, "Sometimes")).await?;
    denial.by(MUTATING)?.about(&field, "FieldValueNotSupported", "\"Allowed\", \"Never\"")?;
    let (volume, _) = t.dry_run(clone_of(&disk).annotate(keys::FALLBACK, "Never")).await?;
    ensure!(volume.annotations().get(keys::CLONE_TYPE).map(String::as_str) == Some("snapshot"), "{volume:?}");
    Ok(())
}

/// What a user writes in smartclone's name is corrected or refused; it never stands.
async fn a_forged_decision_is_refused(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let forged = clone_of(&disk)
        .annotate(keys::CLONE_TYPE, "copy")
        .annotate(keys::PLAN, r#"{"chosenBy":"Default"}"#)
        .annotate(keys::CLONE_FALLBACK_REASON, "NoVolumeSnapshotClass: believe me");
    let (volume, _) = t.dry_run(forged).await?;
    let annotation = |key: &str| volume.annotations().get(key).map(String::as_str);
    ensure!(annotation(keys::CLONE_TYPE) == Some("snapshot"), "{:?}", volume.annotations());
    ensure!(annotation(keys::CLONE_FALLBACK_REASON).is_none(), "{:?}", volume.annotations());
    Ok(())
}

async fn all_mistakes_are_told_at_once(t: &Space) -> Result<()> {
    let request = clone_of("disk")
        .size_text("0")
        .mode("Blob")
        .annotate(keys::CONSISTENCY, "Mostly")
        .annotate(keys::FALLBACK, "No");
    let denial = t.refuses(request).await?.by(MUTATING)?;
    let denial = denial.about(SIZE, "FieldValueInvalid", "at least 1Mi")?;
    let denial = denial.about("spec.storage.volumeMode", "FieldValueNotSupported", "Block")?;
    let consistency = format!("metadata.annotations[{}]", keys::CONSISTENCY);
    let denial = denial.about(&consistency, "FieldValueNotSupported", "\"Offline\", \"CrashConsistent\"")?;
    denial.causes(4)?;
    Ok(())
}

async fn a_decision_is_not_changed_by_users(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk)).await?;
    for (key, value) in
        [(keys::CLONE_TYPE, json!("copy")), (keys::CLONE_FALLBACK_REASON, json!("because")), (keys::PLAN, json!("{}"))]
    {
        let denial = change(t, json!({"metadata": {"annotations": {key: value}}})).await?.by(VALIDATING)?;
        denial
            .about(&format!("metadata.annotations[{key}]"), "FieldValueForbidden", "only smartclone may change it")?
            .causes(1)?;
    }
    // Who takes it away need not know of it: it stays.
    let removal = json!({"metadata": {"annotations": {(keys::CLONE_TYPE): null, (keys::PLAN): null}}});
    let api = t.api::<DataVolume>();
    let kept = api.patch("clone", &PatchParams::default(), &Patch::Merge(removal)).await?;
    ensure!(
        kept.annotations().contains_key(keys::CLONE_TYPE) && kept.annotations().contains_key(keys::PLAN),
        "{kept:?}"
    );
    clone.succeeds().await?;
    Ok(())
}

/// The denial of a change to the DataVolume `clone`.
async fn change(t: &Space, patch: Value) -> Result<Denial> {
    denied(t.api::<DataVolume>().patch("clone", &PatchParams::default(), &Patch::Merge(patch)).await)
}

fn denied(result: kube::Result<DataVolume>) -> Result<Denial> {
    match result {
        Err(error) => Denial::of(error),
        Ok(volume) => anyhow::bail!("admitted: {volume:?}"),
    }
}

async fn a_spec_is_not_changed(t: &Space) -> Result<()> {
    t.create(clone_of("nothing").size(gi(1))).await?;
    for (patch, field) in [
        (json!({"source": {"pvc": {"name": "another"}}}), "spec.source"),
        (json!({"storage": {"resources": {"requests": {"storage": "2Gi"}}}}), "spec.storage"),
        (json!({"storage": {"storageClassName": "other"}}), "spec.storage"),
    ] {
        let denial = change(t, json!({"spec": patch})).await?.by_definition()?;
        denial.about(field, "FieldValueForbidden", "can't be changed once the DataVolume exists")?;
    }
    // The same size in other words is no change.
    let same = json!({"spec": {"storage": {"resources": {"requests": {"storage": "1024Mi"}}}}});
    t.api::<DataVolume>().patch("clone", &PatchParams::default(), &Patch::Merge(same)).await?;
    Ok(())
}

async fn labels_are_nobody_s_business(t: &Space) -> Result<()> {
    t.create(clone_of("nothing")).await?;
    let label = json!({"metadata": {"labels": {"team": "blue"}, "annotations": {"note": "mine"}}});
    t.api::<DataVolume>().patch("clone", &PatchParams::default(), &Patch::Merge(label)).await?;
    Ok(())
}

async fn an_import_is_left_alone(t: &Space) -> Result<()> {
    let request = clone_of("disk").size(gi(1)).source(json!({"http": {"url": "http://example.test/disk.img"}}));
    let import = t.create(request).await?;
    ensure!(import.warnings.is_empty() && import.now().annotations().is_empty(), "touched: {import:?}");
    // By the time that a clone which was asked for later is done, the import would have been looked at.
    let disk = t.source("disk").filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).named("later")).await?;
    clone.succeeds().await?;
    let api: Api<DataVolume> = t.api();
    let now = api.get(import.name()).await?;
    ensure!(now.resource_version() == import.now().resource_version(), "touched: {now:?}");
    t.nothing_left_but(&[&disk, &clone]).await
}

async fn a_dry_run_shows_the_decision_and_leaves_nothing(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let (volume, warnings) = t.dry_run(clone_of(&disk).class("other")).await?;
    ensure!(volume.annotations().get(keys::CLONE_TYPE).map(String::as_str) == Some("copy"), "{volume:?}");
    ensure!(
        warnings.len() == 2
            && warnings[0].starts_with("smartclone: IncompatibleProvisioners: ")
            && warnings[1] == "smartclone: cloned by a full copy of 1Gi",
        "{warnings:?}"
    );
    let (_, warnings) = t.dry_run(clone_of(&disk)).await?;
    ensure!(warnings == ["smartclone: cloned by snapshot, with VolumeSnapshotClass \"cow\""], "{warnings:?}");
    ensure!(t.api::<DataVolume>().get_opt("clone").await?.is_none(), "a dry run has left something");
    Ok(())
}
