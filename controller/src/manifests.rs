//! What the controller needs in the cluster: its Deployment, and its rights, each with its reason.

use common::{
    api::{self, snapshot},
    manifest::{self, Manifest, Program, READ, WATCH, right},
    meta::{CLONER, CONTROLLER},
};
use k8s_openapi::api::{apps::v1::DeploymentStrategy, core::v1::ConfigMap, rbac::v1::PolicyRule};

/// Every file.
pub fn manifests() -> serde_json::Result<Vec<Manifest>> {
    Ok(vec![
        manifest::account(CONTROLLER, rights(), Vec::new())?,
        Manifest::new("controller/deployment.yaml", "The controller: one of it. Two would be safe, but no faster.")
            .with(&image_of_movers())?
            .with(&program().deployment())?
            .with(&manifest::network_policy(CONTROLLER, &[]))?,
    ])
}

fn rights() -> Vec<PolicyRule> {
    vec![
        // The work list, and the annotations on it.
        right(api::GROUP, &["datavolumes"], &[], &["get", "list", "watch", "patch"]),
        // What was done and what is waited for.
        right(api::GROUP, &["datavolumes/status"], &[], &["update"]),
        // Objects that a DataVolume or a claim owns block its deletion; whoever says so has to have this right.
        right(api::GROUP, &["datavolumes/finalizers"], &[], &["update"]),
        right("", &["persistentvolumeclaims/finalizers"], &[], &["update"]),
        // What is to be cloned by another name, or without a DataVolume.
        right(api::GROUP, &["datasources", "volumeclonesources"], &[], WATCH),
        // What a name stands for.
        right(api::GROUP, &["datasources/status"], &[], &["update"]),
        // What the admin wants.
        right(api::GROUP, &["cdis", "cdiconfigs"], &[], WATCH),
        right(api::GROUP, &["storageprofiles"], &[], READ),
        // The object that the documentation tells admins to patch is there from the start; so is one profile for every StorageClass, and
        // the settings in force; what holds for each, and what a driver has refused.
        right(api::GROUP, &["cdis", "storageprofiles", "cdiconfigs"], &[], &["create"]),
        right(api::GROUP, &["storageprofiles/status", "cdiconfigs/status"], &[], &["update"]),
        // Sources, clones, and temporary claims beside the sources; only these, and clones that were given up before they were filled, are
        // deleted.
        right("", &["persistentvolumeclaims"], &[], &["get", "list", "watch", "create", "patch", "delete"]),
        // The driver and the size behind a claim; and whose a volume is, which is changed when it is handed over.
        right("", &["persistentvolumes"], &[], &["get", "list", "watch", "patch"]),
        // Transfers: their finalizer, and what is told about them.
        right(api::GROUP, &["objecttransfers"], &[], &["list", "watch", "patch"]),
        right(api::GROUP, &["objecttransfers/status"], &[], &["update"]),
        // A DataVolume that moves is made anew at its target, and then deleted at its source.
        right(api::GROUP, &["datavolumes"], &[], &["create", "delete"]),
        // Who is writing to a source; and the pods that copy.
        right("", &["pods"], &[], &["get", "list", "watch", "create", "delete"]),
        // The progress of a copy.
        right("", &["pods/log"], &[], &["get"]),
        // What a quota refused is tried again when the quota changes.
        right("", &["resourcequotas"], &[], &["list", "watch"]),
        // What the provisioner says about a claim is said in events only.
        right("", &["events"], &[], WATCH),
        // What we say.
        right("events.k8s.io", &["events"], &[], &["create", "patch"]),
        // Source snapshots, and temporary ones.
        right(snapshot::GROUP, &["volumesnapshots"], &[], &["get", "list", "watch", "create", "delete"]),
        // What the storage can do, and the driver behind a snapshot.
        right(snapshot::GROUP, &["volumesnapshotclasses", "volumesnapshotcontents"], &[], WATCH),
        // A class for backups keeps what is deleted: the contents of temporary snapshots are to go all the same.
        right(snapshot::GROUP, &["volumesnapshotcontents"], &[], &["patch"]),
        right("storage.k8s.io", &["storageclasses"], &[], WATCH),
        // Who still has a volume that is about to be handed over.
        right("storage.k8s.io", &["volumeattachments"], &[], WATCH),
        right("", &["nodes"], &[], WATCH),
        // Whether a requester may read a source in another namespace.
        right("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
    ]
}

/// One place for what the controller starts and what the API server lets it start.
fn image_of_movers() -> ConfigMap {
    ConfigMap {
        metadata: manifest::namespaced_meta(CONTROLLER, manifest::CLONER_CONFIG),
        data: Some([(manifest::CLONER_IMAGE_KEY.to_owned(), manifest::image(CLONER))].into()),
        ..ConfigMap::default()
    }
}

fn program() -> Program<'static> {
    Program {
        component: CONTROLLER,
        replicas: 1,
        // The old one is gone before the new one starts: two of them would only repeat each other's work.
        strategy: DeploymentStrategy { type_: Some("Recreate".to_owned()), ..DeploymentStrategy::default() },
        args: Vec::new(),
        env: Vec::new(),
        settings: vec![("CLONER_IMAGE", manifest::CLONER_CONFIG, manifest::CLONER_IMAGE_KEY)],
        ports: Vec::new(),
        requests: ("50m", "64Mi"),
        // Generous: its caches grow with the cluster.
        memory_limit: "1Gi",
        critical: false,
    }
}
