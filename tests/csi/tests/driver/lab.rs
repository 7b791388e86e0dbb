//! A driver on a file system of its own, and short words for what is asked of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bpfman_csi::v1::{
    CapacityRange, ControllerExpandVolumeRequest, CreateSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest,
    DeleteVolumeRequest, ListSnapshotsRequest, NodeExpandVolumeRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, Snapshot, Volume, VolumeCapability,
    VolumeContentSource,
    controller_client::ControllerClient,
    identity_client::IdentityClient,
    node_client::NodeClient,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
    volume_content_source::{SnapshotSource, Type as ContentType, VolumeSource},
};
use reference_csi::{
    behaviour::Behaviour,
    calls::Calls,
    inventory::{Inventory, inventory},
};
use tempfile::TempDir;
use tokio::{net::UnixStream, time::Instant};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// How long anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// An XFS in a file, mounted in a directory that is gone with everything in it when dropped.
pub struct Storage {
    directory: TempDir,
}

impl Storage {
    pub fn make() -> Result<Self> {
        let storage = Self { directory: tempfile::tempdir()? };
        let (image, mount) = (storage.path("xfs.img"), storage.path("mnt"));
        fs::File::create(&image)?.set_len(20 * GIB)?;
        fs::create_dir(&mount)?;
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(storage)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn data(&self) -> PathBuf {
        self.path("mnt/data")
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // What a failed test left in use.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours: Vec<_> = points.filter(|point| Path::new(point).starts_with(self.directory.path())).collect();
        let (storage, volumes): (Vec<_>, Vec<_>) = ours.into_iter().partition(|point| point.ends_with("/mnt"));
        for point in volumes.iter().rev() {
            drop(run(Command::new("umount").arg(point)));
        }
        for device in inventory(&self.data()).unwrap_or_default().loop_devices {
            drop(run(Command::new("losetup").arg("--detach").arg(device.device)));
        }
        for point in storage {
            // A device that is being detached is gone soon.
            let deadline = std::time::Instant::now() + DEADLINE;
            while run(Command::new("umount").arg(point)).is_err() && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

/// A running driver.
pub struct Lab {
    driver: Driver,
    channel: Channel,
    extra: Vec<String>,
    pub storage: Storage,
}

/// A process that does not outlive its test.
pub struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Lab {
    pub async fn start() -> Result<Self> {
        Self::with(&[]).await
    }

    /// Starts a driver with more arguments than it needs.
    pub async fn with(extra: &[&str]) -> Result<Self> {
        let storage = Storage::make()?;
        let extra: Vec<_> = extra.iter().map(|&argument| argument.to_owned()).collect();
        let driver = spawn(&storage, &extra)?;
        let channel = connect(&storage.path("csi.sock")).await?;
        Ok(Self { driver, channel, extra, storage })
    }

    /// Starts the driver again after it died.
    pub async fn restart(&mut self) -> Result<()> {
        self.ended().await?;
        self.driver = spawn(&self.storage, &self.extra)?;
        self.channel = connect(&self.storage.path("csi.sock")).await?;
        Ok(())
    }

    /// Waits until the process has ended, and says whether by itself.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let child = &mut self.driver.0;
        until("the driver to end", || Ok(child.try_wait()?)).await
    }

    /// Starts a second driver beside the first, which is not meant to work.
    pub fn second(&self) -> Result<std::process::Output> {
        Ok(command(&self.storage).output()?)
    }

    pub fn kill(&self) -> Result<()> {
        self.signal("-KILL")
    }

    pub fn terminate(&self) -> Result<()> {
        self.signal("-TERM")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        run(Command::new("kill").args([signal, &self.driver.0.id().to_string()]))
    }

    pub fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.channel.clone())
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    pub fn control(&self, behaviour: &Behaviour) -> Result<()> {
        Ok(behaviour.write(&self.storage.path("control.json"))?)
    }

    pub fn calls(&self) -> Result<Calls> {
        Ok(Calls::read(&self.storage.path("calls.json"))?)
    }

    pub fn inventory(&self) -> Result<Inventory> {
        Ok(inventory(&self.storage.data())?)
    }

    pub async fn create(&self, wanted: Wanted) -> Result<Volume, Status> {
        let response = self.controller().create_volume(wanted.0).await?;
        response.into_inner().volume.ok_or_else(|| Status::internal("no volume in the answer"))
    }

    pub async fn delete(&self, volume: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume.into(), ..Default::default() };
        self.controller().delete_volume(request).await.map(drop)
    }

    pub async fn snapshot(&self, name: &str, volume: &str) -> Result<Snapshot, Status> {
        self.snapshot_with(name, volume, &[]).await
    }

    pub async fn snapshot_with(
        &self,
        name: &str,
        volume: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            name: name.into(),
            source_volume_id: volume.into(),
            parameters: owned(parameters),
            ..Default::default()
        };
        let response = self.controller().create_snapshot(request).await?;
        response.into_inner().snapshot.ok_or_else(|| Status::internal("no snapshot in the answer"))
    }

