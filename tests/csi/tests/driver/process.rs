//! The process comes, registers with kubelet, and goes without a trace.

use anyhow::Result;
use tonic::{Request, codec::ProstCodec, codegen::http::uri::PathAndQuery};

use crate::lab::{GIB, Lab, connect, mount, volume};

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
