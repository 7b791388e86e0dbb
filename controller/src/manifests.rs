//! The controller's manifests: its Deployment, and its RBAC rules, each with its reason.

use common::{
    api::{self, snapshot},
    keys::{CLONER, CONTROLLER},
    manifest::{self, Manifest, Program, READ, WATCH, right},
};
use k8s_openapi::api::{apps::v1::DeploymentStrategy, core::v1::ConfigMap, rbac::v1::PolicyRule};

/// All manifests.
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
        // The clones, and the annotations on them.
        right(api::GROUP, &["datavolumes"], &[], &["get", "list", "watch", "patch"]),
        // The status of clones.
        right(api::GROUP, &["datavolumes/status"], &[], &["update"]),
        // Objects that a DataVolume or a claim owns block its deletion (`blockOwnerDeletion`); setting such an owner reference needs this
        // right.
        right(api::GROUP, &["datavolumes/finalizers"], &[], &["update"]),
        right("", &["persistentvolumeclaims/finalizers"], &[], &["update"]),
        // Sources that are named by a DataSource, or cloned without a DataVolume.
        right(api::GROUP, &["datasources", "volumeclonesources"], &[], WATCH),
        // The labels that a DataSource inherits from its source.
        right(api::GROUP, &["datasources"], &[], &["patch"]),
        // The status of DataSources.
        right(api::GROUP, &["datasources/status"], &[], &["update"]),
        // The admin's settings.
        right(api::GROUP, &["cdis", "cdiconfigs"], &[], WATCH),
        right(api::GROUP, &["storageprofiles"], &[], READ),
        // The CDI object that admins patch exists from the start, as do a profile for each StorageClass and the CDIConfig; their statuses
        // hold the settings in force and the refusals of drivers.
        right(api::GROUP, &["cdis", "storageprofiles", "cdiconfigs"], &[], &["create"]),
        right(api::GROUP, &["storageprofiles/status", "cdiconfigs/status"], &[], &["update"]),
        // Sources, clones, and temporary claims in the sources' namespaces. Only these, and clones that were given up before they were
        // populated, are deleted.
        right("", &["persistentvolumeclaims"], &[], &["get", "list", "watch", "create", "patch", "delete"]),
        // The driver and the size of a claim's volume; and its `claimRef`, which changes in the hand-over.
        right("", &["persistentvolumes"], &[], &["get", "list", "watch", "patch"]),
        // ObjectTransfers: their finalizer and their status.
        right(api::GROUP, &["objecttransfers"], &[], &["list", "watch", "patch"]),
        right(api::GROUP, &["objecttransfers/status"], &[], &["update"]),
        // A DataVolume that is transferred is created at its target, and then deleted at its source.
        right(api::GROUP, &["datavolumes"], &[], &["create", "delete"]),
        // The pods that write to a source, and those that copy.
        right("", &["pods"], &[], &["get", "list", "watch", "create", "delete"]),
        // The progress of a copy.
        right("", &["pods/log"], &[], &["get"]),
        // A write that a quota refused is tried again when the quota changes.
        right("", &["resourcequotas"], &[], &["list", "watch"]),
        // The errors of a provisioner about a claim are in events only.
        right("", &["events"], &[], WATCH),
        // The controller's own events.
        right("events.k8s.io", &["events"], &[], &["create", "patch"]),
        // Source snapshots, and temporary ones.
        right(snapshot::GROUP, &["volumesnapshots"], &[], &["get", "list", "watch", "create", "delete"]),
        // The capabilities of the storage, and the driver of a snapshot.
        right(snapshot::GROUP, &["volumesnapshotclasses", "volumesnapshotcontents"], &[], WATCH),
        // A class for backups has the deletion policy `Retain`: the contents of temporary snapshots are to be deleted all the same.
        right(snapshot::GROUP, &["volumesnapshotcontents"], &[], &["patch"]),
        right("storage.k8s.io", &["storageclasses"], &[], WATCH),
        // The holders of a volume that is about to be handed over.
        right("storage.k8s.io", &["volumeattachments"], &[], WATCH),
        right("", &["nodes"], &[], WATCH),
        // The requester's right to read a source in another namespace.
        right("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
    ]
}

/// The image of data movers, in one place for the controller that starts them and the policy that permits them.
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
        // The old pod is gone before the new one starts: two of them would only repeat each other's work.
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
