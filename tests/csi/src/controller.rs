//! The Controller service: volumes and snapshots come, grow and go.

use std::collections::BTreeMap;

use bpfman_csi::v1::{
    self as csi, CapacityRange, ControllerExpandVolumeRequest, ControllerExpandVolumeResponse,
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, ControllerGetVolumeRequest,
    ControllerGetVolumeResponse, ControllerModifyVolumeRequest, ControllerModifyVolumeResponse,
    ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerServiceCapability,
    ControllerUnpublishVolumeRequest, ControllerUnpublishVolumeResponse, CreateSnapshotRequest, CreateSnapshotResponse,
    CreateVolumeRequest, CreateVolumeResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteVolumeRequest,
    DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse, ListSnapshotsRequest, ListSnapshotsResponse,
    ListVolumesRequest, ListVolumesResponse, Snapshot, ValidateVolumeCapabilitiesRequest,
    ValidateVolumeCapabilitiesResponse, Volume, VolumeCapability, VolumeContentSource, controller_get_volume_response,
    controller_server::Controller,
    controller_service_capability::{Rpc as Capability, Type as CapabilityType, rpc::Type as Can},
    list_snapshots_response, list_volumes_response, validate_volume_capabilities_response as validate,
    volume_capability::{AccessType, access_mode::Mode},
    volume_content_source as content,
};
use jiff::Timestamp;
use tonic::{Code, Request, Response, Status};

use crate::{
    Error, FsType, Result,
    behaviour::{Behaviour, Expansion, LargerRestore, RestoreSize},
    calls::Rpc,
    driver::{Driver, Service, dawdle, missing, required, signed},
    filesystem, image,
    locks::Guard,
    server::Ability,
    store::{Access, Content, Range, Record, Shelf, SnapshotRecord, Source, VolumeRecord},
};

/// The size of a volume when nobody has an opinion.
const DEFAULT_SIZE: u64 = 1 << 30;
/// More than any file system on an image can use.
const MAXIMUM_SIZE: u64 = 16 << 40;

#[tonic::async_trait]
impl Controller for Service {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        self.call(Rpc::CreateVolume, |driver| {
            let record = driver.create_volume(request.into_inner().try_into()?)?;
            Ok(CreateVolumeResponse { volume: Some(volume(&record)) })
        })
        .await
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        self.call(Rpc::DeleteVolume, move |driver| driver.delete_volume(&request.get_ref().volume_id)).await
    }

    async fn controller_publish_volume(
        &self,
        _: Request<ControllerPublishVolumeRequest>,
    ) -> Result<Response<ControllerPublishVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are where they are used"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<ControllerUnpublishVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes are where they are used"))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        self.call(Rpc::ValidateVolumeCapabilities, |driver| driver.validate(request.into_inner())).await
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        self.call(Rpc::ListVolumes, move |driver| {
            let request = request.get_ref();
            let (page, next_token) = page(driver.volumes.list()?, request.max_entries, &request.starting_token)?;
            let entry = |record| list_volumes_response::Entry { volume: Some(volume(record)), status: None };
            Ok(ListVolumesResponse { entries: page.iter().map(entry).collect(), next_token })
        })
        .await
    }

    async fn get_capacity(&self, _: Request<GetCapacityRequest>) -> Result<Response<GetCapacityResponse>, Status> {
        self.call(Rpc::GetCapacity, Driver::capacity).await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        self.call(Rpc::ControllerGetCapabilities, |driver| Ok(driver.controller_capabilities())).await
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        self.call(Rpc::CreateSnapshot, |driver| {
            let record = driver.create_snapshot(request.into_inner())?;
            Ok(CreateSnapshotResponse { snapshot: Some(driver.snapshot_message(&record)?) })
        })
        .await
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        self.call(Rpc::DeleteSnapshot, move |driver| driver.delete_snapshot(&request.get_ref().snapshot_id)).await
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.call(Rpc::ListSnapshots, move |driver| driver.list_snapshots(request.get_ref())).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<ControllerExpandVolumeRequest>,
    ) -> Result<Response<ControllerExpandVolumeResponse>, Status> {
        self.call(Rpc::ControllerExpandVolume, move |driver| driver.expand_volume(request.get_ref())).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<ControllerGetVolumeRequest>,
    ) -> Result<Response<ControllerGetVolumeResponse>, Status> {
        self.call(Rpc::ControllerGetVolume, move |driver| {
            let record = driver.volume(&request.get_ref().volume_id)?;
            let nodes = driver.device(&record.id)?.map(|_| driver.args.node_id.clone());
            Ok(ControllerGetVolumeResponse {
                volume: Some(volume(&record)),
                status: Some(controller_get_volume_response::VolumeStatus {
                    published_node_ids: nodes.into_iter().collect(),
                    volume_condition: None,
                }),
            })
        })
        .await
    }

    async fn controller_modify_volume(
        &self,
        _: Request<ControllerModifyVolumeRequest>,
    ) -> Result<Response<ControllerModifyVolumeResponse>, Status> {
        Err(Status::unimplemented("volumes have nothing to modify"))
    }
}

