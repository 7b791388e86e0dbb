//! Executes writes as CDI's controller sends them.

use common::api::{DataVolume, DataVolumeStatus, VolumeCloneSource};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{edit::Edit, version::Version};

/// The writes of the controller's account.
pub struct Writer {
    client: Client,
    version: Version,
}

impl Writer {
    /// A writer that imitates this version.
    pub fn new(client: Client, version: Version) -> Self {
        Self { client, version }
    }

    fn data_volumes(&self, object: &DataVolume) -> Api<DataVolume> {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }

    fn claims(&self, namespace: &str) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// PUTs a DataVolume with changed metadata; it becomes the stored one.
    pub async fn edit_data_volume(&self, latest: &mut DataVolume, edit: &Edit) -> kube::Result<()> {
        let mut changed = latest.clone();
        if edit.apply(&mut changed.metadata) {
            let api = self.data_volumes(latest);
            *latest = api.replace(&latest.name_any(), &PostParams::default(), &changed).await?;
        }
        Ok(())
    }

    /// PUTs a claim with changed metadata; it becomes the stored one.
    pub async fn edit_claim(&self, latest: &mut PersistentVolumeClaim, edit: &Edit) -> kube::Result<()> {
        let mut changed = latest.clone();
        if edit.apply(&mut changed.metadata) {
            let api = self.claims(&latest.namespace().unwrap_or_default());
            *latest = api.replace(&latest.name_any(), &PostParams::default(), &changed).await?;
        }
        Ok(())
    }

    /// Creates a claim. One that is there already is an error, unless `may_exist`.
    pub async fn create_claim(&self, claim: &PersistentVolumeClaim, may_exist: bool) -> kube::Result<()> {
        let api = self.claims(&claim.namespace().unwrap_or_default());
        let created = api.create(&PostParams::default(), claim).await.map(drop);
        if may_exist { ignore(409, created) } else { created }
    }

    /// Creates a VolumeCloneSource, unless it is there.
    pub async fn create_clone_source(&self, object: &VolumeCloneSource) -> kube::Result<()> {
        let api: Api<VolumeCloneSource> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        ignore(409, api.create(&PostParams::default(), object).await.map(drop))
    }

    /// Deletes a VolumeCloneSource.
    pub async fn delete_clone_source(&self, namespace: &str, name: &str) -> kube::Result<()> {
        let api: Api<VolumeCloneSource> = Api::namespaced(self.client.clone(), namespace);
        ignore(404, api.delete(name, &DeleteParams::default()).await.map(drop))
    }

    /// Deletes a claim.
    pub async fn delete_claim(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let api = self.claims(&claim.namespace().unwrap_or_default());
        ignore(404, api.delete(&claim.name_any(), &DeleteParams::default()).await.map(drop))
    }

    /// Gives a volume to a claim.
    pub async fn rebind(
        &self,
        volume: &str,
        version: Option<&str>,
        target: &PersistentVolumeClaim,
    ) -> kube::Result<()> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": target.namespace(),
            "name": target.name_any(), "uid": target.uid(), "resourceVersion": target.resource_version(),
        });
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"claimRef": reference}});
        api.patch(volume, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// Writes the status over the one that the cache has: by a merge patch of the difference without a version, or by a PUT.
    pub async fn write_status(&self, cached: &DataVolume, status: &DataVolumeStatus) -> kube::Result<()> {
        let api = self.data_volumes(cached);
        let name = cached.name_any();
        if self.version.patches_status() {
            let before = serde_json::to_value(cached.status.clone().unwrap_or_default());
            let after = serde_json::to_value(status);
            let (before, after) = (before.map_err(kube::Error::SerdeError)?, after.map_err(kube::Error::SerdeError)?);
            let patch = Patch::Merge(json!({"status": difference(&before, &after)}));
            return api.patch_status(&name, &PatchParams::default(), &patch).await.map(drop);
        }
        let mut changed = cached.clone();
        changed.status = Some(status.clone());
        api.replace_status(&name, &PostParams::default(), &changed).await.map(drop)
    }
}

fn ignore(code: u16, result: kube::Result<()>) -> kube::Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        result => result,
    }
}

/// The merge patch that turns one value into another.
fn difference(before: &Value, after: &Value) -> Value {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return after.clone() };
    let mut patch = serde_json::Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(present) if present == value => {}
            Some(present) => drop(patch.insert(key.clone(), difference(present, value))),
            None => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_a_merge_patch_needs() {
        let (before, after) =
            (json!({"a": 1, "b": {"c": 1, "d": 2}, "e": 3}), json!({"a": 1, "b": {"c": 1}, "f": [1]}));
        let patch = difference(&before, &after);
        assert_eq!(patch, json!({"b": {"d": null}, "e": null, "f": [1]}));
        let mut merged = before;
        json_patch::merge(&mut merged, &patch);
        assert_eq!(merged, after);
    }
}
