//! A clone, from `create` to Succeeded, against the least that its storage can do: a VolumeSnapshot, and when it is ready a claim that is
//! restored from it. Into another namespace, that claim is a temporary one whose volume is handed to the clone, see [`super::bare`].
//!
//! Both sides are created by the same client, in the same StorageClass, and seen by watches of the same kind that are open before the
//! clock starts. Clones are made in rows, once back to back and once with a pause between them, because what one clone leaves to the next
//! (a snapshot that is being deleted, a batch that is being gathered) counts in one rhythm only. Everything that a row has made is gone
//! before the next one starts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use common::{
    api::{DataVolume, Phase},
    quantity::Bytes,
};
use kube::{Api, api::PostParams};
use serde_json::json;

use super::{
    Options,
    audit::{self, Mark},
    bare::{Bare, Shape},
    delete, in_spaces,
    pairs::{Pair, Side, in_turn},
    report::{Case, Report},
    statistics::each,
    watch::{Watch, connect},
};
use crate::{
    harness::{Disk, Named, Space, clone_of, gi, mi},
    lab::{Lab, progress::Progress},
};

const CLASS: &str = "cow";
const PATIENCE: Duration = Duration::from_mins(1);

/// What is cloned, and to what. The floor of a grown clone is restored at the larger size at once, as the class's driver allows.
#[derive(Debug, Clone, Copy)]
struct Kind {
    name: &'static str,
    block: bool,
    size: Bytes,
}

const KINDS: [Kind; 4] = [
    Kind { name: "1Gi", block: false, size: gi(1) },
    Kind { name: "grown-to-2Gi", block: false, size: gi(2) },
    Kind { name: "block-1Gi", block: true, size: gi(1) },
    Kind { name: "block-grown-to-2Gi", block: true, size: gi(2) },
];

/// The pause between two clones of one source.
#[derive(Debug, Clone, Copy)]
struct Rhythm {
    name: &'static str,
    pause: Duration,
}

const RHYTHMS: [Rhythm; 2] = [
    Rhythm { name: "back to back", pause: Duration::ZERO },
    Rhythm { name: "paused", pause: Duration::from_millis(1500) },
];

/// The number of clones of a row that count. One more goes before them, which follows nothing.
const IN_A_ROW: usize = 3;

/// Each ratio, of the median, of what 90 of 100 don't exceed, and of the longest, should not be more.
const RATIO: f64 = 1.3;

/// Measures all cases; the second text is what a clone costs the API server.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let mut report = Report { bench: "clone", unit: "ms", cases: Vec::new(), counts: Vec::new() };
    let mut notes =
        "The floor of a grown clone is a restore at its final size: the driver restores larger at once.\n".to_owned();
    for (kind, rhythm) in KINDS.into_iter().flat_map(|kind| RHYTHMS.map(|rhythm| (kind, rhythm))) {
        // Namespaces per case, so that the audit log tells the cases apart.
        let (case, note) = in_spaces(lab, "measure-clone", options.cross_namespace, async |from, to| {
            measure(from, to, (kind, rhythm), options, progress).await
        })
        .await
        .with_context(|| format!("case {}, {}", kind.name, rhythm.name))?;
        report.counts.extend(case.ratios_at_most(RATIO));
        report.cases.push(case);
        notes.push_str(&note);
    }
    Ok((report, notes))
}

