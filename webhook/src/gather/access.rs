//! The requester's rights in other namespaces. They are asked for before anything is looked at there: without them the answer is the same
//! whatever is there, and takes the same time.

use common::{
    clone::observed::Authorization,
    field::FieldError,
    lookup::Lookup,
    object::{ObjectName, SourceName},
    requester::{Reference, Requester, denial, questions, reference_denial, reference_right},
};
use k8s_openapi::api::authorization::v1::ResourceAttributes;

use crate::{
    gather::cluster::{Cluster, Undecidable},
    gather::read_cache::Freshness,
};

/// What takes a right in another namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Right {
    /// To clone this source.
    Clone(SourceName),
    /// To follow this reference to what it names.
    Follow(Reference, ObjectName),
}

impl Right {
    /// The questions for the API server: a yes to all of one of these lists gives the right.
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

    fn verb(&self) -> &'static str {
        match self {
            Self::Clone(_) => "clone the source",
            Self::Follow(..) => "read what names the source",
        }
    }
}

/// The requester of a review, and the annotation that says so, under which answers are remembered.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The user.
    pub requester: &'a Requester,
    /// The user as an annotation.
    pub stamp: &'a str,
}

/// Why nothing is looked at.
#[derive(Debug, Clone)]
pub enum Refusal {
    /// The requester lacks the right.
    Forbidden(FieldError),
    /// Nobody can say now whether the requester has the right.
    Unknown(Undecidable),
}

impl Asker<'_> {
    /// Whether the requester has this right; a refusal is about `field`.
    pub async fn has(self, right: &Right, field: &str, cluster: &Cluster, freshness: Freshness) -> Result<(), Refusal> {
        let why = match cluster.authorization(self, right, freshness).await {
            Lookup::Present(Authorization::Allowed) => return Ok(()),
            Lookup::Present(Authorization::Denied(why)) => {
                return Err(Refusal::Forbidden(FieldError::forbidden(field, why)));
            }
            Lookup::Unknown(why) => why,
            Lookup::Absent => "there is no answer".to_owned(),
        };
        let why = format!("whether the user may {} could not be told: {why}", right.verb());
        Err(Refusal::Unknown(Undecidable(why)))
    }
}
