//! The controller's manifests: its Deployment, and its RBAC rules, each with its reason.

use common::{
    api::{self, snapshot},
    keys::{CLONER, CONTROLLER},
    lease,
    manifest::{self, Manifest, Program, READ, WATCH, right},
};
use k8s_openapi::api::{apps::v1::DeploymentStrategy, core::v1::ConfigMap, rbac::v1::PolicyRule};

use crate::volume_populator;

/// The manifests of an installation without CDI.
pub fn manifests() -> serde_json::Result<Vec<Manifest>> {
    let rights = [read_and_cloned(), served_in_cdis_place()].concat();
    Ok(vec![manifest::account(CONTROLLER, rights, own_rights())?, deployment()?])
}

/// The manifests of an installation beside CDI, whose controllers keep their kinds. The files belong to a kustomization of their own, since
/// kustomize reads no file outside its folder.
pub fn beside_cdi() -> serde_json::Result<Vec<Manifest>> {
    let rights = [read_and_cloned(), written_beside_cdi()].concat();
    Ok(vec![manifest::account(CONTROLLER, rights, own_rights())?, deployment()?])
}

fn deployment() -> serde_json::Result<Manifest> {
    Manifest::new("controller/deployment.yaml", "The controller: one of it. Two would be safe, but no faster.")
        .with(&image_of_movers())?
        .with(&program().deployment())?
        .with(&manifest::network_policy(CONTROLLER, &[]))
}

/// The rights that a clone needs with and without CDI.
fn read_and_cloned() -> Vec<PolicyRule> {
    vec![
        // The clones, and the annotations on them: the strategy in use; beside CDI, for a clone that moves between the modes.
        right(api::GROUP, &["datavolumes"], &[], &["get", "list", "watch", "patch"]),
        // The status of clones; beside CDI, of those that CDI's controller does not report.
        right(api::GROUP, &["datavolumes/status"], &[], &["update"]),
        // Objects that a DataVolume or a claim owns block its deletion (`blockOwnerDeletion`); setting such an owner reference needs this
        // right.
        right(api::GROUP, &["datavolumes/finalizers"], &[], &["update"]),
        right("", &["persistentvolumeclaims/finalizers"], &[], &["update"]),
        // Sources that are named by a DataSource, or cloned without a DataVolume.
        right(api::GROUP, &["datasources", "volumeclonesources"], &[], WATCH),
        // The admin's settings, and the mode of this cluster.
        right(api::GROUP, &["cdis", "cdiconfigs"], &[], WATCH),
        right(api::GROUP, &["storageprofiles"], &[], READ),
        // Sources, clones, and temporary claims in the sources' namespaces. Only these, and clones that were given up before they were
        // populated, are deleted.
        right("", &["persistentvolumeclaims"], &[], &["get", "list", "watch", "create", "patch", "delete"]),
        // The driver and the size of a claim's volume; and its `claimRef`, which changes in the hand-over.
        right("", &["persistentvolumes"], &[], &["get", "list", "watch", "patch"]),
        // One program serves both modes, and has one set of watches. Beside CDI an ObjectTransfer is left alone.
        right(api::GROUP, &["objecttransfers"], &[], WATCH),
        // The pods that write to a source, and those that copy.
        right("", &["pods"], &[], &["get", "list", "watch", "create", "delete"]),
        // The progress of a copy.
        right("", &["pods/log"], &[], &["get"]),
        // A write that a quota refused is tried again when the quota changes.
        right("", &["resourcequotas"], &[], WATCH),
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
        // The kind in the `dataSourceRef` of claims is known to Kubernetes' data source validator, where that is installed.
        right(volume_populator::GROUP, &["volumepopulators"], &[], &["create"]),
        // The requester's right to read a source in another namespace.
        right("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
    ]
}

/// The rights for the kinds that CDI's controllers serve where CDI is installed.
fn served_in_cdis_place() -> Vec<PolicyRule> {
    vec![
        // The labels that a DataSource inherits from its source.
        right(api::GROUP, &["datasources"], &[], &["patch"]),
        // The status of DataSources.
        right(api::GROUP, &["datasources/status"], &[], &["update"]),
        // The CDI object that admins patch exists from the start, as do a profile for each StorageClass and the CDIConfig; their statuses
        // hold the settings in force and the refusals of drivers.
        right(api::GROUP, &["cdis", "storageprofiles", "cdiconfigs"], &[], &["create"]),
        right(api::GROUP, &["storageprofiles/status", "cdiconfigs/status"], &[], &["update"]),
        // ObjectTransfers: their finalizer and their status.
        right(api::GROUP, &["objecttransfers"], &[], &["patch"]),
        right(api::GROUP, &["objecttransfers/status"], &[], &["update"]),
        // A DataVolume that is transferred is created at its target, and then deleted at its source.
        right(api::GROUP, &["datavolumes"], &[], &["create", "delete"]),
    ]
}

/// The rights for what smartclone keeps elsewhere, because CDI's definitions have no field for it.
fn written_beside_cdi() -> Vec<PolicyRule> {
    // The refusals of drivers: one annotation, and a policy permits no other change.
    vec![right(api::GROUP, &["storageprofiles"], &[], &["patch"])]
}

/// The rights in the namespace of the installation: the heartbeat. `create` can't be narrowed by name.
fn own_rights() -> Vec<PolicyRule> {
    vec![
        right("coordination.k8s.io", &["leases"], &[], &["create"]),
        right("coordination.k8s.io", &["leases"], &[lease::NAME], &["get", "patch"]),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn rights(rules: &[PolicyRule]) -> BTreeSet<String> {
        let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let all = rules.iter().flat_map(|rule| {
            let of_rule = words(&rule.resources)
                .into_iter()
                .flat_map(|what| rule.verbs.iter().map(move |verb| format!("{verb} {what}")).collect::<Vec<_>>());
            let groups = words(&rule.api_groups);
            of_rule.map(move |right| format!("{right} {}", groups.join(","))).collect::<Vec<_>>()
        });
        all.collect()
    }

    /// Beside CDI the controller has no right to write what CDI's controllers serve, except for the refusals of drivers.
    #[test]
    fn what_is_cdis_is_not_written() {
        let beside = rights(&[read_and_cloned(), written_beside_cdi(), own_rights()].concat());
        let of_cdi = |right: &&String| right.ends_with(api::GROUP);
        let writes: Vec<_> = beside
            .iter()
            .filter(of_cdi)
            .filter(|right| !["get ", "list ", "watch "].iter().any(|verb| right.starts_with(verb)))
            .map(|right| right.trim_end_matches(api::GROUP).trim_end())
            .collect();
        assert_eq!(
            writes,
            [
                "patch datavolumes",
                "patch storageprofiles",
                "update datavolumes/finalizers",
                "update datavolumes/status"
            ]
        );
        let here = rights(&own_rights());
        assert_eq!(here.len(), 3, "{here:?}");
    }

    /// The two sets differ in nothing but what is written in CDI's group.
    #[test]
    fn the_sets_share_the_rest() {
        let alone = rights(&[read_and_cloned(), served_in_cdis_place()].concat());
        let beside = rights(&[read_and_cloned(), written_beside_cdi()].concat());
        assert!(alone.symmetric_difference(&beside).all(|right| right.ends_with(api::GROUP)));
        assert_eq!(alone.intersection(&beside).count(), rights(&read_and_cloned()).len());
    }
}
