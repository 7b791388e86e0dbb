//! Built-in table of storage drivers: capabilities that CSI doesn't report, by provisioner and parameters of the StorageClass.
//!
//! Strategies, claim properties and minimum sizes are CDI's (`storagecapabilities`), so that a StorageProfile is the same under both. Other
//! values have their source beside them.

use std::collections::BTreeMap;

use crate::{
    api::CloneStrategy::{self, Copy, CsiClone, Snapshot},
    object::VolumeMode::{self, Block, Filesystem},
    quantity::Bytes,
    storage::restore::RestoreRule,
};

/// An access mode and a volume mode that a driver supports together.
pub type Set = (&'static str, VolumeMode);

const RWO: &str = "ReadWriteOnce";
const ROX: &str = "ReadOnlyMany";
const RWX: &str = "ReadWriteMany";

/// One row: a driver, or a driver with certain parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    provisioner: &'static str,
    variant: &'static str,
    /// Claim properties, best first; empty if none are known.
    pub sets: &'static [Set],
    /// The recommended strategy; `None` means to try a snapshot.
    pub strategy: Option<CloneStrategy>,
    /// The minimum size; smaller volumes are refused or rounded up.
    pub minimum: Option<Bytes>,
    /// The restore rule for a volume larger than its source.
    pub restore: Option<RestoreRule>,
    /// The time limit for one strategy in minutes, after which another one is tried.
    pub minutes: Option<u32>,
}

/// All but ReadWriteMany file systems.
const ALL_BUT_SHARED_FILES: &[Set] = &[(RWX, Block), (RWO, Block), (RWO, Filesystem), (ROX, Block), (ROX, Filesystem)];
/// Block devices that support live migration, and file systems.
const SHARED_BLOCK: &[Set] = &[(RWX, Block), (RWO, Block), (RWO, Filesystem)];
const SHARED_BLOCK_TO_READ: &[Set] = &[(RWX, Block), (RWO, Block), (RWO, Filesystem), (ROX, Block)];
const PORTWORX: &[Set] = &[(RWX, Block), (RWX, Filesystem), (RWO, Block), (RWO, Filesystem)];
const KUBESAN: &[Set] = &[(RWX, Block), (ROX, Block), (RWO, Block), (RWO, Filesystem)];
const MIGRATABLE: &[Set] = &[(RWX, Block), (RWO, Block)];
const SHARED_BLOCK_ONLY: &[Set] = &[(RWX, Block)];
const BLOCK_OR_FILES: &[Set] = &[(RWO, Block), (RWO, Filesystem)];
const BLOCK: &[Set] = &[(RWO, Block)];
const FILES: &[Set] = &[(RWO, Filesystem)];
const SHARED_FILES: &[Set] = &[(RWX, Filesystem)];
const SHARED_OR_OWN_FILES: &[Set] = &[(RWX, Filesystem), (RWO, Filesystem)];
const ALL_FILES: &[Set] = &[(RWX, Filesystem), (RWO, Filesystem), (ROX, Filesystem)];
const VSPHERE_FILES: &[Set] = &[(RWX, Filesystem), (RWO, Block), (RWO, Filesystem)];
const NOT_KNOWN: &[Set] = &[];

const fn driver(provisioner: &'static str, variant: &'static str, sets: &'static [Set]) -> Driver {
    Driver { provisioner, variant, sets, strategy: None, minimum: None, restore: None, minutes: None }
}

impl Driver {
    const fn advises(self, strategy: CloneStrategy) -> Self {
        Self { strategy: Some(strategy), ..self }
    }

    const fn at_least(self, gibibytes: u64) -> Self {
        Self { minimum: Some(Bytes(gibibytes << 30)), ..self }
    }

    /// The driver restores at the source's size only.
    const fn exact(self) -> Self {
        Self { restore: Some(RestoreRule::SourceSizeOnly), ..self }
    }

