//! Cluster-wide settings of an admin. They are undone with the namespace of the test that made them.

use anyhow::{Context as _, Result, ensure};
use common::api::{Cdi, StorageProfile, snapshot::VolumeSnapshotClass};
use k8s_openapi::{ClusterResourceScope, api::storage::v1::StorageClass};
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    client::Body,
    core::Request,
};
use reference_csi::behaviour::{Behaviour, PARAMETER_PREFIX};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Space, clone::warnings};

/// A StorageClass to be created, with its own VolumeSnapshotClass and StorageProfile, so that it does not affect other tests. Defaults are
/// those of the class `cow`.
#[derive(Debug)]
#[must_use = "it is made by `made`"]
pub struct ClassRequest<'a> {
    space: &'a Space,
    driver: &'a str,
    behaviour: Behaviour,
    file_system: Option<&'static str>,
    annotations: Map<String, Value>,
    expands: bool,
    waits_for_consumer: bool,
    snapshots: bool,
    claim_properties: Value,
    retains: bool,
}

impl Space {
    /// Begins a StorageClass, see [`ClassRequest`].
    pub fn class(&self) -> ClassRequest<'_> {
        ClassRequest {
            space: self,
            driver: "cow",
            behaviour: Behaviour::default(),
            file_system: None,
            annotations: Map::new(),
            expands: true,
            waits_for_consumer: false,
            snapshots: true,
            claim_properties: Value::Null,
            retains: false,
        }
    }

    /// Sets or removes `CDI.spec.cloneStrategyOverride`, as the README tells admins to do. The calling test has to be alone on the cluster.
    pub async fn override_strategy(&self, strategy: Option<&str>) -> Result<()> {
        let patch = json!({"spec": {"cloneStrategyOverride": strategy}}).to_string();
        self.kubectl(&["patch", "cdi", "cdi", "--type=merge", "--patch", &patch]).await?;
        if strategy.is_some() {
            let api: Api<Cdi> = self.everywhere();
            self.undo(async move {
                let patch = Patch::Merge(json!({"spec": {"cloneStrategyOverride": null}}));
                api.patch("cdi", &PatchParams::default(), &patch).await?;
                Ok(())
            });
        }
        Ok(())
    }

    /// The warnings about a CDI object with this `spec`, which is not created.
    pub async fn warned_about_cdi(&self, spec: &Value) -> Result<Vec<String>> {
        let object = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDI", "metadata": {"name": "asked-about"}, "spec": spec,
        });
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let request = Request::new(Cdi::url_path(&(), None)).create(&params, serde_json::to_vec(&object)?)?;
        let answer = self.client().send(request.map(Body::from)).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(warnings(answer.headers()))
    }

    /// The name of the driver that serves a StorageClass.
    pub async fn driver(&self, class: &str) -> Result<String> {
        let api: Api<StorageClass> = self.everywhere();
        Ok(api.get(class).await.with_context(|| format!("StorageClass {class:?}"))?.provisioner)
    }

    /// The parameters of a StorageClass of another cluster, whose driver may need them. The reference driver needs none.
    async fn parameters(&self, class: &str) -> Result<Map<String, Value>> {
        if self.lab().is_ok() {
            return Ok(Map::new());
        }
        let api: Api<StorageClass> = self.everywhere();
        let parameters = api.get(class).await?.parameters.unwrap_or_default();
        Ok(parameters.into_iter().map(|(key, value)| (key, json!(value))).collect())
    }

    /// Overrides the behaviour that classes set for the driver that serves `class`, until the end of the test.
    pub fn driver_behaves(&self, class: &str, behaviour: &Behaviour) -> Result<()> {
        let file = self.lab()?.driver(class).control_file();
        behaviour.write(&file)?;
        self.undo(async move { Ok(std::fs::remove_file(file)?) });
        Ok(())
    }

    async fn for_the_test<K>(&self, name: &str, object: &Value) -> Result<()>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + 'static,
    {
        let api: Api<K> = self.everywhere();
        self.apply(&api, name, object).await?;
        let name = name.to_owned();
        self.undo(async move {
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                // Already deleted with its owner.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(anyhow::Error::new(error).context(format!("delete {} {name}", K::kind(&())))),
            }
        });
        Ok(())
    }
}

