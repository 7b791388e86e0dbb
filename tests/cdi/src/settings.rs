//! The settings that the rules depend on: the version, the feature gates, and what is known about StorageClasses.

use std::collections::BTreeMap;

use common::{
    api::{CdiConfig, ClaimPropertySet, StorageProfile},
    keys,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

use crate::{
    keys::{GATE_ADOPTION, GATE_FIRST_CONSUMER},
    version::Version,
};

/// The settings of one pass.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The imitated version.
    pub version: Version,
    /// The names of enabled feature gates.
    pub gates: Vec<String>,
    /// StorageClasses by name.
    pub classes: BTreeMap<String, Class>,
}

/// A StorageClass with its profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Class {
    /// True if volumes are created when a pod uses the claim.
    pub binds_late: bool,
    /// True if it is the default for the disks of virtual machines.
    pub default_for_machines: bool,
    /// True if it is the default.
    pub default: bool,
    /// Access modes and volume mode of the profile, the preferred combination first.
    pub properties: Vec<ClaimPropertySet>,
}

impl Settings {
    /// The settings of these objects.
    pub fn new<'a>(
        version: Version,
        config: Option<&CdiConfig>,
        classes: impl IntoIterator<Item = &'a StorageClass>,
        profiles: impl IntoIterator<Item = &'a StorageProfile>,
    ) -> Self {
        let mut properties: BTreeMap<String, Vec<ClaimPropertySet>> = profiles
            .into_iter()
            .map(|profile| {
                let own = profile.spec.claim_property_sets.clone();
                let known = profile.status.as_ref().and_then(|status| status.claim_property_sets.clone());
                (profile.name_any(), own.or(known).unwrap_or_default())
            })
            .collect();
        let classes = classes.into_iter().map(|class| {
            let says = |key: &str| class.annotations().get(key).is_some_and(|value| value == "true");
            let known = Class {
                binds_late: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
                default_for_machines: says(keys::DEFAULT_VIRT_CLASS),
                default: says(keys::DEFAULT_CLASS),
                properties: properties.remove(&class.name_any()).unwrap_or_default(),
            };
            (class.name_any(), known)
        });
        Self {
            version,
            gates: config.and_then(|config| config.spec.feature_gates.clone()).unwrap_or_default(),
            classes: classes.collect(),
        }
    }

    /// True if claims wait for their first consumer.
    pub fn honors_first_consumer(&self) -> bool {
        self.gates.iter().any(|gate| gate == GATE_FIRST_CONSUMER)
    }

    /// True if every DataVolume may adopt a claim of its name.
    pub fn adopts_by_gate(&self) -> bool {
        self.gates.iter().any(|gate| gate == GATE_ADOPTION)
    }

    /// The class of this name; without a name, the default one.
    pub fn class(&self, name: Option<&str>) -> Option<(&str, &Class)> {
        let found = |test: &dyn Fn(&str, &Class) -> bool| {
            self.classes.iter().find(|(name, class)| test(name, class)).map(|(name, class)| (name.as_str(), class))
        };
        match name {
            Some(wanted) => found(&|name, _| name == wanted),
            None => found(&|_, class| class.default_for_machines).or_else(|| found(&|_, class| class.default)),
        }
    }

    /// True if volumes of the class are created when a pod uses the claim.
    pub fn binds_late(&self, class: Option<&str>) -> bool {
        self.class(class).is_some_and(|(_, class)| class.binds_late)
    }
}
