//! Names of the objects that smartclone creates. Each contains the UID of the object for which it is created, so a name is never reused and
//! a second attempt to create finds the first one's result. UIDs have 36 characters, so all names stay below 63.

/// The temporary VolumeSnapshot of a DataVolume.
pub fn snapshot(volume_uid: &str) -> String {
    format!("smartclone-snapshot-{volume_uid}")
}

/// The pod that copies the data for a DataVolume.
pub fn mover(volume_uid: &str) -> String {
    format!("smartclone-mover-{volume_uid}")
}

/// The claim in the source's namespace that gets the content before its volume is rebound.
pub fn temporary_claim(uid: &str) -> String {
    format!("smartclone-pvc-{uid}")
}

/// The claim that is restored from a source snapshot to be copied from.
pub fn temporary_source(uid: &str) -> String {
    format!("smartclone-source-pvc-{uid}")
}

/// The VolumeCloneSource in the `dataSourceRef` of a claim that waits for a rebind.
pub fn volume_clone_source(uid: &str) -> String {
    format!("volume-clone-source-{uid}")
}

/// The pod that triggers the provisioning of a volume with `WaitForFirstConsumer`.
pub fn consumer(uid: &str) -> String {
    format!("smartclone-consumer-{uid}")
}

/// Regular expressions for the names above with the UID of any object.
pub mod pattern {
    /// An object's UID.
    const UID: &str = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";

    /// Any temporary object.
    pub fn any() -> String {
        format!("^smartclone-(pvc|source-pvc|snapshot|mover|consumer)-{UID}$")
    }

    /// Temporary claims.
    pub fn claim() -> String {
        format!("^smartclone-(source-)?pvc-{UID}$")
    }

    /// Temporary snapshots.
    pub fn snapshot() -> String {
        format!("^smartclone-snapshot-{UID}$")
    }

    /// Pods of smartclone.
    pub fn pod() -> String {
        format!("^smartclone-(mover|consumer)-{UID}$")
    }
}
