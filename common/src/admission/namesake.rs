//! Name conflicts: a PersistentVolumeClaim that already has the name which the clone's claim needs.

use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::{api::DataVolume, keys, object};

/// What the claim means for the DataVolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namesake {
    /// It is on its way out; or a DataVolume of that name has made it: then either that one exists, which the API server says better
    /// than we could, or it is gone and the claim follows it.
    GivesWay,
    /// It is filled, or somebody says that the DataVolume may have it.
    TakenOver,
    /// It is somebody else's.
    InTheWay,
}

/// What `claim` means for a new DataVolume of its name.
pub fn namesake(volume: &DataVolume, claim: &PersistentVolumeClaim) -> Namesake {
    let name = volume.metadata.name.as_deref();
    let adoption = |of: &ObjectMeta| object::annotation(of, keys::ALLOW_ADOPTION).is_some_and(|value| value != "false");
    let owner = object::controller(&claim.metadata);
    let made_for = |owner: &OwnerReference| owner.kind == "DataVolume" && Some(owner.name.as_str()) == name;
    if claim.metadata.deletion_timestamp.is_some() || owner.is_some_and(made_for) {
        return Namesake::GivesWay;
    }
    let filled = object::annotation(&claim.metadata, keys::POPULATED_FOR) == name;
    let offered = filled || adoption(&volume.metadata) || adoption(&claim.metadata);
    // What belongs to another object is not to be had.
    if offered && owner.is_none() { Namesake::TakenOver } else { Namesake::InTheWay }
}
