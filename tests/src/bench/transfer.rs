//! An ObjectTransfer of a bound claim, from `create` to Complete, against the same hand-over by hand: the volume is kept, the claim is
//! deleted, the volume is reserved for the new claim, that one is created and bound, and the volume gets its reclaim policy back.
//!
//! Each run moves a new claim without a pod. Both sides end when the new claim is bound, the old one is deleted and the policy of the volume is
//! the former one.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use common::api::ObjectTransfer;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Options,
    bare::is_bound,
    delete, in_spaces,
    pairs::{Side, in_turn},
    report::{Case, Report},
    watch::{Watch, Watched, connect},
};
use crate::{
    harness::{Named as _, Space},
    lab::{Lab, progress::Progress},
};

const CLASS: &str = "cow";
const PATIENCE: Duration = Duration::from_mins(1);
/// A claim that isn't bound so long after its creation was overlooked by Kubernetes.
const NUDGE_AFTER: Duration = Duration::from_secs(1);
/// Each ratio, of the median, of what 90 of 100 don't exceed, and of the longest, should not be more.
const RATIO: f64 = 1.5;

/// Measures both cases: into another namespace, and to another name.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let mut report = Report { bench: "transfer", unit: "ms", cases: Vec::new(), counts: Vec::new() };
    for (name, apart) in [("to another namespace", true), ("to another name", false)] {
        let case = in_spaces(lab, "measure-transfer", apart, async |from, to| {
            measure(from, to, name, options, progress).await
        });
        let case = case.await.with_context(|| format!("case {name}"))?;
        report.counts.extend(case.ratios_at_most(RATIO));
        report.cases.push(case);
    }
    let note =
        "Floor: reclaim policy Retain, delete the claim, reserve the volume, create the claim, the former policy.\n";
    Ok((report, note.to_owned()))
}

async fn measure(from: &Space, to: &Space, name: &str, options: &Options, progress: &Progress) -> Result<Case> {
    let pairs = in_turn(
        options.pairs,
        async |side, pair| {
            let moving = Moving::open(from, to, &format!("{side:?}-{pair}").to_lowercase()).await?;
            let took = match side {
                Side::Ours => moving.ours(&format!("{}-{pair}", from.name())).await?,
                Side::Floor => moving.floor().await?,
            };
            delete(moving.targets.api(), &moving.target).await?;
            moving.targets.gone(&moving.target).await?;
            from.nothing_left_but(&[]).await?;
            to.nothing_left_but(&[]).await?;
            Ok(took)
        },
        |number, pair| {
            let counts = if number == 0 { "warm-up" } else { "pair" };
            let (ours, floor) = (pair.ours.as_secs_f64() * 1e3, pair.floor.as_secs_f64() * 1e3);
            progress.line(&format!("{name:<20} {counts} {number:>2}: ours {ours:6.1}, floor {floor:6.1} ms"));
        },
    )
    .await?;
    Case::of(name, &pairs)
}

/// A bound claim that is to move, with the watches open.
struct Moving {
    from: String,
    to: String,
    source: String,
    target: String,
    volume: String,
    sources: Watched<PersistentVolumeClaim>,
    targets: Watched<PersistentVolumeClaim>,
    volumes: Watched<PersistentVolume>,
    transfers: Api<ObjectTransfer>,
}

impl Moving {
    async fn open(from: &Space, to: &Space, source: &str) -> Result<Self> {
        // Before the claim exists, so that its end is seen.
        let sources = Watched::open(from.api(), PATIENCE).await?;
        let targets = Watched::open(to.api(), PATIENCE).await?;
        let volumes = Watched::open(from.everywhere(), PATIENCE).await?;
        let disk = from.source(source).class(CLASS).blank().await?;
        let bound = from.bound(&disk).await?;
        let volume = bound.spec.and_then(|spec| spec.volume_name).context("a bound claim names its volume")?;
        connect(sources.api(), 2).await?;
        Ok(Self {
            from: from.name().to_owned(),
            to: to.name().to_owned(),
            source: disk.name().to_owned(),
            target: format!("{source}-moved"),
            volume,
            sources,
            targets,
            volumes,
            transfers: from.everywhere(),
        })
    }

    /// An ObjectTransfer, from the call that creates it to Complete.
    async fn ours(&self, name: &str) -> Result<Duration> {
        let transfer = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "source": {"kind": "PersistentVolumeClaim", "namespace": self.from, "name": self.source},
                "target": {"namespace": self.to, "name": self.target},
            },
        }))?;
        let mut watch = Watch::open(&self.transfers, name).await?;
        let start = Instant::now();
        self.transfers.create(&PostParams::default(), &transfer).await?;
        watch
            .until(PATIENCE, |transfer| {
                let status = transfer.status.clone().unwrap_or_default();
                ensure!(status.phase != "Error", "{name} failed: {status:#?}");
                Ok(status.phase == "Complete")
            })
            .await?;
        let took = start.elapsed();
        delete(&self.transfers, name).await?;
        self.targets.until(&self.target, |claim| Ok(is_bound(claim))).await?;
        Ok(took)
    }

    /// The same by hand.
    async fn floor(&self) -> Result<Duration> {
        let claim = self.sources.api().get(&self.source).await?;
        let mut spec = serde_json::to_value(claim.spec)?;
        spec["volumeName"] = json!(self.volume);
        let claim = serde_json::from_value(json!({"metadata": {"name": self.target}, "spec": spec}))?;
        let start = Instant::now();
        self.patch_volume(json!({"persistentVolumeReclaimPolicy": "Retain"})).await?;
        delete(self.sources.api(), &self.source).await?;
        self.sources.gone(&self.source).await?;
        let reserved = json!({"namespace": self.to, "name": self.target, "uid": null, "resourceVersion": null});
        self.patch_volume(json!({"claimRef": reserved})).await?;
        // Whoever creates the claim earlier is told that the volume is another claim's, and waits for a long time.
        self.volumes.until(&self.volume, |volume| Ok(phase(volume) == Some("Available"))).await?;
        self.targets.api().create(&PostParams::default(), &claim).await.context("create the claim")?;
        self.bound().await?;
        self.patch_volume(json!({"persistentVolumeReclaimPolicy": "Delete"})).await?;
        Ok(start.elapsed())
    }

    async fn patch_volume(&self, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.volumes.api().patch(&self.volume, &PatchParams::default(), &patch).await.context("patch the volume")?;
        Ok(())
    }

    /// Waits until the new claim is bound, and touches it when that takes too long.
    async fn bound(&self) -> Result<()> {
        let mut bound = pin!(self.targets.until(&self.target, |claim| Ok(is_bound(claim))));
        let mut nudge = 0;
        loop {
            if let Ok(bound) = timeout(NUDGE_AFTER, &mut bound).await {
                return bound.map(drop);
            }
            nudge += 1;
            let patch = json!({"metadata": {"annotations": {"measure.smartclone.dev/nudged": nudge.to_string()}}});
            self.targets.api().patch(&self.target, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
    }
}

fn phase(volume: &PersistentVolume) -> Option<&str> {
    volume.status.as_ref()?.phase.as_deref()
}
