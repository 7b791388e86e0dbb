//! The volume mode and the access modes of a clone: what is asked for, else what the StorageProfile offers, else the source's.

use crate::{
    api::ClaimPropertySet,
    clone::{
        facts::{Facts, Source},
        request::{Form, Request},
    },
    object::{ContentType, VolumeMode},
};

/// The volume mode of the clone: the one that is asked for; `spec.pvc` means what Kubernetes means by leaving it out; `spec.storage` the
/// source's, unless the StorageProfile has only the other one.
pub(crate) fn mode(request: &Request, source: &Source, facts: &Facts) -> VolumeMode {
    if request.content == ContentType::Archive {
        return VolumeMode::Filesystem;
    }
    match (request.volume_mode, request.form) {
        (Some(mode), _) => mode,
        (None, Form::Pvc) => VolumeMode::default(),
        (None, Form::Storage) => {
            let sets = property_sets(facts);
            let of = |set: &ClaimPropertySet| set.volume_mode.as_deref().and_then(|m| m.parse::<VolumeMode>().ok());
            match (source.mode, sets.iter().find_map(of)) {
                (Some(mode), Some(best)) if !sets.iter().any(|set| of(set) == Some(mode)) => best,
                (Some(mode), _) => mode,
                (None, best) => best.unwrap_or_default(),
            }
        }
    }
}

fn property_sets(facts: &Facts) -> &[ClaimPropertySet] {
    facts.profile.present().map(|p| p.claim_property_sets.as_slice()).unwrap_or_default()
}

/// The access modes of the clone: those that are asked for, else the StorageProfile's best for its volume mode, else the source's.
pub(crate) fn access_modes(request: &Request, source: &Source, mode: VolumeMode, facts: &Facts) -> Vec<String> {
    if !request.access_modes.is_empty() {
        return request.access_modes.clone();
    }
    let sets = property_sets(facts);
    let best = sets.iter().find(|set| set.volume_mode.as_deref() == Some(mode.as_str()));
    match best.and_then(|set| set.access_modes.clone()).filter(|modes| !modes.is_empty()) {
        Some(modes) => modes,
        None if source.access_modes.is_empty() => vec!["ReadWriteOnce".to_owned()],
        None => source.access_modes.clone(),
    }
}
