//! CDI settings in effect: the overhead of file systems, and the rest of `CDIConfig.status`.
//!
//! All arithmetic is in whole bytes and thousandths, so that the webhook, the controller and readers of the status compute the same sizes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{LocalObjectReference, ResourceRequirements},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    api::{Cdi, CdiConfigSpec, CdiConfigStatus, CloneStrategy, FilesystemOverhead},
    keys, object,
    quantity::thousandths,
    storage::{class::default_class, overhead::Overhead},
};

/// The name of the one CDIConfig.
pub const NAME: &str = "config";

/// The layers of settings, highest precedence first.
#[derive(Debug, Clone, Copy)]
pub struct Config<'a>([Option<&'a CdiConfigSpec>; 2]);

impl<'a> Config<'a> {
    /// Returns the settings in effect. With [`keys::CONFIG_AUTHORITY`] on the CDI object, its `spec.config` alone counts. Without it, the
    /// CDIConfig's own `spec` counts, and the CDI object's `spec.config` for fields that are not set there.
    pub fn of(config: Option<&'a CdiConfigSpec>, cdi: Option<&'a Cdi>) -> Self {
        let authority = cdi.and_then(|cdi| object::annotation(&cdi.metadata, keys::CONFIG_AUTHORITY)).is_some();
        let of_cdi = cdi.and_then(|cdi| cdi.spec.config.as_ref());
        Self(if authority && of_cdi.is_some() { [of_cdi, None] } else { [config, of_cdi] })
    }

    /// Returns the value of the first layer that sets the field.
    fn first<T>(self, field: impl Fn(&'a CdiConfigSpec) -> Option<T>) -> Option<T> {
        self.0.into_iter().flatten().find_map(field)
    }

    /// Returns the overhead if no StorageClass is given, and for StorageClasses without a setting of their own. An invalid share counts as
    /// unset.
    pub fn global_overhead(self) -> Overhead {
        self.first(|spec| spec.filesystem_overhead.as_ref()?.global.as_deref()?.parse().ok())
            .unwrap_or(Overhead::DEFAULT)
    }

    /// Returns the overhead of volumes of `class`.
    pub fn overhead(self, class: &str) -> Overhead {
        self.first(|spec| spec.filesystem_overhead.as_ref()?.storage_class.as_ref()?.get(class)?.parse().ok())
            .unwrap_or_else(|| self.global_overhead())
    }

    /// True if this feature gate is open.
    pub fn has_gate(self, name: &str) -> bool {
        self.first(|spec| spec.feature_gates.as_ref()).is_some_and(|gates| gates.iter().any(|gate| gate == name))
    }

    /// Returns the next status of the CDIConfig. `classes` are all StorageClasses.
    pub fn status<'b>(
        self,
        old: Option<&CdiConfigStatus>,
        classes: impl IntoIterator<Item = &'b StorageClass> + Clone,
    ) -> CdiConfigStatus {
        let names = classes.clone().into_iter().filter_map(|class| class.metadata.name.clone());
        let overheads: BTreeMap<_, _> = names.map(|name| (name.clone(), self.overhead(&name).to_string())).collect();
        let exists = |name: &String| overheads.contains_key(name);
        let scratch = self.first(|spec| spec.scratch_space_storage_class.clone().filter(exists));
        let default = || default_class(classes).and_then(|class| class.metadata.name.clone());
        CdiConfigStatus {
            filesystem_overhead: Some(FilesystemOverhead {
                global: Some(self.global_overhead().to_string()),
                storage_class: Some(overheads).filter(|all| !all.is_empty()),
            }),
            default_pod_resource_requirements: Some(self.pod_resources()),
            preallocation: self.first(|spec| spec.preallocation),
            scratch_space_storage_class: scratch.or_else(default),
            image_pull_secrets: self.first(|spec| spec.image_pull_secrets.clone()),
            // smartclone has no uploads; a value that another program wrote stays.
            upload_proxy_url: self
                .first(|spec| spec.upload_proxy_url_override.clone())
                .or_else(|| old.and_then(|old| old.upload_proxy_url.clone())),
        }
    }

    /// Returns the names of Secrets for pulling the images of pods that move data.
    pub fn image_pull_secrets(self) -> Vec<LocalObjectReference> {
        self.first(|spec| spec.image_pull_secrets.clone()).unwrap_or_default()
    }

