//! Clones that are asked for together share their snapshots.

use anyhow::{Context as _, Result, ensure};
use common::keys;
use futures::future::try_join_all;
use reference_csi::behaviour::Behaviour;

use crate::harness::{CloneHandle, Disk, Named, Space, clone_of, mi};

tests![
    twenty_clones_of_one_source_need_few_snapshots,
    a_limit_of_three_snapshots_is_respected_without_a_failure,
    one_that_leaves_takes_nothing_from_the_others,
    nobody_gets_a_snapshot_that_is_older_than_its_wish,
    clones_in_other_namespaces_share_as_well,
];

/// So many clones, asked for at once.
async fn asked_for_at_once(
    t: &Space,
    disk: &Disk,
    from: &Space,
    class: &str,
    count: usize,
) -> Result<Vec<CloneHandle>> {
    let one = |number: usize| t.create(clone_of(disk).from(from).class(class).named(&format!("clone-{number}")));
    try_join_all((0..count).map(one)).await
}

async fn all_succeed(clones: &[CloneHandle]) -> Result<()> {
    try_join_all(clones.iter().map(CloneHandle::succeeds)).await.map(drop)
}

/// Nothing but these is left.
async fn only<'a>(
    t: &Space,
    sources: &[&'a dyn Named],
    clones: impl IntoIterator<Item = &'a CloneHandle>,
) -> Result<()> {
    let clones = clones.into_iter().map(|clone| clone as &dyn Named);
    t.nothing_left_but(&sources.iter().copied().chain(clones).collect::<Vec<_>>()).await
}

async fn twenty_clones_of_one_source_need_few_snapshots(t: &Space) -> Result<()> {
    let class = t.class().made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(4)).await?;
    let snapshots = t.snapshots_taken().await?;
    let clones = asked_for_at_once(t, &disk, t, &class, 20).await?;
    all_succeed(&clones).await?;
    let taken = snapshots.so_far();
    ensure!(!taken.is_empty() && taken.len() <= 5, "{} snapshots were taken: {taken:?}", taken.len());
    clones[19].has_bytes_of(&disk).await?;
    only(t, &[&disk], &clones).await
}

async fn a_limit_of_three_snapshots_is_respected_without_a_failure(t: &Space) -> Result<()> {
    let few =
        Behaviour { max_snapshots_per_volume: Some(3), snapshot_ready_after_ms: Some(400), ..Behaviour::default() };
    let class = t.class().behaving(few).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(4)).await?;
    // The user's own counts, too.
    let own = t.snapshot("own", &disk, &class).await?.ready().await?;
    let mut clones = Vec::new();
    for number in 0..8 {
        let clone = t.create(clone_of(&disk).class(&class).named(&format!("clone-{number}"))).await?;
        // One after the other, so that they would like to have a snapshot each.
        clone.until("its decision to be carried out", |volume| volume.status.as_ref()?.clone.clone()).await?;
        clones.push(clone);
    }
    all_succeed(&clones).await?;
    for clone in &clones {
        let complaints: Vec<_> = clone
            .versions()
            .iter()
            .filter_map(|volume| volume.status.as_ref()?.clone.as_ref()?.waiting_for.as_ref()?.message.clone())
            .filter(|message| message.contains("code = "))
            .collect();
        ensure!(complaints.is_empty(), "the driver was asked for too much: {complaints:?}");
    }
    only(t, &[&disk, &own], &clones).await
}

async fn one_that_leaves_takes_nothing_from_the_others(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(6000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(4)).await?;
    let clones = asked_for_at_once(t, &disk, t, &class, 6).await?;
    let shared = t.snapshot_for(|members| members.len() > 1).await?;
    // The one that others are restored with, and after which their snapshot is named.
    let leaves = clones.iter().find(|clone| shared.exact.name.ends_with(clone.uid()));
    let leaves = leaves.with_context(|| format!("it is named after none of them: {shared:?}"))?;
    leaves.delete().await?;
    let stay: Vec<_> = clones.iter().filter(|clone| clone.uid() != leaves.uid()).collect();
    for clone in &stay {
        clone.succeeds().await?;
    }
    stay[0].has_bytes_of(&disk).await?;
    only(t, &[&disk], stay).await
}

async fn nobody_gets_a_snapshot_that_is_older_than_its_wish(t: &Space) -> Result<()> {
    let slow = Behaviour { snapshot_ready_after_ms: Some(4000), ..Behaviour::default() };
    let class = t.class().behaving(slow).made().await?;
    let disk = t.source("disk").class(&class).block().filled(mi(4)).await?;
    let snapshot_of = async |clone: &CloneHandle| {
        let shared = t.snapshot_for(|members| members.contains_key(clone.uid())).await;
        shared.map(|shared| shared.exact.name)
    };
    let first = t.create(clone_of(&disk).class(&class).named("first")).await?;
    let early = snapshot_of(&first).await?;
    let second = t.create(clone_of(&disk).class(&class).named("second")).await?;
    let late = snapshot_of(&second).await?;
    ensure!(early != late, "the second one is restored from {early}, which is older than it");
    first.succeeds().await?;
    second.succeeds().await?.has_bytes_of(&disk).await?;
    t.nothing_left_but(&[&disk, &first, &second]).await
}

async fn clones_in_other_namespaces_share_as_well(t: &Space) -> Result<()> {
    let class = t.class().made().await?;
    let gold = t.neighbour().await?;
    let disk = gold.source("disk").class(&class).block().filled(mi(4)).await?;
    let other = t.neighbour().await?;
    let snapshots = gold.snapshots_taken().await?;
    let (here, there) = tokio::try_join!(
        asked_for_at_once(t, &disk, &gold, &class, 6),
        asked_for_at_once(&other, &disk, &gold, &class, 6),
    )?;
    all_succeed(&here).await?;
    all_succeed(&there).await?;
    let taken = snapshots.so_far();
    ensure!(!taken.is_empty() && taken.len() <= 5, "{} snapshots were taken: {taken:?}", taken.len());
    there[5].has_bytes_of(&disk).await?;
    ensure!(here.iter().all(|clone| clone.annotation(keys::CLONE_TYPE).as_deref() == Some("snapshot")), "not all");
    gold.nothing_left_but(&[&disk]).await
}
