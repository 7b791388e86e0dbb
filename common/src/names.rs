//! Names of the objects that we make. Each holds the UID of what it is made for, so a name never means two things and a
//! second attempt to create finds the first one's result. UIDs have 36 characters, so all names stay below 63.

/// The temporary VolumeSnapshot of a DataVolume (CDI's form, `tmp-snapshot-<uid>`).
pub fn snapshot(volume_uid: &str) -> String {
    format!("tmp-snapshot-{volume_uid}")
}

/// The pod that copies the bytes for a DataVolume.
pub fn mover(volume_uid: &str) -> String {
    format!("clone-mover-{volume_uid}")
}