    const fn within(self, minutes: u32) -> Self {
        Self { minutes: Some(minutes), ..self }
    }
}

/// All rows. The variant is empty for a driver whose parameters don't matter or don't identify a variant.
const DRIVERS: &[Driver] = &[
    driver("kubevirt.io.hostpath-provisioner", "", FILES),
    driver("kubevirt.io/hostpath-provisioner", "", FILES),
    driver("k8s.io/minikube-hostpath", "", FILES),
    driver("directpv-min-io", "", FILES),
    driver("nfs.csi.k8s.io", "", SHARED_FILES),
    driver("k8s-sigs.io/nfs-subdir-external-provisioner", "", SHARED_FILES),
    driver("kubernetes.io/rbd", "", SHARED_BLOCK),
    driver("rbd.csi.ceph.com", "", SHARED_BLOCK).advises(CsiClone),
    // A clone is a full copy by the manager, few in parallel: hours for a large volume (ceph-csi#411, #1671;
    // containerized-data-importer#3939).
    driver("cephfs.csi.ceph.com", "", SHARED_OR_OWN_FILES).advises(CsiClone).within(240),
    driver("linstor.csi.linbit.com", "", ALL_BUT_SHARED_FILES),
    driver("csi-unity.dellemc.com", "", ALL_BUT_SHARED_FILES),
    driver("csi-unity.dellemc.com", "nfs", ALL_FILES),
    driver("csi-vxflexos.dellemc.com", "", ALL_BUT_SHARED_FILES).advises(CsiClone),
    driver("csi-vxflexos.dellemc.com", "nfs", ALL_FILES),
    // A clone is a full copy: ten minutes for 10 GB (dell/csm#1763).
    driver("csi-isilon.dellemc.com", "", ALL_FILES).advises(CsiClone).within(240),
    driver("csi-powermax.dellemc.com", "", SHARED_BLOCK_TO_READ).advises(CsiClone),
    driver("csi-powermax.dellemc.com", "nfs", ALL_FILES),
    // A restore is itself a writable snapshot, and a volume supports few of them (containerized-data-importer#3520).
    driver("csi-powerstore.dellemc.com", "", SHARED_BLOCK_TO_READ).advises(Copy),
    driver("csi-powerstore.dellemc.com", "nfs", ALL_FILES),
    driver("kubernetes.io/storageos", "", FILES),
    driver("storageos", "", FILES),
    driver("kubernetes.io/aws-ebs", "", BLOCK),
    // A snapshot is ready only after its upload (aws-ebs-csi-driver#1012, #2689).
    driver("ebs.csi.aws.com", "", BLOCK).within(120),
    driver("ebs.csi.aws.com", "io1", BLOCK).at_least(4).within(120),
    driver("ebs.csi.aws.com", "io2", SHARED_BLOCK).at_least(4).within(120),
    driver("ebs.csi.aws.com", "gp", BLOCK).at_least(1).within(120),
    driver("efs.csi.aws.com", "", SHARED_OR_OWN_FILES),
    driver("kubernetes.io/azure-disk", "", BLOCK),
    driver("disk.csi.azure.com", "", BLOCK).within(60),
    driver("kubernetes.io/azure-file", "", SHARED_FILES),
    driver("file.csi.azure.com", "", SHARED_FILES),
    driver("kubernetes.io/gce-pd", "", BLOCK),
    driver("pd.csi.storage.gke.io", "", BLOCK_OR_FILES).advises(Snapshot).within(60),
    driver("pd.csi.storage.gke.io", "hyperdisk", SHARED_BLOCK).advises(Snapshot).at_least(4).within(60),
    driver("hspc.csi.hitachi.com", "", SHARED_BLOCK).advises(CsiClone).at_least(1),
    driver("xspc.csi.hpe.com", "", NOT_KNOWN).at_least(1),
    driver("csi.hpe.com", "", SHARED_BLOCK).advises(CsiClone),
    // A clone copies the files of the source.
    driver("spectrumscale.csi.ibm.com", "", SHARED_OR_OWN_FILES).advises(CsiClone).within(240),
    driver("block.csi.ibm.com", "", SHARED_BLOCK).advises(CsiClone),
    driver("vpc.file.csi.ibm.io", "", NOT_KNOWN).advises(Snapshot),
    driver("vpc.file.csi.ibm.io", "rfs", NOT_KNOWN).advises(Snapshot).at_least(1),
    driver("vpc.file.csi.ibm.io", "dp2", NOT_KNOWN).advises(Snapshot).at_least(10),
    driver("vpc.block.csi.ibm.io", "", NOT_KNOWN).advises(Copy),
    driver("kubernetes.io/portworx-volume", "", PORTWORX),
    driver("kubernetes.io/portworx-volume", "nfs", SHARED_OR_OWN_FILES),
    driver("pxd.portworx.com", "", PORTWORX).advises(CsiClone),
    driver("pxd.portworx.com", "nfs", SHARED_OR_OWN_FILES).advises(CsiClone),
    driver("pxd.portworx.com", "pure_block", SHARED_BLOCK).advises(CsiClone),
    driver("pxd.portworx.com", "pure_fa_file", SHARED_OR_OWN_FILES).advises(CsiClone),
    // The driver rejects a restore with a larger size (containerized-data-importer#3973).
    driver("csi.trident.netapp.io", "", NOT_KNOWN).exact(),
    driver("csi.trident.netapp.io", "ontap-nas", SHARED_OR_OWN_FILES).advises(Snapshot).exact(),
    driver("csi.trident.netapp.io", "ontap-san", SHARED_BLOCK_ONLY).advises(Snapshot).exact(),
    driver("csi.trident.netapp.io", "gcnv-flex", SHARED_OR_OWN_FILES).advises(Snapshot).at_least(1).exact(),
    // Snapshots exist for thin volumes and on one node only (containerized-data-importer#3303).
    driver("topolvm.cybozu.com", "", BLOCK_OR_FILES).advises(Copy),
    driver("topolvm.io", "", BLOCK_OR_FILES).advises(Copy),
    driver("cinder.csi.openstack.org", "", BLOCK_OR_FILES),
    driver("manila.csi.openstack.org", "", SHARED_FILES),
    driver("csi.ovirt.org", "", BLOCK_OR_FILES),
    driver("infinibox-csi-driver", "block", SHARED_BLOCK).advises(CsiClone),
    driver("infinibox-csi-driver", "nfs", SHARED_OR_OWN_FILES).advises(CsiClone),
    driver("csi.vsphere.vmware.com", "", BLOCK_OR_FILES),
    driver("csi.vsphere.vmware.com", "nfs", VSPHERE_FILES),
    driver("csi.huawei.com", "", ALL_BUT_SHARED_FILES),
    driver("csi.huawei.com", "nfs", ALL_FILES),
    driver("kubesan.gitlab.io", "", KUBESAN).advises(CsiClone),
    // May corrupt a volume that is resized while it is still being cloned (longhorn#11484); clones of one engine are full copies
    // (harvester#9344).
    driver("driver.longhorn.io", "", BLOCK).exact().within(60),
    driver("driver.longhorn.io", "migratable", MIGRATABLE).exact().within(60),
    driver("driver.longhorn.io", "nfs", SHARED_OR_OWN_FILES).exact().within(60),
    driver("driver.longhorn.io", "fs", FILES).exact().within(60),
    driver("csi.san.synology.com", "", SHARED_BLOCK).advises(CsiClone).at_least(1),
    driver("csi.san.synology.com", "files", SHARED_OR_OWN_FILES).advises(CsiClone).at_least(1),
    driver("blockvolume.csi.oraclecloud.com", "", SHARED_BLOCK).advises(CsiClone),
    // Answers OUT_OF_RANGE to a larger restore (lvm-localpv#417).
    driver("local.csi.openebs.io", "", NOT_KNOWN).exact(),
    // Clones keep the source's quota (zfs-localpv#536).
    driver("zfs.csi.openebs.io", "", NOT_KNOWN).exact(),
    // A clone is a clone in the infrastructure cluster (kubevirt/csi-driver#118).
    driver("csi.kubevirt.io", "", NOT_KNOWN).within(60),
];