    /// Returns the resources of a pod that moves data: CDI's defaults, overridden by the admin's settings for each resource. A default
    /// request is never larger than the admin's limit, and a default limit never smaller than the admin's request. If the admin sets both,
    /// both are used as they are.
    pub fn pod_resources(self) -> ResourceRequirements {
        let asked = self.first(|spec| spec.pod_resource_requirements.clone()).unwrap_or_default();
        let (mut limits, mut requests) = (asked.limits.unwrap_or_default(), asked.requests.unwrap_or_default());
        // For a resource that cannot be overcommitted, Kubernetes requires that request and limit are both set and equal. It fills in
        // requests itself, and no limits.
        let unshared = requests.iter().filter(|(name, _)| !is_shared(name));
        let unshared: Vec<_> = unshared.map(|(name, amount)| (name.clone(), amount.clone())).collect();
        for (name, amount) in unshared {
            limits.entry(name).or_insert(amount);
        }
        for (name, limit, request) in [("cpu", "750m", "100m"), ("memory", "600M", "60M")] {
            let (limit, request) = (Quantity(limit.to_owned()), Quantity(request.to_owned()));
            let larger = |a: &Quantity, b: &Quantity| thousandths(a).ok() > thousandths(b).ok();
            let limit = match (limits.get(name), requests.get(name)) {
                (Some(limit), _) => limit.clone(),
                (None, Some(request)) if larger(request, &limit) => request.clone(),
                (None, _) => limit,
            };
            let fits = if larger(&request, &limit) { limit.clone() } else { request };
            requests.entry(name.to_owned()).or_insert(fits);
            limits.insert(name.to_owned(), limit);
        }
        // Device claims are dropped: the pod would have to declare the devices, too.
        ResourceRequirements { claims: None, limits: Some(limits), requests: Some(requests) }
    }
}

/// True if a node may overcommit this resource.
fn is_shared(resource: &str) -> bool {
    let native = resource.split_once('/').is_none_or(|(domain, _)| domain == "kubernetes.io");
    native && !resource.starts_with("hugepages-")
}

/// Returns the CDI object in effect: the only one, or the oldest of several, so that a second one changes nothing.
pub fn in_force<'a>(all: impl IntoIterator<Item = &'a Cdi>) -> Option<&'a Cdi> {
    all.into_iter().min_by_key(|cdi| (cdi.metadata.creation_timestamp.as_ref().map(|t| t.0), cdi.metadata.name.clone()))
}

