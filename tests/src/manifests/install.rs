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

use super::lever;

/// The folder of the installation beside CDI, below `manifests/`.
pub const BESIDE_CDI: &str = "beside-cdi";

/// Its folder with what the lever for bursts adds.
const LEVER: &str = "beside-cdi/lever";

/// Every file, those of both installations and the kustomizations included.
pub fn manifests() -> Result<Vec<Manifest>> {
    let mut alone = vec![namespace_file()?, roles()?];
    alone.extend(definitions()?);
    alone.extend(webhook::manifests::manifests()?);
    alone.extend(controller::manifests::manifests()?);
    alone.push(kustomization("", "The installation without CDI: kubectl apply -k manifests", &alone));
    Ok([alone, beside_cdi()?].concat())
}

/// The files of the installation beside CDI: CDI has the definitions, and the roles of users.
fn beside_cdi() -> Result<Vec<Manifest>> {
    let mut files = vec![namespace_file()?];
    files.extend(webhook::manifests::beside_cdi()?);
    files.extend(controller::manifests::beside_cdi()?);
    let mut files: Vec<_> = files.into_iter().map(|file| file.in_folder(BESIDE_CDI)).collect();
    let about = "The installation beside CDI: kubectl apply -k manifests/beside-cdi";
    files.push(kustomization(BESIDE_CDI, about, &files));
    let mut lever: Vec<_> = webhook::manifests::lever()?.into_iter().map(|file| file.in_folder(LEVER)).collect();
    let about =
        "First step of the lever for bursts, see docs/beside-cdi.md: kubectl apply -k manifests/beside-cdi/lever";
    lever.push(kustomization(LEVER, about, &lever));
    let patches = lever::patches()?.map(|file| file.in_folder(BESIDE_CDI));
    Ok(files.into_iter().chain(lever).chain(patches).collect())
}

fn namespace_file() -> serde_json::Result<Manifest> {
    let about = "Where the programs run, under the strictest of Kubernetes' pod security standards.";
    Manifest::new("namespace.yaml", about).with(&namespace())
}

fn definitions() -> Result<Vec<Manifest>> {
    let mut files = Vec::new();
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

/// The list in `folder` that `kubectl apply -k` reads. It names the files relative to the folder.
fn kustomization(folder: &str, about: &str, manifests: &[Manifest]) -> Manifest {
    let installed = manifests.iter().filter(|manifest| manifest.installed);
    let mut resources: Vec<_> =
        installed.map(|manifest| manifest.path.trim_start_matches(folder).trim_start_matches('/')).collect();
    resources.sort_unstable();
    let mut file = Manifest::new("kustomization.yaml", about);
    if !folder.is_empty() {
        file = file.in_folder(folder);
    }
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
