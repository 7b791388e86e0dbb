//! What the controller needs in the cluster: its Deployment, and its rights, each with its reason.

use common::{
    api::{self, snapshot},
    manifest::{self, Manifest, Program, READ, right},
    meta::{CLONER, CONTROLLER},
};
use k8s_openapi::api::{apps::v1::DeploymentStrategy, rbac::v1::PolicyRule};

/// Every file.
pub fn manifests() -> serde_json::Result<Vec<Manifest>> {
    Ok(vec![
        manifest::account(CONTROLLER, rights(), Vec::new())?,
        Manifest::new("controller/deployment.yaml", "The controller: one of it. Two would be safe, but no faster.")
            .with(&program().deployment())?,
    ])
}

fn rights() -> Vec<PolicyRule> {
    vec![
        // The work list, and the annotations on it.
        right(api::GROUP, &["datavolumes"], &[], &["get", "list", "watch", "patch"]),
        // What was done and what is waited for.
        right(api::GROUP, &["datavolumes/status"], &[], &["update"]),
        // Objects that a DataVolume owns block its deletion; whoever says so has to have this right.
        right(api::GROUP, &["datavolumes/finalizers"], &[], &["update"]),
        // What the admin wants.
        right(api::GROUP, &["cdis", "storageprofiles"], &[], READ),
        // The object that the documentation tells admins to patch is there from the start.
        right(api::GROUP, &["cdis"], &[], &["create"]),
        // Sources and clones. Never to be deleted by us: a clone goes with its DataVolume.
        right("", &["persistentvolumeclaims"], &[], &["get", "list", "watch", "create", "patch"]),
        // The driver and the size behind a claim.
        right("", &["persistentvolumes"], &[], READ),
        // Who is writing to a source; and the pods that copy.
        right("", &["pods"], &[], &["get", "list", "watch", "create", "delete"]),
        // The progress of a copy.
        right("", &["pods/log"], &[], &["get"]),
        // What the provisioner says about a claim is said in events only.
        right("", &["events"], &[], READ),
        // What we say.
        right("events.k8s.io", &["events"], &[], &["create", "patch"]),
        // Temporary snapshots.
        right(snapshot::GROUP, &["volumesnapshots"], &[], &["get", "list", "watch", "create", "delete"]),
        // What the storage can do.
        right(snapshot::GROUP, &["volumesnapshotclasses"], &[], READ),
        right("storage.k8s.io", &["storageclasses"], &[], READ),
    ]
}

fn program() -> Program<'static> {
    Program {
        component: CONTROLLER,
        replicas: 1,
        // The old one is gone before the new one starts: two of them would only repeat each other's work.
        strategy: DeploymentStrategy { type_: Some("Recreate".to_owned()), ..DeploymentStrategy::default() },
        args: vec![format!("--cloner-image={}", manifest::image(CLONER))],
        ports: Vec::new(),
        requests: ("50m", "64Mi"),
    }
}