/// Returns `cloneStrategyOverride` of the CDI object in effect.
pub fn strategy_override<'a>(all: impl IntoIterator<Item = &'a Cdi>) -> Option<CloneStrategy> {
    in_force(all)?.spec.clone_strategy_override
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn spec(overhead: &Value) -> CdiConfigSpec {
        serde_json::from_value(json!({ "filesystemOverhead": overhead })).unwrap()
    }

    fn cdi(authority: bool, overhead: &Value) -> Cdi {
        let annotations = if authority { json!({ keys::CONFIG_AUTHORITY: "" }) } else { json!({}) };
        serde_json::from_value(json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "metadata": { "annotations": annotations },
            "spec": { "config": { "filesystemOverhead": overhead } },
        }))
        .unwrap()
    }

    #[rstest]
    #[case::nobody_says(json!({}), false, json!({}), 60)]
    #[case::for_all(json!({"global": "0.1"}), false, json!({}), 100)]
    #[case::for_this_class(json!({"global": "0.1", "storageClass": {"fast": "0.2"}}), false, json!({}), 200)]
    #[case::for_another_class(json!({"storageClass": {"slow": "0.2"}}), false, json!({}), 60)]
    #[case::nonsense(json!({"global": "lots"}), false, json!({}), 60)]
    #[case::cdi_where_nothing_else(json!({}), false, json!({"global": "0.3"}), 300)]
    #[case::config_before_cdi(json!({"global": "0.1"}), false, json!({"global": "0.3"}), 100)]
    #[case::cdi_with_authority(json!({"storageClass": {"fast": "0.2"}}), true, json!({"global": "0.3"}), 300)]
    fn in_force_is(#[case] config: Value, #[case] authority: bool, #[case] of_cdi: Value, #[case] expected: u16) {
        let (config, cdi) = (spec(&config), cdi(authority, &of_cdi));
        assert_eq!(Config::of(Some(&config), Some(&cdi)).overhead("fast").thousandths(), expected);
    }

    /// The admin's limits and requests, then those of the pods.
    #[rstest]
    #[case::nothing(json!({}), json!({}), json!({"cpu": "750m", "memory": "600M"}), json!({"cpu": "100m", "memory": "60M"}))]
    #[case::both(
        json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "50m", "memory": "50Mi"}),
        json!({"cpu": "500m", "memory": "200Mi"}), json!({"cpu": "50m", "memory": "50Mi"})
    )]
    #[case::only_limits(json!({"cpu": "2", "memory": "1Gi"}), json!({}), json!({"cpu": "2", "memory": "1Gi"}), json!({"cpu": "100m", "memory": "60M"}))]
    #[case::limits_below_our_requests(
        json!({"cpu": "0.05", "memory": "32Mi"}), json!({}),
        json!({"cpu": "0.05", "memory": "32Mi"}), json!({"cpu": "0.05", "memory": "32Mi"})
    )]
    #[case::limits_equal_to_our_requests(
        json!({"cpu": "0.1", "memory": "60e6"}), json!({}),
        json!({"cpu": "0.1", "memory": "60e6"}), json!({"cpu": "100m", "memory": "60M"})
    )]
    #[case::only_requests(json!({}), json!({"cpu": "200m", "memory": "100Mi"}), json!({"cpu": "750m", "memory": "600M"}), json!({"cpu": "200m", "memory": "100Mi"}))]
    #[case::requests_above_our_limits(
        json!({}), json!({"cpu": "1", "memory": "1Gi"}),
        json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1", "memory": "1Gi"})
    )]
    #[case::one_of_each(
        json!({"cpu": "50m"}), json!({"memory": "2Gi"}),
        json!({"cpu": "50m", "memory": "2Gi"}), json!({"cpu": "50m", "memory": "2Gi"})
    )]
    #[case::nothing_requested(json!({"cpu": "1"}), json!({"cpu": "0", "memory": "0"}), json!({"cpu": "1", "memory": "600M"}), json!({"cpu": "0", "memory": "0"}))]
    #[case::against_each_other(json!({"cpu": "100m"}), json!({"cpu": "200m"}), json!({"cpu": "100m", "memory": "600M"}), json!({"cpu": "200m", "memory": "60M"}))]
    #[case::of_other_resources(
        json!({"ephemeral-storage": "1Gi"}), json!({"example.com/disk": "1", "hugepages-2Mi": "2Mi"}),
        json!({"cpu": "750m", "memory": "600M", "ephemeral-storage": "1Gi", "example.com/disk": "1", "hugepages-2Mi": "2Mi"}),
        json!({"cpu": "100m", "memory": "60M", "example.com/disk": "1", "hugepages-2Mi": "2Mi"})
    )]
    fn pods_have_what_the_admin_says(
        #[case] limits: Value,
        #[case] requests: Value,
        #[case] expected_limits: Value,
        #[case] expected_requests: Value,
    ) {
        let spec: CdiConfigSpec =
            serde_json::from_value(json!({"podResourceRequirements": {"limits": limits, "requests": requests}}))
                .unwrap();
        let resources = serde_json::to_value(Config::of(Some(&spec), None).pod_resources()).unwrap();
        assert_eq!(resources, json!({"limits": expected_limits, "requests": expected_requests}));
    }

    #[test]
    fn the_status_lists_every_class_and_is_stable() {
        let classes: Vec<StorageClass> = ["fast", "slow"]
            .map(|name| serde_json::from_value(json!({ "metadata": { "name": name }, "provisioner": "d" })).unwrap())
            .into();
        let spec = spec(&json!({ "storageClass": { "fast": "0.200", "gone": "0.5" } }));
        let status = Config::of(Some(&spec), None).status(None, &classes);
        let overhead = status.filesystem_overhead.clone().unwrap();
        assert_eq!(overhead.global.as_deref(), Some("0.06"));
        let listed = overhead.storage_class.unwrap().into_iter().map(|(name, share)| format!("{name} {share}"));
        assert_eq!(listed.collect::<Vec<_>>(), ["fast 0.2", "slow 0.06"]);
        assert_eq!(Config::of(Some(&spec), None).status(Some(&status), &classes), status);
    }
}
