//! Many clones of one source at once, against the least that their storage can do: one VolumeSnapshot, and as many claims restored from it.
//! Into another namespace, these claims are temporary ones whose volumes are handed to the clones, see [`super::bare`].
//!
//! Both sides are asked for by the same client at once, on connections that are open before the clock starts, and are seen by watches. All
//! that a run has made is gone before the next one starts.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use common::{
    api::{DataVolume, Phase, snapshot::VolumeSnapshot},
    quantity::Bytes,
};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio::time::timeout;

use super::{
    at_least_one,
    audit::{self, Mark, Request},
    bare::{Bare, Shape},
    delete, in_spaces,
    leftovers::{self, Claims},
    pairs::{Pair, Side, in_turn},
    report::{Case, Count, Report},
    statistics::{each, percentile},
    watch::{Watched, connect},
};
use crate::{
    harness::{Disk, Named as _, Space, cdi, clone_of, gi, mi},
    lab::{Lab, progress::Progress},
};

const CLASS: &str = "cow";
const SIZE: Bytes = gi(1);
/// One clone of many may well take minutes.
const PATIENCE: Duration = Duration::from_mins(10);
/// What is there for longer than this after the last clone has succeeded is left over.
const SWEEP: Duration = Duration::from_secs(30);

/// How many, and where to.
#[derive(Debug, Args)]
pub struct Options {
    /// Write the result to this file, too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// How many clones are asked for at once.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    count: usize,
    /// How many pairs of bursts count.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    /// Clone within the source's namespace instead of into another one.
    #[arg(long)]
    same_namespace: bool,
    /// Beside a double of CDI that has CDI's own limits on requests and writes the statuses, with the lever for bursts.
    #[arg(long)]
    beside_cdi: bool,
}

/// What should not be exceeded: API writes of smartclone's own per clone.
const OWN_WRITES: f64 = 10.0;
/// The same, in the source's namespace.
const OWN_WRITES_SAME_NAMESPACE: f64 = 6.0;
/// Snapshots of the one source, however many clones there are.
const SNAPSHOTS: f64 = 5.0;
/// The time of all clones, as a multiple of the floor.
const RATIO: f64 = 1.25;

/// Measures; the second text is who wrote how much.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    if options.beside_cdi {
        progress.step("CDI and smartclone beside it", Box::pin(cdi::enter_for_bursts(lab))).await?;
    }
    let measured = in_spaces(lab, "measure-burst", !options.same_namespace, async |from, to| {
        measure(from, to, options, progress).await
    });
    let measured = measured.await;
    if options.beside_cdi {
        progress.step("smartclone without CDI again", Box::pin(cdi::leave(lab))).await?;
    }
    measured
}

/// What one burst has come to.
#[derive(Debug)]
struct Run {
    /// From the first request to the last clone.
    done: Duration,
    /// To the end of everything temporary.
    clean: Duration,
    /// From the first request to each of the clones.
    clones: Vec<Duration>,
    /// What the API server was asked for until nothing temporary was left.
    requests: Vec<Request>,
    /// What smartclone wrote afterwards, when the clones were deleted.
    writes_at_deletion: usize,
    leftovers: Vec<String>,
    nudges: usize,
}

async fn measure(from: &Space, to: &Space, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let source = from.source("source").class(CLASS).size(SIZE).filled(mi(64)).await?;
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    in_turn(
        options.rounds,
        async |side, round| {
            // Caches fill and connections open as well with a tenth.
            let count = if round == 0 { options.count.div_ceil(10) } else { options.count };
            let burst = Burst { from, to, source: &source, round, count };
            let run = match side {
                Side::Ours => burst.ours().await,
                Side::Floor => burst.floor().await,
            };
            let run = run.with_context(|| format!("{side:?}, round {round}"))?;
            let done = run.done;
            for left in &run.leftovers {
                progress.line(&format!("{side:?} leaves {left}"));
            }
            let runs = if side == Side::Ours { &mut ours } else { &mut floor };
            if round > 0 {
                runs.push(run);
            }
            Ok(done)
        },
        |round, Pair { ours, floor }| {
            let counts = if round == 0 { "warm-up" } else { "round" };
            let (ours, floor) = (ours.as_secs_f64(), floor.as_secs_f64());
            progress.line(&format!("{counts} {round}: ours {ours:.1}, floor {floor:.1} s"));
        },
    )
    .await?;
    report(options, &ours, &floor)
}

