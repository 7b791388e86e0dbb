//! The Node service: images become devices and mounts, and stop being them.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::Path,
};

use bpfman_csi::v1::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse, VolumeCapability, VolumeUsage,
    node_server::Node,
    node_service_capability::{Rpc as Capability, Type as CapabilityType, rpc::Type as Can},
    volume_capability::{AccessType, MountVolume},
    volume_usage::Unit,
};
use tonic::{Code, Request, Response, Status};

use crate::{
    Error, FsType, Result,
    behaviour::{Behaviour, LargerRestore},
    calls::Rpc,
    controller::Use,
    driver::{Driver, Service, missing, required, signed},
    filesystem,
    image::{self, LoopDevice},
    server::Ability,
    store::{Access, Content, VolumeRecord},
};

#[tonic::async_trait]
impl Node for Service {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.call(Rpc::NodeStageVolume, move |driver| driver.stage(request.get_ref())).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.call(Rpc::NodeUnstageVolume, move |driver| driver.unstage(request.get_ref())).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.call(Rpc::NodePublishVolume, move |driver| driver.publish(request.get_ref())).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.call(Rpc::NodeUnpublishVolume, move |driver| driver.unpublish(request.get_ref())).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.call(Rpc::NodeGetVolumeStats, move |driver| driver.stats(request.get_ref())).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.call(Rpc::NodeExpandVolume, move |driver| driver.node_expand(request.get_ref())).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.call(Rpc::NodeGetCapabilities, |driver| {
            let always = [Can::StageUnstageVolume, Can::GetVolumeStats, Can::SingleNodeMultiWriter];
            let capabilities = always
                .into_iter()
                .chain(driver.can(Ability::Expansion).then_some(Can::ExpandVolume))
                .map(|can| CapabilityType::Rpc(Capability { r#type: can.into() }))
                .map(|capability| NodeServiceCapability { r#type: Some(capability) })
                .collect();
            Ok(NodeGetCapabilitiesResponse { capabilities })
        })
        .await
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.call(Rpc::NodeGetInfo, |driver| {
            Ok(NodeGetInfoResponse { node_id: driver.args.node_id.clone(), ..NodeGetInfoResponse::default() })
        })
        .await
    }
}

impl Driver {
    fn stage(&self, request: &NodeStageVolumeRequest) -> Result<NodeStageVolumeResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let staging = Path::new(required(&request.staging_target_path, "staging_target_path")?);
        let capability = request.volume_capability.as_ref().ok_or_else(|| missing("volume_capability"))?;
        let _this = self.locks.exclusive(id)?;
        let record = self.volume(id)?;
        let mount = way(&record, capability)?;
        let call = self.begin(Rpc::NodeStageVolume, id, &[&record.parameters])?;
        let device = image::attach(&self.volumes.image(id))?;
        call.commit(|| match mount {
            None => Ok(()),
            Some(mount) => self.stage_mount(&record, mount, &device, staging, &call.behaviour),
        })?;
        Ok(NodeStageVolumeResponse {})
    }

    fn stage_mount(
        &self,
        record: &VolumeRecord,
        mount: &MountVolume,
        device: &LoopDevice,
        staging: &Path,
        behaviour: &Behaviour,
    ) -> Result<()> {
        let fs = self.format(record, mount.fs_type.parse()?, device)?;
        let stays_small = record.source.is_some() && behaviour.larger_restore == Some(LargerRestore::GrowDeviceOnly);
        let grows = !stays_small && !mount.mount_flags.iter().any(|flag| flag == "ro");
        match filesystem::mounted_at(staging)? {
            None => {
                if grows {
                    filesystem::grow_unmounted(fs, &device.device, record.capacity)?;
                }
                filesystem::mount(fs, &device.device, staging, &mount.mount_flags)?;
            }
            Some(found) if found.device == device.number => {}
            Some(_) => {
                let message = format!("something else is mounted at {}", staging.display());
                return Err(Error::refused(Code::FailedPrecondition, message));
            }
        }
        if grows && fs == FsType::Xfs { filesystem::grow(fs, &device.device, staging) } else { Ok(()) }
    }

    /// The file system of a volume, made if there is nothing yet.
    fn format(&self, record: &VolumeRecord, wanted: FsType, device: &LoopDevice) -> Result<FsType> {
        match record.content {
            Content::Formatted(fs) => return Ok(fs),
            Content::Blank | Content::Formatting => {}
            Content::Raw => match filesystem::probe(&device.device)? {
                Some(fs) => return Ok(fs),
                None if image::referenced(&device.backing_file)? == 0 => {}
                None => {
                    let message = format!("volume {} holds data that is no file system", record.id);
                    return Err(Error::refused(Code::FailedPrecondition, message));
                }
            },
        }
        let keep = |content| self.volumes.put(&VolumeRecord { content, ..record.clone() });
        keep(Content::Formatting)?;
        filesystem::make(wanted, &device.device)?;
        keep(Content::Formatted(wanted))?;
        Ok(wanted)
    }

    fn unstage(&self, request: &NodeUnstageVolumeRequest) -> Result<NodeUnstageVolumeResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let staging = Path::new(required(&request.staging_target_path, "staging_target_path")?);
        let _this = self.locks.exclusive(id)?;
        let Some(record) = self.volumes.get(id)? else { return Ok(NodeUnstageVolumeResponse {}) };
        let call = self.begin(Rpc::NodeUnstageVolume, id, &[&record.parameters])?;
        filesystem::unmount(staging)?;
        call.commit(|| image::detach(&self.volumes.image(id)))?;
        Ok(NodeUnstageVolumeResponse {})
    }

    fn publish(&self, request: &NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let staging = Path::new(required(&request.staging_target_path, "staging_target_path")?);
        let target = Path::new(required(&request.target_path, "target_path")?);
        let capability = request.volume_capability.as_ref().ok_or_else(|| missing("volume_capability"))?;
        let _this = self.locks.exclusive(id)?;
        let record = self.volume(id)?;
        let mount = way(&record, capability)?;
        let call = self.begin(Rpc::NodePublishVolume, id, &[&record.parameters])?;
        let not_staged = || Error::refused(Code::FailedPrecondition, format!("volume {id} is not staged"));
        let device = self.device(id)?.ok_or_else(not_staged)?;
        if let Some(found) = filesystem::mounted_at(target)? {
            if found.device == device.number || found.root.file_name() == device.device.file_name() {
                return Ok(NodePublishVolumeResponse {});
            }
            let message = format!("something else is mounted at {}", target.display());
            return Err(Error::refused(Code::FailedPrecondition, message));
        }
        let source = if mount.is_some() {
            filesystem::mounted_at(staging)?.filter(|found| found.device == device.number).ok_or_else(not_staged)?;
            fs::create_dir_all(target).map_err(Error::io("create", target))?;
            staging
        } else {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            }
            File::create(target).map_err(Error::io("create", target))?;
            &device.device
        };
        call.commit(|| filesystem::bind(source, target, request.readonly))?;
        Ok(NodePublishVolumeResponse {})
    }

    fn unpublish(&self, request: &NodeUnpublishVolumeRequest) -> Result<NodeUnpublishVolumeResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let target = Path::new(required(&request.target_path, "target_path")?);
        let _this = self.locks.exclusive(id)?;
        let parameters = self.volumes.get(id)?.map(|record| record.parameters).unwrap_or_default();
        let call = self.begin(Rpc::NodeUnpublishVolume, id, &[&parameters])?;
        call.commit(|| {
            filesystem::unmount(target)?;
            remove_target(target)
        })?;
        Ok(NodeUnpublishVolumeResponse {})
    }

