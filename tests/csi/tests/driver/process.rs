//! The process comes, registers with kubelet, and goes without a trace.

use anyhow::Result;
use reference_csi::{behaviour::Behaviour, calls::Rpc};
use tonic::{Request, codec::ProstCodec, codegen::http::uri::PathAndQuery};

use crate::lab::{GIB, Lab, block, connect, mount, until, volume};

/// Kubelet's side of the registration, as far as it matters here.
#[derive(Clone, PartialEq, prost::Message)]
struct PluginInfo {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn kubelet_is_told_what_it_asks() -> Result<()> {
    let lab = Lab::start().await?;
    let mut kubelet = tonic::client::Grpc::new(connect(&lab.storage.path("plugins_registry/test-reg.sock")).await?);
    kubelet.ready().await?;
    let method = PathAndQuery::from_static("/pluginregistration.Registration/GetInfo");
    let info: PluginInfo = kubelet.unary(Request::new(()), method, ProstCodec::default()).await?.into_inner();
    let expected = PluginInfo {
        kind: "CSIPlugin".into(),
        name: "test.reference.csi".into(),
        endpoint: lab.storage.path("csi.sock").to_string_lossy().into_owned(),
        versions: vec!["1.0.0".into()],
    };
    assert_eq!(info, expected);
    Ok(())
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn it_goes_when_asked_and_takes_its_sockets_along() -> Result<()> {
    let mut lab = Lab::start().await?;
    let sockets = ["csi.sock", "plugins_registry/test-reg.sock"].map(|name| lab.storage.path(name));
    assert!(sockets.iter().all(|socket| socket.exists()));
    lab.terminate()?;
    assert!(lab.ended().await?.success());
    assert!(!sockets.iter().any(|socket| socket.exists()));
    Ok(())
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_call_that_hangs_does_not_keep_it() -> Result<()> {
    let mut lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &block())).await?.volume_id;
    let snapshot = lab.snapshot("snapshot", &disk).await?.snapshot_id;
    lab.control(&Behaviour { snapshot_deletion_hangs: Some(true), ..Behaviour::default() })?;
    let stop = async {
        until("the call", || Ok((lab.calls()?.started(Rpc::DeleteSnapshot) == 1).then_some(()))).await?;
        lab.terminate()
    };
    let (deleted, stopped) = tokio::join!(lab.delete_snapshot(&snapshot), stop);
    stopped?;
    deleted.unwrap_err();
    assert!(lab.ended().await?.success());
    lab.control(&Behaviour::default())?;
    lab.restart().await?;
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn two_do_not_share_a_data_directory() -> Result<()> {
    let lab = Lab::start().await?;
    let second = lab.second()?;
    assert!(!second.status.success());
    let complaint = String::from_utf8_lossy(&second.stderr);
    assert!(complaint.contains("lock"), "{complaint}");
    lab.create(volume("disk", GIB, &block())).await?;
    lab.clear().await
}

#[tokio::test]
#[ignore = "needs root, loop devices and xfsprogs"]
async fn a_killed_one_is_replaced_while_its_volumes_are_in_use() -> Result<()> {
    let mut lab = Lab::start().await?;
    let disk = lab.create(volume("disk", GIB, &mount(""))).await?.volume_id;
    let path = lab.put_to_use(&disk, &mount("")).await?;
    let file = std::fs::File::create(path.join("open"))?;
    lab.kill()?;
    lab.restart().await?;
    // As kubelet does when it starts again.
    lab.put_to_use(&disk, &mount("")).await?;
    file.sync_all()?;
    drop(file);
    lab.clear().await
}
