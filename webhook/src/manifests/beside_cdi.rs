//! The manifests of the webhook for a cluster with CDI. Nothing in them is an object of CDI, and nothing of CDI's depends on them: a clone
//! that smartclone does not see is CDI's.

use common::{
    keys::WEBHOOK,
    lease,
    manifest::{self, Manifest, READ, cluster_meta, right},
};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};

use super::{
    FAIL, MUTATING, MUTATING_CLAIMS, VALIDATING, VALIDATING_CLAIMS, claims, claims_to_validate,
    conditions_beside_cdi::{new_claims_and_losses, new_clones_and_losses, stamped_claims, stamped_clones},
    data_volumes, deployed, mutating_webhook, own_rights, rights_of_reviews, validating_webhook,
};
use crate::policies;

/// The MutatingWebhookConfiguration that the API server calls before CDI's `cdi-api-datavolume-mutate`: it calls them in the order of their
/// names. [`MUTATING`] comes after it.
pub const MUTATING_BEFORE_CDI: &str = "aa.mutate.datavolumes.smartclone.dev";

/// While the webhook is down, CDI clones.
const IGNORE: &str = "Ignore";

/// All manifests. CDI's webhook comes first and has checked the requester's right before smartclone takes a clone.
pub fn beside_cdi() -> serde_json::Result<Vec<Manifest>> {
    set("beside-cdi/webhook", MUTATING, IGNORE)
}

/// The same for a CDI whose webhooks skip the clones that smartclone takes: its CDI object has the condition
/// [`of_cdi`](super::of_cdi) in `spec.customizeComponents`. Smartclone's webhook comes first and is needed for every new clone: a forged
/// mark would be checked by nobody.
pub fn before_cdi() -> serde_json::Result<Vec<Manifest>> {
    set("beside-cdi/before-cdi/webhook", MUTATING_BEFORE_CDI, FAIL)
}

fn set(directory: &str, mutating: &str, failure_policy: &str) -> serde_json::Result<Vec<Manifest>> {
    let path = |file: &str| format!("{directory}/{file}.yaml");
    let mut own_rights = own_rights();
    // The controller runs: only then a clone is taken.
    own_rights.push(right(lease::GROUP, &["leases"], &[lease::NAME], READ));
    let account = manifest::account(WEBHOOK, rights_of_reviews(mutating), own_rights)?;
    let args =
        if mutating == MUTATING { Vec::new() } else { vec![format!("--mutating-webhook-configuration={mutating}")] };
    Ok(vec![
        Manifest { path: path("rbac"), ..account },
        deployed(
            &path("deployment"),
            "The admission server: two of it, since a clone that none of them sees is CDI's.",
            args,
        )?,
        Manifest::new(
            &path("configurations"),
            "The reviews that the API server requests of the webhook. caBundle and path are missing on purpose: the webhook writes them.",
        )
        .with(&mutating_configuration(mutating, failure_policy))?
        .with(&validating_configuration())?,
        policies::beside_cdi(&path("policies"))?,
    ])
}

fn mutating_configuration(name: &str, failure_policy: &str) -> MutatingWebhookConfiguration {
    MutatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, name),
        webhooks: Some(vec![
            mutating_webhook(
                MUTATING,
                failure_policy,
                vec![data_volumes(&["CREATE", "UPDATE"])],
                new_clones_and_losses(),
            ),
            mutating_webhook(
                MUTATING_CLAIMS,
                IGNORE,
                vec![claims("CREATE", &[]), claims("UPDATE", &[])],
                new_claims_and_losses(),
            ),
        ]),
    }
}

fn validating_configuration() -> ValidatingWebhookConfiguration {
    ValidatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, VALIDATING),
        webhooks: Some(vec![
            validating_webhook(VALIDATING, vec![data_volumes(&["CREATE", "UPDATE"])], stamped_clones()),
            validating_webhook(VALIDATING_CLAIMS, claims_to_validate(), stamped_claims()),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    fn objects(manifests: &[Manifest], kind: &str) -> Vec<Value> {
        manifests.iter().flat_map(|it| &it.objects).filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// The API server calls mutating webhooks in the order of their configurations' names.
    #[rstest]
    #[case::after(beside_cdi, false, "Ignore")]
    #[case::before(before_cdi, true, "Fail")]
    fn the_order_of_the_webhooks(
        #[case] set: fn() -> serde_json::Result<Vec<Manifest>>,
        #[case] is_first: bool,
        #[case] failure_policy: &str,
    ) {
        let manifests = set().unwrap();
        let [configuration] = &objects(&manifests, "MutatingWebhookConfiguration")[..] else { panic!("not one") };
        let name = configuration["metadata"]["name"].as_str().unwrap();
        assert_eq!(name < "cdi-api-datavolume-mutate", is_first);
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], failure_policy);
        assert!(configuration["webhooks"][0]["timeoutSeconds"].as_i64().unwrap() <= 5);
        // The webhook may publish its certificate there, and looks there.
        let role = &objects(&manifests, "ClusterRole")[0];
        assert!(role.to_string().contains(&format!("\"{name}\"")), "{role}");
        let args = &objects(&manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
        let told = format!("--mutating-webhook-configuration={name}");
        assert_eq!(args.as_array().is_some_and(|args| args.contains(&told.into())), is_first);
    }

    /// What is CDI's is neither read to be written, nor reviewed.
    #[test]
    fn nothing_of_cdi_depends_on_it() {
        let manifests = beside_cdi().unwrap();
        for manifest in &manifests {
            assert!(manifest.path.starts_with("beside-cdi/webhook/"), "{}", manifest.path);
        }
        let roles = [objects(&manifests, "ClusterRole"), objects(&manifests, "Role")].concat();
        for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
            let is_cdi_s = rule["apiGroups"][0] == "cdi.kubevirt.io";
            let reads = ["get", "list", "watch"];
            let only_reads = rule["verbs"].as_array().unwrap().iter().all(|verb| reads.contains(&verb.as_str().unwrap()));
            assert!(!is_cdi_s || only_reads, "{rule}");
        }
        let lease = roles.iter().flat_map(|role| role["rules"].as_array().unwrap());
        assert!(lease.into_iter().any(|rule| rule["resourceNames"][0] == lease::NAME), "the controller's Lease");
        for configuration in objects(&manifests, "ValidatingWebhookConfiguration") {
            for webhook in configuration["webhooks"].as_array().unwrap() {
                let conditions = webhook["matchConditions"].to_string();
                assert!(conditions.contains("smartclone.dev/requester"), "{webhook}");
                assert!(!webhook["rules"].to_string().contains("objecttransfers"), "{webhook}");
            }
        }
    }
}