    fn stats(&self, request: &NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let path = Path::new(required(&request.volume_path, "volume_path")?);
        let record = self.volume(id)?;
        if filesystem::mounted_at(path)?.is_none() {
            return Err(Error::refused(Code::NotFound, format!("volume {id} is not at {}", path.display())));
        }
        let usage = match record.access {
            Access::Block => {
                vec![VolumeUsage { total: signed(record.capacity), unit: Unit::Bytes.into(), ..VolumeUsage::default() }]
            }
            Access::Mount => usage(path)?,
        };
        Ok(NodeGetVolumeStatsResponse { usage, volume_condition: None })
    }

    fn node_expand(&self, request: &NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse> {
        let id = required(&request.volume_id, "volume_id")?;
        let path = Path::new(required(&request.volume_path, "volume_path")?);
        let _this = self.locks.exclusive(id)?;
        let record = self.volume(id)?;
        let call = self.begin(Rpc::NodeExpandVolume, id, &[&record.parameters])?;
        let Some(device) = self.device(id)? else {
            return Err(Error::refused(Code::FailedPrecondition, format!("volume {id} is not staged")));
        };
        call.commit(|| {
            image::fit(&device)?;
            match (record.access, record.content) {
                (Access::Mount, Content::Formatted(fs)) => filesystem::grow(fs, &device.device, path),
                (Access::Mount, _) => match filesystem::probe(&device.device)? {
                    Some(fs) => filesystem::grow(fs, &device.device, path),
                    None => Ok(()),
                },
                (Access::Block, _) => Ok(()),
            }
        })?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: signed(record.capacity) })
    }
}

/// How a volume is to be mounted; `None` for a block volume.
fn way<'a>(record: &VolumeRecord, capability: &'a VolumeCapability) -> Result<Option<&'a MountVolume>> {
    let used = Use::of(std::slice::from_ref(capability))?;
    if used.access != record.access {
        let message = format!("volume {} was made for use as {:?}", record.id, record.access);
        return Err(Error::refused(Code::InvalidArgument, message));
    }
    Ok(match &capability.access_type {
        Some(AccessType::Mount(mount)) => Some(mount),
        _ => None,
    })
}

fn usage(path: &Path) -> Result<Vec<VolumeUsage>> {
    let space = rustix::fs::statvfs(path).map_err(|errno| Error::io("look at", path)(errno.into()))?;
    let of = |unit: Unit, available: u64, total: u64, free: u64| VolumeUsage {
        available: signed(available),
        total: signed(total),
        used: signed(total.saturating_sub(free)),
        unit: unit.into(),
    };
    let block = space.f_frsize;
    Ok(vec![
        of(Unit::Bytes, space.f_bavail * block, space.f_blocks * block, space.f_bfree * block),
        of(Unit::Inodes, space.f_favail, space.f_files, space.f_ffree),
    ])
}

/// Removes what a volume was shown at, once nothing is mounted there.
fn remove_target(target: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => fs::remove_dir(target),
        Ok(_) => fs::remove_file(target),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", target)(error)),
        _ => Ok(()),
    }
}
