//! The policy that warns about settings that smartclone does not use: one line for each, generated from the table of effects. A webhook
//! would be called for every change of the CDI object, and could block it.

use common::{
    api,
    effect::{self, Effect, Setting},
    keys::WEBHOOK,
    manifest,
};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, Validation};

use super::{SETTINGS, policy, rule};

pub(super) fn unused() -> ValidatingAdmissionPolicy {
    let on = |resource: &str| rule(api::GROUP, api::VERSION, resource, &["CREATE", "UPDATE"]);
    let own = |fields: &[effect::Field<Setting>]| -> Vec<(String, Effect<Setting>)> {
        fields.iter().map(|field| (field.path.to_owned(), field.effect)).collect()
    };
    let tables = [
        ("CDI", own(&effect::CDI)),
        ("CDIConfig", effect::cdi_config().collect()),
        ("VolumeCloneSource", own(&effect::VOLUME_CLONE_SOURCE)),
    ];
    let validations =
        tables.iter().flat_map(|(kind, fields)| fields.iter().filter_map(move |field| warning(kind, field)));
    policy(
        manifest::cluster_meta(WEBHOOK, SETTINGS),
        vec![on("cdis"), on("cdiconfigs"), on("volumeclonesources")],
        Vec::new(),
        Vec::new(),
        validations.collect(),
    )
}

/// The warning about a field of an object of this kind.
fn warning(kind: &str, (path, effect): &(String, Effect<Setting>)) -> Option<Validation> {
    let Effect::Unused(when, why) = effect else { return None };
    Some(Validation {
        expression: format!("request.kind.kind != '{kind}' || !({})", is_set(path, *when)),
        message: Some(format!("smartclone does not use {path}: {why}")),
        ..Validation::default()
    })
}

/// CEL that is true if the field at `path` requests something.
fn is_set(path: &str, when: Setting) -> String {
    let ends = path.match_indices('.').map(|(end, _)| end).chain([path.len()]);
    let present = ends.map(|end| format!("has(object.{})", &path[..end])).collect::<Vec<_>>().join(" && ");
    let asks = match when {
        Setting::Present => return present,
        Setting::True => format!("object.{path}"),
        Setting::OtherThan(word) => format!("object.{path}.exists(it, it != '{word}')"),
    };
    format!("{present} && {asks}")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::present("spec.infra", Setting::Present, "has(object.spec) && has(object.spec.infra)")]
    #[case::yes(
        "spec.preallocation",
        Setting::True,
        "has(object.spec) && has(object.spec.preallocation) && object.spec.preallocation"
    )]
    #[case::other_words(
        "spec.config.featureGates",
        Setting::OtherThan("A"),
        "has(object.spec) && has(object.spec.config) && has(object.spec.config.featureGates) && \
         object.spec.config.featureGates.exists(it, it != 'A')"
    )]
    fn asks_for_something(#[case] path: &str, #[case] when: Setting, #[case] expected: &str) {
        assert_eq!(is_set(path, when), expected);
    }

    /// One warning for each setting without effect, each of a kind and about a field of its own.
    #[test]
    fn every_setting_without_effect_is_told() {
        let spec = unused().spec.unwrap();
        let told = spec.validations.unwrap_or_default();
        let unused = |effect: &Effect<Setting>| matches!(effect, Effect::Unused(..));
        let rows = effect::CDI.iter().filter(|field| unused(&field.effect)).count()
            + effect::cdi_config().filter(|(_, effect)| unused(effect)).count()
            + effect::VOLUME_CLONE_SOURCE.iter().filter(|field| unused(&field.effect)).count();
        assert_eq!(told.len(), rows);
        let expressions: std::collections::BTreeSet<_> = told.iter().map(|it| &it.expression).collect();
        assert_eq!(expressions.len(), rows);
    }
}
