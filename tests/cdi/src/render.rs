//! The spec of the claim of a DataVolume, completed from class and profile.

use common::api::{DataVolume, StorageSpec};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{settings::Settings, status::SyncError};

/// Renders the spec. The size of the source stands in for a missing size.
pub fn render(
    data_volume: &DataVolume,
    source_size: Option<&Quantity>,
    settings: &Settings,
) -> Result<PersistentVolumeClaimSpec, SyncError> {
    let mut spec = match (&data_volume.spec.pvc, &data_volume.spec.storage) {
        (Some(claim), _) => claim.clone(),
        (None, Some(storage)) => from_storage(storage, settings)?,
        (None, None) => return Err(not_valid("datavolume one of {pvc, storage} field is required")),
    };
    let requests =
        spec.resources.get_or_insert_with(VolumeResourceRequirements::default).requests.get_or_insert_default();
    if let (false, Some(size)) = (requests.contains_key("storage"), source_size) {
        requests.insert("storage".to_owned(), size.clone());
    }
    Ok(spec)
}

fn from_storage(storage: &StorageSpec, settings: &Settings) -> Result<PersistentVolumeClaimSpec, SyncError> {
    let class = settings.class(storage.storage_class_name.as_deref());
    let mut modes = storage.access_modes.clone().unwrap_or_default();
    let mut volume_mode = storage.volume_mode.clone().filter(|mode| mode != "FromStorageProfile");
    let Some((name, class)) = class else {
        if modes.is_empty() {
            return Err(not_valid("PVC spec is missing accessMode and no storageClass to choose profile"));
        }
        return Ok(claim_spec(storage, storage.storage_class_name.clone(), modes, volume_mode));
    };
    if modes.is_empty() {
        let fits = |mode: Option<&str>| volume_mode.is_none() || volume_mode.as_deref() == mode;
        let Some(set) = class.properties.iter().find(|set| fits(set.volume_mode.as_deref())) else {
            return Err(not_valid(&format!("no accessMode specified in StorageProfile {name}")));
        };
        modes = set.access_modes.clone().unwrap_or_default();
        volume_mode = volume_mode.or_else(|| set.volume_mode.clone());
        if modes.is_empty() {
            return Err(not_valid(&format!("no accessMode specified in StorageProfile {name}")));
        }
    } else if volume_mode.is_none() {
        let serves = |set: &&common::api::ClaimPropertySet| {
            let known = set.access_modes.as_deref().unwrap_or_default();
            modes.iter().any(|mode| known.contains(mode))
        };
        volume_mode = class.properties.iter().find(serves).and_then(|set| set.volume_mode.clone());
    }
    Ok(claim_spec(storage, Some(name.to_owned()), modes, volume_mode))
}

fn claim_spec(
    storage: &StorageSpec,
    class: Option<String>,
    modes: Vec<String>,
    volume_mode: Option<String>,
) -> PersistentVolumeClaimSpec {
    PersistentVolumeClaimSpec {
        access_modes: Some(modes),
        selector: storage.selector.clone(),
        resources: storage.resources.clone(),
        volume_name: storage.volume_name.clone(),
        storage_class_name: class,
        volume_mode,
        ..PersistentVolumeClaimSpec::default()
    }
}

fn not_valid(message: &str) -> SyncError {
    SyncError::NotValid(message.to_owned())
}
