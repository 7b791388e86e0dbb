//! The driver can be as surprising as real ones are.

use std::{fs::File, io::Write as _};

use anyhow::Result;
use bpfman_csi::v1::GetPluginCapabilitiesRequest;
use reference_csi::{
    behaviour::{Behaviour, Effect, Expansion, FailCode, Fault, LargerRestore, RestoreSize},
    calls::Rpc,
};
use rstest::rstest;
use tonic::Code;

use crate::lab::{GIB, Lab, MIB, block, mount, until, volume};

#[rstest]
#[case::out_of_range("outOfRange", Code::OutOfRange)]
#[case::invalid("invalidArgument", Code::InvalidArgument)]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_class_may_refuse_a_larger_restore(#[case] word: &str, #[case] code: Code) -> Result<()> {
    let lab = Lab::start().await?;
    let class = [("behaviour/largerRestore", word)];
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let snapshot = lab.snapshot("snapshot", &disk).await?.snapshot_id;
    let wanted = |name, bytes| volume(name, bytes, &block()).restoring(&snapshot).parameters(&class);
    assert_eq!(lab.create(wanted("larger", 65 * MIB)).await.unwrap_err().code(), code);
    lab.create(wanted("same", 64 * MIB)).await?;
    // The control file is above the class.
    lab.control(&Behaviour { larger_restore: Some(LargerRestore::Grow), ..Behaviour::default() })?;
    lab.create(wanted("larger", 65 * MIB)).await?;
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_restore_may_silently_stay_small_and_never_be_smaller() -> Result<()> {
    let lab = Lab::start().await?;
    lab.control(&Behaviour { larger_restore: Some(LargerRestore::KeepSmall), ..Behaviour::default() })?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let larger = || volume("larger", 128 * MIB, &block()).cloning(&disk);
    for _ in 0..2 {
        assert_eq!(lab.create(larger()).await?.capacity_bytes, 64 << 20);
    }
    let smaller = lab.create(volume("smaller", 32 * MIB, &block()).cloning(&disk)).await;
    assert_eq!(smaller.unwrap_err().code(), Code::OutOfRange);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_larger_restore_may_leave_its_file_system_small() -> Result<()> {
    let lab = Lab::start().await?;
    lab.control(&Behaviour { larger_restore: Some(LargerRestore::GrowDeviceOnly), ..Behaviour::default() })?;
    let disk = lab.create(volume("disk", GIB, &mount("xfs"))).await?.volume_id;
    lab.put_to_use(&disk, &mount("xfs")).await?;
    let larger = lab.create(volume("larger", 2 * GIB, &mount("xfs")).cloning(&disk)).await?;
    assert_eq!(larger.capacity_bytes, 2 << 30);
    let path = lab.put_to_use(&larger.volume_id, &mount("xfs")).await?;
    let blocks = || rustix::fs::statvfs(&path).map(|space| space.f_blocks * space.f_frsize);
    assert!(blocks()? < GIB);
    lab.node_expand(&larger.volume_id).await?;
    assert!(blocks()? > GIB);
    lab.clear().await
}

#[rstest]
#[case::truth(RestoreSize::Capacity, 64 << 20)]
#[case::absent(RestoreSize::Absent, 0)]
#[case::used(RestoreSize::Referenced, 1 << 20)]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_snapshot_claims_a_size(#[case] claim: RestoreSize, #[case] bytes: i64) -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let path = lab.put_to_use(&disk, &block()).await?;
    File::options().write(true).open(path)?.write_all(&vec![7; 1 << 20])?;
    lab.control(&Behaviour { restore_size: Some(claim), ..Behaviour::default() })?;
    assert_eq!(lab.snapshot("snapshot", &disk).await?.size_bytes, bytes);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_snapshot_is_ready_later() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let never = [("behaviour/snapshotReadyAfterMs", "86400000")];
    let snapshot = lab.snapshot_with("snapshot", &disk, &never).await?;
    assert!(!snapshot.ready_to_use);
    let restored = || volume("restored", 64 * MIB, &block()).restoring(&snapshot.snapshot_id);
    assert_eq!(lab.create(restored()).await.unwrap_err().code(), Code::Unavailable);
    lab.control(&Behaviour { snapshot_ready_after_ms: Some(0), ..Behaviour::default() })?;
    assert!(lab.listed(&snapshot.snapshot_id).await?.ready_to_use);
    lab.create(restored()).await?;
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_volume_has_room_for_so_many_snapshots() -> Result<()> {
    let lab = Lab::start().await?;
    let limit = [("behaviour/maxSnapshotsPerVolume", "2")];
    let disk = lab.create(volume("disk", 64 * MIB, &block()).parameters(&limit)).await?.volume_id;
    let (first, second, third) =
        tokio::join!(lab.snapshot("a", &disk), lab.snapshot("b", &disk), lab.snapshot("c", &disk));
    let (made, refused): (Vec<_>, Vec<_>) = [first, second, third].into_iter().partition(Result::is_ok);
    assert_eq!(made.len(), 2);
    let codes: Vec<_> = refused.into_iter().filter_map(Result::err).map(|status| status.code()).collect();
    assert_eq!(codes, [Code::ResourceExhausted]);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_deletion_hangs_until_told_otherwise() -> Result<()> {
    let lab = Lab::start().await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let snapshot = lab.snapshot("snapshot", &disk).await?.snapshot_id;
    lab.control(&Behaviour { snapshot_deletion_hangs: Some(true), ..Behaviour::default() })?;
    let release = async {
        until("the first call", || Ok((lab.calls()?.started(Rpc::DeleteSnapshot) == 1).then_some(()))).await?;
        let retry = lab.delete_snapshot(&snapshot).await;
        assert_eq!(retry.unwrap_err().code(), Code::Aborted);
        lab.control(&Behaviour::default())
    };
    let (deleted, released) = tokio::join!(lab.delete_snapshot(&snapshot), release);
    released?;
    deleted?;
    assert!(lab.inventory()?.snapshots.is_empty());
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_slow_creation_goes_on_while_it_is_retried() -> Result<()> {
    let lab = Lab::start().await?;
    let slow = [("behaviour/volumeTakesMs", "5000")];
    let wanted = || volume("disk", 64 * MIB, &block()).parameters(&slow);
    let retry = async {
        until("the first call", || Ok((lab.calls()?.started(Rpc::CreateVolume) == 1).then_some(()))).await?;
        anyhow::Ok(lab.create(wanted()).await)
    };
    let (made, retried) = tokio::join!(lab.create(wanted()), retry);
    assert_eq!(retried?.unwrap_err().code(), Code::Aborted);
    assert_eq!(lab.create(wanted()).await?, made?);
    lab.clear().await
}

#[rstest]
#[case::aborted(FailCode::Aborted, Code::Aborted)]
#[case::exhausted(FailCode::ResourceExhausted, Code::ResourceExhausted)]
#[case::late(FailCode::DeadlineExceeded, Code::DeadlineExceeded)]
#[case::unavailable(FailCode::Unavailable, Code::Unavailable)]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn the_first_calls_fail_for_each_volume(#[case] fail: FailCode, #[case] code: Code) -> Result<()> {
    let lab = Lab::start().await?;
    let fault = Fault { name: "busy".into(), rpc: Rpc::CreateVolume, skip: 0, times: 2, effect: Effect::Fail(fail) };
    let faults = serde_json::to_string(&[fault])?;
    let class = [("behaviour/faults", faults.as_str())];
    for name in ["one", "other"] {
        let wanted = || volume(name, 64 * MIB, &block()).parameters(&class);
        for _ in 0..2 {
            assert_eq!(lab.create(wanted()).await.unwrap_err().code(), code);
            assert!(lab.inventory()?.volumes.iter().all(|volume| volume.name != name));
        }
        lab.create(wanted()).await?;
    }
    assert_eq!(lab.calls()?.ended(Rpc::CreateVolume, "OK"), 2);
    assert_eq!(lab.calls()?.started(Rpc::CreateVolume), 6);
    lab.clear().await
}

#[rstest]
#[case::online(Expansion::Online, Some(Code::FailedPrecondition), None)]
#[case::offline(Expansion::Offline, None, Some(Code::FailedPrecondition))]
#[case::never(Expansion::Never, Some(Code::InvalidArgument), Some(Code::InvalidArgument))]
#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_volume_may_grow_only_in_some_states(
    #[case] expansion: Expansion,
    #[case] unused: Option<Code>,
    #[case] used: Option<Code>,
) -> Result<()> {
    let lab = Lab::start().await?;
    lab.control(&Behaviour { expansion: Some(expansion), ..Behaviour::default() })?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let outcome = lab.expand(&disk, 65 * MIB).await;
    assert_eq!(outcome.err().map(|status| status.code()), unused);
    lab.put_to_use(&disk, &block()).await?;
    let outcome = lab.expand(&disk, 66 * MIB).await;
    assert_eq!(outcome.err().map(|status| status.code()), used);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn snapshots_and_clones_may_be_refused_by_class() -> Result<()> {
    let lab = Lab::start().await?;
    let thick = [("behaviour/refuseSnapshots", "true"), ("behaviour/refuseClones", "true")];
    let disk = lab.create(volume("disk", 64 * MIB, &block()).parameters(&thick)).await?.volume_id;
    let refused = lab.snapshot("snapshot", &disk).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let clone = volume("clone", 64 * MIB, &block()).cloning(&disk).parameters(&thick);
    assert_eq!(lab.create(clone).await.unwrap_err().code(), Code::InvalidArgument);
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_driver_may_lack_abilities_from_the_start() -> Result<()> {
    let lab = Lab::with(&["--without", "snapshots,clones,expansion"]).await?;
    let disk = lab.create(volume("disk", 64 * MIB, &block())).await?.volume_id;
    let clone = volume("clone", 64 * MIB, &block()).cloning(&disk);
    for code in [
        lab.snapshot("snapshot", &disk).await.unwrap_err().code(),
        lab.create(clone).await.unwrap_err().code(),
        lab.expand(&disk, GIB).await.unwrap_err().code(),
    ] {
        assert_eq!(code, Code::Unimplemented);
    }
    let capabilities = lab.identity().get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await?;
    assert_eq!(capabilities.into_inner().capabilities.len(), 1, "only the controller service");
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn sizes_are_multiples_of_the_granularity() -> Result<()> {
    let lab = Lab::with(&["--granularity", "1073741824"]).await?;
    assert_eq!(lab.create(volume("disk", GIB + 1, &block())).await?.capacity_bytes, 2 << 30);
    lab.clear().await
}
