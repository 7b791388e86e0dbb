//! Admission beside CDI: decides which new clones smartclone takes, and which it leaves to CDI; marks the former and unmarks the latter.
//!
//! A clone is taken only if smartclone is certain to serve it as CDI would: CDI does not look at a marked clone again.

mod mark;
#[cfg(test)]
mod tests;

use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use kube::core::ObjectMeta;

use super::{Namesake, Verdict};
use crate::{api::DataVolume, clone::Facts, keys, lookup::Lookup, object};

use self::mark::opts_out;
pub use self::mark::{
    changes, is_marked, is_stamped, kept, unmarked, unmarked_claim, unmarked_copy, unmarked_for_filled,
};
pub use crate::clone::beside::{mark, mark_of_claim};

/// The reason for leaving a clone to CDI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveToCdi {
    /// It asks for no clone.
    NotAClone,
    /// It is invalid by smartclone's rules; CDI has its own.
    Invalid,
    /// CDI's own account creates it.
    CdiAccount,
    /// An annotation of the object or of its StorageClass asks for CDI.
    OptOut,
    /// It is restored: its claim, or its volume, is filled already.
    Restored,
    /// It is to be filled without a populator.
    NoPopulator,
    /// Its claim is to be fitted to the StorageProfile by CDI.
    StorageProfileLabel,
    /// Its content is an archive.
    Archive,
    /// The controller has not renewed its Lease.
    ControllerDown,
    /// Its name is that of a claim that stays.
    ClaimExists,
    /// The requester has no right to the source.
    NotAllowed,
    /// Its StorageClass is not known to be one of a CSI driver.
    NoCsiDriver,
    /// No strategy can be decided on yet.
    Undecided,
    /// A fact could not be read in time.
    Unknown,
}

impl LeaveToCdi {
    /// The reason in logs and in the metric `left_to_cdi_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAClone => "not-a-clone",
            Self::Invalid => "invalid",
            Self::CdiAccount => "cdi-account",
            Self::OptOut => "opt-out",
            Self::Restored => "restored",
            Self::NoPopulator => "no-populator",
            Self::StorageProfileLabel => "storage-profile-label",
            Self::Archive => "archive",
            Self::ControllerDown => "controller-down",
            Self::ClaimExists => "claim-exists",
            Self::NotAllowed => "not-allowed",
            Self::NoCsiDriver => "no-csi-driver",
            Self::Undecided => "undecided",
            Self::Unknown => "unknown",
        }
    }
}

/// The state of the cluster that decides on a new clone, beside the object itself.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// True if the controller's Lease is fresh.
    pub is_controller_alive: bool,
    /// The claim that has the clone's name.
    pub namesake: Lookup<Namesake>,
    /// The facts of the decision.
    pub facts: &'a Facts,
    /// The StorageClass of the clone.
    pub class: Option<&'a StorageClass>,
    /// The decision as it would be without CDI.
    pub verdict: &'a Verdict,
}

/// True for the service account of CDI. Its namespace differs between distributions, so only its name counts. Whoever names an account so
/// only leaves clones to CDI: no right follows from it.
pub fn is_cdi(username: &str) -> bool {
    username.starts_with("system:serviceaccount:") && username.ends_with(":cdi-sa")
}

/// Decides whether smartclone takes a new clone; the error is the reason why CDI clones it.
pub fn takes(volume: &DataVolume, username: &str, circumstances: &Circumstances<'_>) -> Result<(), LeaveToCdi> {
    takes_object(volume, username)?;
    let Circumstances { is_controller_alive, namesake, facts, class, verdict } = circumstances;
    if !is_controller_alive {
        return Err(LeaveToCdi::ControllerDown);
    }
    match namesake {
        Lookup::Absent | Lookup::Present(Namesake::GivesWay) => {}
        Lookup::Present(Namesake::TakenOver | Namesake::InTheWay) => return Err(LeaveToCdi::ClaimExists),
        Lookup::Unknown(_) => return Err(LeaveToCdi::Unknown),
    }
    takes_class(*class)?;
    match verdict {
        Verdict::Denied(_) => Err(LeaveToCdi::Invalid),
        Verdict::Admitted { strategy: None, .. } => Err(LeaveToCdi::Undecided),
        Verdict::Admitted { strategy: Some(_), .. } if !is_csi(facts) => Err(LeaveToCdi::NoCsiDriver),
        Verdict::Admitted { strategy: Some(_), .. } => Ok(()),
    }
}

/// The part of [`takes`] that depends on the object and its requester only.
pub fn takes_object(volume: &DataVolume, username: &str) -> Result<(), LeaveToCdi> {
    let metadata = &volume.metadata;
    takes_metadata(metadata, username)?;
    if metadata.annotations.as_ref().is_some_and(keys::declares_filled) {
        return Err(LeaveToCdi::Restored);
    }
    if object::annotation(metadata, keys::USE_POPULATOR) == Some("false") {
        return Err(LeaveToCdi::NoPopulator);
    }
    if volume.spec.content_type.as_deref() == Some("archive") {
        return Err(LeaveToCdi::Archive);
    }
    Ok(())
}

/// The same for a claim that is to be filled without a DataVolume, and its StorageClass.
pub fn takes_claim(
    claim: &PersistentVolumeClaim,
    username: &str,
    class: Option<&StorageClass>,
) -> Result<(), LeaveToCdi> {
    takes_metadata(&claim.metadata, username)?;
    let has_volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|it| !it.is_empty());
    if has_volume || object::annotation(&claim.metadata, keys::POPULATED_FOR).is_some() {
        return Err(LeaveToCdi::Restored);
    }
    // CDI makes the claims of DataVolumes under its own account; this one is written by hand.
    if object::controller(&claim.metadata).is_some_and(|owner| owner.kind == "DataVolume") {
        return Err(LeaveToCdi::NotAClone);
    }
    takes_class(class)
}

fn takes_metadata(metadata: &ObjectMeta, username: &str) -> Result<(), LeaveToCdi> {
    if is_cdi(username) {
        return Err(LeaveToCdi::CdiAccount);
    }
    if opts_out(metadata) {
        return Err(LeaveToCdi::OptOut);
    }
    if metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(keys::APPLY_STORAGE_PROFILE)) {
        return Err(LeaveToCdi::StorageProfileLabel);
    }
    Ok(())
}

fn takes_class(class: Option<&StorageClass>) -> Result<(), LeaveToCdi> {
    match class {
        Some(class) if opts_out(&class.metadata) => Err(LeaveToCdi::OptOut),
        Some(class) if class.provisioner.starts_with("kubernetes.io/") => Err(LeaveToCdi::NoCsiDriver),
        Some(_) | None => Ok(()),
    }
}

/// True if the clone's class is known to be one of a CSI driver: the driver of the source, or of a snapshot class. A StorageClass does not
/// say what its provisioner is.
fn is_csi(facts: &Facts) -> bool {
    let Some(class) = facts.target_class.present() else { return false };
    let source = facts.source.present().and_then(|source| source.driver.present());
    let snapshots = facts.snapshot_classes.present().map(Vec::as_slice).unwrap_or_default();
    source == Some(&class.provisioner) || snapshots.iter().any(|snapshot| snapshot.driver == class.provisioner)
}