/// The table's knowledge of a StorageClass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The driver is known with these parameters.
    Driver(Driver),
    /// The driver is known, but not its volumes with these parameters; the row holds what applies to all its volumes.
    DriverOnly(Driver),
    /// The driver is not known.
    Nothing,
}

impl Known {
    /// The row, if there is one.
    pub fn driver(self) -> Option<Driver> {
        match self {
            Self::Driver(driver) | Self::DriverOnly(driver) => Some(driver),
            Self::Nothing => None,
        }
    }
}

/// Looks up a StorageClass by provisioner and parameters.
pub fn find(provisioner: &str, parameters: &BTreeMap<String, String>) -> Known {
    let provisioner = deployed(provisioner);
    let row =
        |variant: &str| DRIVERS.iter().find(|row| row.provisioner == provisioner && row.variant == variant).copied();
    match variant(provisioner, |key| parameters.get(key).map(String::as_str).unwrap_or_default()) {
        Some(variant) => row(variant).map_or(Known::Nothing, Known::Driver),
        None => Known::DriverOnly(row("").unwrap_or(driver("", "", NOT_KNOWN))),
    }
}

/// The restore rule of `provisioner`, which does not depend on the parameters.
pub fn restore(provisioner: &str) -> Option<RestoreRule> {
    let provisioner = deployed(provisioner);
    DRIVERS.iter().find(|row| row.provisioner == provisioner).and_then(|row| row.restore)
}

