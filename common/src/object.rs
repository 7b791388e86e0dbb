//! Names of objects, and CDI's and Kubernetes' values for volume modes, claim phases, kinds of sources and content types.

use std::{fmt, str::FromStr};

use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde::{Deserialize, Serialize};

use crate::{field::NameRule, words::words};

words! {
    /// The volume mode of a claim.
    #[derive(Default)]
    pub enum VolumeMode {
        /// A mounted file system; Kubernetes' default.
        #[default]
        Filesystem = "Filesystem",
        /// A raw device.
        Block = "Block",
    }
}

words! {
    /// The phase of a claim.
    #[derive(Default)]
    pub enum ClaimPhase {
        /// The claim has no volume yet.
        #[default]
        Pending = "Pending",
        /// The claim has its volume.
        Bound = "Bound",
        /// The claim has lost its volume.
        Lost = "Lost",
    }
}

impl ClaimPhase {
    /// Reads the phase of a claim; one without a phase, or with an unknown one, is pending.
    pub fn of(claim: &PersistentVolumeClaim) -> Self {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        phase.and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

/// The name and namespace of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ObjectName {
    type Err = ();

    /// Parses `namespace/name`, as annotations contain it. An invalid name is refused: it would be the path of another request.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (namespace, name) = text.split_once('/').ok_or(())?;
        if !NameRule::Label.permits(namespace) || !NameRule::Subdomain.permits(name) {
            return Err(());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The kind of a clone's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceKind {
    /// A PersistentVolumeClaim.
    #[serde(rename = "PersistentVolumeClaim")]
    Claim,
    /// A VolumeSnapshot.
    #[serde(rename = "VolumeSnapshot")]
    Snapshot,
}

impl SourceKind {
    /// Returns the kind as Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "PersistentVolumeClaim",
            Self::Snapshot => "VolumeSnapshot",
        }
    }
}

/// The source of a clone, by kind and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceName {
    /// Its kind.
    pub kind: SourceKind,
    /// Its namespace and name.
    #[serde(flatten)]
    pub object: ObjectName,
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.object)
    }
}

/// The content of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentType {
    /// The image of one disk: the device itself, or the file `disk.img` in a file system. Each can be copied to the other.
    #[default]
    KubeVirt,
    /// Files.
    Archive,
}

/// The kind of object for which a clone is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A DataVolume, whose claim smartclone creates.
    DataVolume,
    /// A claim that was created with a VolumeCloneSource as its `dataSourceRef`.
    Claim,
}

/// Returns the annotation with this key.
pub fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Returns the owner that controls an object; the API server allows no second one.
pub fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// One object in one version, not another object of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its namespace; empty for a cluster-scoped object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The resourceVersion that was read; a write is refused if it has changed since.
    pub resource_version: String,
}

/// Returns the object and version of this metadata.
pub fn exact(meta: &ObjectMeta) -> ObjectVersion {
    ObjectVersion {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    }
}
