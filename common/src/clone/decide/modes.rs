//! Volume mode and access modes of a clone, chosen as a pair from the StorageProfile. Precedence: the requested ones, the profile's best,
//! the source's. A clone is a writable disk, even if its source is read-only.

use crate::{
    api::ClaimPropertySet,
    clone::{
        facts::{Facts, Source},
        request::{Form, Request},
    },
    object::{ContentType, VolumeMode},
};

/// The access modes that allow a pod to write.
const WRITABLE: [&str; 3] = ["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"];

/// True if a pod can write with one of the access modes.
pub(crate) fn is_writable(access_modes: &[String]) -> bool {
    access_modes.iter().any(|mode| WRITABLE.contains(&mode.as_str()))
}

/// The volume mode of the clone: the requested one; for `spec.pvc` Kubernetes' default; for `spec.storage` the source's, unless the
/// StorageProfile offers only the other one together with the requested access modes.
pub(crate) fn mode(request: &Request, source: &Source, facts: &Facts) -> VolumeMode {
    if request.content == ContentType::Archive {
        return VolumeMode::Filesystem;
    }
    match (request.volume_mode, request.form) {
        (Some(mode), _) => mode,
        (None, Form::Pvc) => VolumeMode::default(),
        (None, Form::Storage) => {
            let offered = offered(facts);
            let agrees = |offer: &&Offer<'_>| {
                request.access_modes.is_empty()
                    || request.access_modes.iter().any(|mode| offer.access_modes.contains(mode))
            };
            let mut modes = offered.iter().filter(agrees).map(|offer| offer.mode);
            match (source.mode, modes.clone().next()) {
                (Some(mode), Some(best)) => {
                    if modes.any(|other| other == mode) {
                        mode
                    } else {
                        best
                    }
                }
                (None, Some(best)) => best,
                (mode, None) => mode.unwrap_or_default(),
            }
        }
    }
}

/// The access modes of the clone: the requested ones, or the StorageProfile's best for its volume mode, or the source's.
pub(crate) fn access_modes(request: &Request, source: &Source, mode: VolumeMode, facts: &Facts) -> Vec<String> {
    if !request.access_modes.is_empty() {
        return request.access_modes.clone();
    }
    let offered = offered(facts);
    let of_mode = offered.iter().filter(|offer| offer.mode == mode).map(|offer| offer.access_modes);
    let known = of_mode.chain([source.access_modes.as_slice()]).find(|modes| is_writable(modes));
    known.map_or_else(|| vec!["ReadWriteOnce".to_owned()], <[String]>::to_vec)
}

/// A volume mode with its access modes.
struct Offer<'a> {
    mode: VolumeMode,
    access_modes: &'a [String],
}

impl<'a> Offer<'a> {
    /// Reads a claim property set; `None` if the volume mode is unknown or access modes are missing.
    fn of(set: &'a ClaimPropertySet) -> Option<Self> {
        let mode = set.volume_mode.as_deref()?.parse().ok()?;
        let access_modes = set.access_modes.as_deref().filter(|modes| !modes.is_empty())?;
        Some(Self { mode, access_modes })
    }
}

/// The pairs of the StorageProfile, best first.
fn offered(facts: &Facts) -> Vec<Offer<'_>> {
    let sets = facts.profile.present().map(|profile| profile.claim_property_sets.as_slice()).unwrap_or_default();
    sets.iter().filter_map(Offer::of).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::{
        clone::{
            facts::Profile,
            fixtures::{facts, request, volume},
        },
        lookup::Lookup,
    };

    const RWO: &str = "ReadWriteOnce";
    const RWX: &str = "ReadWriteMany";
    const ROX: &str = "ReadOnlyMany";

    /// The requested access modes and volume mode, the profile's pairs, the source's pair, and the expected pair.
    #[rstest]
    #[case::source(&[], None, &[], (RWO, "Filesystem"), &[RWO], "Filesystem")]
    #[case::block_source(&[], None, &[], (RWX, "Block"), &[RWX], "Block")]
    #[case::source_before_the_best(&[], None, &[(RWX, "Block"), (RWO, "Filesystem")], (RWO, "Filesystem"), &[RWO], "Filesystem")]
    #[case::only_the_other_mode(&[], None, &[(RWX, "Block")], (RWO, "Filesystem"), &[RWX], "Block")]
    #[case::mode_of_the_access_mode(&[RWX], None, &[(RWX, "Block"), (RWO, "Filesystem")], (RWO, "Filesystem"), &[RWX], "Block")]
    #[case::one_of_several(&[RWO, RWX], None, &[(RWX, "Block")], (RWO, "Filesystem"), &[RWO, RWX], "Block")]
    #[case::offered_with_both(&[RWX], None, &[(RWX, "Block"), (RWX, "Filesystem")], (RWO, "Filesystem"), &[RWX], "Filesystem")]
    #[case::offered_by_none(&[ROX], None, &[(RWX, "Block")], (RWO, "Filesystem"), &[ROX], "Filesystem")]
    #[case::access_of_the_mode(&[], Some("Block"), &[(RWO, "Filesystem"), (RWX, "Block")], (RWO, "Filesystem"), &[RWX], "Block")]
    #[case::both_as_asked(&[RWX], Some("Filesystem"), &[(RWX, "Block")], (RWO, "Filesystem"), &[RWX], "Filesystem")]
    #[case::read_only_source(&[], None, &[], (ROX, "Filesystem"), &[RWO], "Filesystem")]
    #[case::read_only_offer_first(&[], None, &[(ROX, "Filesystem"), (RWX, "Filesystem")], (ROX, "Filesystem"), &[RWX], "Filesystem")]
    #[case::nothing_but_read_only(&[], None, &[(ROX, "Block")], (ROX, "Block"), &[RWO], "Block")]
    #[case::read_only_wish(&[ROX], None, &[], (RWO, "Filesystem"), &[ROX], "Filesystem")]
    fn pairs(
        #[case] asked: &[&str],
        #[case] mode_asked: Option<&str>,
        #[case] offers: &[(&str, &str)],
        #[case] source: (&str, &str),
        #[case] access: &[&str],
        #[case] expected: &str,
    ) {
        let mut facts = facts();
        let sets = offers.iter().map(|(access, mode)| ClaimPropertySet {
            access_modes: Some(vec![(*access).to_owned()]),
            volume_mode: Some((*mode).to_owned()),
        });
        facts.profile = Lookup::Present(Profile { claim_property_sets: sets.collect(), ..Profile::default() });
        let Lookup::Present(of_source) = &mut facts.source else { panic!() };
        (of_source.access_modes, of_source.mode) = (vec![source.0.to_owned()], source.1.parse().ok());
        let of_source = of_source.clone();
        let volume = volume(|object| {
            object["spec"]["pvc"].take();
            object["spec"]["storage"] = json!({"accessModes": asked, "volumeMode": mode_asked});
        });
        let request = request(&volume);
        let mode = mode(&request, &of_source, &facts);
        assert_eq!(mode.as_str(), expected);
        assert_eq!(access_modes(&request, &of_source, mode, &facts), access);
    }
}
