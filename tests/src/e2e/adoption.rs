//! What is there already, and what is known: restored claims, StorageProfiles, the CDIConfig, and the sizes that follow from them.

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{CdiConfig, Phase, StorageProfile},
    cdi_config, keys,
    quantity::Bytes,
    storage::overhead::{Overhead, required},
};
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use webhook::manifests::MUTATING;

use crate::harness::{
    CloneRequest, Space, clone_by, clone_of, gi, mi,
    wait::{self, Look},
};

tests![
    a_claim_that_is_filled_for_it_is_taken_over,
    a_claim_that_the_data_volume_calls_filled_is_taken_over,
    a_claim_that_may_be_taken_over_is,
    a_data_volume_may_take_over_where_it_says_so,
    a_data_source_that_is_gone_does_not_matter_to_a_filled_claim,
    a_restored_claim_may_come_after_its_data_volume,
    a_claim_that_is_filled_for_another_is_a_stranger_s,
    access_modes_come_from_the_storage_profile,
    a_file_system_gets_room_for_itself,
    a_storage_profile_comes_and_goes_with_its_class,
    the_cdi_config_tells_the_overhead_of_every_class,
];

/// The claim becomes the DataVolume's as it is: same identity, same volume, same bytes; and its source, which doesn't exist, is not missed.
async fn is_taken_over(t: &Space, request: CloneRequest, annotation: Option<&str>) -> Result<()> {
    let restored = t.source("clone").filled(mi(4)).await?;
    if let Some(annotation) = annotation {
        t.kubectl(&["annotate", "persistentvolumeclaim", "clone", annotation]).await?;
    }
    let before = (t.bound(&restored).await?, t.digest(&restored, None).await?);
    let clone = t.create(request).await?;
    ensure!(
        clone.warnings.len() == 1 && clone.warnings[0].contains("is taken over as it is; nothing is cloned"),
        "{:?}",
        clone.warnings
    );
    clone.succeeds().await?;
    let made: Vec<_> = clone.phases().into_iter().filter(|it| !matches!(it, Phase::Unset | Phase::Pending)).collect();
    ensure!(made == [Phase::Succeeded], "{:?}", clone.phases());
    let after = (t.bound(&restored).await?, t.digest(&restored, None).await?);
    ensure!(before.0.uid() == after.0.uid() && before.0.spec == after.0.spec && before.1 == after.1, "{after:?}");
    ensure!(after.0.owner_references().iter().any(|owner| owner.uid == clone.uid()), "{:?}", after.0.metadata);
    t.nothing_left_but(&[&clone]).await?;
    // From now on it is the DataVolume's, like any other.
    clone.delete().await?;
    t.nothing_left_but(&[]).await
}

async fn a_claim_that_is_filled_for_it_is_taken_over(t: &Space) -> Result<()> {
    is_taken_over(t, clone_of("nothing"), Some(&format!("{}=clone", keys::POPULATED_FOR))).await
}

async fn a_claim_that_the_data_volume_calls_filled_is_taken_over(t: &Space) -> Result<()> {
    is_taken_over(t, clone_of("nothing").annotate(keys::PRE_POPULATED, "clone"), None).await
}

async fn a_claim_that_may_be_taken_over_is(t: &Space) -> Result<()> {
    is_taken_over(t, clone_of("nothing"), Some(&format!("{}=true", keys::ALLOW_ADOPTION))).await
}

async fn a_data_volume_may_take_over_where_it_says_so(t: &Space) -> Result<()> {
    is_taken_over(t, clone_of("nothing").annotate(keys::ALLOW_ADOPTION, "true"), None).await
}

async fn a_data_source_that_is_gone_does_not_matter_to_a_filled_claim(t: &Space) -> Result<()> {
    is_taken_over(t, clone_by("nothing"), Some(&format!("{}=clone", keys::POPULATED_FOR))).await
}

async fn a_restored_claim_may_come_after_its_data_volume(t: &Space) -> Result<()> {
    let clone = t.create(clone_of("nothing").annotate(keys::PRE_POPULATED, "clone")).await?;
    clone.waits_for("ClaimNotPopulated").await?;
    let restored = t.source("clone").filled(mi(4)).await?;
    clone.succeeds().await?;
    let claim = t.bound(&clone).await?;
    ensure!(claim.uid().as_deref() == Some(restored.uid()), "{claim:?}");
    t.nothing_left_but(&[&clone]).await
}

async fn a_claim_that_is_filled_for_another_is_a_stranger_s(t: &Space) -> Result<()> {
    let disk = t.source("disk").blank().await?;
    let stranger = t.source("clone").blank().await?;
    let another = format!("{}=another", keys::POPULATED_FOR);
    t.kubectl(&["annotate", "persistentvolumeclaim", "clone", &another]).await?;
    let denial = t.refuses(clone_of(&disk)).await?.by(MUTATING)?;
    denial.about("metadata.name", "FieldValueInvalid", "there is a PersistentVolumeClaim of that name")?.causes(1)?;
    ensure!(t.bound(&stranger).await?.owner_references().is_empty(), "somebody owns it now");
    t.nothing_left_but(&[&disk, &stranger]).await
}