async fn measure(
    from: &Space,
    to: &Space,
    (kind, rhythm): (Kind, Rhythm),
    options: &Options,
    progress: &Progress,
) -> Result<(Case, String)> {
    let request = from.source("source").class(CLASS);
    let request = if kind.block { request.block() } else { request };
    let source = request.filled(mi(64)).await?;
    let start = Mark::now(from.lab()?.audit_log())?;
    let name = format!("{}, {}", kind.name, rhythm.name);
    let (mut clones, mut times) = (0, [Vec::new(), Vec::new()]);
    in_turn(
        options.pairs.div_ceil(IN_A_ROW),
        async |side, row| {
            let mut took = Vec::new();
            for number in 0..=IN_A_ROW {
                if number > 0 {
                    tokio::time::sleep(rhythm.pause).await;
                }
                let number = row * (IN_A_ROW + 1) + number;
                took.push(match side {
                    Side::Ours => ours(from, to, &source, kind, number).await?,
                    Side::Floor => floor(from, to, &source, kind, number).await?,
                });
            }
            if side == Side::Ours {
                clones += took.len();
            }
            from.nothing_left_but(&[&source]).await?;
            if options.cross_namespace {
                to.nothing_left_but(&[]).await?;
            }
            let mean = took[1..].iter().sum::<Duration>() / u32::try_from(IN_A_ROW)?;
            if row > 0 {
                times[usize::from(side == Side::Floor)].extend(took.into_iter().skip(1));
            }
            Ok(mean)
        },
        |number, pair| {
            let counts = if number == 0 { "warm-up" } else { "row" };
            let (ours, floor) = (pair.ours.as_secs_f64() * 1e3, pair.floor.as_secs_f64() * 1e3);
            progress.line(&format!("{name:<32} {counts} {number:>2}: mean ours {ours:6.1}, floor {floor:6.1} ms"));
        },
    )
    .await?;
    let [ours, floor] = times;
    let pairs: Vec<_> = ours.into_iter().zip(floor).map(|(ours, floor)| Pair { ours, floor }).collect();
    let case = Case::of(&name, &pairs)?;
    let requests = start.requests_in(&[from.name(), to.name()])?;
    let writes = audit::own_writes(&requests);
    let all: usize = writes.values().sum();
    let mut note = format!("\n{name}: {:.1} API writes of smartclone's own per clone\n", each(all, clones));
    note.extend(writes.iter().map(|(what, count)| format!("  {:>6.1}  {what}\n", each(*count, clones))));
    if options.timeline {
        note.push_str("  one clone's writes by everybody: ms when asked, ms when answered\n");
        note.push_str(&audit::timeline(audit::last_life(&requests, "datavolumes")));
    }
    Ok((case, note))
}

/// A DataVolume, from the call that creates it to Succeeded.
async fn ours(from: &Space, to: &Space, source: &Disk, kind: Kind, pair: usize) -> Result<Duration> {
    let name = format!("ours-{pair}");
    let claim = json!({"pvc": {"namespace": from.name(), "name": source.name()}});
    let mut request = clone_of(source).named(&name).class(CLASS).source(claim);
    if kind.size != source.size {
        request = request.size(kind.size);
    }
    let object: DataVolume = serde_json::from_value(request.object(to.name()))?;
    let api: Api<DataVolume> = to.api();
    let mut watch = Watch::open(&api, &name).await?;
    connect(&api, 1).await?;
    let start = Instant::now();
    api.create(&PostParams::default(), &object).await?;
    watch
        .until(PATIENCE, |volume| {
            let status = volume.status.clone().unwrap_or_default();
            ensure!(status.phase != Phase::Failed, "{name} failed: {status:#?}");
            Ok(status.phase == Phase::Succeeded)
        })
        .await?;
    let took = start.elapsed();
    delete(&api, &name).await?;
    Ok(took)
}

/// The same by hand: a snapshot, and a claim from it.
async fn floor(from: &Space, to: &Space, source: &Disk, kind: Kind, pair: usize) -> Result<Duration> {
    let name = format!("floor-{pair}");
    let shape = Shape { class: CLASS, size: kind.size, block: kind.block };
    // A claim that is held back is asked for at the same time as the snapshot.
    let bare = Bare::open(from, to, 2, PATIENCE).await?;
    let start = Instant::now();
    let ((), temporary) = tokio::try_join!(bare.snapshot(source, &name, CLASS), bare.make(&name, &name, shape))?;
    let took = start.elapsed();
    if let Some(temporary) = temporary {
        bare.remove(temporary).await?;
    }
    delete(bare.clones(), &name).await?;
    delete(bare.snapshots.api(), &name).await?;
    Ok(took)
}
