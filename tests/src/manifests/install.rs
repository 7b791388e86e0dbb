//! What belongs to neither program: the namespace, the definitions, the roles of users, and the list of everything.

use anyhow::Result;
use common::{
    api, keys,
    manifest::{Manifest, NAMESPACE, READ, right},
};
use k8s_openapi::{
    api::{
        core::v1::Namespace,
        rbac::v1::{ClusterRole, PolicyRule},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

/// Every file but the kustomization.
pub fn manifests() -> Result<Vec<Manifest>> {
    let mut files = vec![
        Manifest::new(
            "namespace.yaml",
            "Where the programs run, under the strictest of Kubernetes' pod security standards.",
        )
        .with(&namespace())?,
        roles()?,
    ];
    for definition in api::definitions() {
        let path = format!("crds/{}.yaml", definition.spec.names.plural);
        let about = format!(
            "The definition of {}; `kubectl explain {}` shows its fields.",
            definition.spec.names.kind, definition.spec.names.plural
        );
        files.push(Manifest::new(&path, &about).with(&definition)?);
    }
    Ok(files)
}

/// The list that `kubectl apply -k manifests` reads.
pub fn kustomization(manifests: &[Manifest]) -> Manifest {
    let mut resources: Vec<_> = manifests.iter().filter(|m| m.installed).map(|m| m.path.as_str()).collect();
    resources.sort_unstable();
    let mut file = Manifest::new("kustomization.yaml", "Everything that is installed: kubectl apply -k manifests");
    file.objects.push(json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }));
    file
}

fn namespace() -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            labels: Some(
                [(keys::NAME_LABEL, keys::APP), ("pod-security.kubernetes.io/enforce", "restricted")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// What users have in their namespaces.
const OWN: [&str; 3] = ["datavolumes", "datasources", "volumeclonesources"];

/// The roles that CDI has, under the same names: who may do what with DataVolumes.
fn roles() -> serde_json::Result<Manifest> {
    let everything = || {
        vec![
            right(api::GROUP, &OWN, &[], &["*"]),
            // Cloning from a namespace needs this right there; in one's own namespace it comes with the role.
            right(api::GROUP, &["datavolumes/source"], &[], &["create"]),
        ]
    };
    Manifest::new(
        "rbac/users.yaml",
        "What users may do with DataVolumes: part of Kubernetes' roles admin, edit and view.",
    )
    .with(&role("admin", Some("admin"), everything()))?
    .with(&role("edit", Some("edit"), everything()))?
    // Whoever may look may not clone: a clone can be read. Nobody but cluster admins may create an ObjectTransfer: it takes any claim
    // from any namespace, and whoever may create one can read everybody's data.
    .with(&role(
        "view",
        Some("view"),
        vec![right(
            api::GROUP,
            &["datavolumes", "datasources", "volumeclonesources", "storageprofiles", "objecttransfers"],
            &[],
            READ,
        )],
    ))?
    // To be bound by hand, in the namespace of the source.
    .with(&role("clone-sourcer", None, vec![right(api::GROUP, &["datavolumes/source"], &[], &["create"])]))
}

fn role(name: &str, part_of: Option<&str>, rules: Vec<PolicyRule>) -> ClusterRole {
    let app = (keys::NAME_LABEL.to_owned(), keys::APP.to_owned());
    let aggregated = part_of.map(|role| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true".to_owned()));
    ClusterRole {
        metadata: ObjectMeta {
            name: Some(format!("{}:{name}", api::GROUP)),
            labels: Some([app].into_iter().chain(aggregated).collect()),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
        ..ClusterRole::default()
    }
}