impl<'a> ClassRequest<'a> {
    /// Uses the driver that serves this class of the cluster.
    pub fn driver(mut self, class: &'a str) -> Self {
        self.driver = class;
        self
    }

    /// Sets the driver's behaviour with its volumes and snapshots.
    pub fn behaving(mut self, behaviour: Behaviour) -> Self {
        self.behaviour = behaviour;
        self
    }

    /// Sets the file system of its volumes.
    pub fn file_system(mut self, name: &'static str) -> Self {
        self.file_system = Some(name);
        self
    }

    /// Adds an annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Sets `allowVolumeExpansion: false`.
    pub fn without_expansion(mut self) -> Self {
        self.expands = false;
        self
    }

    /// Sets `volumeBindingMode: WaitForFirstConsumer`.
    pub fn waiting_for_consumer(mut self) -> Self {
        self.waits_for_consumer = true;
        self
    }

    /// Names a VolumeSnapshotClass that does not exist in its StorageProfile.
    pub fn without_snapshot_class(mut self) -> Self {
        self.snapshots = false;
        self
    }

    /// Sets the `claimPropertySets` of its StorageProfile.
    pub fn claim_properties(mut self, sets: Value) -> Self {
        self.claim_properties = sets;
        self
    }

    /// Sets the reclaim policy of the class, and the deletion policy of its VolumeSnapshotClass, to `Retain`.
    pub fn retaining(mut self) -> Self {
        self.retains = true;
        self
    }

    /// Creates the class. Returns its name.
    pub async fn made(self) -> Result<String> {
        let space = self.space;
        let name = space.name().to_owned();
        let (driver, parameters) = (space.driver(self.driver).await?, parameters(&self.behaviour)?);
        if !parameters.is_empty() {
            // Only the reference driver supports them.
            space.lab()?;
        }
        let base = space.parameters(self.driver).await?;
        let metadata = json!({"name": name, "annotations": self.annotations});
        let policy = if self.retains { "Retain" } else { "Delete" };
        let mut of_volumes = base;
        of_volumes.extend(parameters.clone());
        of_volumes.extend(self.file_system.map(|name| ("csi.storage.k8s.io/fstype".to_owned(), json!(name))));
        if self.snapshots {
            let class = json!({
                "apiVersion": "snapshot.storage.k8s.io/v1", "kind": "VolumeSnapshotClass", "metadata": {"name": name},
                "driver": driver, "deletionPolicy": policy, "parameters": parameters,
            });
            space.for_the_test::<VolumeSnapshotClass>(&name, &class).await?;
        }
        let mut profile = json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "StorageProfile", "metadata": {"name": name},
            "spec": {"snapshotClass": name},
        });
        if !self.claim_properties.is_null() {
            profile["spec"]["claimPropertySets"] = self.claim_properties;
        }
        space.for_the_test::<StorageProfile>(&name, &profile).await?;
        let binding = if self.waits_for_consumer { "WaitForFirstConsumer" } else { "Immediate" };
        let class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, "provisioner": driver,
            "parameters": of_volumes, "allowVolumeExpansion": self.expands, "reclaimPolicy": policy,
            "volumeBindingMode": binding,
        });
        space.for_the_test::<StorageClass>(&name, &class).await?;
        Ok(name)
    }
}

/// A behaviour as parameters of a class.
fn parameters(behaviour: &Behaviour) -> Result<Map<String, Value>> {
    let Value::Object(fields) = serde_json::to_value(behaviour)? else { return Ok(Map::new()) };
    let parameter = |(field, value): (String, Value)| {
        let text = match value {
            Value::String(word) => word,
            value => value.to_string(),
        };
        (format!("{PARAMETER_PREFIX}{field}"), json!(text))
    };
    Ok(fields.into_iter().map(parameter).collect())
}
