//! The source of a clone: a claim or a VolumeSnapshot.

use std::fmt;

use common::api::{DataSourceSource, DataVolume};
use kube::ResourceExt as _;

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// A PersistentVolumeClaim.
    Claim,
    /// A VolumeSnapshot.
    Snapshot,
}

/// The name of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What the spec of a DataVolume says about its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A clone of this source.
    Clone(Source),
    /// A clone of what this DataSource names.
    Reference {
        /// The namespace of the DataSource.
        namespace: String,
        /// The name of the DataSource.
        name: String,
    },
    /// No clone: the double leaves it alone.
    Other,
}

impl Origin {
    /// Reads the spec.
    pub fn from_data_volume(data_volume: &DataVolume) -> Self {
        let own = data_volume.namespace().unwrap_or_default();
        let or_own = |namespace: &str| if namespace.is_empty() { own.clone() } else { namespace.to_owned() };
        if let Some(reference) = &data_volume.spec.source_ref {
            let namespace = reference.namespace.clone().unwrap_or_else(|| own.clone());
            return Self::Reference { namespace, name: reference.name.clone() };
        }
        let Some(source) = &data_volume.spec.source else { return Self::Other };
        if let Some(claim) = &source.pvc {
            return Self::Clone(Source::new(SourceKind::Claim, or_own(&claim.namespace), &claim.name));
        }
        if let Some(snapshot) = &source.snapshot {
            return Self::Clone(Source::new(SourceKind::Snapshot, or_own(&snapshot.namespace), &snapshot.name));
        }
        Self::Other
    }

    /// The source, if the DataSource is there and names one. Otherwise no controller of CDI takes the DataVolume.
    pub fn resolve(&self, find: impl Fn(&str, &str) -> Option<DataSourceSource>) -> Option<Source> {
        match self {
            Self::Clone(source) => Some(source.clone()),
            Self::Reference { namespace, name } => {
                let found = find(namespace, name)?;
                Source::from_data_source(&found, namespace)
            }
            Self::Other => None,
        }
    }
}

impl Source {
    /// A source.
    pub fn new(kind: SourceKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// The source that a DataSource names directly.
    pub fn from_data_source(source: &DataSourceSource, namespace: &str) -> Option<Self> {
        let or_own = |named: &str| if named.is_empty() { namespace.to_owned() } else { named.to_owned() };
        let claim = source.pvc.as_ref().map(|it| Self::new(SourceKind::Claim, or_own(&it.namespace), &it.name));
        claim.or_else(|| {
            source.snapshot.as_ref().map(|it| Self::new(SourceKind::Snapshot, or_own(&it.namespace), &it.name))
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
