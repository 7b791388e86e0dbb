//! The process: its arguments, its two sockets, its end.

use std::{
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bpfman_csi::v1::{controller_server::ControllerServer, identity_server::IdentityServer, node_server::NodeServer};
use clap::{Parser, ValueEnum};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::info;

use crate::{
    driver::{Driver, Service},
    registration::Registration,
};

/// How long calls that are under way may take when the driver is told to stop. None is lost by being cut off.
const GRACE: Duration = Duration::from_secs(2);

/// A small honest CSI driver on reflinked image files, for tests and the demo only. Runs as root on the host.
#[derive(Debug, Clone, Parser)]
pub struct Args {
    /// The name in StorageClasses, VolumeSnapshotClasses and the CSIDriver object.
    #[arg(long)]
    pub driver_name: String,
    /// Where it serves CSI: unix:// and an absolute path.
    #[arg(long)]
    pub endpoint: Endpoint,
    /// Where kubelet looks for plugins: a path in its plugins_registry.
    #[arg(long)]
    pub registration_socket: PathBuf,
    /// Where volumes live: a directory on a file system that can share blocks between files.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The name of this node.
    #[arg(long)]
    pub node_id: String,
    /// A JSON file that says how the driver differs from an ideal one, read at each call.
    #[arg(long)]
    pub control_file: Option<PathBuf>,
    /// A JSON file in which the driver counts its calls.
    #[arg(long)]
    pub calls_file: Option<PathBuf>,
    /// Abilities that the driver does not claim to have.
    #[arg(long, value_delimiter = ',')]
    pub without: Vec<Ability>,
    /// Bytes of which every volume's size is a multiple.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub granularity: u64,
}

/// What a driver may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ability {
    /// Snapshots of volumes.
    Snapshots,
    /// Volumes from volumes.
    Clones,
    /// Volumes that grow.
    Expansion,
}

/// The path of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub PathBuf);

impl std::str::FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let path = url.strip_prefix("unix://").unwrap_or(url);
        if path.starts_with('/') { Ok(Self(path.into())) } else { Err("must be unix:// and an absolute path") }
    }
}

/// Serves until told to stop.
pub async fn run(args: Args, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let driver = Service(Arc::new(Driver::open(args.clone())?));
    let csi = Socket::bind(&args.endpoint.0)?;
    // Second, because kubelet calls the driver as soon as it sees this one.
    let registration = Socket::bind(&args.registration_socket)?;
    info!(driver = args.driver_name, data = %driver.0.data_dir.display(), "serving");

    let (tell, told) = watch::channel(false);
    let stopped = |mut told: watch::Receiver<bool>| async move { drop(told.wait_for(|stop| *stop).await) };
    let offer = Registration::of_driver(&args.driver_name, &args.endpoint.0.to_string_lossy());
    let serving = async {
        tokio::try_join!(
            Server::builder()
                .add_service(IdentityServer::new(driver.clone()))
                .add_service(ControllerServer::new(driver.clone()))
                .add_service(NodeServer::new(driver))
                .serve_with_incoming_shutdown(csi.listener, stopped(told.clone())),
            Server::builder().add_service(offer).serve_with_incoming_shutdown(registration.listener, stopped(told)),
        )
    };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => drop(ended?),
        () = stop => {
            info!("stopping");
            tell.send_replace(true);
            if let Ok(ended) = tokio::time::timeout(GRACE, serving).await {
                ended?;
            }
        }
    }
    Ok(())
}

/// A socket that takes the place of a stale one and goes away with its driver.
struct Socket {
    listener: UnixListenerStream,
    _path: SocketPath,
}

struct SocketPath(PathBuf);

impl Socket {
    fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let listener = UnixListenerStream::new(UnixListener::bind(path)?);
        Ok(Self { listener, _path: SocketPath(path.to_owned()) })
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        // One that is gone already is as good.
        drop(fs::remove_file(&self.0));
    }
}
