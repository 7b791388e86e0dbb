//! Names of the objects that smartclone creates. Each holds the UID of what it is made for, so a name never means two things and
//! a second attempt to create finds the first one's result. UIDs have 36 characters, so all names stay below 63.

/// The temporary VolumeSnapshot of a DataVolume (CDI's form, `tmp-snapshot-<uid>`).
pub fn snapshot(volume_uid: &str) -> String {
    format!("tmp-snapshot-{volume_uid}")
}

/// The pod that copies the bytes for a DataVolume.
pub fn mover(volume_uid: &str) -> String {
    format!("clone-mover-{volume_uid}")
}

/// The claim in the source's namespace that gets the content before it is handed over (CDI's form, `tmp-pvc-<uid>`).
pub fn temporary_claim(uid: &str) -> String {
    format!("tmp-pvc-{uid}")
}

/// The claim that is restored from a source snapshot to be copied from (CDI's form, `tmp-source-pvc-<uid>`).
pub fn temporary_source(uid: &str) -> String {
    format!("tmp-source-pvc-{uid}")
}

/// What a held-back claim names in its `dataSourceRef` (CDI's form).
pub fn volume_clone_source(uid: &str) -> String {
    format!("volume-clone-source-{uid}")
}

/// The pod that makes a volume of a class that waits for its first consumer appear at once (CDI's form).
pub fn consumer(uid: &str) -> String {
    format!("prep-{uid}")
}

/// The names above, for the UID of an object, as a regular expression: of any temporary object, of temporary claims, of our pods.
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

    /// Our pods.
    pub fn pod() -> String {
        format!("^(clone-mover|prep)-{UID}$")
    }
}