fn report(options: &Options, ours: &[Run], floor: &[Run]) -> Result<(Report, String)> {
    let case = |name: &str, of: &dyn Fn(&Run) -> Option<Duration>| {
        let pairs: Option<Vec<_>> =
            ours.iter().zip(floor).map(|(ours, floor)| Some(Pair { ours: of(ours)?, floor: of(floor)? })).collect();
        Case::of(name, &pairs.context("a burst has clones")?)
    };
    let cases = vec![
        case("all", &|run| Some(run.done))?,
        case("one: p50", &|run| percentile(&run.clones, 50))?,
        case("one: p90", &|run| percentile(&run.clones, 90))?,
        case("one: max", &|run| percentile(&run.clones, 100))?,
        case("all, tidied up", &|run| Some(run.clean))?,
    ];
    let ratio = cases.first().map_or(f64::NAN, |all| all.ratio);
    let clones = options.count * options.rounds;
    let sum = |runs: &[Run], of: &dyn Fn(&Run) -> usize| runs.iter().map(of).sum::<usize>();
    let per_clone = |runs: &[Run], of: &dyn Fn(&Run) -> usize| each(sum(runs, of), clones);
    let most = |runs: &[Run], of: &dyn Fn(&Run) -> usize| each(runs.iter().map(of).max().unwrap_or_default(), 1);
    let snapshots = |run: &Run| audit::made(&run.requests, "volumesnapshots");
    let all_writes = |run: &Run| audit::writes_by_program(&run.requests).values().sum();
    let left = |run: &Run| run.leftovers.len();
    let own_writes = if options.same_namespace { OWN_WRITES_SAME_NAMESPACE } else { OWN_WRITES };
    let counts = vec![
        Count::of("time of all, ratio of medians", ratio).at_most(RATIO),
        Count::of("VolumeSnapshots, most in a round", most(ours, &snapshots))
            .floor(most(floor, &snapshots))
            .at_most(SNAPSHOTS),
        Count::of("left over", each(sum(ours, &left), 1)).floor(each(sum(floor, &left), 1)).at_most(0.0),
        Count::of("own API writes per clone", per_clone(ours, &|run| audit::own_writes(&run.requests).values().sum()))
            .at_most(own_writes),
        Count::of("  and when the clone is deleted", per_clone(ours, &|run| run.writes_at_deletion)),
        Count::of("own SubjectAccessReviews per clone", per_clone(ours, &|run| audit::own_reviews(&run.requests))),
        Count::of("everybody's API writes per clone", per_clone(ours, &all_writes))
            .floor(per_clone(floor, &all_writes)),
    ];
    let place = if options.same_namespace { "the source's" } else { "another" };
    let mut notes = format!(
        "{} clones of one claim of {SIZE} into {place} namespace, asked for at once; the times of one count from the same moment.\n",
        options.count
    );
    if !options.same_namespace {
        let nudges = sum(floor, &|run| run.nudges);
        writeln!(notes, "Floor: {nudges} of {clones} claims had to be touched to be bound.")?;
    }
    let mut list = |title: &str, of: fn(&[Request]) -> BTreeMap<String, usize>, runs: &[Run]| {
        let mut counts = BTreeMap::<String, usize>::new();
        for (what, count) in runs.iter().flat_map(|run| of(&run.requests)) {
            *counts.entry(what).or_default() += count;
        }
        writeln!(notes, "\n{title}, API writes per clone")?;
        counts.iter().try_for_each(|(what, count)| writeln!(notes, "  {:>6.2}  {what}", each(*count, clones)))
    };
    list("smartclone's own", audit::own_writes, ours)?;
    list("Everybody's with smartclone", audit::writes_by_program, ours)?;
    list("Everybody's at the floor", audit::writes_by_program, floor)?;
    Ok((Report { bench: "burst", unit: "ms", cases, counts }, notes))
}

/// One burst to be.
#[derive(Debug, Clone, Copy)]
struct Burst<'a> {
    from: &'a Space,
    to: &'a Space,
    source: &'a Disk,
    round: usize,
    count: usize,
}

/// What was timed, and where in the audit log it began.
struct Timed {
    mark: Mark,
    done: Duration,
    clean: Duration,
    clones: Vec<Duration>,
    nudges: usize,
}

