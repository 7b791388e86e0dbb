//! What admission adds to `create`: a DataVolume that is a clone, against a ConfigMap, which no webhook looks at. Both with
//! `--dry-run=server`, so nothing is stored, by the same client, in turn. Once all clone one source, as in a burst; once each clones one
//! that nobody has asked for in the last second. And against a DataVolume about which both webhooks are asked and have nothing to say: what
//! the API server itself takes for two questions.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use common::api::DataVolume;
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::ConfigMap,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use webhook::manifests::{MUTATING, VALIDATING};

use super::{
    Options, in_spaces,
    pairs::Pair,
    report::{Case, Count, Report},
    statistics::percentile,
    watch::connect,
};
use crate::{
    harness::{Space, clone_of},
    lab::{Lab, progress::Progress},
};

const CLASS: &str = "cow";

/// So many that each has been forgotten before its turn comes again.
const SOURCES: usize = 240;

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
    let names: Vec<_> = (0..SOURCES).map(|number| format!("source-{number}")).collect();
    let made = stream::iter(&names).map(async |name| space.source(name).class(CLASS).blank().await).buffered(16);
    let sources: Vec<_> = progress.step(&format!("{SOURCES} sources"), made.try_collect::<Vec<_>>()).await?;
    let clone = |source| serde_json::from_value(clone_of(source).named("probe").class(CLASS).object(space.name()));
    let all = sources.iter().map(clone).collect::<serde_json::Result<Vec<DataVolume>>>()?;
    let silent = silent(space).await?;
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "probe"}, "data": {"key": "value"}}))?;
    let floors = [Floor::Map(space.api(), Box::new(map)), Floor::Silent(space.api(), Box::new(silent))];
    let [map, silent] = &floors;
    let mut report = Report { bench: "admission", unit: "ms", cases: Vec::new(), counts: Vec::new() };
    for (what, clones, floor) in
        [("one source", &all[..1], map), ("any source", &all, map), ("silent", &all[..1], silent)]
    {
        let probe = Probe { volumes: space.api(), clones, next: AtomicUsize::new(0), floor };
        for at_once in AT_ONCE {
            connect(&probe.volumes, at_once).await?;
            let times = (options.pairs * TIMES).div_ceil(at_once);
            let pairs = try_join_all((0..at_once).map(|first| probe.in_turn(times, first))).await?.concat();
            report.cases.push(Case::of(&format!("{what}, {at_once}"), &pairs)?);
            for (percent, aim) in [(50, ADDED_P50), (99, ADDED_P99)] {
                let of = |side: fn(&Pair) -> Duration| {
                    percentile(&pairs.iter().map(side).collect::<Vec<_>>(), percent).context("nothing was measured")
                };
                let (ours, floor) =
                    (of(|pair| pair.ours)?.as_secs_f64() * 1e3, of(|pair| pair.floor)?.as_secs_f64() * 1e3);
                progress
                    .line(&format!("{what}, {at_once:>2} at once, p{percent}: ours {ours:.1}, floor {floor:.1} ms"));
                let added = Count::of(&format!("added, {what}, {at_once} at once, p{percent}, ms"), ours - floor);
                report.counts.push(if at_once == AIMED { added.at_most(aim) } else { added });
            }
        }
    }
    let note = "Ours: create --dry-run=server of a DataVolume that is a clone. Floor: the same of a ConfigMap; where it says \
                silent, of a DataVolume about which both webhooks are asked and say nothing.\n";
    Ok((report, note.to_owned()))
}

/// The label of DataVolumes that nothing is said about.
const SILENT: (&str, &str) = ("smartclone.dev/measure", "silent");

/// Lets the API server ask both webhooks about DataVolumes that are no clones, until the end of the space; returns such a one.
async fn silent(space: &Space) -> Result<DataVolume> {
    ask_about_silent::<MutatingWebhookConfiguration>(space, MUTATING).await?;
    ask_about_silent::<ValidatingWebhookConfiguration>(space, VALIDATING).await?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": "probe", "labels": {SILENT.0: SILENT.1}},
        "spec": {"source": {"blank": {}}, "storage": {"resources": {"requests": {"storage": "1Gi"}}}},
    }))?)
}

/// The webhook of this name, once more: for what has the label, whatever it is.
async fn ask_about_silent<K>(space: &Space, name: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug + Send + Sync + 'static,
{
    let api: Api<K> = space.everywhere();
    let mut hook = serde_json::to_value(api.get(name).await?)?["webhooks"][0].take();
    hook["matchConditions"] = json!([]);
    hook["objectSelector"] = json!({"matchLabels": {SILENT.0: SILENT.1}});
    hook["name"] = json!("silent.smartclone.dev");
    let meta = json!({"name": "silent.smartclone.dev"});
    api.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": meta, "webhooks": [hook]}))?).await?;
    space.undo(async move {
        api.delete("silent.smartclone.dev", &DeleteParams::default()).await?;
        Ok(())
    });
    Ok(())
}

/// What is asked for.
struct Probe<'a> {
    volumes: Api<DataVolume>,
    clones: &'a [DataVolume],
    next: AtomicUsize,
    floor: &'a Floor,
}

/// What it is compared with.
enum Floor {
    /// No webhook is asked.
    Map(Api<ConfigMap>, Box<ConfigMap>),
    /// Both are, and say nothing.
    Silent(Api<DataVolume>, Box<DataVolume>),
}

impl Floor {
    async fn took(&self) -> Result<Duration> {
        match self {
            Self::Map(api, object) => took(api, object.as_ref()).await,
            Self::Silent(api, object) => took(api, object.as_ref()).await,
        }
    }
}

impl Probe<'_> {
    /// The clone whose turn it is.
    async fn ours(&self) -> Result<Duration> {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.clones.len();
        took(&self.volumes, &self.clones[next]).await
    }

    /// The one and the other, so many times; the first two don't count. Whoever went second goes first next time.
    async fn in_turn(&self, times: usize, first: usize) -> Result<Vec<Pair>> {
        let mut pairs = Vec::with_capacity(times);
        for number in 0..=times {
            let pair = if (number + first).is_multiple_of(2) {
                let ours = self.ours().await?;
                Pair { ours, floor: self.floor.took().await? }
            } else {
                let floor = self.floor.took().await?;
                Pair { ours: self.ours().await?, floor }
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
