//! Claims that are filled without a DataVolume: they name a VolumeCloneSource in their `dataSourceRef`.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use crate::{
    api::VolumeCloneSource,
    clone::{
        populate,
        request::{ObjectName, Parsed, Request, SourceName},
    },
    field,
};

/// The VolumeCloneSource that `claim` is to be filled from, if it is that kind of claim. It may be in another namespace. Owners don't
/// matter, as they may change.
pub fn clone_source(claim: &PersistentVolumeClaim) -> Option<ObjectName> {
    let mut unowned = claim.clone();
    unowned.metadata.owner_references = None;
    populate::wanted(&unowned).map(|(namespace, name)| ObjectName { namespace, name })
}

/// What `claim` gets the content of, by way of `source`; or why of nothing.
pub fn source(claim: &PersistentVolumeClaim, source: &VolumeCloneSource) -> Result<SourceName, String> {
    match Request::parse(&populate::picture(claim, source)) {
        Parsed::Clone(request) => Ok(request.source),
        Parsed::Wrong(errors) => Err(field::joined(&errors)),
        Parsed::Reference(..) | Parsed::NotAClone => Err("it names no source".to_owned()),
    }
}
