//! What admission adds to `create`: a DataVolume that is a clone, against a ConfigMap, which no webhook looks at. Both with
//! `--dry-run=server`, so nothing is stored, by the same client, in turn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use common::api::DataVolume;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Options, in_spaces,
    pairs::Pair,
    report::{Case, Count, Report},
    statistics::percentile,
    watch::connect,
};
use crate::{
    cluster::{Lab, progress::Progress},
    harness::{Space, clone_of},
};

const CLASS: &str = "cow";

/// How many ask at the same time.
const AT_ONCE: [usize; 3] = [1, 8, 64];

/// Where the aims hold.
const AIMED: usize = 8;

/// In milliseconds.
const ADDED_P50: f64 = 2.0;
/// In milliseconds.
const ADDED_P99: f64 = 10.0;

/// So many requests of each kind for every pair that is asked for.
const TIMES: usize = 50;

/// Measures.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    in_spaces(lab, "measure-admission", false, async |space, _| measure(space, options, progress).await).await
}

async fn measure(space: &Space, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let source = space.source("source").class(CLASS).blank().await?;
    let volume = clone_of(&source).named("probe").class(CLASS).object(space.name());
    let probe = Probe {
        volumes: space.api(),
        volume: serde_json::from_value(volume)?,
        maps: space.api(),
        map: serde_json::from_value(json!({"metadata": {"name": "probe"}, "data": {"key": "value"}}))?,
    };
    let mut report = Report { bench: "admission", unit: "ms", cases: Vec::new(), counts: Vec::new() };
    for at_once in AT_ONCE {
        connect(&probe.volumes, at_once).await?;
        let times = (options.pairs * TIMES).div_ceil(at_once);
        let pairs = try_join_all((0..at_once).map(|first| probe.in_turn(times, first))).await?.concat();
        report.cases.push(Case::of(&format!("{at_once} at once"), &pairs)?);
        for (percent, aim) in [(50, ADDED_P50), (99, ADDED_P99)] {
            let of = |side: fn(&Pair) -> Duration| {
                percentile(&pairs.iter().map(side).collect::<Vec<_>>(), percent).context("nothing was measured")
            };
            let (ours, floor) = (of(|pair| pair.ours)?.as_secs_f64() * 1e3, of(|pair| pair.floor)?.as_secs_f64() * 1e3);
            progress.line(&format!("{at_once:>2} at once, p{percent}: ours {ours:.1}, floor {floor:.1} ms"));
            let added = Count::of(&format!("added at {at_once} at once, p{percent}, ms"), ours - floor);
            report.counts.push(if at_once == AIMED { added.at_most(aim) } else { added });
        }
    }
    let note = "Ours: create --dry-run=server of a DataVolume that is a clone. Floor: the same of a ConfigMap.\n";
    Ok((report, note.to_owned()))
}

/// What is asked for.
struct Probe {
    volumes: Api<DataVolume>,
    volume: DataVolume,
    maps: Api<ConfigMap>,
    map: ConfigMap,
}

impl Probe {
    /// The one and the other, so many times; the first two don't count. Whoever went second goes first next time.
    async fn in_turn(&self, times: usize, first: usize) -> Result<Vec<Pair>> {
        let mut pairs = Vec::with_capacity(times);
        for number in 0..=times {
            let pair = if (number + first).is_multiple_of(2) {
                let ours = took(&self.volumes, &self.volume).await?;
                Pair { ours, floor: took(&self.maps, &self.map).await? }
            } else {
                let floor = took(&self.maps, &self.map).await?;
                Pair { ours: took(&self.volumes, &self.volume).await?, floor }
            };
            if number > 0 {
                pairs.push(pair);
            }
        }
        Ok(pairs)
    }
}

async fn took<K: Clone + Serialize + DeserializeOwned + std::fmt::Debug>(api: &Api<K>, object: &K) -> Result<Duration> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let start = Instant::now();
    api.create(&params, object).await?;
    Ok(start.elapsed())
}
