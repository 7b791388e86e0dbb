//! Name conflicts: a PersistentVolumeClaim that already has the name which the clone's claim needs.

use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::{api::DataVolume, keys, object};

/// The relation of an existing claim to a new DataVolume of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namesake {
    /// The claim is being deleted, or a DataVolume of that name controls it. If that DataVolume exists, the API server rejects the new one;
    /// if it is gone, the garbage collector deletes the claim.
    GivesWay,
    /// The claim is populated for the DataVolume, or an annotation offers it for adoption.
    TakenOver,
    /// The claim belongs to another owner.
    InTheWay,
}

/// Classifies `claim` for a new DataVolume of its name.
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
    // A claim that another object controls can't be adopted.
    if offered && owner.is_none() { Namesake::TakenOver } else { Namesake::InTheWay }
}
