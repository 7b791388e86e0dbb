//! What is known about storage drivers that their API doesn't say.

/// How a driver wants a volume restored that is larger than its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreRule {
    /// Ask for the final size at once.
    Larger,
    /// Restore at the source's size, expand afterwards.
    SourceSizeOnly,
}

/// Drivers that refuse or spoil a larger restore: LVM LocalPV answers OUT_OF_RANGE (lvm-localpv#417), ZFS LocalPV clones keep the
/// source's quota (zfs-localpv#536), Longhorn may corrupt a volume that is resized while it is still being cloned (longhorn#11484),
/// Trident rejects inflated restores (containerized-data-importer#3973).
const SOURCE_SIZE_ONLY: [&str; 4] =
    ["local.csi.openebs.io", "zfs.csi.openebs.io", "driver.longhorn.io", "csi.trident.netapp.io"];

/// The rule for a driver. The StorageClass's annotation (`smartclone.dev/restore-size`: `exact` or `larger`) outranks the table;
/// any other value of it counts as not given.
pub fn restore_rule(provisioner: &str, annotation: Option<&str>) -> RestoreRule {
    match annotation {
        Some("exact") => RestoreRule::SourceSizeOnly,
        Some("larger") => RestoreRule::Larger,
        _ if SOURCE_SIZE_ONLY.contains(&provisioner) => RestoreRule::SourceSizeOnly,
        _ => RestoreRule::Larger,
    }
}
