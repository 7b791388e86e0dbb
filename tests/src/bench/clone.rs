//! A clone, from `create` to Succeeded, against the least that its storage can do: a VolumeSnapshot, and when it is ready a claim that is
//! restored from it. Into another namespace, that claim is a temporary one whose volume is handed to the clone, see [`super::bare`].
//!
//! Both sides are created by the same client, in the same StorageClass, and seen by watches of the same kind that are open before the
//! clock starts. Everything that a run has made is gone before the next one starts.

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
    pairs::{Side, in_turn},
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

/// Measures all cases; the second text is what a clone costs the API server.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let mut report = Report { bench: "clone", unit: "ms", cases: Vec::new(), counts: Vec::new() };
    let mut notes =
        "The floor of a grown clone is a restore at its final size: the driver restores larger at once.\n".to_owned();
    for kind in KINDS {
        // Namespaces per case, so that the audit log tells the cases apart.
        let (case, note) = in_spaces(lab, "measure-clone", options.cross_namespace, async |from, to| {
            measure(from, to, kind, options, progress).await
        })
        .await
        .with_context(|| format!("case {}", kind.name))?;
        report.cases.push(case);
        notes.push_str(&note);
    }
    Ok((report, notes))
}

async fn measure(
    from: &Space,
    to: &Space,
    kind: Kind,
    options: &Options,
    progress: &Progress,
) -> Result<(Case, String)> {
    let request = from.source("source").class(CLASS);
    let request = if kind.block { request.block() } else { request };
    let source = request.filled(mi(64)).await?;
    let start = Mark::now(from.lab()?.audit_log())?;
    let mut clones = 0;
    let pairs = in_turn(
        options.pairs,
        async |side, pair| {
            let took = match side {
                Side::Ours => {
                    clones += 1;
                    ours(from, to, &source, kind, pair).await?
                }
                Side::Floor => floor(from, to, &source, kind, pair).await?,
            };
            from.nothing_left_but(&[&source]).await?;
            if options.cross_namespace {
                to.nothing_left_but(&[]).await?;
            }
            Ok(took)
        },
        |number, pair| {
            let counts = if number == 0 { "warm-up" } else { "pair" };
            let (ours, floor) = (pair.ours.as_secs_f64() * 1e3, pair.floor.as_secs_f64() * 1e3);
            progress.line(&format!("{:<18} {counts} {number:>2}: ours {ours:6.1}, floor {floor:6.1} ms", kind.name));
        },
    )
    .await?;
    let case = Case::of(kind.name, &pairs)?;
    let requests = start.requests_in(&[from.name(), to.name()])?;
    let writes = audit::own_writes(&requests);
    let all: usize = writes.values().sum();
    let mut note = format!("\n{}: {:.1} API writes of smartclone's own per clone\n", kind.name, each(all, clones));
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
