//! Removes what was installed; with the CRDs go all DataVolumes.

use std::{fmt::Debug, time::Duration};

use anyhow::{Result, ensure};
use common::{
    api::DataVolume,
    keys::{CLONE_POPULATOR_FINALIZER, DATA_VOLUME_FINALIZER},
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::{Namespace, PersistentVolumeClaim},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::sleep;

use super::{
    crds::crds,
    install::{ROLE, USER_ROLES},
    webhooks::{MUTATING, VALIDATING},
};
use crate::keys::NAMESPACE;

/// Removes everything, and waits until the kinds are gone.
pub async fn uninstall(client: &Client) -> Result<()> {
    remove::<MutatingWebhookConfiguration>(client, MUTATING).await?;
    remove::<ValidatingWebhookConfiguration>(client, VALIDATING).await?;
    release::<DataVolume>(client, DATA_VOLUME_FINALIZER).await?;
    release::<PersistentVolumeClaim>(client, CLONE_POPULATOR_FINALIZER).await?;
    for definition in crds() {
        remove::<CustomResourceDefinition>(client, &definition.name_any()).await?;
    }
    for (name, _) in USER_ROLES {
        remove::<ClusterRole>(client, name).await?;
    }
    remove::<ClusterRole>(client, ROLE).await?;
    remove::<ClusterRoleBinding>(client, ROLE).await?;
    remove::<Namespace>(client, NAMESPACE).await?;
    gone(client).await
}

async fn remove<K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned>(
    client: &Client,
    name: &str,
) -> Result<()> {
    match Api::<K>::all(client.clone()).delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}

/// Takes a finalizer off all objects: nobody is left who would.
async fn release<K>(client: &Client, finalizer: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let objects = match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        // The kind is gone already.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        objects => objects?,
    };
    for object in objects.items.iter().filter(|object| object.finalizers().iter().any(|name| name == finalizer)) {
        let api: Api<K> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        let kept: Vec<_> = object.finalizers().iter().filter(|name| *name != finalizer).collect();
        let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": object.resource_version()}});
        match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            result => drop(result?),
        }
    }
    Ok(())
}

async fn gone(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for attempt in 0.. {
        let mut left = namespaces.get_opt(NAMESPACE).await?.is_some();
        for definition in crds() {
            left |= definitions.get_opt(&definition.name_any()).await?.is_some();
        }
        if !left {
            return Ok(());
        }
        ensure!(attempt < 300, "CDI's kinds are still there: an object of theirs has a finalizer");
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fake_api::FakeApi;

    use super::*;

    #[tokio::test]
    async fn nothing_is_left_and_finalizers_keep_nothing() -> Result<()> {
        let api = FakeApi::default();
        let data_volume = json!({
            "metadata": {"namespace": "n", "name": "d", "finalizers": [DATA_VOLUME_FINALIZER, "other"]}, "spec": {},
        });
        api.put::<DataVolume>(&data_volume);
        for definition in crds() {
            api.put::<CustomResourceDefinition>(&serde_json::to_value(definition)?);
        }
        api.put::<Namespace>(&json!({"metadata": {"name": NAMESPACE}}));
        api.put::<ClusterRole>(&json!({"metadata": {"name": ROLE}}));
        uninstall(&api.client()).await?;
        let left = api.get::<DataVolume>(Some("n"), "d").map(|it| it["metadata"]["finalizers"].clone());
        assert_eq!(left, Some(json!(["other"])));
        assert!(api.get::<ClusterRole>(None, ROLE).is_none() && api.get::<Namespace>(None, NAMESPACE).is_none());
        Ok(())
    }
}
