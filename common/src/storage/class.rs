//! StorageClasses: the fields that a decision depends on, and the choice of the default class.

use k8s_openapi::api::storage::v1::StorageClass;
use std::collections::BTreeMap;

use crate::{
    keys, object,
    storage::{drivers, restore::RestoreRule},
};

/// A StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// The driver.
    pub provisioner: String,
    /// The parameters for the driver.
    pub parameters: BTreeMap<String, String>,
    /// `allowVolumeExpansion`: true if volumes can be expanded.
    pub expands: bool,
    /// True for `volumeBindingMode: WaitForFirstConsumer`.
    pub waits_for_consumer: bool,
    /// The annotation `cdi.kubevirt.io/clone-strategy`, unparsed.
    pub strategy: Option<String>,
    /// The driver's restore rule for a volume larger than its source.
    pub restore: RestoreRule,
    /// Names of classes that the admin declares compatible (`smartclone.dev/compatible-with`).
    pub compatible_with: Vec<String>,
}

impl Class {
    /// Reads a StorageClass.
    pub fn of(class: &StorageClass) -> Self {
        let annotation = |key: &str| object::annotation(&class.metadata, key);
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            provisioner: class.provisioner.clone(),
            parameters: class.parameters.clone().unwrap_or_default(),
            expands: class.allow_volume_expansion.unwrap_or_default(),
            waits_for_consumer: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            strategy: annotation(keys::CLASS_CLONE_STRATEGY).map(str::to_owned),
            restore: restore_rule(&class.provisioner, annotation(keys::RESTORE_SIZE)),
            compatible_with: annotation(keys::COMPATIBLE_WITH)
                .unwrap_or_default()
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }
}

/// The restore rule, unless one was learned at run time (see [`Record`](super::profile::Record)). The annotation of the StorageClass
/// (`smartclone.dev/restore-size`: `exact` or `larger`) outranks the table; other values are ignored.
fn restore_rule(provisioner: &str, annotation: Option<&str>) -> RestoreRule {
    annotation
        .and_then(|text| text.parse().ok())
        .or_else(|| drivers::restore(provisioner))
        .unwrap_or(RestoreRule::Larger)
}

/// Chooses the default StorageClass as Kubernetes and CDI do: the default for virtual machines before the general one, then the newest,
/// then the first by name.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = |class: &StorageClass, key: &str| object::annotation(&class.metadata, key) == Some("true");
    classes
        .into_iter()
        .filter_map(|class| {
            let virtual_machines = marked(class, keys::DEFAULT_VIRT_CLASS);
            (virtual_machines || marked(class, keys::DEFAULT_CLASS)).then_some((virtual_machines, class))
        })
        .max_by(|(a_virt, a), (b_virt, b)| {
            let created = |c: &StorageClass| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            a_virt
                .cmp(b_virt)
                .then_with(|| created(a).cmp(&created(b)))
                .then_with(|| b.metadata.name.cmp(&a.metadata.name))
        })
        .map(|(_, class)| class)
}