async fn access_modes_come_from_the_storage_profile(t: &Space) -> Result<()> {
    let sets = json!([
        {"accessModes": ["ReadWriteMany"], "volumeMode": "Block"},
        {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "volumeMode": "Filesystem"},
    ]);
    let class = t.class().claim_properties(sets).made().await?;
    let disk = t.source("disk").class(&class).filled(mi(4)).await?;
    let clone = t.create(clone_of(&disk).class(&class)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let spec = t.bound(&clone).await?.spec.context("a claim without spec")?;
    let modes = spec.access_modes.unwrap_or_default();
    ensure!(modes == ["ReadWriteOnce", "ReadOnlyMany"], "{modes:?}");
    ensure!(spec.volume_mode.as_deref() == Some("Filesystem"), "{:?}", spec.volume_mode);
    // What is asked for is taken as it is.
    let wish = clone_of(&disk).named("wish").class(&class).field("accessModes", json!(["ReadWriteOnce"]));
    let wish = t.create(wish).await?;
    wish.succeeds().await?;
    let modes = t.bound(&wish).await?.spec.and_then(|spec| spec.access_modes).unwrap_or_default();
    ensure!(modes == ["ReadWriteOnce"], "{modes:?}");
    t.nothing_left_but(&[&disk, &clone, &wish]).await
}

/// The size that a claim asks for.
fn request(claim: &PersistentVolumeClaim) -> Option<Bytes> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    Bytes::of(resources.requests.as_ref()?.get("storage")?).ok()
}

/// `spec.storage` is the size of a disk, `spec.pvc` that of a claim.
async fn a_file_system_gets_room_for_itself(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(4)).await?;
    let device = t.source("device").block().filled(mi(4)).await?;
    let with_room = required(gi(2), Overhead::DEFAULT);
    ensure!(with_room > gi(2), "nothing would be shown: {with_room}");
    let size = async |request_: CloneRequest| -> Result<_> {
        let clone = t.create(request_).await?;
        clone.succeeds().await?;
        Ok(request(&t.bound(&clone).await?))
    };
    let of_a_disk = size(clone_of(&disk).named("of-a-disk").size(gi(2))).await?;
    ensure!(of_a_disk == Some(with_room), "{of_a_disk:?} instead of {with_room}");
    let of_a_claim = size(clone_of(&disk).named("of-a-claim").as_claim(gi(2))).await?;
    ensure!(of_a_claim == Some(gi(2)), "{of_a_claim:?}");
    let of_a_device = size(clone_of(&device).named("of-a-device").size(gi(2))).await?;
    ensure!(of_a_device == Some(gi(2)), "{of_a_device:?}");
    Ok(())
}

async fn a_storage_profile_comes_and_goes_with_its_class(t: &Space) -> Result<()> {
    let (classes, profiles): (Api<StorageClass>, Api<StorageProfile>) = (t.everywhere(), t.everywhere());
    let driver = t.driver("cow").await?;
    let class = serde_json::from_value(json!({"metadata": {"name": t.name()}, "provisioner": driver}))?;
    classes.create(&PostParams::default(), &class).await?;
    let status = wait::object(&profiles, t.name(), "the StorageProfile of the class", |profile| {
        let status = profile.and_then(|profile| profile.status.clone());
        status.map_or_else(|| Look::Continue("it has no status".to_owned()), Look::Break)
    })
    .await?;
    ensure!(status.storage_class.as_deref() == Some(t.name()), "{status:?}");
    ensure!(status.provisioner.as_deref() == Some(&driver), "{status:?}");
    ensure!(status.snapshot_class.as_deref() == Some("cow"), "{status:?}");
    ensure!(status.clone_strategy == Some(common::api::CloneStrategy::Snapshot), "{status:?}");
    let known = |name: &str| status.capabilities.iter().any(|it| it.name == name && it.provenance == "Default");
    ensure!(known("restoreSize") && known("deadline"), "{status:?}");
    classes.delete(t.name(), &DeleteParams::default()).await?;
    wait::gone(&profiles, t.name(), None).await
}

async fn the_cdi_config_tells_the_overhead_of_every_class(t: &Space) -> Result<()> {
    let class = t.class().made().await?;
    let overhead = Overhead::DEFAULT.to_string();
    wait::object(&t.everywhere::<CdiConfig>(), cdi_config::NAME, "the overheads in the CDIConfig", |config| {
        let told = config.and_then(|config| config.status.as_ref()?.filesystem_overhead.clone());
        let as_wanted = told.as_ref().is_some_and(|told| {
            let of = |class: &str| told.storage_class.as_ref().and_then(|all| all.get(class)) == Some(&overhead);
            told.global.as_ref() == Some(&overhead) && of("cow") && of(&class)
        });
        if as_wanted { Look::Break(()) } else { Look::Continue(format!("{told:?}")) }
    })
    .await?;
    let configs = t.everywhere::<CdiConfig>().list(&kube::api::ListParams::default()).await?;
    let names: Vec<_> = configs.iter().map(ResourceExt::name_any).collect();
    ensure!(names == [cdi_config::NAME], "{names:?}");
    Ok(())
}
