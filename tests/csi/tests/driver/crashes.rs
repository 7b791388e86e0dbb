//! Wherever the driver dies, the next attempt ends as if it had not.

use anyhow::Result;
use reference_csi::{
    behaviour::{Behaviour, Effect, Fault},
    calls::Rpc,
    inventory::Inventory,
};
use rstest::rstest;
use tonic::Status;

use crate::lab::{GIB, Lab, mount, until, volume};

/// Dies once in an RPC.
fn dying(rpc: Rpc, effect: Effect) -> Behaviour {
    let fault = Fault { name: "die".into(), rpc, skip: 0, times: 1, effect };
    Behaviour { faults: vec![fault], ..Behaviour::default() }
}

/// A volume in use, a snapshot of it, and the call that is to be interrupted.
async fn call(lab: &Lab, rpc: Rpc, disk: &str, snapshot: &str) -> Result<(), Status> {
    match rpc {
        Rpc::CreateVolume => lab.create(volume("restored", 2 * GIB, &mount("")).restoring(snapshot)).await.map(drop),
        Rpc::DeleteVolume => lab.delete(disk).await,
        Rpc::CreateSnapshot => lab.snapshot("other", disk).await.map(drop),
        Rpc::DeleteSnapshot => lab.delete_snapshot(snapshot).await,
        Rpc::ControllerExpandVolume => lab.expand(disk, 2 * GIB).await.map(drop),
        Rpc::NodeStageVolume | Rpc::NodePublishVolume => lab.put_to_use(disk, &mount("")).await.map(drop),
        Rpc::NodeUnpublishVolume | Rpc::NodeUnstageVolume => lab.release(disk).await,
        Rpc::NodeExpandVolume => lab.node_expand(disk).await,
        _ => Err(Status::unimplemented("this changes nothing")),
    }
}

#[rstest]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_retry_ends_as_if_nothing_had_happened(
    #[values(
        Rpc::CreateVolume,
        Rpc::DeleteVolume,
        Rpc::CreateSnapshot,
        Rpc::DeleteSnapshot,
        Rpc::ControllerExpandVolume,
        Rpc::NodeStageVolume,
        Rpc::NodePublishVolume,
        Rpc::NodeUnpublishVolume,
        Rpc::NodeUnstageVolume,
        Rpc::NodeExpandVolume
    )]
    rpc: Rpc,
    #[values(Effect::CrashBeforeCommit, Effect::CrashAfterCommit)] moment: Effect,
) -> Result<()> {
    let mut lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    let snapshot = lab.snapshot("snapshot", &disk).await?.snapshot_id;
    if matches!(rpc, Rpc::NodeUnpublishVolume | Rpc::NodeUnstageVolume | Rpc::NodeExpandVolume) {
        lab.put_to_use(&disk, &mount("")).await?;
    }
    if rpc == Rpc::NodePublishVolume {
        lab.stage(&disk, &mount("")).await?;
    }
    let before = lab.inventory()?;

    lab.control(&dying(rpc, moment))?;
    call(&lab, rpc, &disk, &snapshot).await.unwrap_err();
    lab.restart().await?;
    let between = lab.inventory()?;
    assert!(between.stray.is_empty(), "swept at start: {:?}", between.stray);
    if moment == Effect::CrashBeforeCommit {
        let records = |found: &Inventory| (found.volumes.clone(), found.snapshots.clone());
        assert_eq!(records(&between), records(&before));
    }

    call(&lab, rpc, &disk, &snapshot).await?;
    let after = lab.inventory()?;
    if moment == Effect::CrashAfterCommit {
        assert_eq!((&after.volumes, &after.snapshots), (&between.volumes, &between.snapshots));
    }
    assert_eq!(after.loop_devices.len(), usize::from(in_use_after(rpc)), "{:?}", after.loop_devices);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn killed_among_many_calls_it_loses_and_leaves_nothing() -> Result<()> {
    let mut lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    lab.put_to_use(&disk, &mount("")).await?;
    // Later in each round, from the first call of three to the last answer.
    for events in 1..=6 {
        let [blank, clone, snapshot] = ["blank", "clone", "snapshot"].map(|name| format!("{name}-{events}"));
        let calls = async |lab: &Lab| {
            tokio::join!(
                lab.create(volume(&blank, GIB, &mount(""))),
                lab.create(volume(&clone, GIB, &mount("")).cloning(&disk)),
                lab.snapshot(&snapshot, &disk),
            )
        };
        let before = seen(&lab)?;
        let kill = async {
            until("the moment", || Ok((seen(&lab)? >= before + events).then_some(()))).await?;
            lab.kill()
        };
        let ((blank, clone, snapshot), killed) = tokio::join!(calls(&lab), kill);
        killed?;
        lab.restart().await?;

        let found = lab.inventory()?;
        assert!(found.stray.is_empty(), "{:?}", found.stray);
        for promised in [&blank, &clone].into_iter().flatten() {
            assert!(found.volumes.iter().any(|record| record.id == promised.volume_id));
        }
        if let Ok(promised) = &snapshot {
            assert!(found.snapshots.iter().any(|record| record.id == promised.snapshot_id));
        }
        let (blank, clone, snapshot) = calls(&lab).await;
        blank.and(clone)?;
        snapshot?;
    }
    lab.clear().await
}

/// How many of the interesting calls came in or went well.
fn seen(lab: &Lab) -> Result<u64> {
    let calls = lab.calls()?;
    let of = |rpc| calls.started(rpc) + calls.ended(rpc, "OK");
    Ok(of(Rpc::CreateVolume) + of(Rpc::CreateSnapshot))
}

fn in_use_after(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::NodeStageVolume | Rpc::NodePublishVolume | Rpc::NodeExpandVolume)
}