impl Driver {
    fn create_volume(&self, wanted: Wanted) -> Result<VolumeRecord> {
        let id = Shelf::<VolumeRecord>::id_of(&wanted.name);
        let _this = self.locks.exclusive(&id)?;
        if let Some(existing) = self.volumes.get(&id)? {
            return wanted.matches(&existing).map(|()| existing);
        }
        let call = self.begin(Rpc::CreateVolume, &id, &[&wanted.parameters])?;
        dawdle(call.behaviour.volume_takes_ms);
        let origin = wanted.source.as_ref().map(|source| self.origin(source, &call.behaviour)).transpose()?;
        let capacity = self.capacity_of(&wanted, origin.as_ref(), &call.behaviour)?;
        let image = self.volumes.image(&id);
        match &origin {
            None => image::create(&image, capacity)?,
            Some(origin) => image::copy(&origin.image, &image, capacity)?,
        }
        let content = match (wanted.access, origin) {
            (Access::Block, _) => Content::Raw,
            (Access::Mount, None) => Content::Blank,
            (Access::Mount, Some(origin)) => origin.content,
        };
        let record = VolumeRecord {
            id,
            name: wanted.name,
            capacity,
            requested: wanted.range,
            access: wanted.access,
            parameters: wanted.parameters,
            source: wanted.source,
            content,
            created: Timestamp::now(),
        };
        call.commit(|| self.volumes.put(&record))?;
        Ok(record)
    }