impl Burst<'_> {
    /// DataVolumes, from the call that creates the first one until all are Succeeded.
    async fn ours(self) -> Result<Run> {
        let names = self.names("ours");
        let objects: Vec<DataVolume> = names.iter().map(|name| self.data_volume(name)).collect::<Result<_>>()?;
        let volumes = Watched::open(self.to.api::<DataVolume>(), PATIENCE).await?;
        let claims = Watched::open(self.from.api::<PersistentVolumeClaim>(), PATIENCE).await?;
        let snapshots = Watched::open(self.from.api::<VolumeSnapshot>(), PATIENCE).await?;
        connect(volumes.api(), self.count).await?;
        let mark = Mark::now(self.from.lab()?.audit_log())?;
        let start = Instant::now();
        let clones = try_join_all(names.iter().zip(&objects).map(async |(name, object)| {
            volumes.api().create(&PostParams::default(), object).await.context("create a DataVolume")?;
            let succeeded = volumes.until(name, |volume| {
                let status = volume.status.clone().unwrap_or_default();
                ensure!(status.phase != Phase::Failed, "{name} failed: {status:#?}");
                Ok(status.phase == Phase::Succeeded)
            });
            succeeded.await?;
            anyhow::Ok(start.elapsed())
        }))
        .await?;
        let done = start.elapsed();
        let tidied_up = async {
            snapshots.none_but(|_| false).await?;
            claims.none_but(|name| name == self.source.name() || names.iter().any(|clone| clone == name)).await
        };
        // What is still there then is told as left over.
        timeout(SWEEP, tidied_up).await.unwrap_or(Ok(()))?;
        let timed = Timed { mark, done, clean: start.elapsed(), clones, nudges: 0 };
        self.finish(timed, volumes.api(), &names).await
    }

    /// The same by hand, from the call that creates the snapshot until all claims are bound and all temporary ones are gone.
    async fn floor(self) -> Result<Run> {
        let names = self.names("floor");
        let snapshot = format!("floor-{}", self.round);
        let bare = Bare::open(self.from, self.to, self.count, PATIENCE).await?;
        let shape = Shape { class: CLASS, size: SIZE, block: false };
        let mark = Mark::now(self.from.lab()?.audit_log())?;
        let start = Instant::now();
        let clones = try_join_all(names.iter().map(async |name| {
            let temporary = bare.make(name, &snapshot, shape).await?;
            let made = start.elapsed();
            if let Some(temporary) = temporary {
                bare.remove(temporary).await?;
            }
            anyhow::Ok(made)
        }));
        let (clones, ()) = tokio::try_join!(clones, bare.snapshot(self.source, &snapshot, CLASS))?;
        let done = start.elapsed();
        delete(bare.snapshots.api(), &snapshot).await?;
        bare.snapshots.gone(&snapshot).await?;
        let timed = Timed { mark, done, clean: start.elapsed(), clones, nudges: bare.nudges() };
        self.finish(timed, bare.clones(), &names).await
    }

    /// Looks for what is left over, and deletes the clones.
    async fn finish<K>(self, timed: Timed, api: &Api<K>, names: &[String]) -> Result<Run>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let Timed { mark, done, clean, clones, nudges } = timed;
        let spaces: &[&Space] = if self.from.name() == self.to.name() { &[self.from] } else { &[self.from, self.to] };
        let namespaces: Vec<_> = spaces.iter().map(|space| space.name()).collect();
        let source = Claims::from([format!("{}/{}", self.from.name(), self.source.name())]);
        let mut wanted = source.clone();
        wanted.extend(names.iter().map(|name| format!("{}/{name}", self.to.name())));
        let leftovers = leftovers::besides(spaces, &wanted, SWEEP).await?;
        let requests = mark.requests_in(&namespaces)?;

        let deletion = Mark::now(self.from.lab()?.audit_log())?;
        try_join_all(names.iter().map(|name| delete(api, name))).await?;
        leftovers::volumes_gone(spaces, &source).await?;
        let stays = leftovers::besides(spaces, &source, PATIENCE).await?;
        ensure!(stays.is_empty(), "the deleted clones leave {stays:#?}");
        let writes_at_deletion = audit::own_writes(&deletion.requests_in(&namespaces)?).values().sum();
        Ok(Run { done, clean, clones, requests, writes_at_deletion, leftovers, nudges })
    }

    fn names(&self, side: &str) -> Vec<String> {
        (0..self.count).map(|number| format!("{side}-{}-{number}", self.round)).collect()
    }

    fn data_volume(&self, name: &str) -> Result<DataVolume> {
        let source = json!({"pvc": {"namespace": self.from.name(), "name": self.source.name()}});
        let request = clone_of(self.source).named(name).class(CLASS).source(source);
        Ok(serde_json::from_value(request.object(self.to.name()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: u64) -> Run {
        let clones: Vec<_> = (1..=10).map(|part| Duration::from_secs(seconds) * part / 10).collect();
        let (done, clean) = (Duration::from_secs(seconds), Duration::from_secs(seconds + 1));
        Run { done, clean, clones, requests: Vec::new(), writes_at_deletion: 20, leftovers: Vec::new(), nudges: 0 }
    }

    #[test]
    fn a_report_compares_rounds_and_counts_per_clone() -> Result<()> {
        let options = Options { json: None, count: 10, rounds: 2, same_namespace: false, beside_cdi: false };
        let mut left = run(12);
        left.leftovers.push("VolumeSnapshot a/b".to_owned());
        let (report, _) = report(&options, &[run(10), left], &[run(8), run(8)])?;
        let medians: Vec<_> = report.cases.iter().map(|case| (case.name.as_str(), case.ours.median)).collect();
        let wanted = [
            ("all", 11_000.0),
            ("one: p50", 5_500.0),
            ("one: p90", 9_900.0),
            ("one: max", 11_000.0),
            ("all, tidied up", 12_000.0),
        ];
        assert_eq!(medians, wanted);
        let of = |name: &str| report.counts.iter().find(|count| count.name.contains(name)).map(|count| count.ours);
        assert_eq!((of("ratio"), of("left over"), of("deleted")), (Some(1.38), Some(1.0), Some(2.0)));
        Ok(())
    }
}
