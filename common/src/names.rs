//! Names of the objects that smartclone creates. Each contains the UID of the object for which it is created, so a name is never reused and
//! a second attempt to create finds the first one's result. UIDs have 36 characters, so all names stay below 63.

/// The temporary VolumeSnapshot of a DataVolume (CDI's form, `tmp-snapshot-<uid>`).
pub fn snapshot(volume_uid: &str) -> String {
    format!("tmp-snapshot-{volume_uid}")
}

/// The pod that copies the data for a DataVolume.
pub fn mover(volume_uid: &str) -> String {
    format!("clone-mover-{volume_uid}")
}

/// The claim in the source's namespace that gets the content before its volume is rebound (CDI's form, `tmp-pvc-<uid>`).
pub fn temporary_claim(uid: &str) -> String {
    format!("tmp-pvc-{uid}")
}

/// The claim that is restored from a source snapshot to be copied from (CDI's form, `tmp-source-pvc-<uid>`).
pub fn temporary_source(uid: &str) -> String {
    format!("tmp-source-pvc-{uid}")
}

/// The VolumeCloneSource in the `dataSourceRef` of a claim that waits for a rebind (CDI's form).
pub fn volume_clone_source(uid: &str) -> String {
    format!("volume-clone-source-{uid}")
}

/// The pod that triggers the provisioning of a volume with `WaitForFirstConsumer` (CDI's form).
pub fn consumer(uid: &str) -> String {
    format!("prep-{uid}")
}

/// Regular expressions for the names above with the UID of any object.
pub mod pattern {
    /// An object's UID.
    const UID: &str = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";

    /// Any temporary object.
    pub fn any() -> String {
        format!("^(tmp-pvc|tmp-source-pvc|tmp-snapshot|clone-mover|prep)-{UID}$")
    }

    /// Temporary claims.
    pub fn claim() -> String {
        format!("^tmp-(source-)?pvc-{UID}$")
    }

    /// Temporary snapshots.
    pub fn snapshot() -> String {
        format!("^tmp-snapshot-{UID}$")
    }

    /// Pods of smartclone.
    pub fn pod() -> String {
        format!("^(clone-mover|prep)-{UID}$")
    }
}