    /// What a volume is to be copied from. The guard keeps it as it is meanwhile.
    fn origin(&self, source: &Source, behaviour: &Behaviour) -> Result<Origin<'_>> {
        match source {
            Source::Volume(_) if !self.can(Ability::Clones) => {
                Err(Error::refused(Code::Unimplemented, "volumes cannot be cloned"))
            }
            Source::Volume(_) if behaviour.refuse_clones.unwrap_or_default() => {
                Err(Error::refused(Code::InvalidArgument, "volumes of this class are not made from volumes"))
            }
            Source::Volume(id) => {
                let guard = self.locks.shared(id)?;
                let record = self.volume(id)?;
                if let Some(device) = self.device(id)? {
                    filesystem::flush(&device)?;
                }
                let image = self.volumes.image(id);
                Ok(Origin { image, capacity: record.capacity, content: record.content, _guard: guard })
            }
            Source::Snapshot(id) => {
                let guard = self.locks.shared(id)?;
                let record = self
                    .snapshots
                    .get(id)?
                    .ok_or_else(|| Error::refused(Code::NotFound, format!("no snapshot {id}")))?;
                if !self.snapshot_message(&record)?.ready_to_use {
                    return Err(Error::refused(Code::Unavailable, format!("snapshot {id} is not ready")));
                }
                let image = self.snapshots.image(id);
                Ok(Origin { image, capacity: record.capacity, content: record.content, _guard: guard })
            }
        }
    }

    fn capacity_of(&self, wanted: &Wanted, origin: Option<&Origin<'_>>, behaviour: &Behaviour) -> Result<u64> {
        let Range { required, limit } = wanted.range;
        let Some(source) = origin.map(|origin| origin.capacity) else {
            let asked = match wanted.range {
                Range { required: 0, limit: 0 } => DEFAULT_SIZE,
                Range { required: 0, limit } => DEFAULT_SIZE.min(limit),
                Range { required, .. } => required,
            };
            return self.fit(Range { required: asked.max(wanted.minimum), limit });
        };
        if required > 0 && required < source || limit > 0 && limit < source {
            return Err(Error::refused(Code::OutOfRange, format!("the source needs {source} bytes")));
        }
        let capacity = self.fit(Range { required: required.max(source), limit })?;
        if capacity == source {
            return Ok(source);
        }
        let refused = |code| Err(Error::refused(code, format!("a copy has the size of its source, {source} bytes")));
        match behaviour.larger_restore.unwrap_or_default() {
            LargerRestore::Grow | LargerRestore::GrowDeviceOnly => Ok(capacity),
            LargerRestore::OutOfRange => refused(Code::OutOfRange),
            LargerRestore::InvalidArgument => refused(Code::InvalidArgument),
            LargerRestore::KeepSmall => Ok(source),
        }
    }

    /// The smallest size of this driver that is in a range.
    fn fit(&self, range: Range) -> Result<u64> {
        let size = range.required.checked_next_multiple_of(self.args.granularity).unwrap_or(u64::MAX);
        if size > MAXIMUM_SIZE || range.limit > 0 && size > range.limit {
            let message = format!("no size is at least {} and at most {} bytes", range.required, range.limit);
            return Err(Error::refused(Code::OutOfRange, message));
        }
        Ok(size)
    }

    fn delete_volume(&self, id: &str) -> Result<DeleteVolumeResponse> {
        required(id, "volume_id")?;
        let _this = self.locks.exclusive(id)?;
        let Some(record) = self.volumes.get(id)? else { return Ok(DeleteVolumeResponse {}) };
        let call = self.begin(Rpc::DeleteVolume, id, &[&record.parameters])?;
        if let Some(device) = self.device(id)? {
            let message = format!("volume {id} is in use as {}", device.device.display());
            return Err(Error::refused(Code::FailedPrecondition, message));
        }
        call.commit(|| self.volumes.forget(id))?;
        self.volumes.discard(id)?;
        Ok(DeleteVolumeResponse {})
    }

    fn validate(&self, request: ValidateVolumeCapabilitiesRequest) -> Result<ValidateVolumeCapabilitiesResponse> {
        let record = self.volume(&request.volume_id)?;
        let response = match Use::of(&request.volume_capabilities) {
            Ok(used) if used.access == record.access => ValidateVolumeCapabilitiesResponse {
                confirmed: Some(validate::Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                }),
                message: String::new(),
            },
            Ok(_) => ValidateVolumeCapabilitiesResponse {
                confirmed: None,
                message: format!("the volume was made for use as {:?}", record.access),
            },
            Err(error) if request.volume_capabilities.is_empty() => return Err(error),
            Err(error) => ValidateVolumeCapabilitiesResponse { confirmed: None, message: error.to_string() },
        };
        Ok(response)
    }

    fn capacity(&self) -> Result<GetCapacityResponse> {
        let space =
            rustix::fs::statvfs(&self.data_dir).map_err(|errno| Error::io("look at", &self.data_dir)(errno.into()))?;
        Ok(GetCapacityResponse {
            available_capacity: signed(space.f_bavail * space.f_frsize),
            maximum_volume_size: Some(signed(MAXIMUM_SIZE)),
            minimum_volume_size: Some(signed(self.args.granularity)),
        })
    }

    fn controller_capabilities(&self) -> ControllerGetCapabilitiesResponse {
        let always =
            [Can::CreateDeleteVolume, Can::ListVolumes, Can::GetVolume, Can::GetCapacity, Can::SingleNodeMultiWriter];
        let snapshots = [Can::CreateDeleteSnapshot, Can::ListSnapshots];
        let capabilities = always
            .into_iter()
            .chain(snapshots.into_iter().filter(|_| self.can(Ability::Snapshots)))
            .chain(self.can(Ability::Clones).then_some(Can::CloneVolume))
            .chain(self.can(Ability::Expansion).then_some(Can::ExpandVolume))
            .map(|can| CapabilityType::Rpc(Capability { r#type: can.into() }))
            .map(|capability| ControllerServiceCapability { r#type: Some(capability) })
            .collect();
        ControllerGetCapabilitiesResponse { capabilities }
    }

    fn create_snapshot(&self, request: CreateSnapshotRequest) -> Result<SnapshotRecord> {
        self.needs(Ability::Snapshots)?;
        required(&request.name, "name")?;
        let source = required(&request.source_volume_id, "source_volume_id")?;
        let parameters: BTreeMap<_, _> = request.parameters.into_iter().collect();
        let id = Shelf::<SnapshotRecord>::id_of(&request.name);
        let _this = self.locks.exclusive(&id)?;
        if let Some(existing) = self.snapshots.get(&id)? {
            if existing.source_volume == source {
                return Ok(existing);
            }
            return Err(Error::refused(Code::AlreadyExists, format!("{} shows another volume", request.name)));
        }
        let volume = self.volume(source)?;
        let call = self.begin(Rpc::CreateSnapshot, &id, &[&volume.parameters, &parameters])?;
        if call.behaviour.refuse_snapshots.unwrap_or_default() {
            return Err(Error::refused(Code::FailedPrecondition, "volumes of this class have no snapshots"));
        }
        dawdle(call.behaviour.snapshot_takes_ms);
        let _source = self.room_for_snapshot(source, &call.behaviour)?;
        // Read again: it may have grown, been formatted or gone until now.
        let volume = self.volume(source)?;
        if let Some(device) = self.device(source)? {
            filesystem::flush(&device)?;
        }
        let image = self.snapshots.image(&id);
        image::copy(&self.volumes.image(source), &image, volume.capacity)?;
        let record = SnapshotRecord {
            id,
            name: request.name,
            source_volume: volume.id,
            capacity: volume.capacity,
            referenced: image::referenced(&image)?,
            parameters,
            content: volume.content,
            created: Timestamp::now(),
        };
        call.commit(|| self.snapshots.put(&record))?;
        Ok(record)
    }

    /// The right to take one more snapshot of a volume.
    fn room_for_snapshot(&self, volume: &str, behaviour: &Behaviour) -> Result<Guard<'_>> {
        let Some(most) = behaviour.max_snapshots_per_volume else { return self.locks.shared(volume) };
        // Alone, so that two can't both take the last place.
        let guard = self.locks.exclusive(volume)?;
        let present = self.snapshots.list()?.iter().filter(|snapshot| snapshot.source_volume == volume).count();
        if present < most {
            return Ok(guard);
        }
        Err(Error::refused(Code::ResourceExhausted, format!("volume {volume} has {present} snapshots of {most}")))
    }

    fn delete_snapshot(&self, id: &str) -> Result<DeleteSnapshotResponse> {
        self.needs(Ability::Snapshots)?;
        required(id, "snapshot_id")?;
        let _this = self.locks.exclusive(id)?;
        let Some(record) = self.snapshots.get(id)? else { return Ok(DeleteSnapshotResponse {}) };
        let call = self.begin(Rpc::DeleteSnapshot, id, &[&record.parameters])?;
        self.hang(&record)?;
        call.commit(|| self.snapshots.forget(id))?;
        self.snapshots.discard(id)?;
        Ok(DeleteSnapshotResponse {})
    }

    fn list_snapshots(&self, request: &ListSnapshotsRequest) -> Result<ListSnapshotsResponse> {
        self.needs(Ability::Snapshots)?;
        let mut records = match request.snapshot_id.as_str() {
            "" => self.snapshots.list()?,
            id => self.snapshots.get(id)?.into_iter().collect(),
        };
        let source = &request.source_volume_id;
        records.retain(|record| source.is_empty() || record.source_volume == *source);
        let (page, next_token) = page(records, request.max_entries, &request.starting_token)?;
        let entry = |record| {
            let snapshot = Some(self.snapshot_message(record)?);
            Ok(list_snapshots_response::Entry { snapshot })
        };
        Ok(ListSnapshotsResponse { entries: page.iter().map(entry).collect::<Result<_>>()?, next_token })
    }

    fn expand_volume(&self, request: &ControllerExpandVolumeRequest) -> Result<ControllerExpandVolumeResponse> {
        self.needs(Ability::Expansion)?;
        let id = required(&request.volume_id, "volume_id")?;
        let range = range(request.capacity_range.as_ref().ok_or_else(|| missing("capacity_range"))?)?;
        let _this = self.locks.exclusive(id)?;
        let record = self.volume(id)?;
        let capacity = self.fit(Range { required: range.required.max(record.capacity), limit: range.limit })?;
        let device = self.device(id)?;
        if capacity > record.capacity {
            let call = self.begin(Rpc::ControllerExpandVolume, id, &[&record.parameters])?;
            may_expand(&call.behaviour, device.is_some())?;
            image::grow(&self.volumes.image(id), capacity)?;
            let grown = VolumeRecord { capacity, ..record.clone() };
            call.commit(|| self.volumes.put(&grown))?;
        }
        if let Some(device) = device {
            image::fit(&device)?;
        }
        let node_expansion_required = record.access == Access::Mount;
        Ok(ControllerExpandVolumeResponse { capacity_bytes: signed(capacity), node_expansion_required })
    }

    fn snapshot_message(&self, record: &SnapshotRecord) -> Result<Snapshot> {
        let behaviour = self.behaviour(&record.id, &[&record.parameters])?;
        let size = match behaviour.restore_size.unwrap_or_default() {
            RestoreSize::Capacity => record.capacity,
            RestoreSize::Absent => 0,
            RestoreSize::Referenced => record.referenced,
        };
        let age = Timestamp::now().duration_since(record.created).as_millis();
        Ok(Snapshot {
            size_bytes: signed(size),
            snapshot_id: record.id.clone(),
            source_volume_id: record.source_volume.clone(),
            creation_time: Some(prost_types::Timestamp {
                seconds: record.created.as_second(),
                nanos: record.created.subsec_nanosecond(),
            }),
            ready_to_use: age >= i128::from(behaviour.snapshot_ready_after_ms.unwrap_or_default()),
            group_snapshot_id: String::new(),
        })
    }

    fn needs(&self, ability: Ability) -> Result<()> {
        if self.can(ability) {
            return Ok(());
        }
        Err(Error::refused(Code::Unimplemented, format!("started without {ability:?}")))
    }
}

fn may_expand(behaviour: &Behaviour, staged: bool) -> Result<()> {
    match (behaviour.expansion.unwrap_or_default(), staged) {
        (Expansion::Both, _) | (Expansion::Online, true) | (Expansion::Offline, false) => Ok(()),
        (Expansion::Online, false) => {
            Err(Error::refused(Code::FailedPrecondition, "a volume of this class grows only while in use"))
        }
        (Expansion::Offline, true) => {
            Err(Error::refused(Code::FailedPrecondition, "a volume of this class grows only while not in use"))
        }
        (Expansion::Never, _) => Err(Error::refused(Code::InvalidArgument, "volumes of this class do not grow")),
    }
}

/// What a volume is copied from.
struct Origin<'a> {
    image: std::path::PathBuf,
    capacity: u64,
    content: Content,
    _guard: Guard<'a>,
}

/// A volume that somebody asks for.
struct Wanted {
    name: String,
    range: Range,
    /// The least that its file system needs, in bytes.
    minimum: u64,
    access: Access,
    parameters: BTreeMap<String, String>,
    source: Option<Source>,
}

impl TryFrom<CreateVolumeRequest> for Wanted {
    type Error = Error;

    fn try_from(request: CreateVolumeRequest) -> Result<Self> {
        required(&request.name, "name")?;
        let used = Use::of(&request.volume_capabilities)?;
        Ok(Self {
            range: request.capacity_range.as_ref().map(range).transpose()?.unwrap_or_default(),
            minimum: used.minimum,
            access: used.access,
            parameters: request.parameters.into_iter().collect(),
            source: request.volume_content_source.map(source).transpose()?,
            name: request.name,
        })
    }
}

impl Wanted {
    /// Whether a volume with this name is the one that is asked for.
    fn matches(&self, existing: &VolumeRecord) -> Result<()> {
        let Range { required, limit } = self.range;
        let fits = existing.capacity >= required && (limit == 0 || existing.capacity <= limit);
        let same = (fits || existing.requested == self.range)
            && existing.access == self.access
            && existing.parameters == self.parameters
            && existing.source == self.source;
        if same {
            return Ok(());
        }
        Err(Error::refused(Code::AlreadyExists, format!("{} exists and is different", self.name)))
    }
}

/// How a volume is to be used.
pub(crate) struct Use {
    pub(crate) access: Access,
    minimum: u64,
}

impl Use {
    /// What several capabilities have in common: a volume is used in one way.
    pub(crate) fn of(capabilities: &[VolumeCapability]) -> Result<Self> {
        let uses = capabilities.iter().map(Self::one).collect::<Result<Vec<_>>>()?;
        let minimum = uses.iter().map(|used| used.minimum).max().unwrap_or_default();
        let access = uses.first().ok_or_else(|| missing("volume_capabilities"))?.access;
        if uses.iter().any(|used| used.access != access) {
            return Err(Error::refused(Code::InvalidArgument, "a volume is used as block or mounted, not both"));
        }
        Ok(Self { access, minimum })
    }

    fn one(capability: &VolumeCapability) -> Result<Self> {
        let mode = capability.access_mode.as_ref().ok_or_else(|| missing("access_mode"))?.mode();
        if mode == Mode::Unknown {
            return Err(missing("access_mode.mode"));
        }
        match capability.access_type.as_ref().ok_or_else(|| missing("access_type"))? {
            AccessType::Block(_) => Ok(Self { access: Access::Block, minimum: 0 }),
            AccessType::Mount(mount) => {
                Ok(Self { access: Access::Mount, minimum: mount.fs_type.parse::<FsType>()?.minimum() })
            }
        }
    }
}

fn range(range: &CapacityRange) -> Result<Range> {
    let bytes =
        |value: i64| u64::try_from(value).map_err(|_| Error::refused(Code::InvalidArgument, "a size is not negative"));
    let range = Range { required: bytes(range.required_bytes)?, limit: bytes(range.limit_bytes)? };
    if range.limit > 0 && range.limit < range.required {
        return Err(Error::refused(Code::InvalidArgument, "limit_bytes is less than required_bytes"));
    }
    Ok(range)
}

fn source(source: VolumeContentSource) -> Result<Source> {
    match source.r#type.ok_or_else(|| missing("volume_content_source.type"))? {
        content::Type::Snapshot(content::SnapshotSource { snapshot_id }) => {
            required(&snapshot_id, "snapshot_id").map(|id| Source::Snapshot(id.to_owned()))
        }
        content::Type::Volume(content::VolumeSource { volume_id }) => {
            required(&volume_id, "volume_id").map(|id| Source::Volume(id.to_owned()))
        }
    }
}

fn volume(record: &VolumeRecord) -> Volume {
    let content_source = record.source.clone().map(|source| VolumeContentSource {
        r#type: Some(match source {
            Source::Snapshot(snapshot_id) => content::Type::Snapshot(content::SnapshotSource { snapshot_id }),
            Source::Volume(volume_id) => content::Type::Volume(content::VolumeSource { volume_id }),
        }),
    });
    Volume {
        capacity_bytes: signed(record.capacity),
        volume_id: record.id.clone(),
        content_source,
        ..csi::Volume::default()
    }
}