    /// What a list says of one snapshot.
    pub async fn listed(&self, snapshot: &str) -> Result<Snapshot> {
        let request = ListSnapshotsRequest { snapshot_id: snapshot.into(), ..Default::default() };
        let entries = self.controller().list_snapshots(request).await?.into_inner().entries;
        ensure!(entries.len() == 1, "{} snapshots with one id", entries.len());
        entries.into_iter().find_map(|entry| entry.snapshot).context("an empty entry")
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot.into(), ..Default::default() };
        self.controller().delete_snapshot(request).await.map(drop)
    }

    /// Grows a volume as the controller does; what its node has to do is [`Lab::node_expand`].
    pub async fn expand(&self, volume: &str, bytes: u64) -> Result<bool, Status> {
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.into(),
            capacity_range: Some(at_least(bytes)),
            ..Default::default()
        };
        self.controller().controller_expand_volume(request).await.map(|done| done.into_inner().node_expansion_required)
    }

    pub async fn node_expand(&self, volume: &str) -> Result<(), Status> {
        let request = NodeExpandVolumeRequest {
            volume_id: volume.into(),
            volume_path: self.target(volume),
            staging_target_path: self.staging(volume),
            ..Default::default()
        };
        self.node().node_expand_volume(request).await.map(drop)
    }

    pub async fn stage(&self, volume: &str, capability: &VolumeCapability) -> Result<(), Status> {
        let request = NodeStageVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: self.staging(volume),
            volume_capability: Some(capability.clone()),
            ..Default::default()
        };
        self.node().node_stage_volume(request).await.map(drop)
    }

    /// Makes a volume usable, as kubelet does for a pod, and says where.
    pub async fn put_to_use(&self, volume: &str, capability: &VolumeCapability) -> Result<PathBuf, Status> {
        self.stage(volume, capability).await?;
        let request = NodePublishVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: self.staging(volume),
            target_path: self.target(volume),
            volume_capability: Some(capability.clone()),
            ..Default::default()
        };
        self.node().node_publish_volume(request).await?;
        Ok(self.target(volume).into())
    }

    pub async fn release(&self, volume: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path: self.target(volume) };
        self.node().node_unpublish_volume(request).await?;
        let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path: self.staging(volume) };
        self.node().node_unstage_volume(request).await.map(drop)
    }

    /// Releases and deletes everything, and fails if something stays behind.
    pub async fn clear(&self) -> Result<()> {
        let Inventory { volumes, snapshots, .. } = self.inventory()?;
        for volume in volumes {
            self.release(&volume.id).await?;
            self.delete(&volume.id).await?;
        }
        for snapshot in snapshots {
            self.delete_snapshot(&snapshot.id).await?;
        }
        let left = self.inventory()?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(())
    }

    fn staging(&self, volume: &str) -> String {
        self.storage.path(&format!("staging/{volume}")).to_string_lossy().into_owned()
    }

    fn target(&self, volume: &str) -> String {
        self.storage.path(&format!("target/{volume}")).to_string_lossy().into_owned()
    }
}

/// A volume to be made.
pub struct Wanted(CreateVolumeRequest);

pub fn volume(name: &str, bytes: u64, capability: &VolumeCapability) -> Wanted {
    Wanted(CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(at_least(bytes)),
        volume_capabilities: vec![capability.clone()],
        ..Default::default()
    })
}

impl Wanted {
    pub fn restoring(mut self, id: &str) -> Self {
        let source = ContentType::Snapshot(SnapshotSource { snapshot_id: id.into() });
        self.0.volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
        self
    }

    pub fn cloning(mut self, id: &str) -> Self {
        let source = ContentType::Volume(VolumeSource { volume_id: id.into() });
        self.0.volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
        self
    }

    pub fn parameters(mut self, parameters: &[(&str, &str)]) -> Self {
        self.0.parameters = owned(parameters);
        self
    }
}

pub fn block() -> VolumeCapability {
    capability(AccessType::Block(BlockVolume {}))
}

pub fn mount(fs: &str) -> VolumeCapability {
    capability(AccessType::Mount(MountVolume { fs_type: fs.into(), ..Default::default() }))
}

fn capability(access: AccessType) -> VolumeCapability {
    let access_mode = Some(AccessMode { mode: Mode::SingleNodeWriter.into() });
    VolumeCapability { access_mode, access_type: Some(access) }
}

fn at_least(bytes: u64) -> CapacityRange {
    CapacityRange { required_bytes: i64::try_from(bytes).unwrap_or(i64::MAX), limit_bytes: 0 }
}

fn owned<C: FromIterator<(String, String)>>(pairs: &[(&str, &str)]) -> C {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Waits for something to be there.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    let mut again = tokio::time::interval(Duration::from_millis(10));
    while Instant::now() < deadline {
        if let Some(found) = look()? {
            return Ok(found);
        }
        again.tick().await;
    }
    bail!("waited too long for {what}")
}

/// A client's channel to a socket that is about to be served.
pub async fn connect(socket: &Path) -> Result<Channel> {
    until("the socket", || Ok(std::os::unix::net::UnixStream::connect(socket).ok().map(drop))).await?;
    let socket = socket.to_owned();
    let dial = tower::service_fn(move |_| UnixStream::connect(socket.clone()));
    Ok(Endpoint::from_static("http://localhost").connect_with_connector(dial).await?)
}

fn spawn(storage: &Storage, extra: &[String]) -> Result<Driver> {
    let log = fs::File::options().create(true).append(true).open(storage.path("driver.log"))?;
    Ok(Driver(command(storage).args(extra).stderr(log).spawn()?))
}

fn command(storage: &Storage) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reference-csi"));
    command
        .args(["--driver-name", "test.reference.csi", "--node-id", "here"])
        .arg(format!("--endpoint=unix://{}", storage.path("csi.sock").display()))
        .arg("--registration-socket")
        .arg(storage.path("plugins_registry/test-reg.sock"))
        .arg("--data-dir")
        .arg(storage.data())
        .arg("--control-file")
        .arg(storage.path("control.json"))
        .arg("--calls-file")
        .arg(storage.path("calls.json"));
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
