//! A clone within one namespace, from `create` to Succeeded, against the least that its storage can do: a VolumeSnapshot, and when it is
//! ready a claim that is restored from it.
//!
//! Both sides are created by the same client, in the same StorageClass, and seen by watches of the same kind that are open before the
//! clock starts. Everything that a run has made is gone before the next one starts.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use common::{
    api::{DataVolume, Phase, snapshot::VolumeSnapshot},
    quantity::Bytes,
};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Options,
    audit::{self, Mark},
    pairs::{Side, in_turn},
    report::{Case, Report},
    watch::Watch,
};
use crate::{
    cluster::{Lab, progress::Progress},
    harness::{Disk, Named, Space, clone_of, gi, mi},
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
    let mut report = Report { bench: "clone", unit: "ms", cases: Vec::new() };
    let mut notes =
        "The floor of a grown clone is a restore at its final size: the driver restores larger at once.\n".to_owned();
    for kind in KINDS {
        // A namespace per case, so that the audit log tells the cases apart.
        let space = Space::new(lab, &lab.client()?, "measure-clone").await?;
        let measured = measure(&space, kind, options, progress).await;
        let (case, note) = match (measured, space.end().await) {
            (Ok(measured), Ok(())) => measured,
            // What went wrong first is the cause of the rest.
            (Err(error), _) | (Ok(_), Err(error)) => return Err(error.context(format!("case {}", kind.name))),
        };
        report.cases.push(case);
        notes.push_str(&note);
    }
    Ok((report, notes))
}

async fn measure(space: &Space, kind: Kind, options: &Options, progress: &Progress) -> Result<(Case, String)> {
    let request = space.source("source").class(CLASS);
    let request = if kind.block { request.block() } else { request };
    let source = request.filled(mi(64)).await?;
    let start = Mark::now(space.lab().audit_log())?;
    let mut clones = 0_u32;
    let pairs = in_turn(
        options.pairs,
        async |side, pair| {
            let took = match side {
                Side::Ours => {
                    clones += 1;
                    ours(space, &source, kind, pair).await?
                }
                Side::Floor => floor(space, &source, kind, pair).await?,
            };
            space.nothing_left_but(&[&source]).await?;
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
    let requests = start.requests_in(space.name())?;
    let writes = audit::own_writes(&requests);
    let all: usize = writes.values().sum();
    let each = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(clones);
    let mut note = format!("\n{}: {:.1} API writes of smartclone's own per clone\n", kind.name, each(all));
    note.extend(writes.iter().map(|(what, count)| format!("  {:>6.1}  {what}\n", each(*count))));
    if options.timeline {
        note.push_str("  one clone's writes by everybody: ms when asked, ms when answered\n");
        note.push_str(&audit::timeline(audit::last_life(&requests, "datavolumes")));
    }
    Ok((case, note))
}

/// A DataVolume, from the call that creates it to Succeeded.
async fn ours(space: &Space, source: &Disk, kind: Kind, pair: usize) -> Result<Duration> {
    let name = format!("ours-{pair}");
    let mut request = clone_of(source).named(&name).class(CLASS);
    if kind.size != source.size {
        request = request.size(kind.size);
    }
    let object: DataVolume = serde_json::from_value(request.object(space.name()))?;
    let api: Api<DataVolume> = space.api();
    let mut watch = Watch::open(&api, &name).await?;
    connect(&api).await?;
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
async fn floor(space: &Space, source: &Disk, kind: Kind, pair: usize) -> Result<Duration> {
    let name = format!("floor-{pair}");
    let snapshot: VolumeSnapshot = object(json!({
        "metadata": {"name": name},
        "spec": {"source": {"persistentVolumeClaimName": source.name()}, "volumeSnapshotClassName": CLASS},
    }))?;
    let claim: PersistentVolumeClaim = object(json!({
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": CLASS,
            "volumeMode": if kind.block { "Block" } else { "Filesystem" },
            "resources": {"requests": {"storage": kind.size.to_string()}},
            "dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": name},
        },
    }))?;
    let (snapshots, claims): (Api<VolumeSnapshot>, Api<PersistentVolumeClaim>) = (space.api(), space.api());
    let mut ready = Watch::open(&snapshots, &name).await?;
    let mut bound = Watch::open(&claims, &name).await?;
    connect(&claims).await?;
    let start = Instant::now();
    snapshots.create(&PostParams::default(), &snapshot).await?;
    ready.until(PATIENCE, |it| Ok(it.status.as_ref().and_then(|status| status.ready_to_use) == Some(true))).await?;
    claims.create(&PostParams::default(), &claim).await?;
    bound
        .until(PATIENCE, |it| Ok(it.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")))
        .await?;
    let took = start.elapsed();
    delete(&claims, &name).await?;
    delete(&snapshots, &name).await?;
    Ok(took)
}

/// The watches have taken the open connections. A new one costs the first request a handshake and, as kube's client leaves Nagle's algorithm
/// on, 40 ms of waiting for an acknowledgement: the client's business, not the cluster's.
async fn connect<K: Clone + Debug + DeserializeOwned>(api: &Api<K>) -> Result<()> {
    api.list(&ListParams::default().limit(1)).await?;
    Ok(())
}

fn object<K: DeserializeOwned>(value: Value) -> Result<K> {
    Ok(serde_json::from_value(value)?)
}

async fn delete<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) -> Result<()> {
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}
