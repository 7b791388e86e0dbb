//! The manifests of the webhook for a cluster with CDI. Nothing in them is an object of CDI, and nothing of CDI's depends on them: a clone
//! that smartclone does not see is CDI's.

use common::{
    keys::WEBHOOK,
    lease,
    manifest::{self, Manifest, READ, cluster_meta, right},
};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};

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

/// All manifests for a cluster with CDI, by their paths in the folder of that installation. CDI's webhook comes first and has checked the requester's right before smartclone takes a clone.
pub fn beside_cdi() -> serde_json::Result<Vec<Manifest>> {
    let path = |file: &str| format!("webhook/{file}.yaml");
    let mut own_rights = own_rights();
    // The controller runs: only then a clone is taken.
    own_rights.push(right("coordination.k8s.io", &["leases"], &[lease::NAME], READ));
    let rights = rights_of_reviews(&[MUTATING, MUTATING_BEFORE_CDI, VALIDATING]);
    Ok(vec![
        Manifest { path: path("rbac"), ..manifest::account(WEBHOOK, rights, own_rights)? },
        deployed(
            &path("deployment"),
            "The admission server: two of it, since a clone that none of them sees is CDI's.",
            vec![format!("--optional-mutating-webhook-configuration={MUTATING_BEFORE_CDI}")],
        )?,
        Manifest::new(
            &path("configurations"),
            "The reviews that the API server requests of the webhook. caBundle and path are missing on purpose: the webhook writes them.",
        )
        .with(&MutatingWebhookConfiguration {
            metadata: cluster_meta(WEBHOOK, MUTATING),
            webhooks: Some(vec![
                of_data_volumes(IGNORE),
                mutating_webhook(
                    MUTATING_CLAIMS,
                    IGNORE,
                    vec![claims("CREATE", &[]), claims("UPDATE", &[])],
                    new_claims_and_losses(),
                ),
            ]),
        })?
        .with(&validating_configuration())?,
        policies::beside_cdi(&path("policies"))?,
    ])
}

/// What the lever for bursts adds: smartclone's webhook is called before CDI's too, so that CDI's webhooks can skip the clones that it takes.
/// It is needed for every new clone then, because nobody else would check a forged mark.
pub fn lever() -> serde_json::Result<Vec<Manifest>> {
    let about = "The same review of DataVolumes before CDI's webhooks. caBundle and path are missing on purpose: the webhook writes them.";
    let configuration = MutatingWebhookConfiguration {
        metadata: cluster_meta(WEBHOOK, MUTATING_BEFORE_CDI),
        webhooks: Some(vec![of_data_volumes(FAIL)]),
    };
    Ok(vec![Manifest::new("configuration.yaml", about).with(&configuration)?])
}

fn of_data_volumes(failure_policy: &str) -> MutatingWebhook {
    mutating_webhook(MUTATING, failure_policy, vec![data_volumes(&["CREATE", "UPDATE"])], new_clones_and_losses())
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
    use serde_json::{Value, json};

    use super::*;

    fn objects(manifests: &[Manifest], kind: &str) -> Vec<Value> {
        manifests.iter().flat_map(|it| &it.objects).filter(|object| object["kind"] == kind).cloned().collect()
    }

    /// The API server calls mutating webhooks in the order of their configurations' names.
    #[rstest]
    #[case::after(beside_cdi, false, "Ignore")]
    #[case::before(lever, true, "Fail")]
    fn the_order_of_the_webhooks(
        #[case] set: fn() -> serde_json::Result<Vec<Manifest>>,
        #[case] is_first: bool,
        #[case] failure_policy: &str,
    ) {
        let [configuration] = &objects(&set().unwrap(), "MutatingWebhookConfiguration")[..] else { panic!("not one") };
        let name = configuration["metadata"]["name"].as_str().unwrap();
        assert_eq!(name < "cdi-api-datavolume-mutate", is_first);
        assert_eq!(configuration["webhooks"][0]["failurePolicy"], failure_policy);
        assert!(configuration["webhooks"][0]["timeoutSeconds"].as_i64().unwrap() <= 5);
        // The webhook may publish its certificate in both, and does.
        let manifests = beside_cdi().unwrap();
        let role = &objects(&manifests, "ClusterRole")[0];
        assert!(role.to_string().contains(&format!("\"{name}\"")), "{role}");
        let args = &objects(&manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["args"];
        let told = json!(format!("--optional-mutating-webhook-configuration={name}"));
        assert_eq!(args.as_array().unwrap().contains(&told), is_first);
    }

    /// What is CDI's is neither read to be written, nor reviewed.
    #[test]
    fn nothing_of_cdi_depends_on_it() {
        let manifests = beside_cdi().unwrap();
        for manifest in &manifests {
            assert!(manifest.path.starts_with("webhook/"), "{}", manifest.path);
        }
        let roles = [objects(&manifests, "ClusterRole"), objects(&manifests, "Role")].concat();
        for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
            let is_cdi_s = rule["apiGroups"][0] == "cdi.kubevirt.io";
            let reads = ["get", "list", "watch"];
            let only_reads =
                rule["verbs"].as_array().unwrap().iter().all(|verb| reads.contains(&verb.as_str().unwrap()));
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
