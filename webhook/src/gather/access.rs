//! Rights of a requester in other namespaces. They are checked before anything is read there: without the right, neither the answer nor its
//! latency depends on the objects there.

use common::{
    object::{ObjectName, SourceName},
    requester::{Reference, Requester, denial, questions, reference_denial, reference_right},
};
use k8s_openapi::api::authorization::v1::ResourceAttributes;

/// A right in another namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Right {
    /// To clone this source.
    Clone(SourceName),
    /// To follow this reference to the object that it names.
    Follow(Reference, ObjectName),
}

impl Right {
    /// The access checks: the right is granted if all checks of one list are allowed.
    pub fn questions(&self) -> Vec<Vec<ResourceAttributes>> {
        match self {
            Self::Clone(source) => questions(source),
            Self::Follow(reference, name) => vec![vec![reference_right(*reference, name)]],
        }
    }

    /// The reason for a requester who lacks the right.
    pub fn denial(&self, requester: &Requester) -> String {
        match self {
            Self::Clone(source) => denial(requester, source),
            Self::Follow(reference, name) => reference_denial(requester, *reference, name),
        }
    }

    /// The action that needs the right, for messages.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Clone(_) => "clone the source",
            Self::Follow(..) => "read what names the source",
        }
    }
}

/// The requester of a review, and the annotation that records them, which is the key of cached
/// answers.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The user.
    pub requester: &'a Requester,
    /// The user as an annotation.
    pub stamp: &'a str,
}