/// The driver's name without the prefix of its deployment, which Ceph's drivers have (`rook-ceph.rbd.csi.ceph.com`).
fn deployed(provisioner: &str) -> &str {
    const CEPH: [&str; 2] = ["rbd.csi.ceph.com", "cephfs.csi.ceph.com"];
    let of = |driver: &&str| provisioner.strip_suffix(*driver).is_some_and(|prefix| prefix.ends_with('.'));
    CEPH.into_iter().find(of).unwrap_or(provisioner)
}

/// The variant of the driver that the parameters select: empty for the plain one, `None` if they do not identify it.
fn variant<'a>(provisioner: &str, parameter: impl Fn(&str) -> &'a str) -> Option<&'static str> {
    let nfs_server = || {
        let options: Vec<_> = parameter("sharedv4_mount_options").split(',').map(str::trim).collect();
        if options.contains(&"vers=3.0") && options.contains(&"nolock") { "nfs" } else { "" }
    };
    let if_nfs = |protocol: &str| if protocol.eq_ignore_ascii_case("nfs") { "nfs" } else { "" };
    Some(match provisioner {
        "kubernetes.io/portworx-volume" => nfs_server(),
        "pxd.portworx.com" => match parameter("backend") {
            "pure_block" => "pure_block",
            "pure_fa_file" => "pure_fa_file",
            "" => nfs_server(),
            _ => "",
        },
        "csi.trident.netapp.io" => match parameter("backendType") {
            backend if backend.starts_with("ontap-nas") => "ontap-nas",
            backend if backend.starts_with("ontap-san") => "ontap-san",
            "google-cloud-netapp-volumes"
                if parameter("selector").split([';', ',']).any(|part| part.trim() == "performance=flex") =>
            {
                "gcnv-flex"
            }
            _ => return None,
        },
        "infinibox-csi-driver" => match parameter("storage_protocol") {
            "iscsi" | "fc" | "nvme" => "block",
            "nfs" | "nfs_treeq" => "nfs",
            _ => return None,
        },
        "csi-unity.dellemc.com" | "csi.huawei.com" => if_nfs(parameter("protocol")),
        "csi-vxflexos.dellemc.com" | "csi-powermax.dellemc.com" | "csi-powerstore.dellemc.com" => {
            if_nfs(parameter("csi.storage.k8s.io/fstype"))
        }
        "csi.vsphere.vmware.com" if parameter("csi.storage.k8s.io/fstype").to_ascii_lowercase().contains("nfs") => {
            "nfs"
        }
        "csi.san.synology.com" if matches!(parameter("protocol").to_ascii_lowercase().as_str(), "nfs" | "smb") => {
            "files"
        }
        "driver.longhorn.io" if parameter("migratable") == "true" => "migratable",
        "driver.longhorn.io" if !parameter("nfsOptions").is_empty() => "nfs",
        "driver.longhorn.io" if !parameter("fsType").is_empty() => "fs",
        "ebs.csi.aws.com" => match parameter("type") {
            "io1" => "io1",
            "io2" => "io2",
            "gp2" | "gp3" => "gp",
            _ => "",
        },
        "pd.csi.storage.gke.io" if parameter("type").starts_with("hyperdisk-balanced") => "hyperdisk",
        "vpc.file.csi.ibm.io" => match parameter("profile") {
            "rfs" => "rfs",
            "dp2" => "dp2",
            _ => "",
        },
        _ => "",
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::by_name("rbd.csi.ceph.com", &[], Some(CsiClone), Some((RWX, Block)))]
    #[case::by_suffix("storage-ns.rbd.csi.ceph.com", &[], Some(CsiClone), Some((RWX, Block)))]
    #[case::no_suffix("notrbd.csi.ceph.com", &[], None, None)]
    #[case::trident("csi.trident.netapp.io", &[("backendType", "ontap-nas-economy")], Some(Snapshot), Some((RWX, Filesystem)))]
    #[case::trident_flex(
        "csi.trident.netapp.io",
        &[("backendType", "google-cloud-netapp-volumes"), ("selector", "a=b; performance=flex")],
        Some(Snapshot), Some((RWX, Filesystem))
    )]
    #[case::trident_of_an_unknown_kind("csi.trident.netapp.io", &[("backendType", "solidfire")], None, None)]
    #[case::portworx_nfs("pxd.portworx.com", &[("sharedv4_mount_options", "vers=3.0,nolock")], Some(CsiClone), Some((RWX, Filesystem)))]
    #[case::longhorn("driver.longhorn.io", &[("migratable", "true"), ("fsType", "ext4")], None, Some((RWX, Block)))]
    #[case::no_advice("csi.vsphere.vmware.com", &[], None, Some((RWO, Block)))]
    #[case::unknown("example.com", &[], None, None)]
    fn knows(
        #[case] provisioner: &str,
        #[case] parameters: &[(&str, &str)],
        #[case] strategy: Option<CloneStrategy>,
        #[case] first: Option<Set>,
    ) {
        let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = find(provisioner, &parameters).driver();
        assert_eq!(found.and_then(|d| d.strategy), strategy);
        assert_eq!(found.and_then(|d| d.sets.first().copied()), first);
    }

    /// Every variant has a row, each row is unique, and the restore rule doesn't depend on the variant.
    #[test]
    fn the_table_is_consistent() {
        for (at, row) in DRIVERS.iter().enumerate() {
            let same = |other: &&Driver| other.provisioner == row.provisioner;
            assert!(!DRIVERS[at + 1..].iter().filter(same).any(|other| other.variant == row.variant), "{row:?}");
            assert!(DRIVERS.iter().filter(same).all(|other| other.restore == row.restore), "{row:?}");
            assert_eq!(deployed(row.provisioner), row.provisioner);
        }
    }
}
