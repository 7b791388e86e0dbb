//! DataSources: names for sources. What they stand for is looked up when a clone is decided, and never again.

use anyhow::{Result, ensure};
use common::{api::DataVolume, keys};
use kube::ResourceExt as _;
use serde_json::json;
use webhook::manifests::MUTATING;

use crate::harness::{CloneHandle, Disk, Named as _, PodHandle, Space, clone_by, clone_of, mi};

tests![
    a_data_source_stands_for_a_claim,
    a_data_source_stands_for_a_snapshot,
    a_data_source_may_name_another_one,
    a_data_source_of_another_namespace_is_followed,
    a_clone_waits_for_its_data_source_and_then_for_what_that_stands_for,
    what_can_t_be_followed_is_told,
    a_data_source_of_a_clone_in_the_making_says_so,
    a_data_source_that_moves_on_leaves_a_decided_clone_alone,
    a_data_source_gives_nobody_a_right,
];

/// Clones what the DataSource `golden` stands for, which is the disk.
async fn golden_is_cloned(t: &Space, disk: &Disk) -> Result<()> {
    let clone = t.create(clone_by("golden")).await?;
    ensure!(clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot"), "{:?}", clone.warnings);
    clone.succeeds().await?.has_bytes_of(disk).await?;
    t.nothing_left_but(&[disk, &clone]).await
}

async fn a_data_source_stands_for_a_claim(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    t.data_source("golden", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    let golden = t.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    let stands_for = golden.status.and_then(|status| status.source.pvc).map(|pvc| (pvc.namespace, pvc.name));
    ensure!(stands_for == Some((t.name().to_owned(), "disk".to_owned())), "{stands_for:?}");
    golden_is_cloned(t, &disk).await
}

async fn a_data_source_stands_for_a_snapshot(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    let snapshot = t.snapshot("monday", &disk, "cow").await?.ready().await?;
    t.data_source("golden", json!({"snapshot": {"namespace": t.name(), "name": "monday"}})).await?;
    let golden = t.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    let stands_for = golden.status.and_then(|status| status.source.snapshot).map(|it| (it.namespace, it.name));
    ensure!(stands_for == Some((t.name().to_owned(), "monday".to_owned())), "{stands_for:?}");
    let clone = t.create(clone_by("golden")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    snapshot.is_untouched().await?;
    t.nothing_left_but(&[&disk, &snapshot, &clone]).await
}

async fn a_data_source_may_name_another_one(t: &Space) -> Result<()> {
    let disk = t.source("disk").filled(mi(24)).await?;
    t.data_source("golden", json!({"dataSource": {"namespace": t.name(), "name": "fedora"}})).await?;
    t.data_source_is("golden", "False", "NotFound", "fedora doesn't exist").await?;
    t.data_source("fedora", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    let golden = t.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    let stands_for = golden.status.and_then(|status| status.source.pvc).map(|pvc| pvc.name);
    ensure!(stands_for.as_deref() == Some("disk"), "{stands_for:?}");
    golden_is_cloned(t, &disk).await
}

async fn a_data_source_of_another_namespace_is_followed(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(24)).await?;
    gold.data_source("golden", json!({"pvc": {"namespace": gold.name(), "name": "disk"}})).await?;
    let clone = t.create(clone_by("golden").from(&gold)).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[&clone]).await
}

async fn a_clone_waits_for_its_data_source_and_then_for_what_that_stands_for(t: &Space) -> Result<()> {
    let original = t.source("original").filled(mi(4)).await?;
    let clone = t.create(clone_by("golden")).await?;
    let told = format!("spec.sourceRef: DataSource {}/golden doesn't exist", t.name());
    ensure!(clone.warnings.len() == 1 && clone.warnings[0].contains(&told), "{:?}", clone.warnings);
    let message = clone.waits_for("DataSourceNotReady").await?;
    ensure!(message.contains("golden doesn't exist"), "{message}");
    t.data_source("golden", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    clone.waits_for("CloneWithoutSource").await?;
    t.data_source_is("golden", "False", "NotFound", "disk doesn't exist").await?;
    let disk = t.source("disk").with_content_of(&original).await?;
    t.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    clone.succeeds().await?.has_bytes_of(&original).await?;
    t.nothing_left_but(&[&original, &disk, &clone]).await
}

async fn what_can_t_be_followed_is_told(t: &Space) -> Result<()> {
    let other = |namespace: &str, name: &str| json!({"dataSource": {"namespace": namespace, "name": name}});
    t.data_source("circle", other(t.name(), "circle")).await?;
    t.data_source("elsewhere", other("default", "golden")).await?;
    t.data_source("first", other(t.name(), "second")).await?;
    t.data_source("second", other(t.name(), "third")).await?;
    t.data_source("third", json!({"pvc": {"namespace": t.name(), "name": "disk"}})).await?;
    for (name, reason, words) in [
        ("circle", "SelfReference", "names itself"),
        ("elsewhere", "CrossNamespaceReference", "only one of its own namespace may be named"),
        ("first", "MaxReferenceDepthReached", "has to name a pvc or a snapshot itself"),
    ] {
        let source = t.data_source_is(name, "False", reason, words).await?;
        let stands_for = source.status.map(|status| status.source).unwrap_or_default();
        ensure!(stands_for.pvc.is_none() && stands_for.snapshot.is_none(), "{name} stands for {stands_for:?}");
        let clone = t.create(clone_by(name).named(&format!("clone-of-{name}"))).await?;
        ensure!(clone.warnings.iter().any(|line| line.contains(words)), "{:?}", clone.warnings);
        let message = clone.waits_for("DataSourceNotReady").await?;
        ensure!(message.contains(words), "{message}");
    }
    t.nothing_left_but(&[]).await
}

async fn a_data_source_of_a_clone_in_the_making_says_so(t: &Space) -> Result<()> {
    let original = t.source("original").filled(mi(4)).await?;
    let first = t.create(clone_of("late").named("first")).await?;
    first.waits_for("CloneWithoutSource").await?;
    t.data_source("golden", json!({"pvc": {"namespace": t.name(), "name": "first"}})).await?;
    t.data_source_is("golden", "False", "Pending", "is in phase Pending").await?;
    let second = t.create(clone_by("golden").named("second")).await?;
    let disk = t.source("late").with_content_of(&original).await?;
    t.data_source_is("golden", "True", "Ready", "can be cloned").await?;
    second.succeeds().await?.has_bytes_of(&original).await?;
    t.nothing_left_but(&[&original, &disk, &first, &second]).await
}

/// A clone that was decided and then held up by a pod: nothing has been read of its source when the DataSource moves on.
pub(super) struct HeldUp {
    pub(super) old: Disk,
    pub(super) new: Disk,
    pub(super) user: PodHandle,
    pub(super) clone: CloneHandle,
}

impl HeldUp {
    /// The clone of the DataSource `golden`, which stands for the disk `old` and then for `new`.
    pub(super) async fn while_its_data_source_moves_on(t: &Space) -> Result<Self> {
        let old = t.source("old").filled(mi(4)).await?;
        let new = t.source("new").filled(mi(8)).await?;
        t.data_source("golden", json!({"pvc": {"namespace": t.name(), "name": "old"}})).await?;
        let user = t.pod_using(&old).await?;
        let clone = t.create(clone_by("golden")).await?;
        clone.waits_for("CloneSourceInUse").await?;
        t.data_source("golden", json!({"pvc": {"namespace": t.name(), "name": "new"}})).await?;
        Ok(Self { old, new, user, clone })
    }
}

async fn a_data_source_that_moves_on_leaves_a_decided_clone_alone(t: &Space) -> Result<()> {
    let HeldUp { old, new, user, clone } = HeldUp::while_its_data_source_moves_on(t).await?;
    let golden = t.data_source_is("golden", "True", "Ready", "/new can be cloned").await?;
    user.delete().await?;
    clone.succeeds().await?.has_bytes_of(&old).await?;
    // The next one gets what the name stands for by then.
    let later = t.create(clone_by("golden").named("later")).await?;
    later.succeeds().await?.has_bytes_of(&new).await?;
    // Nobody wrote on the DataSource but in its status.
    let now = t.api::<common::api::DataSource>().get("golden").await?;
    ensure!(now.spec == golden.spec && now.annotations() == golden.annotations(), "{now:?}");
    t.nothing_left_but(&[&old, &new, &clone, &later]).await
}

/// A DataSource of one's own may name anything; what it names is still somebody else's.
async fn a_data_source_gives_nobody_a_right(t: &Space) -> Result<()> {
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").filled(mi(4)).await?;
    t.administered_by("alice").await?;
    t.data_source("mine", json!({"pvc": {"namespace": gold.name(), "name": "disk"}})).await?;
    let denial = t.refuses(clone_by("mine").by("alice")).await?.by(MUTATING)?;
    denial.about("spec.sourceRef", "FieldValueForbidden", "user \"alice\" may not clone")?.causes(1)?;
    // Named later, when nobody is at admission any more, it gives none either.
    let late = t.create(clone_by("late").by("alice")).await?;
    late.waits_for("DataSourceNotReady").await?;
    t.data_source("late", json!({"pvc": {"namespace": gold.name(), "name": "disk"}})).await?;
    late.waits_for("CloneNotAuthorized").await?;
    gold.nothing_left_but(&[&disk]).await?;
    t.nothing_left_but(&[]).await?;
    gold.lets_clone("alice", &disk).await?;
    let clone = t.create(clone_by("mine").named("allowed").by("alice")).await?;
    clone.succeeds().await?.has_bytes_of(&disk).await?;
    let volumes = t.api::<DataVolume>();
    ensure!(volumes.get(late.name()).await?.annotations().contains_key(keys::REQUESTER), "no stamp");
    gold.nothing_left_but(&[&disk]).await
}