/// A page of records that are in the order of their ids. A token is the last id of the page before, which may be gone by now.
fn page<R: Record>(mut records: Vec<R>, most: i32, token: &str) -> Result<(Vec<R>, String)> {
    if !token.is_empty() && !Shelf::<R>::is_id(token) {
        return Err(Error::refused(Code::Aborted, format!("{token} is not a token of this list")));
    }
    records.retain(|record| record.id() > token);
    let most = match usize::try_from(most) {
        Ok(0) => usize::MAX,
        Ok(most) => most,
        Err(_) => return Err(Error::refused(Code::InvalidArgument, "max_entries is negative")),
    };
    let more = records.len() > most;
    records.truncate(most);
    let next = records.last().filter(|_| more).map(|last| last.id().to_owned()).unwrap_or_default();
    Ok((records, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(names: &[&str]) -> Vec<SnapshotRecord> {
        let record = |name: &&str| SnapshotRecord {
            id: Shelf::<SnapshotRecord>::id_of(name),
            name: (*name).to_owned(),
            source_volume: String::new(),
            capacity: 0,
            referenced: 0,
            parameters: BTreeMap::new(),
            content: Content::Raw,
            created: Timestamp::UNIX_EPOCH,
        };
        let mut records: Vec<_> = names.iter().map(record).collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records
    }

    #[test]
    fn pages_follow_each_other_even_when_the_last_of_one_is_gone() {
        let mut all = records(&["a", "b", "c", "d", "e"]);
        let (first, token) = page(all.clone(), 2, "").unwrap();
        assert_eq!(first, all[..2]);
        all.remove(1);
        let (second, token) = page(all.clone(), 2, &token).unwrap();
        assert_eq!(second, all[1..3]);
        assert_eq!(page(all.clone(), 2, &token).unwrap(), (all[3..].to_vec(), String::new()));
        assert_eq!(page(all.clone(), 0, "").unwrap(), (all, String::new()));
    }

    #[test]
    fn a_foreign_token_is_aborted() {
        assert_eq!(page(records(&["a"]), 1, "2").unwrap_err().code(), Code::Aborted);
    }

    #[test]
    fn a_range_has_two_ends_in_order() {
        let of = |required_bytes, limit_bytes| range(&CapacityRange { required_bytes, limit_bytes });
        assert_eq!(of(1, 2).unwrap(), Range { required: 1, limit: 2 });
        assert_eq!(of(3, 0).unwrap(), Range { required: 3, limit: 0 });
        assert_eq!(of(3, 2).unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(of(-1, 0).unwrap_err().code(), Code::InvalidArgument);
    }
}
